//! Changes of the file system that are whole or not there, and in the order given, whatever ends the process or the power.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// Whose a file is and who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What is at a path.
#[derive(Debug)]
pub(crate) enum Seen {
    Absent,
    File(Vec<u8>, Access),
    /// Neither a file nor absent, or not to be read: why.
    Other(String),
}

pub(crate) fn look(path: &Path) -> Seen {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Seen::Absent,
        Err(e) => return Seen::Other(format!("it cannot be read ({e})")),
    };
    if meta.is_symlink() {
        return Seen::Other("it is a symbolic link, so its text belongs to something else".into());
    }
    if !meta.is_file() {
        return Seen::Other("it is no file".into());
    }
    match fs::read(path) {
        Ok(bytes) => Seen::File(bytes, Access { mode: meta.mode() & 0o7777, uid: meta.uid(), gid: meta.gid() }),
        Err(e) => Seen::Other(format!("it cannot be read ({e})")),
    }
}

/// Makes changes; in tests it can be made to stop before the n-th one, as a killed process would.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub steps_left: std::cell::Cell<Option<usize>>,
}

impl Disk {
    fn step(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(left) = self.steps_left.get() {
            if left == 0 {
                return Err(io::Error::other("stopped by the test"));
            }
            self.steps_left.set(Some(left - 1));
        }
        Ok(())
    }

    /// Replaces `path` by rename(2). The name in between is no certificate's name, so containerd does not read it.
    pub fn write(&self, path: &Path, bytes: &[u8], access: Option<Access>) -> Result<(), Error> {
        self.try_write(path, bytes, access).map_err(Error::io("write", path))
    }

    fn try_write(&self, path: &Path, bytes: &[u8], access: Option<Access>) -> io::Result<()> {
        let unfinished = unfinished(path);
        gone(fs::remove_file(&unfinished))?;
        self.step()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        self.step()?;
        file.write_all(bytes)?;
        self.step()?;
        if let Some(access) = access {
            let mine = file.metadata()?;
            if (mine.uid(), mine.gid()) != (access.uid, access.gid) {
                std::os::unix::fs::fchown(&file, Some(access.uid), Some(access.gid))?;
            }
        }
        file.set_permissions(Permissions::from_mode(access.map_or(0o644, |access| access.mode)))?;
        file.sync_all()?;
        self.step()?;
        fs::rename(&unfinished, path)?;
        self.step()?;
        sync_parent(path)
    }

    /// Removes a file if it is there.
    pub fn remove(&self, path: &Path) -> Result<(), Error> {
        let remove = || {
            self.step()?;
            match fs::remove_file(path) {
                Ok(()) => sync_parent(path),
                other => gone(other),
            }
        };
        remove().map_err(Error::io("remove", path))
    }

    /// Makes a directory if it is not there.
    pub fn make_dir(&self, path: &Path) -> Result<(), Error> {
        let make = || {
            self.step()?;
            match fs::create_dir(path) {
                Ok(()) => {
                    fs::set_permissions(path, Permissions::from_mode(0o755))?;
                    sync_parent(path)
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(e) => Err(e),
            }
        };
        make().map_err(Error::io("make the directory", path))
    }

    /// Removes a directory if it is there and empty.
    pub fn remove_dir(&self, path: &Path) -> Result<(), Error> {
        let remove = || {
            self.step()?;
            match fs::remove_dir(path) {
                Ok(()) => sync_parent(path),
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                other => gone(other),
            }
        };
        remove().map_err(Error::io("remove the directory", path))
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Where a file is written before it takes its name.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.larder-unfinished"))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
