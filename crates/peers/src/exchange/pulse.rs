use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a node may be silent at least, in which it should have sent three signs of life.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long a node may be silent at most, whatever it used to be like.
const LONGEST: Duration = Duration::from_secs(2);
/// How soon half of a long silence is forgotten.
const HALF_LIFE: f64 = 2.0;

/// Whether a node that was asked is still alive, from all that comes from it on any connection.
///
/// A node sends something at least every [`BEAT`](super::giving::BEAT). On a full link, or a busy machine, that takes longer to come:
/// three times the longest silence of late is allowed.
pub(super) struct Pulse(Mutex<State>);

struct State {
    /// When something came last; of no account while nobody listens.
    last: Instant,
    gap: Duration,
    listening: usize,
}

impl Pulse {
    pub fn new(now: Instant) -> Pulse {
        Pulse(Mutex::new(State { last: now, gap: Duration::ZERO, listening: 0 }))
    }

    /// Begins to expect something.
    pub fn listen(&self, now: Instant) {
        let mut state = self.state();
        if state.listening == 0 {
            state.last = now;
        }
        state.listening += 1;
    }

    /// Expects nothing more.
    pub fn leave(&self) {
        self.state().listening -= 1;
    }

    /// Something came.
    pub fn heard(&self, now: Instant) {
        let mut state = self.state();
        let silence = now.saturating_duration_since(state.last);
        state.gap = silence.max(state.gap.mul_f64(0.5_f64.powf(silence.as_secs_f64() / HALF_LIFE)));
        state.last = now;
    }

    /// Until when something should come; where this node is `busy` with what comes from others, that takes longer.
    pub fn due(&self, busy: bool) -> Instant {
        let state = self.state();
        state.last + if busy { LONGEST } else { (state.gap * 3).clamp(PATIENCE, LONGEST) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_given_three_times_the_longest_silence_of_late() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let pulse = Pulse::new(start);
        pulse.listen(at(5000));
        assert_eq!(pulse.due(false), at(5300), "what nobody waited for is no silence");
        pulse.heard(at(5250));
        assert_eq!(pulse.due(false), at(6000));
        for beat in 1..200 {
            pulse.heard(at(5250 + beat * 100));
        }
        let quiet = 5250 + 199 * 100;
        assert!(pulse.due(false) < at(quiet + 320), "it is forgotten in time");
        pulse.heard(at(quiet + 1900));
        assert_eq!(pulse.due(false), at(quiet + 1900 + 2000), "and nobody is waited for longer");
    }
}
