use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::settings::BreakerSettings;

/// Leaves an endpoint alone after failures in a row, then lets one request through to see.
pub(crate) struct Breaker {
    settings: BreakerSettings,
    state: Mutex<State>,
    open: Gauge,
}

#[derive(Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration },
    HalfOpen { pause: Duration },
}

/// The right to one request. Dropped without a verdict it counts for nothing.
pub(crate) struct Admission<'a> {
    breaker: &'a Breaker,
    probe: bool,
    settled: bool,
}

impl Breaker {
    /// A closed one that counts itself in `open` while it is not.
    pub(crate) fn new(settings: BreakerSettings, open: Gauge) -> Breaker {
        Breaker { settings, state: Mutex::new(State::Closed { failures: 0 }), open }
    }

    pub(crate) fn admit(&self) -> Result<Admission<'_>, Failure> {
        let mut state = self.state();
        let probe = match *state {
            State::Closed { .. } => false,
            State::Open { until, pause } if until <= Instant::now() => {
                *state = State::HalfOpen { pause };
                true
            }
            State::Open { .. } | State::HalfOpen { .. } => {
                let reason = "the endpoint failed several times in a row and is left alone for a while";
                return Err(Failure { again: false, unwell: false, ..Failure::unavailable(reason) });
            }
        };
        Ok(Admission { breaker: self, probe, settled: false })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

impl Admission<'_> {
    /// Whether this is the one request that shall tell how the endpoint is.
    pub(crate) fn is_probe(&self) -> bool {
        self.probe
    }

    /// The endpoint answered.
    pub(crate) fn well(mut self) {
        self.settled = true;
        let mut state = self.breaker.state();
        if !matches!(*state, State::Closed { .. }) {
            self.breaker.open.dec();
        }
        *state = State::Closed { failures: 0 };
    }

    /// The endpoint did not answer, or only to say that it is not well.
    pub(crate) fn unwell(mut self) {
        self.settled = true;
        let settings = &self.breaker.settings;
        let mut state = self.breaker.state();
        *state = match *state {
            State::Closed { failures } if failures + 1 < settings.failures => State::Closed { failures: failures + 1 },
            State::Closed { .. } => {
                self.breaker.open.inc();
                State::Open { until: Instant::now() + settings.pause, pause: settings.pause }
            }
            State::HalfOpen { pause } if self.probe => {
                let pause = (pause * 2).min(settings.longest);
                State::Open { until: Instant::now() + pause, pause }
            }
            // A request from before it opened tells nothing new.
            other => other,
        };
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.settled || !self.probe {
            return;
        }
        let mut state = self.breaker.state();
        if let State::HalfOpen { pause } = *state {
            *state = State::Open { until: Instant::now(), pause };
        }
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        if !matches!(*self.state(), State::Closed { .. }) {
            self.open.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(BreakerSettings::default(), Gauge::default())
    }

    fn open(breaker: &Breaker) {
        for _ in 0..5 {
            breaker.admit().unwrap().unwell();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_failures_in_a_row_only() {
        let breaker = breaker();
        for _ in 0..4 {
            breaker.admit().unwrap().unwell();
        }
        breaker.admit().unwrap().well();
        for _ in 0..4 {
            breaker.admit().unwrap().unwell();
        }
        drop(breaker.admit().unwrap());
        assert!(breaker.admit().is_ok());
        breaker.admit().unwrap().unwell();
        assert!(breaker.admit().is_err());
        assert_eq!(breaker.open.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_is_let_through_and_decides() {
        let breaker = breaker();
        open(&breaker);
        for pause in [10, 20, 40, 60, 60] {
            tokio::time::advance(Duration::from_secs(pause - 1)).await;
            assert!(breaker.admit().is_err(), "{pause}");
            tokio::time::advance(Duration::from_secs(1)).await;
            let probe = breaker.admit().unwrap();
            assert!(probe.is_probe() && breaker.admit().is_err());
            drop(probe);
            breaker.admit().unwrap().unwell();
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        breaker.admit().unwrap().well();
        assert!(!breaker.admit().unwrap().is_probe());
        assert_eq!(breaker.open.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_dropped_open_is_counted_no_longer() {
        let breaker = breaker();
        let gauge = breaker.open.clone();
        open(&breaker);
        assert_eq!(gauge.get(), 1);
        drop(breaker);
        assert_eq!(gauge.get(), 0);
    }
}
