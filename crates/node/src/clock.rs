use std::time::{Duration, SystemTime};

use crate::{Finding, Severity};

/// Clocks may be so far apart, in seconds: what is in order stays well below it.
const TOLERANCE: i64 = 5;

/// Another machine's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Whose.
    pub whose: String,
    /// How far it is ahead of this machine's in seconds, negative if it is behind: at least, as an answer is on its way
    /// for a while.
    pub ahead: i64,
}

impl Clock {
    /// From a date, in whole seconds, that was told between two moments of this machine's clock.
    pub fn read(whose: impl Into<String>, date: SystemTime, asked: SystemTime, answered: SystemTime) -> Clock {
        let least = seconds(date, answered);
        // It may be told at the end of its second.
        let most = seconds(date + Duration::from_secs(1), asked);
        let ahead = if least > 0.0 { least } else { most.min(0.0) };
        Clock { whose: whose.into(), ahead: ahead.round() as i64 }
    }
}

fn seconds(later: SystemTime, earlier: SystemTime) -> f64 {
    match later.duration_since(earlier) {
        Ok(time) => time.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// What is to be said of clocks that differ from this machine's.
pub fn examine_clocks(clocks: &[Clock]) -> Vec<Finding> {
    let off: Vec<&Clock> = clocks.iter().filter(|clock| clock.ahead.abs() > TOLERANCE).collect();
    let same_way = off.iter().all(|clock| clock.ahead > 0) || off.iter().all(|clock| clock.ahead < 0);
    let found = |what: String, remedy: &str| {
        let certificates = "certificates count as expired or not yet good where the clock is wrong.";
        Finding::new(
            Severity::Warning,
            "clock-skew",
            what,
            format!("{remedy} (chrony, systemd-timesyncd): {certificates}"),
        )
    };
    if off.len() > 1 && off.len() * 2 > clocks.len() && same_way {
        let nearest = off.iter().map(|clock| clock.ahead).min_by_key(|ahead| ahead.abs()).unwrap_or_default();
        let names: Vec<&str> = off.iter().map(|clock| clock.whose.as_str()).collect();
        let way = if nearest > 0 { "behind" } else { "ahead of" };
        let what = format!("this machine's clock is at least {} {way} those of {}", about(nearest), names.join(", "));
        return vec![found(what, "Let this machine keep time by NTP")];
    }
    let one = |clock: &&Clock| {
        let way = if clock.ahead > 0 { "ahead of" } else { "behind" };
        let what = format!("the clock of {} is {} {way} this machine's", clock.whose, about(clock.ahead));
        found(what, "Let both machines keep time by NTP")
    };
    off.iter().map(one).collect()
}

/// A time as people say it.
pub(crate) fn about(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000 + millis)
    }

    #[test]
    fn what_an_answers_way_and_whole_seconds_explain_is_no_difference() {
        let ahead = |date, asked, answered| Clock::read("x", at(date), at(asked), at(answered)).ahead;
        assert_eq!(ahead(10_000, 10_200, 10_300), 0);
        assert_eq!(ahead(10_000, 10_990, 11_010), 0);
        assert_eq!(ahead(10_000, 8_000, 12_000), 0);
        assert_eq!(ahead(20_000, 8_000, 12_000), 8);
        assert_eq!(ahead(1_000, 8_000, 12_000), -6);
    }

    fn clocks(aheads: &[i64]) -> Vec<Clock> {
        let one = |(number, ahead): (usize, &i64)| Clock { whose: format!("node-{number}"), ahead: *ahead };
        aheads.iter().enumerate().map(one).collect()
    }

    #[test]
    fn small_differences_are_not_talked_of() {
        assert_eq!(examine_clocks(&clocks(&[])), []);
        assert_eq!(examine_clocks(&clocks(&[0, 5, -5])), []);
        assert_eq!(examine_clocks(&clocks(&[6])).len(), 1);
    }

    #[test]
    fn a_clock_that_differs_from_most_is_this_machines_own() {
        let found = examine_clocks(&clocks(&[70, 75, 0]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, "this machine's clock is at least 70 seconds behind those of node-0, node-1");
        let found = examine_clocks(&clocks(&[-7300, -7200]));
        assert_eq!(found[0].what, "this machine's clock is at least 2 hours ahead of those of node-0, node-1");
    }

    #[test]
    fn others_are_named_one_by_one() {
        let whats =
            |aheads: &[i64]| examine_clocks(&clocks(aheads)).into_iter().map(|one| one.what).collect::<Vec<_>>();
        assert_eq!(whats(&[0, 0, 12]), ["the clock of node-2 is 12 seconds ahead of this machine's"]);
        assert_eq!(
            whats(&[-180, 12]),
            [
                "the clock of node-0 is 3 minutes behind this machine's",
                "the clock of node-1 is 12 seconds ahead of this machine's"
            ]
        );
    }
}
