use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use oci::Digest;

use super::disk::DiskStore;
use super::{Store, StoreError};

/// How many candidates one look at the store remembers: enough to make a look rare, little enough to be nothing in
/// memory (about 1 MiB).
const CANDIDATES: usize = 8192;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    used: (i64, i64),
    digest: Digest,
    size: u64,
}

impl DiskStore {
    /// Deletes what was used longest ago until at most `target` bytes are held; returns how many blobs and bytes went.
    pub(super) fn evict_until(self: &Arc<Self>, target: u64) -> Result<(u64, u64), StoreError> {
        self.count()?;
        let keep = self.protected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut blobs, mut bytes) = (0, 0);
        while self.usage().bytes > target {
            // The newest of the oldest is on top, so that it can be replaced by an older one.
            let mut oldest = BinaryHeap::with_capacity(CANDIDATES + 1);
            self.each_blob(|digest, stat| {
                if !keep.contains(&digest) {
                    oldest.push(Candidate {
                        used: (stat.st_atime, stat.st_atime_nsec as i64),
                        digest,
                        size: stat.st_size as u64,
                    });
                    if oldest.len() > CANDIDATES {
                        oldest.pop();
                    }
                }
            })?;
            let mut progress = false;
            for candidate in oldest.into_sorted_vec() {
                if self.usage().bytes <= target {
                    break;
                }
                if self.remove(&candidate.digest) {
                    tracing::debug!(digest = %candidate.digest, size = candidate.size, "evicted");
                    self.release(candidate.size);
                    self.evictions.fetch_add(1, Ordering::Relaxed);
                    self.evicted.fetch_add(candidate.size, Ordering::Relaxed);
                    blobs += 1;
                    bytes += candidate.size;
                    progress = true;
                }
            }
            if !progress {
                break;
            }
        }
        Ok((blobs, bytes))
    }
}
