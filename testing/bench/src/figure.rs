//! Figures: what was measured of each server in each repetition, and what larder must reach.

use serde::Serialize;

use crate::machine::Use;
use crate::server::Kind;

/// What is measured, in which unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    MibPerSecond,
    PerSecond,
    Milliseconds,
    Mib,
    Times,
}

/// What must be reached.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Goal {
    /// So much, or less.
    Limit(f64),
    /// So many times the other's value of the same repetition, or less.
    AtMostTimes(f64, Kind),
    /// So many times the other's value of the same repetition, or more.
    AtLeastTimes(f64, Kind),
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) goals: Vec<Goal>,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) repetition: usize,
    pub(crate) server: Kind,
    pub(crate) value: f64,
    /// It was stopped before the end: the true value is larger.
    pub(crate) cut: bool,
    pub(crate) machine: Option<Use>,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, unit: Unit, goals: &[Goal]) -> Figure {
        Figure { what: what.into(), unit, goals: goals.to_vec(), samples: Vec::new() }
    }

    pub(crate) fn add(&mut self, repetition: usize, server: Kind, value: f64, machine: Option<Use>) {
        self.samples.push(Sample { repetition, server, value, cut: false, machine });
    }

    /// Least, median, most.
    pub(crate) fn spread(&self, kind: Kind) -> Option<[f64; 3]> {
        spread(self.samples.iter().filter(|sample| sample.server == kind).map(|sample| sample.value))
    }

    /// Whether a value of this server is larger than it looks.
    pub(crate) fn is_cut(&self, kind: Kind) -> bool {
        self.samples.iter().any(|sample| sample.server == kind && sample.cut)
    }

    /// Least, median and most of larder's value divided by the other's of the same repetition.
    pub(crate) fn ratio(&self, other: Kind) -> Option<[f64; 3]> {
        let of = |kind, repetition| {
            let mut samples = self.samples.iter();
            samples.find(|sample| sample.server == kind && sample.repetition == repetition).map(|sample| sample.value)
        };
        let last = self.samples.iter().map(|sample| sample.repetition).max()?;
        spread((0..=last).filter_map(|repetition| Some(of(Kind::Larder, repetition)? / of(other, repetition)?)))
    }

    /// Each goal with what was reached, and whether that is enough; `None` where something was not measured.
    pub(crate) fn reached(&self) -> Vec<Option<(f64, bool)>> {
        let reached = |goal: &Goal| match *goal {
            Goal::Limit(limit) => self.spread(Kind::Larder).map(|[_, median, _]| (median, median <= limit)),
            Goal::AtMostTimes(limit, other) => self.ratio(other).map(|[_, median, _]| (median, median <= limit)),
            Goal::AtLeastTimes(limit, other) => self.ratio(other).map(|[_, median, _]| (median, median >= limit)),
        };
        self.goals.iter().map(reached).collect()
    }
}

/// Least, median and most.
pub(crate) fn spread(values: impl Iterator<Item = f64>) -> Option<[f64; 3]> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    Some([*values.first()?, values[values.len() / 2], *values.last()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_repetition() {
        let mut figure =
            Figure::new("x", Unit::Milliseconds, &[Goal::AtMostTimes(1.5, Kind::Nginx), Goal::Limit(25.0)]);
        for (repetition, larder, nginx) in [(0, 10.0, 10.0), (1, 100.0, 50.0), (2, 30.0, 10.0)] {
            figure.add(repetition, Kind::Larder, larder, None);
            figure.add(repetition, Kind::Nginx, nginx, None);
        }
        assert_eq!(figure.ratio(Kind::Nginx), Some([1.0, 2.0, 3.0]));
        assert_eq!(figure.reached(), [Some((2.0, false)), Some((30.0, false))]);
        assert_eq!(figure.ratio(Kind::Nora), None);
    }
}
