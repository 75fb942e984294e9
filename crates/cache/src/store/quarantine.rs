//! The quarantine: what turned out to be wrong, kept for inspection for a while, and never much of it.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long something is kept.
const TIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// How many bytes are kept.
const BYTES: u64 = 1 << 30;

/// How many files are kept.
const FILES: usize = 1000;

/// Removes what has been in the quarantine for too long, and the oldest of what is too much. The quarantine is no part of
/// the store's budget, so that a disk that goes bad must not fill itself with it.
pub(super) fn trim(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut all: Vec<(SystemTime, u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some((since(&meta), meta.len(), entry.path()))
        })
        .collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    let now = SystemTime::now();
    let mut bytes = 0;
    let mut files = 0;
    for (since, size, path) in all {
        // A time in the future comes from a clock that was set; it is not old.
        let old = now.duration_since(since).is_ok_and(|age| age > TIME);
        if !old && size <= BYTES - bytes && files < FILES {
            bytes += size;
            files += 1;
        } else if let Err(error) = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)) {
            tracing::warn!(path = %path.display(), %error, "what was set aside cannot be removed");
        }
    }
}

/// Since when something is in the quarantine: its modification time is set when it is put there.
fn since(meta: &Metadata) -> SystemTime {
    meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;

    fn put(folder: &Path, name: &str, size: u64, ago: Duration) {
        let file = File::create(folder.join(name)).unwrap();
        file.set_len(size).unwrap();
        file.set_times(FileTimes::new().set_modified(SystemTime::now() - ago)).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_newest_stay_as_far_as_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        put(folder.path(), "a", 700 << 20, hour);
        put(folder.path(), "b", 200 << 20, 2 * hour);
        put(folder.path(), "c", 200 << 20, 3 * hour);
        put(folder.path(), "d", 1, 24 * 8 * hour);
        fs::create_dir_all(folder.path().join("e/f")).unwrap();
        trim(folder.path());
        assert_eq!(names(folder.path()), ["a", "b", "e"]);
        put(folder.path(), "huge", 2 << 30, Duration::ZERO);
        trim(folder.path());
        assert_eq!(names(folder.path()), ["a", "b", "e"]);
    }

    #[test]
    fn many_small_ones_are_too_much_too() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..FILES + 10 {
            put(folder.path(), &number.to_string(), 0, Duration::from_secs(number as u64));
        }
        trim(folder.path());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), FILES);
        assert!(folder.path().join("0").exists());
    }
}
