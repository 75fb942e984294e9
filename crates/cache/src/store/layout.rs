//! The folder of a disk store: what lies where, and how a start finds it.
//!
//! ```text
//! larder-store.json           {"layout":1}
//! keep.json                   the images that are to be kept, as a cluster's controller said last
//! lock                        held by the process that serves the folder
//! blobs/<algorithm>/<hex>     verified content, manifests included, sealed
//! ingest/                     fills in progress; emptied at start
//! quarantine/                 what turned out to be wrong
//! repositories/<registry>/<repository>/_tags, _manifests, _blobs, _documents, _public, _shared
//! repositories/<registry>/_blobs                                      what this registry itself has sent
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::disk::create;

/// The layout that this program writes.
const LAYOUT: u64 = 1;

#[derive(Serialize, Deserialize)]
struct Mark {
    layout: u64,
}

/// The folder, opened.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
    /// The file system that the folder is on: a folder of the same name on another one means that a mount vanished.
    device: AtomicU64,
    /// Held for as long as the folder is served.
    lock: Mutex<Option<File>>,
}

impl Layout {
    /// Opens or makes the folder; with `serve`, takes its lock and removes what an earlier process left half done.
    pub(super) fn open(root: &Path, serve: bool) -> Result<Layout, StoreError> {
        make_dir(root)?;
        let root = root.canonicalize().map_err(StoreError::folder(root, "cannot be looked up"))?;
        let meta = fs::metadata(&root).map_err(StoreError::folder(&root, "cannot be looked at"))?;
        let unsuitable = |reason| StoreError::Unsuitable { path: root.display().to_string(), reason };
        // Before anything of it is changed: it may be anybody's.
        check_ours(&root)?;
        if meta.mode() & 0o077 != 0 {
            fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).map_err(|_| {
                unsuitable(
                    "others may enter this folder, and it belongs to another user: make it this user's (chown), or choose another with --store",
                )
            })?;
        }
        if let Some(parent) = root.parent().and_then(|parent| fs::metadata(parent).ok())
            && parent.mode() & 0o1002 == 0o0002
        {
            tracing::warn!(store = %root.display(), "anyone may replace the store: its parent folder is writable by all");
        }
        let lock = serve.then(|| lock(&root)).transpose()?;
        let layout = Layout { device: meta.dev().into(), lock: lock.into(), root };
        layout.check_mark()?;
        layout.make()?;
        if serve {
            layout.clear_ingest()?;
        }
        Ok(layout)
    }

    /// Whether anything can be written now.
    pub(super) fn try_writing(&self) -> io::Result<()> {
        try_writing(&self.root.join("ingest"))
    }

    /// Where it is written which images are to be kept.
    pub(super) fn keep_path(&self) -> PathBuf {
        self.root.join("keep.json")
    }

    /// Makes the folders that are missing.
    pub(super) fn make(&self) -> Result<(), StoreError> {
        for folder in ["blobs/sha256", "blobs/sha512", "ingest", "quarantine", "repositories"] {
            make_dir(&self.root.join(folder))?;
        }
        Ok(())
    }

    /// Whether the folder is still the one that was opened; makes it anew where it was deleted.
    pub(super) fn restore(&self) -> Result<(), StoreError> {
        match fs::metadata(&self.root) {
            Ok(meta) if meta.dev() != self.device() => self.adopt(meta.dev()),
            Ok(_) => self.make(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The parent tells whether the folder was deleted or its file system is gone.
                match self.root.parent().and_then(|parent| fs::metadata(parent).ok()) {
                    Some(parent) if parent.dev() == self.device() => self.make(),
                    _ => Err(StoreError::Gone),
                }
            }
            Err(error) => Err(StoreError::folder(&self.root, "cannot be looked at")(error)),
        }
    }

    pub(super) fn is_there(&self) -> bool {
        fs::metadata(&self.root).is_ok_and(|meta| meta.dev() == self.device())
    }

    fn device(&self) -> u64 {
        self.device.load(Ordering::Relaxed)
    }

    /// Goes on with another file system where a store is on it: one that was mounted again.
    fn adopt(&self, device: u64) -> Result<(), StoreError> {
        let mark = fs::read(self.root.join("larder-store.json")).map_err(|_| StoreError::Gone)?;
        if !serde_json::from_slice::<Mark>(&mark).is_ok_and(|mark| mark.layout == LAYOUT) {
            return Err(StoreError::Gone);
        }
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() && device != self.device() {
            *held = Some(lock(&self.root)?);
        }
        self.device.store(device, Ordering::Relaxed);
        tracing::info!(store = %self.root.display(), "the store's folder is back, on another file system");
        self.make()
    }

    fn check_mark(&self) -> Result<(), StoreError> {
        let path = self.root.join("larder-store.json");
        match fs::read(&path).map(|text| serde_json::from_slice::<Mark>(&text)) {
            Ok(Ok(mark)) if mark.layout > LAYOUT => {
                return Err(StoreError::Newer {
                    path: self.root.display().to_string(),
                    found: mark.layout,
                    known: LAYOUT,
                });
            }
            Ok(Ok(mark)) if mark.layout == LAYOUT => return Ok(()),
            Ok(_) => tracing::warn!(path = %path.display(), "the store's mark is damaged and is written anew"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::folder(&path, "cannot be read")(error)),
        }
        let text = serde_json::to_vec(&Mark { layout: LAYOUT }).expect("a number serializes");
        let new = self.root.join("ingest.mark");
        let written =
            fs::write(&new, text).and_then(|()| File::open(&new)?.sync_all()).and_then(|()| fs::rename(&new, &path));
        match written {
            Ok(()) => Ok(()),
            // A store that cannot be written can still be read.
            Err(error) => {
                tracing::warn!(%error, "the store's mark cannot be written");
                Ok(())
            }
        }
    }

    fn clear_ingest(&self) -> Result<(), StoreError> {
        let _ = fs::remove_file(self.root.join("ingest.mark"));
        let folder = self.root.join("ingest");
        for entry in fs::read_dir(&folder).map_err(StoreError::folder(&folder, "cannot be read"))?.flatten() {
            if let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "a leftover of an earlier run cannot be removed");
            }
        }
        Ok(())
    }
}

/// Refuses a folder that has no mark of a store, and something in it that no store has.
fn check_ours(root: &Path) -> Result<(), StoreError> {
    if fs::symlink_metadata(root.join("larder-store.json")).is_ok() {
        return Ok(());
    }
    let ours = ["blobs", "repositories", "lock", "ingest", "ingest.mark", "quarantine", "keep.json", "lost+found"];
    let mut entries = fs::read_dir(root).map_err(StoreError::folder(root, "cannot be read"))?;
    if entries.any(|entry| entry.is_ok_and(|entry| !ours.iter().any(|known| entry.file_name() == *known))) {
        return Err(StoreError::Unsuitable {
            path: root.display().to_string(),
            reason: "the folder is neither empty nor a store of larder: choose another with --store",
        });
    }
    Ok(())
}

/// What stands in the way of a folder: something else at its path, or above it.
fn no_folder(path: &Path) -> Option<StoreError> {
    let other = path.ancestors().find(|part| fs::symlink_metadata(part).is_ok() && !part.is_dir())?;
    Some(StoreError::Unsuitable {
        path: other.display().to_string(),
        reason: "this is no folder: move it away, or choose another place with --store",
    })
}

fn try_writing(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!("{}-trial", std::process::id()));
    create(&path)?;
    fs::remove_file(path)
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => Ok(()),
        // An existing folder on a file system that is read-only or full is good enough to read from.
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(no_folder(path).unwrap_or_else(|| StoreError::folder(path, "cannot be made")(error))),
    }
}

fn lock(root: &Path) -> Result<File, StoreError> {
    use rustix::fs::{FlockOperation, Mode, OFlags};
    let path = root.join("lock");
    let open =
        |flags: OFlags| rustix::fs::open(&path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::from_raw_mode(0o600));
    let file = open(OFlags::RDWR | OFlags::CREATE)
        .or_else(|error| open(OFlags::RDONLY).map_err(|_| error))
        .map_err(|error| StoreError::folder(&path, "cannot be opened")(error.into()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked { path: root.display().to_string() }),
        Err(error) => Err(StoreError::folder(&path, "cannot be locked")(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        try_writing(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // Where even root makes no files.
        assert!(try_writing(Path::new("/proc")).is_err());
    }

    #[test]
    fn what_is_no_folder_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        for path in ["file", "file/store"].map(|path| folder.path().join(path)) {
            let error = Layout::open(&path, true).unwrap_err().to_string();
            assert!(error.contains("/file: this is no folder: ") && error.contains("--store"), "{error}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_with_what_to_do() {
        let error = Layout::open(Path::new("/proc/store"), true).unwrap_err().to_string();
        assert!(error.starts_with("/proc/store cannot be made: ") && error.contains("--store"), "{error}");
    }
}
