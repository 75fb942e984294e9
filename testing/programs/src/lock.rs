//! One process at a time: a lock on a file, which the kernel lets go when its holder dies.

use std::{fs::File, io, path::Path};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};

/// Held for as long as it lives.
pub(crate) struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

/// Takes the lock on `path`, and calls `waiting` first where another process holds it.
pub(crate) fn lock(path: &Path, waiting: impl FnOnce()) -> Result<Lock> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open the lock file {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(Lock(file)),
        Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => waiting(),
        Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(Lock(file)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}
