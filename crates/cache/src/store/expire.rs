use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use oci::Digest;
use rustix::fs::{AtFlags, CWD, FileType, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use super::disk::DiskStore;
use super::{StoreError, seal};

impl DiskStore {
    /// How long a blob is, if it is there as it was verified.
    pub(super) fn size_of(&self, digest: &Digest) -> Option<u64> {
        let stat = rustix::fs::lstat(self.blob_path(digest)).ok()?;
        let whole = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && seal::is_sealed(&stat, digest);
        whole.then_some(stat.st_size as u64)
    }

    pub(super) fn peek_blocking(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let Some((file, stat)) = self.open_file(digest)? else { return Ok(None) };
        if !seal::is_sealed(&stat, digest) || stat.st_size as u64 > limit {
            return Ok(None);
        }
        let mut bytes = vec![0; stat.st_size as usize];
        file.read_exact_at(&mut bytes, 0).map_err(StoreError::io("reading a blob"))?;
        Ok(Some(bytes.into()))
    }

    pub(super) fn touch_all(&self, digests: &[Digest]) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT } };
        for digest in digests {
            // What is not there needs no time.
            let _ = utimensat(CWD, self.blob_path(digest), &times, AtFlags::SYMLINK_NOFOLLOW);
        }
    }

    /// Deletes what was last used so long ago and is neither protected nor busy; returns how many blobs and bytes went.
    pub(super) fn expire_blocking(self: &Arc<Self>, unused_for: Duration) -> Result<(u64, u64), StoreError> {
        let Some(before) = SystemTime::now().checked_sub(unused_for) else { return Ok((0, 0)) };
        let before = before.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let Ok(before) = i64::try_from(before) else { return Ok((0, 0)) };
        if self.undecided.load(Ordering::Acquire) {
            return Ok((0, 0));
        }
        self.count()?;
        let mut old = Vec::new();
        self.each_blob(|digest, stat| {
            if stat.st_atime < before {
                old.push((digest, stat.st_size as u64));
            }
        })?;
        let (mut blobs, mut bytes) = (0, 0);
        for (digest, size) in old {
            // Asked each time: it may have come into use since this began.
            let protected = self.protected.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest);
            if protected || self.was_used_since(&digest, before) || !self.remove(&digest) {
                continue;
            }
            tracing::debug!(%digest, size, "dropped: nothing has used it for long enough");
            self.release(size);
            self.evictions.fetch_add(1, Ordering::Relaxed);
            self.evicted.fetch_add(size, Ordering::Relaxed);
            blobs += 1;
            bytes += size;
        }
        Ok((blobs, bytes))
    }

    fn was_used_since(&self, digest: &Digest, before: i64) -> bool {
        rustix::fs::lstat(self.blob_path(digest)).is_ok_and(|stat| stat.st_atime >= before)
    }
}
