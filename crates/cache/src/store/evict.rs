use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use oci::Digest;

use super::disk::DiskStore;
use super::{Store, StoreError};

/// How many candidates one look at the store remembers: enough to make a look rare, little enough to be nothing in
/// memory (about 1 MiB).
const CANDIDATES: usize = 8192;

/// How long nothing is tried after blobs could not be deleted though nobody uses them.
const AFTER_A_FAILURE: Duration = Duration::from_secs(5);

/// What a look at the store found that could drop nothing. Until that has changed, another look would find the same.
pub(super) struct Fruitless {
    /// [`DiskStore::changes`] before the look.
    changes: u64,
    /// What was being read or filled.
    busy: Vec<Digest>,
    /// When to try again, if something could not be deleted.
    retry: Option<Instant>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    used: (i64, i64),
    digest: Digest,
    size: u64,
}

impl DiskStore {
    /// Deletes what was used longest ago until at most `target` bytes are held; returns how many blobs and bytes went.
    pub(super) fn evict_until(self: &Arc<Self>, target: u64) -> Result<(u64, u64), StoreError> {
        if self.undecided.load(Ordering::Acquire) || (self.usage().bytes > target && self.is_fruitless()) {
            return Ok((0, 0));
        }
        self.count()?;
        let changes = self.changes.load(Ordering::Acquire);
        let keeps = |digest: &Digest| {
            let protected = self.protected.lock().unwrap_or_else(PoisonError::into_inner);
            protected.contains(digest)
        };
        let (mut blobs, mut bytes) = (0, 0);
        while self.usage().bytes > target {
            // The newest of the oldest is on top, so that it can be replaced by an older one.
            let mut oldest = BinaryHeap::with_capacity(CANDIDATES + 1);
            let mut kept = 0;
            self.each_blob(|digest, stat| {
                if keeps(&digest) {
                    kept += stat.st_size as u64;
                } else {
                    // What the runtime has too is the least loss.
                    let spare = self.shelved.as_ref().is_some_and(|shelved| shelved.keeps(&digest));
                    let used = if spare { (i64::MIN, 0) } else { (stat.st_atime, stat.st_atime_nsec as i64) };
                    oldest.push(Candidate { used, digest, size: stat.st_size as u64 });
                    if oldest.len() > CANDIDATES {
                        oldest.pop();
                    }
                }
            })?;
            let mut progress = false;
            let mut busy = Vec::new();
            let mut failed = false;
            for candidate in oldest.into_sorted_vec() {
                if self.usage().bytes <= target {
                    break;
                }
                // It may have become protected since the look.
                if keeps(&candidate.digest) {
                    continue;
                }
                if self.is_busy(&candidate.digest) {
                    busy.push(candidate.digest);
                } else if !self.remove(&candidate.digest) {
                    failed = true;
                } else {
                    tracing::debug!(digest = %candidate.digest, size = candidate.size, "evicted");
                    self.release(candidate.size);
                    self.evictions.fetch_add(1, Ordering::Relaxed);
                    self.evicted.fetch_add(candidate.size, Ordering::Relaxed);
                    blobs += 1;
                    bytes += candidate.size;
                    progress = true;
                }
            }
            self.protected_bytes.store(kept, Ordering::Relaxed);
            if !progress {
                let retry = failed.then(|| Instant::now() + AFTER_A_FAILURE);
                *self.fruitless.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Fruitless { changes, busy, retry });
                break;
            }
        }
        Ok((blobs, bytes))
    }

    /// Whether nothing has changed since a look at the store that could drop nothing.
    fn is_fruitless(&self) -> bool {
        let fruitless = self.fruitless.lock().unwrap_or_else(PoisonError::into_inner);
        fruitless.as_ref().is_some_and(|last| {
            last.changes == self.changes.load(Ordering::Acquire)
                && last.retry.is_none_or(|retry| Instant::now() < retry)
                && last.busy.iter().all(|digest| self.is_busy(digest))
        })
    }
}
