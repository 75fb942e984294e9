use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// A token bucket that may go into debt: who takes waits until the debt at that moment is paid.
#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    burst: f64,
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// At most `rate` per second, of which `burst` may go at once.
    pub fn new(rate: f64, burst: f64) -> Bucket {
        Bucket { rate, burst, state: Mutex::new((burst, Instant::now())) }
    }

    /// Takes so much and tells how long to wait for it.
    pub fn take(&self, amount: f64) -> Duration {
        let mut state = self.state.lock().expect("no panic while held");
        let now = Instant::now();
        let level = (state.0 + now.duration_since(state.1).as_secs_f64() * self.rate).min(self.burst) - amount;
        *state = (level, now);
        Duration::try_from_secs_f64((-level / self.rate).max(0.0)).unwrap_or(Duration::MAX)
    }

    /// Puts back what was taken and not used.
    pub fn give_back(&self, amount: f64) {
        self.state.lock().expect("no panic while held").0 += amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_lets_a_burst_pass_and_then_its_rate() {
        let bucket = Bucket::new(10.0, 5.0);
        for _ in 0..5 {
            assert_eq!(bucket.take(1.0), Duration::ZERO);
        }
        assert_eq!(bucket.take(1.0), Duration::from_millis(100));
        assert_eq!(bucket.take(1.0), Duration::from_millis(200));
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(bucket.take(1.0), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert_eq!(bucket.take(6.0), Duration::from_millis(100));
    }
}
