use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use oci::Digest;

use super::disk::{DiskStore, create};
use super::{Ingest, StoreError, seal};
use crate::reply::Blob;

/// A blob being taken in by a disk store, in a file of its own until it is verified.
pub(super) struct DiskIngest {
    store: Arc<DiskStore>,
    digest: Digest,
    path: PathBuf,
    file: Arc<File>,
    /// How many bytes are to come, as a source says.
    size: Option<u64>,
    /// Whether they come in any order.
    scattered: bool,
    /// Bytes charged to the store's budget so far.
    charged: AtomicU64,
    committed: AtomicBool,
}

impl DiskIngest {
    pub(super) fn begin(store: &Arc<DiskStore>, digest: &Digest, size: Option<u64>) -> Result<DiskIngest, StoreError> {
        let path = store.new_ingest_path(&digest.hex()[..12]);
        let file = create(&path).map_err(StoreError::io("making a file for a fill"))?;
        *store.filling.lock().unwrap_or_else(PoisonError::into_inner).entry(*digest).or_default() += 1;
        let ingest = DiskIngest {
            store: store.clone(),
            digest: *digest,
            path,
            file: Arc::new(file),
            size,
            scattered: false,
            charged: AtomicU64::new(0),
            committed: AtomicBool::new(false),
        };
        if size.is_some_and(|size| size > 0) {
            store.make_room(ingest.ahead_of(0))?;
            // Space that is not there is best found out now, when nothing has been sent yet.
            ingest.reserve(0)?;
        }
        Ok(ingest)
    }

    /// One whose parts come in any order, and perhaps not all of them: only what is written takes space and counts.
    pub(super) fn scattered(store: &Arc<DiskStore>, digest: &Digest, size: u64) -> Result<DiskIngest, StoreError> {
        let budget = store.budget_bytes();
        if size > budget {
            return Err(StoreError::TooLarge { size, budget });
        }
        let mut ingest = DiskIngest::begin(store, digest, None)?;
        ingest.scattered = true;
        Ok(ingest)
    }

    /// Up to where there should be room when bytes up to `end` are there.
    fn ahead_of(&self, end: u64) -> u64 {
        match self.size {
            Some(size) => end.saturating_add(self.store.step()).min(size).max(end),
            None => end,
        }
    }

    /// Charges the store with what comes up to `end`, and some more if more is to come; reserves the space for it.
    fn reserve(&self, end: u64) -> Result<(), StoreError> {
        let until = self.ahead_of(end);
        let before = self.charged.fetch_max(until, Ordering::Relaxed);
        if until <= before {
            return Ok(());
        }
        self.store.charge(until - before);
        if self.size.is_some() {
            use rustix::fs::{FallocateFlags, fallocate};
            if let Err(error) = fallocate(&self.file, FallocateFlags::KEEP_SIZE, before, until - before)
                && !matches!(error, rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS)
            {
                return Err(StoreError::io("reserving space for a fill")(error.into()));
            }
        }
        Ok(())
    }

    /// Makes room for what comes up to `end`.
    fn extend(&self, end: u64) -> Result<(), StoreError> {
        let budget = self.store.budget_bytes();
        if end > budget {
            return Err(StoreError::TooLarge { size: end, budget });
        }
        // What cannot be dropped now is dropped later; the disk has the last word.
        let more = self.ahead_of(end).saturating_sub(self.charged.load(Ordering::Relaxed));
        let _ = self.store.make_room(more);
        match self.reserve(end) {
            Err(StoreError::Full) => {
                self.store.free(self.store.step())?;
                // What was charged is not charged again.
                Ok(())
            }
            reserved => reserved,
        }
    }

    /// Gives the verified file its name; returns it as the blob, and how many bytes it replaced.
    fn commit_as(&self, size: u64) -> io::Result<(File, u64)> {
        self.file.set_len(size)?;
        seal::apply(&self.file, &self.digest, size)?;
        self.file.sync_all()?;
        let target = self.store.blob_path(&self.digest);
        let replaced = self.rename_to(&target)?;
        let folder = target.parent().expect("a blob lies in a folder");
        File::open(folder).and_then(|folder| folder.sync_all()).inspect_err(|_| {
            // What is not certain to be there after a power failure is not there.
            let _ = fs::remove_file(&target);
            self.store.release(replaced);
        })?;
        let (file, _) = self
            .store
            .open_file(&self.digest)
            .map_err(io::Error::other)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok((file, replaced))
    }

    /// Two repositories may fill one blob at once: the later one takes the place of the earlier one, whose size is returned.
    fn rename_to(&self, target: &Path) -> io::Result<u64> {
        self.store.arriving(&self.digest);
        let _one_at_a_time = self.store.renaming.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = fs::symlink_metadata(target).map_or(0, |meta| meta.len());
        if let Err(error) = fs::rename(&self.path, target) {
            // The folder may have been deleted meanwhile; or something else has the blob's name.
            if target.is_dir() {
                fs::remove_dir_all(target)?;
            } else if self.store.layout.restore().is_err() {
                return Err(error);
            }
            fs::rename(&self.path, target)?;
        }
        Ok(replaced)
    }
}

impl Ingest for DiskIngest {
    fn file(&self) -> &Arc<File> {
        &self.file
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let (length, end) = (bytes.len() as u64, offset + bytes.len() as u64);
        if self.scattered {
            // What cannot be dropped now is dropped later; the disk has the last word.
            let _ = self.store.make_room(length);
            self.store.charge(length);
            self.charged.fetch_add(length, Ordering::Relaxed);
        } else if end > self.charged.load(Ordering::Relaxed) {
            self.extend(end)?;
        }
        self.file.write_all_at(bytes, offset).map_err(StoreError::io("writing a fill"))
    }

    fn commit(&self, size: u64) -> Result<Blob, StoreError> {
        if let Some(shelved) = self.store.shelved.as_ref().filter(|shelved| shelved.keeps(&self.digest))
            && let Some(blob) = shelved.open(&self.digest)
        {
            // This file goes with who reads it, in part before it was ever written to the disk.
            return Ok(blob);
        }
        let (file, replaced) = self.commit_as(size).map_err(StoreError::io("keeping a blob"))?;
        self.committed.store(true, Ordering::Relaxed);
        // In one step: with less on the account for a moment, another fill would find room that is not there.
        match size.checked_sub(self.charged.load(Ordering::Relaxed).saturating_add(replaced)) {
            Some(more) => self.store.charge(more),
            None => self.store.release(self.charged.load(Ordering::Relaxed).saturating_add(replaced) - size),
        }
        self.store.changes.fetch_add(1, Ordering::Release);
        let protected = self.store.protected.lock().unwrap_or_else(PoisonError::into_inner);
        if protected.contains(&self.digest) {
            self.store.protected_bytes.fetch_add(size.saturating_sub(replaced), Ordering::Relaxed);
        }
        drop(protected);
        if let Some(shelved) = &self.store.shelved {
            shelved.expect(&self.digest);
        }
        Ok(Blob::File { file: self.store.adopt(&self.digest, file, &self.file), size })
    }
}

impl Drop for DiskIngest {
    fn drop(&mut self) {
        let mut filling = self.store.filling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = filling.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                filling.remove(&self.digest);
            }
        }
        drop(filling);
        if !*self.committed.get_mut() {
            let _ = fs::remove_file(&self.path);
            self.store.release(*self.charged.get_mut());
        }
    }
}
