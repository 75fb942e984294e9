use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes per second, over all that share it. A quarter of a second's worth may go at once.
#[derive(Debug)]
pub(super) struct Pace {
    rate: f64,
    /// What is free to go, in bytes: below zero while earlier ones are being waited for.
    state: Mutex<(f64, Instant)>,
}

impl Pace {
    pub fn new(bytes_per_second: u64) -> Pace {
        let rate = (bytes_per_second as f64).max(1.0);
        Pace { rate, state: Mutex::new((rate / 4.0, Instant::now())) }
    }

    /// Waits for the turn of so many bytes. Cancelled, they count as gone.
    pub async fn turn(&self, bytes: usize) {
        let wait = self.take(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn take(&self, bytes: usize, now: Instant) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = now.saturating_duration_since(state.1).as_secs_f64() * self.rate;
        let free = (state.0 + earned).min(self.rate / 4.0) - bytes as f64;
        *state = (free, now);
        Duration::try_from_secs_f64((-free / self.rate).max(0.0)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_for_those_before_them() {
        let pace = Pace::new(1000);
        let now = Instant::now();
        assert_eq!(pace.take(250, now), Duration::ZERO);
        assert_eq!(pace.take(500, now), Duration::from_millis(500));
        assert_eq!(pace.take(500, now), Duration::from_secs(1));
        assert_eq!(pace.take(100, now + Duration::from_secs(60)), Duration::ZERO);
    }
}
