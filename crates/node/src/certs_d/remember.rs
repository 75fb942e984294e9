//! What a file was before larder changed it.
//!
//! The record is written before the file, so at whatever moment the process ends, either the file is as it was or the
//! record says how it was. One record is one file, replaced by rename: it is never half of anything.

use std::fs;
use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::disk::{Access, Disk, Seen, look, unfinished};
use crate::settings::under;

/// How many writes are known again, should as many starts in a row have ended between the record and the file.
const WRITTEN_KEPT: usize = 8;

/// A file that larder changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The file, as the host sees it.
    pub path: PathBuf,
    /// What it was; nothing if it was not there.
    pub original: Option<Original>,
    /// SHA-256 of what larder wrote, newest last. Those before count too: the process may have ended between
    /// the record and the file.
    pub written: Vec<String>,
    /// Directories that were not there, outermost first, as the host sees them.
    pub made: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Original {
    base64: String,
    pub access: Access,
}

impl Original {
    pub fn new(bytes: &[u8], access: Access) -> Self {
        Original { base64: STANDARD.encode(bytes), access }
    }

    pub fn bytes(&self) -> Vec<u8> {
        STANDARD.decode(&self.base64).unwrap_or_default()
    }
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What larder remembers, and the only hand that changes files of the host.
#[derive(Debug)]
pub(crate) struct Memory {
    pub root: PathBuf,
    pub state: PathBuf,
    pub disk: Disk,
}

/// What became of a file that was asked to hold a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It holds it now.
    Written,
    /// It held it already.
    Unchanged,
    /// It was left as it is: why.
    Left(String),
}

impl Memory {
    fn record_of(&self, path: &Path) -> PathBuf {
        self.state.join(format!("{}.json", hash(path.as_os_str().as_encoded_bytes())))
    }

    pub fn load(&self, path: &Path) -> Result<Option<Record>, Error> {
        read_record(&self.record_of(path))
    }

    /// All files that larder changed. Records that cannot be read are errors of their own.
    pub fn all(&self) -> Result<Vec<Result<Record, Error>>, Error> {
        let entries = match fs::read_dir(&self.state) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list", &self.state)(e)),
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        Ok(paths.iter().filter_map(|path| read_record(path).transpose()).collect())
    }

    fn save(&self, record: &Record) -> Result<(), Error> {
        for dir in missing(&self.state) {
            self.disk.make_dir(&dir)?;
        }
        let text = serde_json::to_vec(record).expect("strings and numbers always have a JSON form");
        self.disk.write(&self.record_of(&record.path), &text, None)
    }

    /// Makes the file at `path` (as the host sees it) hold `wanted(original)`, and remembers the original.
    ///
    /// `without` takes larder's part out of a text, also without marks if it is told that larder wrote there: where
    /// somebody changed the file since, what is left is the new original.
    pub fn put(
        &self,
        path: &Path,
        wanted: impl FnOnce(Option<&[u8]>) -> Result<Vec<u8>, String>,
        without: impl Fn(&[u8], bool) -> Option<Vec<u8>>,
    ) -> Result<Put, Error> {
        let file = under(&self.root, path);
        let (current, access) = match look(&file) {
            Seen::Other(why) => return Ok(Put::Left(why)),
            Seen::Absent => (None, None),
            Seen::File(bytes, access) => (Some(bytes), Some(access)),
        };
        let known = self.load(path)?;
        let original = match &known {
            Some(record) if record.accounts_for(current.as_deref()) => record.original.clone(),
            _ => match (&current, access) {
                (Some(bytes), Some(access)) => match without(bytes, known.is_some()) {
                    Some(rest) if rest.trim_ascii().is_empty() => None,
                    Some(rest) => Some(Original::new(&rest, access)),
                    None => Some(Original::new(bytes, access)),
                },
                _ => None,
            },
        };
        let before = original.as_ref().map(Original::bytes);
        let bytes = match wanted(before.as_deref()) {
            Ok(bytes) => bytes,
            Err(why) => return Ok(Put::Left(why)),
        };
        if before.as_deref() == Some(&bytes) {
            // It says already what larder would write: nothing of larder's is in it.
            return Ok(Put::Unchanged);
        }
        let new = hash(&bytes);
        let mut written: Vec<String> = known.iter().flat_map(|record| record.written.iter().cloned()).collect();
        written.retain(|old| *old != new);
        written.push(new);
        written.drain(..written.len().saturating_sub(WRITTEN_KEPT));
        let missing = file.parent().map(missing).unwrap_or_default();
        let mut made = known.as_ref().map(|record| record.made.clone()).unwrap_or_default();
        for dir in &missing {
            let seen = self.seen_by_host(dir);
            if !made.contains(&seen) {
                made.push(seen);
            }
        }
        made.sort();
        let record = Record { path: path.to_owned(), original, written, made };
        let unchanged = current.as_deref() == Some(&bytes);
        if known.as_ref() != Some(&record) && !(unchanged && known.as_ref().is_some_and(|k| k.same_but_hashes(&record)))
        {
            self.save(&record)?;
        }
        if unchanged {
            return Ok(Put::Unchanged);
        }
        for dir in &missing {
            self.disk.make_dir(dir)?;
        }
        let access = access.or(record.original.as_ref().map(|original| original.access));
        self.disk.write(&file, &bytes, access)?;
        Ok(Put::Written)
    }

    /// Puts a file back as it was, with its directories, and forgets it. Where somebody changed it since, only larder's
    /// part goes. Says what was left as it is.
    pub fn restore(
        &self,
        record: &Record,
        without: impl Fn(&[u8], bool) -> Option<Vec<u8>>,
    ) -> Result<Option<String>, Error> {
        let file = under(&self.root, &record.path);
        let mut left = None;
        match look(&file) {
            Seen::Absent => {}
            Seen::Other(why) => left = Some(why),
            Seen::File(bytes, access) => {
                if record.written.contains(&hash(&bytes)) {
                    match &record.original {
                        Some(original) => self.disk.write(&file, &original.bytes(), Some(original.access))?,
                        None => self.disk.remove(&file)?,
                    }
                } else if !record.accounts_for(Some(&bytes))
                    && let Some(rest) = without(&bytes, true)
                {
                    match (&record.original, rest.trim_ascii().is_empty()) {
                        (None, true) => self.disk.remove(&file)?,
                        _ => self.disk.write(&file, &rest, Some(access))?,
                    }
                }
            }
        }
        if file.parent().is_some_and(Path::is_dir) {
            self.disk.remove(&unfinished(&file))?;
        }
        for dir in record.made.iter().rev() {
            self.disk.remove_dir(&under(&self.root, dir))?;
        }
        self.disk.remove(&self.record_of(&record.path))?;
        Ok(left)
    }

    /// Removes the directory of the records if nothing is remembered any more.
    pub fn close(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.state).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(".json.larder-unfinished") {
                self.disk.remove(&entry.path())?;
            }
        }
        self.disk.remove_dir(&self.state)
    }

    fn seen_by_host(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path.strip_prefix(&self.root).unwrap_or(path))
    }
}

impl Record {
    /// Whether a file's bytes are what larder wrote or what it found: nobody else changed it.
    pub fn accounts_for(&self, current: Option<&[u8]>) -> bool {
        match current {
            Some(bytes) => {
                self.written.contains(&hash(bytes))
                    || self.original.as_ref().is_some_and(|original| original.bytes() == bytes)
            }
            None => self.original.is_none(),
        }
    }

    fn same_but_hashes(&self, other: &Record) -> bool {
        self.original == other.original && self.made == other.made && self.written.last() == other.written.last()
    }
}

fn read_record(path: &Path) -> Result<Option<Record>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let bad = |reason: String| Error::Memory { path: path.to_owned(), reason };
    let record: Record = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if let Some(original) = &record.original {
        STANDARD.decode(&original.base64).map_err(|e| bad(e.to_string()))?;
    }
    Ok(Some(record))
}

/// The directories that must be made for `dir` to be there, outermost first.
fn missing(dir: &Path) -> Vec<PathBuf> {
    let mut missing: Vec<PathBuf> =
        dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).map(Path::to_owned).collect();
    missing.reverse();
    missing
}
