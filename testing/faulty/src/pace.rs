//! Speed limits: one bucket may be shared by many connections.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How much unused time may be made up for later; keeps the average right although timers wake up late.
const CATCH_UP: Duration = Duration::from_millis(25);

/// A limit in bytes per second over everyone who holds the same bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    bytes_per_second: u64,
    next: Mutex<Instant>,
}

impl Bucket {
    pub(crate) fn new(bytes_per_second: u64) -> Arc<Self> {
        Arc::new(Self { bytes_per_second: bytes_per_second.max(1), next: Mutex::new(Instant::now()) })
    }

    /// The largest write that keeps the flow even: a twentieth of a second's worth.
    pub(crate) fn quantum(&self) -> u64 {
        (self.bytes_per_second / 20).clamp(1, 64 * 1024)
    }

    /// Waits until `bytes` more may leave.
    pub(crate) async fn take(&self, bytes: u64) {
        let start = {
            let mut next = self.next.lock().expect("no panic while held");
            let start = (*next).max(Instant::now() - CATCH_UP);
            *next = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            start
        };
        sleep_until(start).await;
    }
}
