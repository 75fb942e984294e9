use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use oci::{Digest, MediaType, Name};

use crate::credential::Claim;
use crate::fill::Filling;
use crate::source::{Document, FailureKind, NoUpstream, SourceError};

/// Who asks for what repository.
#[derive(Clone, Debug)]
pub struct Request {
    /// The repository.
    pub name: Name,
    /// By what the client says that it may have what is not for everybody.
    pub claim: Option<Claim>,
}

/// How an answer came about; the label of the metrics and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From the store, with no request upstream.
    Hit,
    /// From the store, after the origin said that it is still right.
    Revalidated,
    /// From the store, although the origin could not be asked.
    Stale,
    /// From a fill that another request started.
    Joined,
    /// Fetched for this request.
    Miss,
}

impl Outcome {
    /// The outcome as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Hit => "hit",
            Outcome::Revalidated => "revalidated",
            Outcome::Stale => "stale",
            Outcome::Joined => "joined",
            Outcome::Miss => "miss",
        }
    }
}

/// A manifest, verified.
#[derive(Clone, Debug)]
pub struct ManifestReply {
    /// The bytes, as the origin has them.
    pub bytes: Bytes,
    /// `Content-Type`.
    pub media_type: MediaType,
    /// `Docker-Content-Digest`.
    pub digest: Digest,
    /// The text of a `Warning: 299` where the answer may be out of date.
    pub warning: Option<Arc<str>>,
    /// How the answer came about.
    pub outcome: Outcome,
}

/// A blob, or a blob on its way.
#[derive(Debug)]
pub struct BlobReply {
    /// Its bytes.
    pub content: Content,
    /// How the answer came about.
    pub outcome: Outcome,
}

/// The bytes of a blob.
#[derive(Debug)]
pub enum Content {
    /// All there, verified.
    Whole(Blob),
    /// Being fetched. Its size is known unless the source did not say it.
    Filling(Filling),
}

/// A blob that is there, whole and verified.
#[derive(Clone, Debug)]
pub enum Blob {
    /// Small enough to be kept in memory.
    Memory(Bytes),
    /// In a file, from its first to its last byte.
    File {
        /// The file, open for reading. Its bytes do not change; it may be unlinked meanwhile.
        file: Arc<File>,
        /// Its length in bytes.
        size: u64,
    },
}

impl Blob {
    /// The length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Blob::Memory(bytes) => bytes.len() as u64,
            Blob::File { size, .. } => *size,
        }
    }
}

/// Some bytes of a blob that may leave now.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// In memory.
    Memory(Bytes),
    /// In a file that stays as it is within `range`.
    File {
        /// The file, open for reading.
        file: Arc<File>,
        /// Which bytes of it.
        range: Range<u64>,
    },
}

impl Chunk {
    /// The length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Chunk::Memory(bytes) => bytes.len() as u64,
            Chunk::File { range, .. } => range.end - range.start,
        }
    }
}

/// A list of tags or referrers.
#[derive(Clone, Debug)]
pub struct DocumentReply {
    /// The list.
    pub document: Document,
    /// The text of a `Warning: 299` where the answer may be out of date.
    pub warning: Option<Arc<str>>,
    /// How the answer came about.
    pub outcome: Outcome,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Error {
    /// What kind of failure it is, which decides the status.
    pub kind: FailureKind,
    /// What happened, for the client. Holds no secret and no path of this machine.
    pub reason: Arc<str>,
}

impl Error {
    /// An error with its reason.
    pub fn new(kind: FailureKind, reason: impl Into<Arc<str>>) -> Error {
        Error { kind, reason: reason.into() }
    }
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Error {
        Error { kind: error.kind, reason: error.to_string().into() }
    }
}

impl From<NoUpstream> for Error {
    fn from(error: NoUpstream) -> Error {
        Error { kind: FailureKind::Refused, reason: error.to_string().into() }
    }
}
