use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use oci::Digest;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, utimensat};
use tokio::sync::Notify;

use super::evict::Fruitless;
use super::ingest::DiskIngest;
use super::layout::Layout;
use super::scrub::ScrubReport;
use super::shelf::{Shelf, Shelved};
use super::{Ingest, Record, Store, StoreError, Usage, quarantine, seal};
use crate::blocking::blocking;
use crate::reply::Blob;

/// How a disk store is opened.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The folder; made if it is not there.
    pub root: PathBuf,
    /// The most that it may hold.
    pub budget: Budget,
}

/// The most that a store may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// So many bytes.
    Bytes(u64),
    /// A share of its file system, above 0 and up to 1.
    Share(f64),
    /// The same, but at most so many bytes.
    ShareUpTo(f64, u64),
}

/// A store in a folder, which nothing else is needed to serve: no index, no database.
///
/// A blob's name is its digest, its seal tells that it is whole, its access time is when it was last used. So a start
/// reads nothing, and nothing is kept in memory per blob.
pub struct DiskStore {
    pub(super) layout: Layout,
    budget: Budget,
    /// What whoever says which images are kept says of it besides.
    limit: Mutex<Option<Budget>>,
    used: AtomicU64,
    /// Whether `used` has been counted since the start.
    counted: Mutex<bool>,
    /// Until then, the blobs that came in since the start, which have been charged already.
    arrived: Mutex<Option<HashSet<Digest>>>,
    pressure: Notify,
    files: Files,
    /// Counts what may make something droppable that was not: blobs that came in, and what is protected.
    pub(super) changes: AtomicU64,
    pub(super) fruitless: Mutex<Option<Fruitless>>,
    /// The container runtime's own content, where there is such a thing.
    pub(super) shelved: Option<Shelved>,
    pub(super) evictions: AtomicU64,
    pub(super) evicted: AtomicU64,
    next_ingest: AtomicU64,
    /// Held while a blob gets its name.
    pub(super) renaming: Mutex<()>,
    pub(super) filling: Mutex<HashMap<Digest, usize>>,
    pub(super) protected: Mutex<HashSet<Digest>>,
    /// The bytes of what is protected, as the last look that could drop nothing found them, and of what came in since.
    pub(super) protected_bytes: AtomicU64,
    /// What must be kept is written down, and nobody has said yet what that comes to: nothing goes until then.
    pub(super) undecided: AtomicBool,
}

/// A blob that is kept open. The time of its last touch is kept with it, so that a busy blob is touched once a second.
struct OpenFile {
    file: Arc<File>,
    touched: Instant,
}

/// A place for an open file, which can be emptied wherever the place itself is still known.
type Slot = Mutex<Option<OpenFile>>;

/// A blob that was opened, for as long as it is kept open or anybody reads it.
struct Known {
    slot: Weak<Slot>,
    /// All that is open of it: those who joined its fill read from the fill's own file, and those who opened it before it
    /// was closed and opened again from the earlier one.
    files: Vec<Weak<File>>,
}

impl Known {
    fn is_open(&self) -> bool {
        self.files.iter().any(|file| file.strong_count() > 0)
    }
}

/// Blobs opened lately stay open, which saves a path look-up per request, and are known while anybody reads them, which
/// keeps eviction from them.
struct Files {
    /// Gives up its values some time after they were removed; hence the slots, for the space of a deleted file is free only
    /// when it is closed.
    recent: moka::sync::Cache<Digest, Arc<Slot>>,
    known: Mutex<HashMap<Digest, Known>>,
}

impl Files {
    /// Keeps a blob open. `filled` is the file that it came in through, which others may be reading.
    fn remember(&self, digest: &Digest, file: File, filled: Option<&Arc<File>>) -> Arc<File> {
        let file = Arc::new(file);
        let slot = Arc::new(Mutex::new(Some(OpenFile { file: file.clone(), touched: Instant::now() })));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= 2048 && known.len().is_power_of_two() {
            known.retain(|_, known| known.is_open());
        }
        let entry = known.entry(*digest).or_insert_with(|| Known { slot: Weak::new(), files: Vec::new() });
        // The cache lets go of what it replaces some time later.
        if let Some(old) = std::mem::replace(&mut entry.slot, Arc::downgrade(&slot)).upgrade() {
            old.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        entry.files.retain(|file| file.strong_count() > 0);
        entry.files.extend(filled.into_iter().chain([&file]).map(Arc::downgrade));
        drop(known);
        self.recent.insert(*digest, slot);
        file
    }

    /// Gives a blob that is open and still what it was: one look at an inode that is in memory. What was deleted, replaced or
    /// changed is to be opened anew.
    fn recent(&self, digest: &Digest) -> Option<Blob> {
        let slot = self.recent.get(digest)?;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &mut *slot
            && let Ok(stat) = rustix::fs::fstat(&*open.file)
            && stat.st_nlink > 0
            && seal::is_sealed(&stat, digest)
        {
            if open.touched.elapsed() >= Duration::from_secs(1) {
                open.touched = Instant::now();
                let _ = seal::touch(&open.file);
            }
            return Some(Blob::File { file: open.file.clone(), size: stat.st_size as u64 });
        }
        drop(slot);
        self.forget(digest);
        None
    }

    /// Whether somebody reads a blob; that it is kept open is no reading.
    fn is_read(&self, digest: &Digest) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = known.get(digest) else { return false };
        let slot = entry.slot.upgrade();
        let kept = slot.is_some_and(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).is_some());
        entry.files.iter().map(Weak::strong_count).sum::<usize>() > usize::from(kept)
    }

    /// Closes a blob and tells whether somebody still reads it.
    fn forget(&self, digest: &Digest) -> bool {
        self.recent.invalidate(digest);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = known.get(digest) else { return false };
        if let Some(slot) = entry.slot.upgrade() {
            slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let busy = entry.is_open();
        if !busy {
            known.remove(digest);
        }
        busy
    }
}

impl DiskStore {
    /// Opens a store to serve it. Takes its lock, and removes what an earlier process left half done.
    pub fn open(settings: StoreSettings) -> Result<Arc<DiskStore>, StoreError> {
        DiskStore::open_with(settings, None)
    }

    /// The same beside a shelf, from which blobs are served too and of which the store keeps no copies for long.
    pub fn open_beside(settings: StoreSettings, shelf: Arc<dyn Shelf>) -> Result<Arc<DiskStore>, StoreError> {
        DiskStore::open_with(settings, Some(Shelved::new(shelf)))
    }

    fn open_with(settings: StoreSettings, shelved: Option<Shelved>) -> Result<Arc<DiskStore>, StoreError> {
        let store = DiskStore::with_layout(Layout::open(&settings.root, true)?, settings.budget, shelved)?;
        // A disk that is full is no such thing: what was used longest ago makes room.
        if let Err(error) = store.layout.try_writing()
            && error.kind() != io::ErrorKind::StorageFull
        {
            tracing::warn!(
                store = %store.root().display(), %error,
                "nothing can be kept, for the store cannot be written: what is there is served, and all other pulls pass \
                 through uncached; make its folder writable for this user, or choose another with --store"
            );
        }
        quarantine::trim(&store.layout.root.join("quarantine"));
        store.undecided.store(store.layout.keep_path().exists(), Ordering::Release);
        store.expect_all()?;
        Ok(store)
    }

    /// Opens a store to look at it, beside a process that may be serving it.
    pub fn inspect(root: &Path) -> Result<Arc<DiskStore>, StoreError> {
        DiskStore::with_layout(Layout::open(root, false)?, Budget::Share(1.0), None)
    }

    fn with_layout(layout: Layout, budget: Budget, shelved: Option<Shelved>) -> Result<Arc<DiskStore>, StoreError> {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(65536);
        Ok(Arc::new(DiskStore {
            layout,
            budget,
            limit: Mutex::default(),
            used: AtomicU64::new(0),
            counted: Mutex::new(false),
            arrived: Mutex::new(Some(HashSet::new())),
            pressure: Notify::new(),
            files: Files {
                recent: moka::sync::Cache::builder().max_capacity((descriptors / 8).min(512)).build(),
                known: Mutex::new(HashMap::new()),
            },
            shelved,
            changes: AtomicU64::new(0),
            fruitless: Mutex::default(),
            evictions: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            next_ingest: AtomicU64::new(0),
            renaming: Mutex::default(),
            filling: Mutex::new(HashMap::new()),
            protected: Mutex::default(),
            protected_bytes: AtomicU64::new(0),
            undecided: AtomicBool::new(false),
        }))
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.layout.root
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.layout.root.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// The budget in bytes. A share is of the whole file system, and never more than what is there beside other files.
    pub(super) fn budget_bytes(&self) -> u64 {
        let limit = *self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.bytes_of(self.budget);
        limit.map_or(own, |limit| own.min(self.bytes_of(limit)))
    }

    fn bytes_of(&self, budget: Budget) -> u64 {
        match budget {
            Budget::Bytes(bytes) => bytes,
            Budget::Share(share) => self.share(share),
            Budget::ShareUpTo(share, most) => self.share(share).min(most),
        }
    }

    fn share(&self, share: f64) -> u64 {
        match rustix::fs::statvfs(&self.layout.root) {
            Ok(stat) => (stat.f_blocks as f64 * stat.f_frsize as f64 * share) as u64,
            Err(_) => u64::MAX,
        }
    }

    pub(super) fn charge(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.pressure.notify_one();
    }

    pub(super) fn release(&self, bytes: u64) {
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(bytes)));
    }

    /// Notes that a blob is about to come in, so that it is not counted as well as charged.
    pub(super) fn arriving(&self, digest: &Digest) {
        if let Some(arrived) = &mut *self.arrived.lock().unwrap_or_else(PoisonError::into_inner) {
            arrived.insert(*digest);
        }
    }

    /// Counts what the blobs take, once. Until then the budget is not enforced.
    pub(super) fn count(&self) -> Result<(), StoreError> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if !*counted {
            let mut total = 0;
            self.each_blob(|digest, stat| {
                let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
                if arrived.as_ref().is_none_or(|arrived| !arrived.contains(&digest)) {
                    total += stat.st_size as u64;
                }
            })?;
            self.used.fetch_add(total, Ordering::Relaxed);
            *counted = true;
            *self.arrived.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(())
    }

    /// Calls `each` for every blob. What is no regular file with a digest for its name is passed over.
    pub(super) fn each_blob(&self, mut each: impl FnMut(Digest, &rustix::fs::Stat)) -> Result<(), StoreError> {
        use rustix::fs::{Dir, statat};
        for algorithm in ["sha256", "sha512"] {
            let folder = self.layout.root.join("blobs").join(algorithm);
            let handle = rustix::fs::open(&folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| StoreError::io("opening the folder of blobs")(error.into()))?;
            let list =
                Dir::read_from(&handle).map_err(|error| StoreError::io("reading the folder of blobs")(error.into()))?;
            for entry in list.flatten() {
                let Some(digest) =
                    entry.file_name().to_str().ok().and_then(|hex| Digest::from_parts(algorithm, hex).ok())
                else {
                    continue;
                };
                if let Ok(stat) = statat(&handle, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                    && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                {
                    each(digest, &stat);
                }
            }
        }
        Ok(())
    }

    /// Opens a blob's file and tells whether its seal holds. Neither a link nor a pipe can be put in a blob's place.
    pub(super) fn open_file(&self, digest: &Digest) -> Result<Option<(File, rustix::fs::Stat)>, StoreError> {
        let path = self.blob_path(digest);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
                self.set_aside(digest, None, "it is no regular file");
                return Ok(None);
            }
            Err(error) => return Err(StoreError::io("opening a blob")(error.into())),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| StoreError::io("looking at a blob")(error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            self.set_aside(digest, Some(&stat), "it is no regular file");
            return Ok(None);
        }
        Ok(Some((File::from(file), stat)))
    }

    fn open_blocking(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let Some((file, stat)) = self.open_file(digest)? else { return Ok(None) };
        if !seal::is_sealed(&stat, digest) {
            match seal::hash(&file, digest, |_| {}) {
                Ok(found) if found == *digest => {
                    tracing::debug!(%digest, "a blob without its seal was found right and sealed");
                    let _ = seal::apply(&file, digest, stat.st_size as u64);
                }
                Ok(_) => {
                    self.set_aside(digest, Some(&stat), "its bytes have another digest");
                    return Ok(None);
                }
                Err(error) => {
                    self.set_aside(digest, Some(&stat), "it cannot be read");
                    tracing::warn!(%digest, %error, "a blob cannot be read");
                    return Ok(None);
                }
            }
        }
        let _ = seal::touch(&file);
        Ok(Some(Blob::File { size: stat.st_size as u64, file: self.files.remember(digest, file, None) }))
    }

    /// Moves a bad blob to the quarantine, where the last of its name is kept for inspection. If the bad file is known and
    /// another one has taken its place meanwhile, that one stays; tells whether the bad one was still there.
    pub(super) fn set_aside(&self, digest: &Digest, bad: Option<&rustix::fs::Stat>, why: &'static str) -> bool {
        let path = self.blob_path(digest);
        // Nothing takes its place between the look and the move.
        let _one_at_a_time = self.renaming.lock().unwrap_or_else(PoisonError::into_inner);
        let there = rustix::fs::lstat(&path);
        if let Some(bad) = bad
            && !there.is_ok_and(|there| (there.st_dev, there.st_ino) == (bad.st_dev, bad.st_ino))
        {
            tracing::debug!(%digest, why, "a stored blob was bad, and is gone or replaced");
            return false;
        }
        self.files.forget(digest);
        let size = there.map_or(0, |there| there.st_size as u64);
        let folder = self.layout.root.join("quarantine");
        let aside = folder.join(format!("{}-{}", digest.algorithm(), digest.hex()));
        let moved =
            fs::rename(&path, &aside).or_else(|_| fs::remove_dir_all(&path)).or_else(|_| fs::remove_file(&path));
        self.release(size);
        // Whoever has it open, another process included, sees that it is no longer the blob.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        let _ = utimensat(CWD, &aside, &times, AtFlags::SYMLINK_NOFOLLOW);
        quarantine::trim(&folder);
        match moved {
            Ok(()) => tracing::warn!(%digest, why, "a stored blob is bad: set aside, to be fetched again"),
            Err(error) => tracing::error!(%digest, why, %error, "a stored blob is bad and cannot be set aside"),
        }
        true
    }

    fn read_blocking(&self, record: &Record) -> Result<Option<Bytes>, StoreError> {
        match fs::read(self.layout.root.join(record.path())) {
            Ok(value) => Ok(Some(value.into())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(StoreError::io("reading a record")(error)),
        }
    }

    fn write_blocking(&self, record: &Record, value: &[u8], durable: bool) -> Result<(), StoreError> {
        let path = self.layout.root.join(record.path());
        let new = self.new_ingest_path("record");
        self.replace(&path, &new, value, durable)
    }

    /// Gives a small file this content, whole or not at all, by way of a new one.
    pub(super) fn replace(&self, path: &Path, new: &Path, value: &[u8], durable: bool) -> Result<(), StoreError> {
        let folder = path.parent().expect("it lies in the store's folder");
        let write = || -> io::Result<()> {
            let mut file = create(new)?;
            file.write_all(value)?;
            if durable {
                file.sync_all()?;
            }
            if let Err(error) = fs::rename(new, path) {
                if error.kind() != io::ErrorKind::NotFound {
                    return Err(error);
                }
                make_synced(folder)?;
                fs::rename(new, path)?;
            }
            if durable { File::open(folder)?.sync_all() } else { Ok(()) }
        };
        write()
            .or_else(|error| {
                if error.kind() == io::ErrorKind::NotFound {
                    self.layout.restore()?;
                    write().map_err(StoreError::io("writing a record"))
                } else {
                    Err(StoreError::io("writing a record")(error))
                }
            })
            .inspect_err(|_| drop(fs::remove_file(new)))
    }

    fn erase_blocking(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.layout.root.join(record.path());
        let folder = path.parent().expect("a record lies in a repository's folder");
        match fs::remove_file(&path).and_then(|()| File::open(folder)?.sync_all()) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(StoreError::io("removing a record")(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn new_ingest_path(&self, what: &str) -> PathBuf {
        let number = self.next_ingest.fetch_add(1, Ordering::Relaxed);
        self.layout.root.join("ingest").join(format!("{}-{number}-{what}", std::process::id()))
    }

    fn begin(self: &Arc<Self>, digest: &Digest, size: Option<u64>) -> Result<DiskIngest, StoreError> {
        if let Some(size) = size {
            let budget = self.usage().budget;
            if size > budget {
                return Err(StoreError::TooLarge { size, budget });
            }
            // What is protected fills the budget: nothing that could go would make room. More of it may still come while there is any,
            // so that the last of it is not lost for a few bytes.
            let left = budget.saturating_sub(self.protected_bytes.load(Ordering::Relaxed));
            let protected = self.protected.lock().unwrap_or_else(PoisonError::into_inner).contains(digest);
            if (protected && left == 0) || (!protected && size > left) {
                return Err(StoreError::Full);
            }
            // What cannot fit even if all else goes need not begin.
            if size > self.step() && size > self.within_reach() {
                return Err(StoreError::Full);
            }
        }
        match DiskIngest::begin(self, digest, size) {
            Err(StoreError::Full) => {
                self.free(STEP)?;
                DiskIngest::begin(self, digest, size)
            }
            Err(StoreError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                self.layout.restore()?;
                DiskIngest::begin(self, digest, size)
            }
            other => other,
        }
    }

    /// How many bytes the disk has for a blob if all others go.
    fn within_reach(&self) -> u64 {
        let free =
            rustix::fs::statvfs(&self.layout.root).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        free.saturating_add(self.used.load(Ordering::Relaxed))
    }

    /// How much room is made at a time for a blob of which nothing more is known than what a source says: it may say
    /// anything, and what is in the store must not go for a word.
    pub(super) fn step(&self) -> u64 {
        (self.budget_bytes() / 20).min(STEP)
    }

    /// Drops what was used longest ago, if the store would be over its budget with `more` bytes. With room made beforehand
    /// it is above its budget for as short a time as possible.
    pub(super) fn make_room(self: &Arc<Self>, more: u64) -> Result<(), StoreError> {
        let Usage { bytes, budget, .. } = self.usage();
        if bytes.saturating_add(more) > budget {
            self.evict_until(low_water(budget).saturating_sub(more))?;
        }
        Ok(())
    }

    /// Drops what was used longest ago, so that the disk has `bytes` more if that much is there to be dropped.
    pub(super) fn free(self: &Arc<Self>, bytes: u64) -> Result<(), StoreError> {
        self.evict_until(self.usage().bytes.saturating_sub(bytes)).map(drop)
    }

    pub(super) fn adopt(&self, digest: &Digest, file: File, filled: &Arc<File>) -> Arc<File> {
        self.files.remember(digest, file, Some(filled))
    }

    /// Whether somebody reads or fills a blob.
    pub(super) fn is_busy(&self, digest: &Digest) -> bool {
        self.is_filled(digest) || self.files.is_read(digest)
    }

    fn is_filled(&self, digest: &Digest) -> bool {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner).contains_key(digest)
    }

    /// Deletes a blob unless somebody reads or fills it; tells whether it went.
    pub(super) fn remove(&self, digest: &Digest) -> bool {
        !self.is_filled(digest) && !self.files.forget(digest) && fs::remove_file(self.blob_path(digest)).is_ok()
    }
}

/// The most that is reserved for a fill ahead of what has come, in bytes.
const STEP: u64 = 64 << 20;

/// Where eviction stops: a little below the budget, so that not every blob that comes in costs a look at all blobs.
fn low_water(budget: u64) -> u64 {
    budget - budget / 20
}

/// Creates a file for this user alone, readable by its group.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?);
    Ok(file)
}

/// Makes a folder and its parents, each of them on the disk when this returns.
fn make_synced(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_synced(parent)?;
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => File::open(parent)?.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A store behind an `Arc`, which its blocking work shares.
#[async_trait]
impl Store for Arc<DiskStore> {
    async fn open(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        if let Some(blob) = self.files.recent(digest) {
            return Ok(Some(blob));
        }
        let (store, digest) = (self.clone(), *digest);
        blocking(move || match store.open_blocking(&digest) {
            Ok(None) | Err(_) if store.shelved.is_some() => {
                Ok(store.shelved.as_ref().and_then(|shelved| shelved.open(&digest)))
            }
            opened => opened,
        })
        .await
    }

    async fn give_way(&self, digest: &Digest) {
        if let Some(shelved) = &self.shelved {
            shelved.give_way(digest).await;
        }
    }

    async fn shed(&self) -> Result<(u64, u64), StoreError> {
        if self.shelved.is_none() {
            return Ok((0, 0));
        }
        let store = self.clone();
        blocking(move || store.drop_copies()).await
    }

    async fn ingest(&self, digest: &Digest, size: Option<u64>) -> Result<Arc<dyn Ingest>, StoreError> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || Ok(Arc::new(store.begin(&digest, size)?) as Arc<dyn Ingest>)).await
    }

    async fn scatter(&self, digest: &Digest, size: u64) -> Result<Arc<dyn Ingest>, StoreError> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || Ok(Arc::new(DiskIngest::scattered(&store, &digest, size)?) as Arc<dyn Ingest>)).await
    }

    async fn read(&self, record: &Record) -> Result<Option<Bytes>, StoreError> {
        let (store, record) = (self.clone(), record.clone());
        blocking(move || store.read_blocking(&record)).await
    }

    async fn write(&self, record: &Record, value: Bytes, durable: bool) -> Result<(), StoreError> {
        let (store, record) = (self.clone(), record.clone());
        blocking(move || store.write_blocking(&record, &value, durable)).await
    }

    async fn erase(&self, record: &Record) -> Result<(), StoreError> {
        let (store, record) = (self.clone(), record.clone());
        blocking(move || store.erase_blocking(&record)).await
    }

    async fn quarantine(&self, digest: &Digest) {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || store.set_aside(&digest, None, "it could not be read")).await;
    }

    async fn over_budget(&self) {
        let store = self.clone();
        // The budget holds from when the blobs are counted, which a start does not wait for.
        if let Err(error) = blocking(move || store.count()).await {
            tracing::warn!(%error, "the store's blobs cannot be counted");
        }
        loop {
            let Usage { bytes, budget, .. } = self.usage();
            if bytes > budget {
                return;
            }
            self.pressure.notified().await;
        }
    }

    async fn evict(&self) -> Result<(u64, u64), StoreError> {
        let store = self.clone();
        blocking(move || {
            let Usage { bytes, budget, .. } = store.usage();
            if bytes > budget { store.evict_until(low_water(budget)) } else { Ok((0, 0)) }
        })
        .await
    }

    async fn scrub(&self, bytes_per_second: u64) -> Result<ScrubReport, StoreError> {
        let store = self.clone();
        blocking(move || super::scrub::scrub_paced(&store, bytes_per_second, |_| {})).await
    }

    fn protect(&self, keep: HashSet<Digest>) {
        let mut protected = self.protected.lock().unwrap_or_else(PoisonError::into_inner);
        if *protected != keep {
            *protected = keep;
            self.protected_bytes.store(0, Ordering::Relaxed);
            self.changes.fetch_add(1, Ordering::Release);
        }
        drop(protected);
        self.undecided.store(false, Ordering::Release);
    }

    fn protect_also(&self, more: &[Digest]) {
        let mut protected = self.protected.lock().unwrap_or_else(PoisonError::into_inner);
        protected.extend(more);
    }

    fn is_protected(&self, digest: &Digest) -> bool {
        self.protected.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    async fn sizes(&self, digests: Vec<Digest>) -> Result<Vec<Option<u64>>, StoreError> {
        let store = self.clone();
        blocking(move || Ok(digests.iter().map(|digest| store.size_of(digest)).collect())).await
    }

    async fn peek(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || store.peek_blocking(&digest, limit)).await
    }

    fn limit(&self, budget: Option<Budget>) {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if *limit != budget {
            *limit = budget;
            // It may be above it by now.
            self.changes.fetch_add(1, Ordering::Release);
            self.pressure.notify_one();
        }
    }

    async fn touch(&self, digests: Vec<Digest>) {
        let store = self.clone();
        blocking(move || store.touch_all(&digests)).await;
    }

    async fn expire(&self, unused_for: Duration) -> Result<(u64, u64), StoreError> {
        let store = self.clone();
        blocking(move || store.expire_blocking(unused_for)).await
    }

    async fn read_keep(&self) -> Result<Option<Bytes>, StoreError> {
        let store = self.clone();
        blocking(move || match fs::read(store.layout.keep_path()) {
            Ok(value) => Ok(Some(value.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("reading which images are to be kept")(error)),
        })
        .await
    }

    async fn write_keep(&self, value: Bytes) -> Result<(), StoreError> {
        let store = self.clone();
        blocking(move || store.replace(&store.layout.keep_path(), &store.new_ingest_path("keep"), &value, true)).await
    }

    fn usage(&self) -> Usage {
        Usage {
            bytes: self.used.load(Ordering::Relaxed),
            budget: self.budget_bytes(),
            evictions: self.evictions.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.layout.is_there() { Ok(()) } else { self.layout.restore() }
    }
}
