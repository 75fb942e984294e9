//! What was measured with larder, each time beside the same without it.

use serde::Serialize;

use crate::figure::spread;

/// What must be reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) enum Goal {
    /// At most so many times as much as without.
    Times(f64),
    /// At most so much more than without.
    More(f64),
    /// At most so much; there is nothing to compare it with.
    AtMost(f64),
}

/// Values of larder and of what it is compared with, all in one unit; less is better.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Beside {
    what: String,
    /// What larder is compared with.
    with: &'static str,
    unit: &'static str,
    goal: Goal,
    larder: Vec<f64>,
    other: Vec<f64>,
    /// The share of the processors that had nothing to do while larder was measured.
    idle: Vec<f64>,
}

impl Beside {
    pub(crate) fn new(what: impl Into<String>, with: &'static str, unit: &'static str, goal: Goal) -> Beside {
        Beside { what: what.into(), with, unit, goal, larder: Vec::new(), other: Vec::new(), idle: Vec::new() }
    }

    /// What larder needed, and the share of the processors that was idle meanwhile, where that is known.
    pub(crate) fn larder(&mut self, value: f64, idle: Option<f64>) {
        self.larder.push(value);
        self.idle.extend(idle);
    }

    /// What the other needed.
    pub(crate) fn other(&mut self, value: f64) {
        self.other.push(value);
    }

    /// How larder's median stands to the other's, in the goal's terms.
    fn reached(&self) -> Option<f64> {
        let median = |values: &[f64]| spread(values.iter().copied()).map(|[_, median, _]| median);
        let larder = median(&self.larder)?;
        Some(match self.goal {
            Goal::Times(_) => larder / median(&self.other)?,
            Goal::More(_) => larder - median(&self.other)?,
            Goal::AtMost(_) => larder,
        })
    }

    fn row(&self) -> String {
        let (limit, reached) = match (self.goal, self.reached()) {
            (Goal::Times(limit), reached) => {
                (format!("≤ {limit} ×"), reached.map(|v| (v <= limit, format!("{v:.2} ×"))))
            }
            (Goal::More(limit), reached) => {
                let said = |value: f64| (value <= limit, format!("{value:+.2} {}", self.unit));
                (format!("≤ {limit} {} more", self.unit), reached.map(said))
            }
            (Goal::AtMost(limit), reached) => {
                let said = |value: f64| (value <= limit, format!("{value:.2} {}", self.unit));
                (format!("≤ {limit} {}", self.unit), reached.map(said))
            }
        };
        let verdict = match reached {
            Some((true, value)) => format!("yes: {value}"),
            Some((false, value)) => format!("**no**: {value}"),
            None => "not measured".to_owned(),
        };
        let idle = spread(self.idle.iter().copied()).map(|[_, idle, _]| format!("{:.0} %", idle * 100.0));
        format!(
            "| {}, {} | {} | {}: {} | {limit} | {verdict} | {} |\n",
            self.what,
            self.unit,
            cell(&self.larder),
            self.with,
            cell(&self.other),
            idle.unwrap_or_else(|| "–".to_owned()),
        )
    }
}

/// All of them as a table.
pub(crate) fn table(all: &[Beside]) -> String {
    let head = "| what | larder | without it | must reach | reached | idle |\n|---|---|---|---|---|---|\n";
    all.iter().fold(head.to_owned(), |text, one| text + &one.row())
}

fn cell(values: &[f64]) -> String {
    let number = |value: f64| if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") };
    match spread(values.iter().copied()) {
        Some([least, median, most]) => format!("{} ({} – {})", number(median), number(least), number(most)),
        None => "–".to_owned(),
    }
}

/// The value that this share of all values does not exceed; `share` is from 0 to 1.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let at = (values.len() as f64 * share).ceil() as usize;
    values.get(at.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_compared_and_judged() {
        let mut times = Beside::new("pull", "direct", "s", Goal::Times(1.03));
        for (larder, direct) in [(1.0, 1.0), (2.2, 2.0), (9.0, 4.0)] {
            times.larder(larder, Some(0.5));
            times.other(direct);
        }
        assert_eq!(
            times.row(),
            "| pull, s | 2.20 (1.00 – 9.00) | direct: 2.00 (1.00 – 4.00) | ≤ 1.03 × | **no**: 1.10 × | 50 % |\n"
        );
        let mut more = Beside::new("answer", "nginx", "ms", Goal::More(1.0));
        assert!(more.row().contains("not measured"));
        more.larder(0.75, None);
        more.other(0.25);
        assert!(more.row().ends_with("| ≤ 1 ms more | yes: +0.50 ms | – |\n"), "{}", more.row());
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut hundred, 0.5), Some(50.0));
        assert_eq!(percentile(&mut hundred, 0.99), Some(99.0));
        assert_eq!(percentile(&mut [7.0], 0.99), Some(7.0));
        assert_eq!(percentile(&mut [], 0.5), None);
    }
}
