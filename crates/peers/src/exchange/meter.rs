use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Over how long a rate is taken.
const WINDOW: Duration = Duration::from_millis(250);
/// What is left of the best rate after each window that was below it.
const FADES: f64 = 0.98;

/// How fast bytes come in, from everybody together.
///
/// As long as much comes in, the link or the machine is busy: that one node is slow or silent then says little of that node.
#[derive(Debug)]
pub(super) struct Meter(Mutex<State>);

#[derive(Debug)]
struct State {
    since: Instant,
    bytes: u64,
    rate: f64,
    best: f64,
}

impl Meter {
    pub fn new(now: Instant) -> Meter {
        Meter(Mutex::new(State { since: now, bytes: 0, rate: 0.0, best: 0.0 }))
    }

    /// Bytes came in.
    pub fn count(&self, bytes: u64, now: Instant) {
        let mut state = self.at(now);
        state.bytes += bytes;
    }

    /// Whether at least half as much comes in as at the best of times.
    pub fn is_busy(&self, now: Instant) -> bool {
        let state = self.at(now);
        state.best > 0.0 && state.rate * 2.0 >= state.best
    }

    /// Whether next to nothing comes in beside the best of times: less than an eighth.
    pub fn is_idle(&self, now: Instant) -> bool {
        let state = self.at(now);
        state.rate * 8.0 < state.best
    }

    fn at(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(state.since);
        if passed >= WINDOW {
            state.rate = state.bytes as f64 / passed.as_secs_f64();
            state.best = state.rate.max(state.best * FADES);
            (state.since, state.bytes) = (now, 0);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_best_is_busy_and_silence_is_not() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let meter = Meter::new(start);
        assert!(!meter.is_busy(at(10)), "nothing has ever come");
        for tick in 1..=20 {
            meter.count(1000, at(tick * 100));
        }
        assert!(meter.is_busy(at(2100)));
        for tick in 1..=10 {
            meter.count(600, at(2100 + tick * 100));
        }
        assert!(meter.is_busy(at(3200)));
        meter.count(100, at(3500));
        assert!(!meter.is_busy(at(4000)));
        assert!(meter.is_idle(at(4300)));
    }
}
