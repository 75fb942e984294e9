use std::time::Duration;

use bytes::Bytes;

/// So many bytes are written at once, or what comes in so much time: many slow streams cost no more than a few fast ones.
const BATCH: usize = 128 * 1024;
const LINGER: Duration = Duration::from_millis(50);

/// Bytes that are to be written together.
#[derive(Default)]
pub(super) struct Batch {
    pub parts: Vec<Bytes>,
    pub length: usize,
    /// When they are written though they are few.
    due: Option<tokio::time::Instant>,
}

/// What comes first: more bytes, or the time to write those that are there.
pub(super) enum Next<T> {
    Came(T),
    Due,
}

impl Batch {
    pub fn push(&mut self, bytes: Bytes) {
        self.due.get_or_insert_with(|| tokio::time::Instant::now() + LINGER);
        self.length += bytes.len();
        self.parts.push(bytes);
    }

    /// Whether it is worth being written.
    pub fn is_full(&self) -> bool {
        self.length >= BATCH
    }

    /// Waits for more, unless those that are there are due. `more` must be cancellation-safe.
    pub async fn or<T>(&self, more: impl Future<Output = T>) -> Next<T> {
        match self.due {
            None => Next::Came(more.await),
            Some(due) => match tokio::time::timeout_at(due, more).await {
                Ok(came) => Next::Came(came),
                Err(_) => Next::Due,
            },
        }
    }
}
