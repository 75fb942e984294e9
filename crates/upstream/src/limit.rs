use std::sync::{Arc, Mutex};
use std::time::Duration;

use cache::FailureKind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::settings::Limits;

/// What an upstream is spared, kept count of.
pub(crate) struct Limiter {
    places: Option<Arc<Semaphore>>,
    requests: Option<Bucket>,
    pub(crate) bytes: Option<Arc<Bucket>>,
    queue: Duration,
}

impl Limiter {
    pub(crate) fn new(limits: Limits, queue: Duration) -> Limiter {
        Limiter {
            places: limits.concurrency.map(|places| Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)))),
            requests: limits.requests_per_second.map(|rate| Bucket::new(rate, rate.max(1.0))),
            bytes: limits.bytes_per_second.map(|rate| {
                let rate = rate as f64;
                Arc::new(Bucket::new(rate, (rate / 4.0).max(65536.0)))
            }),
            queue,
        }
    }

    /// A place among the requests at a time, held until the permit is dropped.
    pub(crate) async fn place(&self) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        let Some(places) = &self.places else { return Ok(None) };
        match tokio::time::timeout(self.queue, places.clone().acquire_owned()).await {
            Ok(permit) => Ok(Some(permit.expect("nobody closes the semaphore"))),
            Err(_) => Err(Failure::new(FailureKind::Timeout, "too many requests at a time by the upstream's limit")),
        }
    }

    /// The turn of one request.
    pub(crate) async fn turn(&self) -> Result<(), Failure> {
        let Some(requests) = &self.requests else { return Ok(()) };
        let wait = requests.take(1.0);
        if wait > self.queue {
            requests.give_back(1.0);
            return Err(Failure::new(FailureKind::Timeout, "too many requests per second by the upstream's limit"));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// A token bucket that may go into debt: who takes waits until the debt at that moment is paid.
pub(crate) struct Bucket {
    rate: f64,
    burst: f64,
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    pub(crate) fn new(rate: f64, burst: f64) -> Bucket {
        Bucket { rate, burst, state: Mutex::new((burst, Instant::now())) }
    }

    /// Takes so much and tells how long to wait for it.
    pub(crate) fn take(&self, amount: f64) -> Duration {
        let mut state = self.state.lock().expect("no panic while held");
        let now = Instant::now();
        let level = (state.0 + now.duration_since(state.1).as_secs_f64() * self.rate).min(self.burst) - amount;
        *state = (level, now);
        Duration::try_from_secs_f64((-level / self.rate).max(0.0)).unwrap_or(Duration::MAX)
    }

    fn give_back(&self, amount: f64) {
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

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_too_long_is_refused_and_costs_nothing() {
        let limits = Limits { requests_per_second: Some(1.0), concurrency: Some(1), bytes_per_second: None };
        let limiter = Limiter::new(limits, Duration::from_secs(2));
        for _ in 0..3 {
            limiter.turn().await.unwrap();
        }
        let (first, second, third) = tokio::join!(limiter.turn(), limiter.turn(), limiter.turn());
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(third.unwrap_err().kind, FailureKind::Timeout);
        let place = limiter.place().await.unwrap();
        assert_eq!(limiter.place().await.unwrap_err().kind, FailureKind::Timeout);
        drop(place);
        assert!(limiter.place().await.is_ok());
    }
}
