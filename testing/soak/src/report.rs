//! What happened, and what should not have.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::plan::Fault;

/// Takes down what happens, and says it on standard error.
pub struct Journal {
    began: Instant,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    lines: Vec<String>,
    breaches: Vec<String>,
    faults: BTreeMap<String, usize>,
    figures: Vec<(String, String)>,
}

impl Journal {
    /// From now on.
    #[must_use]
    pub fn new(began: Instant) -> Journal {
        Journal { began, kept: Mutex::default() }
    }

    /// Something that may happen.
    pub fn note(&self, what: impl Into<String>) {
        self.say(" ", what.into());
    }

    /// Something that must not happen.
    pub fn breach(&self, what: impl Into<String>) {
        let what = what.into();
        self.say("!", what.clone());
        let line = format!("{:.1} s: {what}", self.began.elapsed().as_secs_f64());
        self.lock().breaches.push(line);
    }

    /// Counts a fault by its kind.
    pub fn happened(&self, fault: Fault) {
        let text = format!("{fault:?}");
        let kind = if let Fault::OriginWrong(_) = fault { &text[..] } else { text.split('(').next().unwrap_or(&text) };
        *self.lock().faults.entry(kind.to_owned()).or_default() += 1;
    }

    /// A figure of the report.
    pub fn figure(&self, name: &str, value: impl Into<String>) {
        self.lock().figures.push((name.to_owned(), value.into()));
    }

    /// The report.
    #[must_use]
    pub fn report(&self, length: Duration, seed: u64) -> Report {
        let kept = self.lock();
        let mut text = format!("Soak of {} s, seed {seed}\n\n", length.as_secs());
        for (name, value) in &kept.figures {
            let _ = writeln!(text, "{name}: {value}");
        }
        let faults: Vec<String> = kept.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let _ = writeln!(text, "faults: {} ({})", kept.faults.values().sum::<usize>(), faults.join(", "));
        if kept.breaches.is_empty() {
            text.push_str("\nNothing was lost.\n");
        } else {
            let _ = writeln!(text, "\n{} times something went wrong that must not:", kept.breaches.len());
            kept.breaches.iter().for_each(|breach| text.push_str(&format!("- {breach}\n")));
            let _ = writeln!(text, "\nThe same again: ./test soak {}s {seed}", length.as_secs());
        }
        Report { text, log: kept.lines.join("\n"), breaches: kept.breaches.clone() }
    }

    fn say(&self, mark: &str, what: String) {
        let line = format!("{:7.1} {mark} {what}", self.began.elapsed().as_secs_f64());
        eprintln!("{line}");
        self.lock().lines.push(line);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a soak has shown.
#[derive(Clone, Debug)]
pub struct Report {
    /// For people.
    pub text: String,
    /// All that happened, line by line.
    pub log: String,
    /// Everything that must not have happened.
    pub breaches: Vec<String>,
}
