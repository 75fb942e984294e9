use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use oci::Digest;

use super::StoreError;
use super::disk::DiskStore;
use super::seal;
use crate::blocking::blocking;
use crate::reply::Blob;

/// A folder of blobs that belongs to somebody else: the content store of the container runtime on the same machine.
///
/// Nothing is ever written there. Its files appear whole and are never changed, but
/// nobody looks for rot: a file is hashed before it is served for the first time.
pub trait Shelf: Send + Sync + 'static {
    /// Opens a blob. Blocks.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    fn open(&self, digest: &Digest) -> std::io::Result<Option<File>>;

    /// Whether a blob is there to stay for as long as its image is on this machine, so that the store needs no copy of it.
    /// Blocks.
    fn keeps(&self, digest: &Digest) -> bool;
}

/// How long a blob that came in is waited for on the shelf.
const EXPECTED: Duration = Duration::from_secs(600);

/// How long a blob that is whole waits for the runtime to have written its own copy,
const PATIENCE: Duration = Duration::from_secs(3);
/// and how often that is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// The shelf of a store, and what is known about it.
pub(super) struct Shelved {
    shelf: Arc<dyn Shelf>,
    /// Files that were found right.
    verified: Cache<Identity, ()>,
    /// Blobs of the store that may soon be on the shelf too, and until when that is looked for.
    expected: Mutex<HashMap<Digest, Instant>>,
}

/// Tells a file that was hashed from every other, and from itself once it was written to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    digest: Digest,
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Shelved {
    pub(super) fn new(shelf: Arc<dyn Shelf>) -> Shelved {
        Shelved { shelf, verified: Cache::new(20_000), expected: Mutex::default() }
    }

    /// Opens a blob that was found right, now or before. Blocks.
    pub(super) fn open(&self, digest: &Digest) -> Option<Blob> {
        let opened = self.shelf.open(digest);
        let file = opened
            .inspect_err(|error| tracing::debug!(%digest, %error, "the runtime's blob cannot be opened"))
            .ok()??;
        let meta = file.metadata().ok()?;
        let identity = Identity {
            digest: *digest,
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        };
        if self.verified.get(&identity).is_none() {
            match seal::hash(&file, digest, |_| {}) {
                Ok(found) if found == *digest => self.verified.insert(identity, ()),
                Ok(found) => {
                    tracing::warn!(%digest, %found, "the runtime's content store has wrong bytes under this digest");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(%digest, %error, "the runtime's content store has a blob that cannot be read");
                    return None;
                }
            }
        }
        Some(Blob::File { size: meta.len(), file: Arc::new(file) })
    }

    pub(super) fn keeps(&self, digest: &Digest) -> bool {
        self.shelf.keeps(digest)
    }

    /// Waits until the runtime has a blob that it probably just got, or has had the time for that.
    pub(super) async fn give_way(&self, digest: &Digest) {
        let there = async {
            loop {
                let (shelf, digest) = (self.shelf.clone(), *digest);
                if blocking(move || matches!(shelf.open(&digest), Ok(Some(_)))).await {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        // Where it does not come, only the store has it.
        let _ = tokio::time::timeout(PATIENCE, there).await;
    }

    /// Notes that the runtime is probably about to keep this blob.
    pub(super) fn expect(&self, digest: &Digest) {
        let until = Instant::now() + EXPECTED;
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest, until);
    }

    /// Those that are on the shelf by now, and need not be looked for again.
    fn arrived(&self) -> Vec<Digest> {
        let mut waiting = self.expected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = Instant::now();
        waiting.retain(|digest, until| *until <= now || self.keeps(digest));
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.retain(|digest, _| !waiting.contains_key(digest));
        drop(expected);
        waiting.retain(|_, until| *until > now);
        waiting.into_keys().collect()
    }
}

impl DiskStore {
    /// Deletes the copies of blobs that the runtime keeps too; returns how many blobs and bytes went. Blocks.
    pub(super) fn drop_copies(&self) -> Result<(u64, u64), StoreError> {
        let Some(shelved) = &self.shelved else { return Ok((0, 0)) };
        let (mut blobs, mut bytes) = (0, 0);
        for digest in shelved.arrived() {
            let Ok(meta) = fs::symlink_metadata(self.blob_path(&digest)) else { continue };
            if self.remove(&digest) {
                self.release(meta.len());
                blobs += 1;
                bytes += meta.len();
            } else {
                // Somebody reads it.
                shelved.expect(&digest);
            }
        }
        Ok((blobs, bytes))
    }

    /// Has everything that is in the store looked for on the shelf once. Blocks.
    pub(super) fn expect_all(&self) -> Result<(), StoreError> {
        let Some(shelved) = &self.shelved else { return Ok(()) };
        self.each_blob(|digest, _| shelved.expect(&digest))
    }
}
