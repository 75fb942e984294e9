use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use cache::{Blob, Ingest, Record, ScrubReport, Store, StoreError, Usage};
use oci::Digest;

/// A store that knows which blobs it has, and has none of their bytes.
pub(crate) struct Lengths {
    file: Arc<File>,
    blobs: Mutex<HashMap<Digest, u64>>,
}

impl Lengths {
    pub fn new(file: Arc<File>) -> Lengths {
        Lengths { file, blobs: Mutex::default() }
    }

    /// The file that stands for all.
    pub fn file() -> io::Result<Arc<File>> {
        File::open("/dev/null").map(Arc::new)
    }

    /// From now on all of a blob is there.
    pub fn insert(&self, digest: Digest, size: u64) {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, size);
    }
}

#[async_trait]
impl Store for Lengths {
    async fn open(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let size = self.blobs.lock().unwrap_or_else(PoisonError::into_inner).get(digest).copied();
        Ok(size.map(|size| Blob::File { file: self.file.clone(), size }))
    }

    async fn ingest(&self, _: &Digest, _: Option<u64>) -> Result<Arc<dyn Ingest>, StoreError> {
        Ok(Arc::new(Nowhere(self.file.clone())))
    }

    async fn scatter(&self, _: &Digest, _: u64) -> Result<Arc<dyn Ingest>, StoreError> {
        Ok(Arc::new(Nowhere(self.file.clone())))
    }

    async fn read(&self, _: &Record) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    async fn write(&self, _: &Record, _: Bytes, _: bool) -> Result<(), StoreError> {
        Ok(())
    }

    async fn erase(&self, _: &Record) -> Result<(), StoreError> {
        Ok(())
    }

    async fn quarantine(&self, digest: &Digest) {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    async fn over_budget(&self) {
        pending().await
    }

    async fn evict(&self) -> Result<(u64, u64), StoreError> {
        Ok((0, 0))
    }

    fn protect(&self, _: HashSet<Digest>) {}

    async fn scrub(&self, _: u64) -> Result<ScrubReport, StoreError> {
        Ok(ScrubReport::default())
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Where bytes go that are only counted.
struct Nowhere(Arc<File>);

impl Ingest for Nowhere {
    fn file(&self) -> &Arc<File> {
        &self.0
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn commit(&self, size: u64) -> Result<Blob, StoreError> {
        Ok(Blob::File { file: self.0.clone(), size })
    }
}
