use std::sync::Arc;
use std::time::Duration;

use cache::{Bucket, FailureKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

#[cfg(test)]
mod tests {
    use super::*;

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
