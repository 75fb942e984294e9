use std::time::Duration;

use cache::Bucket;

/// Bytes per second, over all that share it. A quarter of a second's worth may go at once.
#[derive(Debug)]
pub(super) struct Pace(Bucket);

impl Pace {
    pub fn new(bytes_per_second: u64) -> Pace {
        let rate = (bytes_per_second as f64).max(1.0);
        Pace(Bucket::new(rate, rate / 4.0))
    }

    /// Waits for the turn of so many bytes. Cancelled, they count as gone.
    pub async fn turn(&self, bytes: usize) {
        let wait = self.take(bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn take(&self, bytes: usize) -> Duration {
        self.0.take(bytes as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_wait_for_those_before_them() {
        let pace = Pace::new(1000);
        assert_eq!(pace.take(250), Duration::ZERO);
        assert_eq!(pace.take(500), Duration::from_millis(500));
        assert_eq!(pace.take(500), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.take(100), Duration::ZERO);
    }
}
