//! Where content and the state that is needed to serve it are kept.

mod disk;
mod evict;
mod expire;
mod ingest;
mod layout;
mod quarantine;
mod record;
mod scrub;
mod seal;
mod shelf;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use oci::Digest;

pub use disk::{Budget, DiskStore, StoreSettings};
pub use record::{Record, RecordKind};
pub use scrub::{ScrubProgress, ScrubReport, scrub};
pub use seal::doubt;
pub use shelf::Shelf;

use crate::reply::Blob;

/// Content by digest, shared by all repositories, and small records by repository.
///
/// A store answers from what it has and never asks anybody. Every method may fail without harm: the engine then passes
/// bytes through.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Opens a blob. What does not have the size and seal of the verified blob is hashed again, and set aside if it is
    /// wrong: then the answer is that there is none.
    async fn open(&self, digest: &Digest) -> Result<Option<Blob>, StoreError>;

    /// Starts to take in a blob of `size` bytes, if that is known; makes room if it must.
    async fn ingest(&self, digest: &Digest, size: Option<u64>) -> Result<Arc<dyn Ingest>, StoreError>;

    /// Starts to take in a blob of `size` bytes whose parts come in any order, and perhaps not all of them: only what is
    /// written takes space.
    async fn scatter(&self, digest: &Digest, size: u64) -> Result<Arc<dyn Ingest>, StoreError>;

    /// Reads a record; what cannot be read is as good as not there.
    async fn read(&self, record: &Record) -> Result<Option<Bytes>, StoreError>;

    /// Writes a record, whole or not at all. With `durable`, it is on the disk when this returns.
    async fn write(&self, record: &Record, value: Bytes, durable: bool) -> Result<(), StoreError>;

    /// Removes a record, which takes no space. When this returns, it stays removed.
    async fn erase(&self, record: &Record) -> Result<(), StoreError>;

    /// Sets a blob aside that turned out to be wrong or unreadable.
    async fn quarantine(&self, digest: &Digest);

    /// Waits until the store holds more than its budget.
    async fn over_budget(&self);

    /// Drops what was used longest ago, one blob at a time, until the store is within its budget; never what is protected,
    /// being read or being filled. Returns how many blobs and bytes went.
    async fn evict(&self) -> Result<(u64, u64), StoreError>;

    /// Waits while somebody else on this machine makes durable what came in of a blob, for a few seconds at most: both would
    /// write to one disk, and others wait for that one. Cancellation-safe.
    async fn give_way(&self, _digest: &Digest) {}

    /// Deletes copies of what somebody else on this machine keeps too; returns how many blobs and bytes went.
    async fn shed(&self) -> Result<(u64, u64), StoreError> {
        Ok((0, 0))
    }

    /// Says what eviction must not take.
    fn protect(&self, keep: HashSet<Digest>);

    /// Says what eviction must not take besides, until [`protect`](Store::protect) says all anew.
    fn protect_also(&self, _more: &[Digest]) {}

    /// Whether eviction must not take a blob.
    fn is_protected(&self, _digest: &Digest) -> bool {
        false
    }

    /// How long blobs are, in the order of `digests`; none of what is not there. Asking is no use of them.
    async fn sizes(&self, digests: Vec<Digest>) -> Result<Vec<Option<u64>>, StoreError> {
        Ok(vec![None; digests.len()])
    }

    /// Reads a small blob whole, without verifying it and without that being a use of it; none if it is larger than `limit`.
    async fn peek(&self, _digest: &Digest, _limit: u64) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    /// Says what the store may hold besides what it was opened with: of both the smaller counts.
    fn limit(&self, _budget: Option<Budget>) {}

    /// Marks blobs as used now.
    async fn touch(&self, _digests: Vec<Digest>) {}

    /// Drops what nothing has used for so long, never what is protected, being read or being filled. Returns how many blobs and bytes
    /// went.
    async fn expire(&self, _unused_for: Duration) -> Result<(u64, u64), StoreError> {
        Ok((0, 0))
    }

    /// Reads what [`write_keep`](Store::write_keep) wrote last. Where there is something, nothing is evicted before
    /// [`protect`](Store::protect) was called.
    async fn read_keep(&self) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    /// Writes which images are to be kept, whole or not at all, on the disk when this returns.
    async fn write_keep(&self, _value: Bytes) -> Result<(), StoreError> {
        Ok(())
    }

    /// Hashes what is stored again, at most `bytes_per_second`; returns what it found.
    async fn scrub(&self, bytes_per_second: u64) -> Result<ScrubReport, StoreError>;

    /// How many bytes are held, and how many may be.
    fn usage(&self) -> Usage;

    /// Whether content can be read and written.
    fn check(&self) -> Result<(), StoreError>;
}

/// A blob being taken in. Dropped without a commit, it leaves nothing. All methods block.
pub trait Ingest: Send + Sync {
    /// The file that holds the bytes so far, open for reading and writing.
    fn file(&self) -> &Arc<File>;

    /// Writes bytes at an offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError>;

    /// Makes `size` bytes the blob, unless somebody else on this machine keeps it. The caller has verified them against the digest
    /// it began with.
    fn commit(&self, size: u64) -> Result<Blob, StoreError>;
}

/// Bytes held, and the most that may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes held, those of fills in progress included.
    pub bytes: u64,
    /// The budget in bytes.
    pub budget: u64,
    /// Blobs dropped since the start.
    pub evictions: u64,
    /// Their bytes.
    pub evicted: u64,
}

/// Why the store could not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No space, no inodes, or over quota, and nothing left to drop.
    #[error("the store's disk is full")]
    Full,
    /// The blob is larger than the whole budget.
    #[error("a blob of {size} bytes is larger than the store's budget of {budget} bytes")]
    TooLarge {
        /// The blob's size.
        size: u64,
        /// The budget.
        budget: u64,
    },
    /// The folder is gone, or another file system is where it was.
    #[error("the store's folder is gone")]
    Gone,
    /// Another process uses the folder.
    #[error("{path} is in use by another larder process: give each its own --store")]
    Locked {
        /// The store's folder.
        path: String,
    },
    /// The folder was written by a newer larder.
    #[error(
        "{path} has layout {found}, and this larder knows layouts up to {known}: use the larder that wrote it, or another folder"
    )]
    Newer {
        /// The store's folder.
        path: String,
        /// Its layout.
        found: u64,
        /// The newest one known.
        known: u64,
    },
    /// The folder is not what a store needs.
    #[error("{path}: {reason}")]
    Unsuitable {
        /// What is wrong.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// The system does not let the folder be what a store needs.
    #[error("{path} {cannot}: {error}; {}", remedy(error))]
    Folder {
        /// The store's folder, or what is wrong in it.
        path: String,
        /// What cannot be done with it.
        cannot: &'static str,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// Anything else.
    #[error("{doing}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        error: Arc<io::Error>,
    },
}

impl StoreError {
    /// Wraps what the system said.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> StoreError {
        move |error| match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => StoreError::Full,
            _ => StoreError::Io { doing, error: Arc::new(error) },
        }
    }

    /// The same about the store's folder itself, whose path a person needs to know.
    pub(crate) fn folder(path: &Path, cannot: &'static str) -> impl FnOnce(io::Error) -> StoreError {
        move |error| StoreError::Folder { path: path.display().to_string(), cannot, error: Arc::new(error) }
    }

    /// A bounded word for metrics: the errno's name for what the system said.
    pub fn label(&self) -> &'static str {
        use rustix::io::Errno;
        match self {
            StoreError::Full => "ENOSPC",
            StoreError::TooLarge { .. } => "too_large",
            StoreError::Gone => "gone",
            StoreError::Locked { .. } => "locked",
            StoreError::Newer { .. } | StoreError::Unsuitable { .. } => "layout",
            StoreError::Folder { error, .. } | StoreError::Io { error, .. } => {
                match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::NOSPC | Errno::DQUOT) => "ENOSPC",
                    Some(Errno::IO) => "EIO",
                    Some(Errno::ROFS) => "EROFS",
                    Some(Errno::ACCESS | Errno::PERM) => "EACCES",
                    Some(Errno::MFILE | Errno::NFILE) => "EMFILE",
                    Some(Errno::NOENT) => "ENOENT",
                    _ => "other",
                }
            }
        }
    }
}

/// What a person does about a folder that the system does not let be used.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "let this user read and write there (chown), or choose another place with --store"
        }
        io::ErrorKind::ReadOnlyFilesystem => "mount it writable, or choose another place with --store",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room there, or choose another place with --store"
        }
        _ => "choose another place with --store",
    }
}
