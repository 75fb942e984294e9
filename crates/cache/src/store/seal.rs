//! The seal of a verified blob: a modification time that only this blob at this size has.
//!
//! When a blob was verified, its file gets a time made from its digest and size. Whatever writes to the file afterwards
//! changes that time, so a look at the inode tells whether the bytes are still those that were verified: no index, no
//! second file, nothing to keep in step. Truncation, extension, exchange with another blob and overwriting are all seen when
//! the file is opened; decay below the file system is what the scrub is for. A copy that loses the times is hashed once
//! and sealed again.

use std::fs::File;
use std::io;

use oci::{Digest, Hasher};
use rustix::fs::{Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

/// Seconds stay within 31 bits, which every file system can hold.
const SECONDS: u64 = 0x7fff_ffff;

fn seal(digest: &Digest, size: u64) -> i64 {
    let mut text = digest.as_bytes().to_vec();
    text.extend_from_slice(&size.to_le_bytes());
    let Digest::Sha256(bytes) = Digest::sha256(&text) else { unreachable!("sha256 makes sha256") };
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[..8]);
    (u64::from_le_bytes(word) & SECONDS) as i64
}

/// Whether an inode carries the seal of `digest`.
pub(super) fn is_sealed(stat: &Stat, digest: &Digest) -> bool {
    stat.st_mtime == seal(digest, stat.st_size as u64) && stat.st_mtime_nsec == 0
}

/// Seals a file of `size` bytes that was verified, and marks it as used now.
pub(super) fn apply(file: &File, digest: &Digest, size: u64) -> io::Result<()> {
    set_times(file, UTIME_NOW, Timespec { tv_sec: seal(digest, size), tv_nsec: 0 })
}

/// Marks a file as used now. Its access time is the order of eviction.
pub(super) fn touch(file: &File) -> io::Result<()> {
    set_times(file, UTIME_NOW, Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT })
}

/// Takes a blob's seal away, because its file could not be read: before it is served again it is hashed, and set aside if
/// that fails. Where not even that can be written, nothing happens.
pub fn doubt(file: &File) {
    // The files of a shelf are not ours, and nobody may write to them.
    if rustix::fs::fstat(file).is_ok_and(|stat| stat.st_mode & 0o200 == 0) {
        return;
    }
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let kept = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let _ = rustix::fs::futimens(file, &Timestamps { last_access: kept, last_modification: now });
}

fn set_times(file: &File, access: i64, modification: Timespec) -> io::Result<()> {
    let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: access }, last_modification: modification };
    Ok(rustix::fs::futimens(file, &times)?)
}

/// Hashes a file from its first byte to its end; `pace` is told of each stretch read.
pub(super) fn hash(file: &File, digest: &Digest, mut pace: impl FnMut(u64)) -> io::Result<Digest> {
    use std::os::unix::fs::FileExt;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                offset += n as u64;
                pace(n as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
