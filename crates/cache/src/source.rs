use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use oci::{Digest, MediaType, Name, Reference, Registry, Repository, Tag};

use crate::credential::Authority;
use crate::rules::{Freshness, Rules};
use crate::store::Ingest;

/// One place that content comes from: an endpoint of an upstream, the registry role, a peer.
///
/// A source bounds every wait itself (connect, headers, idle body), retries what is worth retrying, and never starts a
/// request that its limits or a `Retry-After` forbid. All methods are cancellation-safe: a dropped call ends its request.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// A short, stable name for logs and metrics, such as `registry-1.docker.io`.
    fn label(&self) -> &str;

    /// Whether little is left of what the source allows, as it said itself, so that it should be asked less.
    fn is_scarce(&self) -> bool {
        false
    }

    /// What stands behind it.
    fn kind(&self) -> SourceKind {
        SourceKind::Origin
    }

    /// Asks what a reference is now (HEAD). Costs nothing in Docker Hub's account of pulls.
    async fn head_manifest(&self, ask: &Ask, reference: &Reference) -> Result<ManifestHead, SourceError>;

    /// Fetches a manifest (GET), of at most [`oci::MANIFEST_LIMIT`] bytes. The caller checks the digest.
    async fn manifest(&self, ask: &Ask, reference: &Reference) -> Result<ManifestBody, SourceError>;

    /// Asks whether a blob is there (HEAD).
    async fn head_blob(&self, ask: &Ask, digest: &Digest) -> Result<BlobHead, SourceError>;

    /// Starts to fetch a blob from byte `from` to before byte `until`, or to its end. The answer may be the whole blob
    /// nevertheless, where the source does not know Range: [`BlobBody::offset`] tells where it begins, and whoever asked for
    /// a part stops reading at its end.
    async fn blob(&self, ask: &Ask, digest: &Digest, from: u64, until: Option<u64>) -> Result<BlobBody, SourceError>;

    /// Says whether the bytes of a blob that this source gave to its end were the right ones.
    fn settled(&self, _digest: &Digest, _right: bool) {}

    /// Fetches a list: tags or referrers, of at most [`Document::LIMIT`] bytes.
    async fn document(&self, ask: &Ask, query: &DocumentQuery) -> Result<Document, SourceError>;
}

/// What stands behind a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// Other nodes. What they do not have may be had elsewhere.
    Peer,
    /// A larder registry, which asks the origin itself: after its no, nobody else need be asked.
    Registry,
    /// An endpoint of the upstream.
    Origin,
}

impl SourceKind {
    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            SourceKind::Peer => "peer",
            SourceKind::Registry => "registry",
            SourceKind::Origin => "origin",
        }
    }
}

/// Who asks for what repository.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The repository.
    pub name: Name,
    /// With whose right.
    pub authority: Authority,
}

/// What a HEAD of a manifest told. Any part may be missing.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    /// `Docker-Content-Digest`.
    pub digest: Option<Digest>,
    /// `Content-Type`.
    pub media_type: Option<MediaType>,
    /// `Content-Length`, in bytes.
    pub size: Option<u64>,
}

/// A manifest as it came.
#[derive(Clone, Debug)]
pub struct ManifestBody {
    /// The bytes, whole.
    pub bytes: Bytes,
    /// `Content-Type`; an OCI manifest if the source did not say.
    pub media_type: MediaType,
    /// `Docker-Content-Digest`, where the source sent one.
    pub digest: Option<Digest>,
}

/// What a HEAD of a blob told.
#[derive(Clone, Copy, Debug)]
pub struct BlobHead {
    /// `Content-Length`, in bytes.
    pub size: Option<u64>,
}

/// Bytes on their way, in order; ends after the last byte, or with an error where the body is cut or stalls.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, SourceError>> + Send>>;

/// A blob's body.
pub struct BlobBody {
    /// The length of the whole blob in bytes, where the source said it.
    pub size: Option<u64>,
    /// Where in the blob this body begins.
    pub offset: u64,
    /// The bytes. Unverified.
    pub stream: ByteStream,
    /// Where the source has already put what the stream gives, and will put the rest: the file of the fill then.
    pub placed: Option<Arc<dyn Ingest>>,
}

/// A list that an upstream keeps for a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DocumentQuery {
    /// `tags/list`
    Tags {
        /// At most so many.
        n: Option<u32>,
        /// Those after this one.
        last: Option<String>,
    },
    /// `referrers/<digest>`
    Referrers {
        /// The subject.
        digest: Digest,
        /// Only those of this type.
        artifact_type: Option<String>,
        /// The rest of the query of a further page, as the source's own `Link` gave it.
        page: Option<String>,
    },
}

/// A list as it came.
#[derive(Clone, Debug)]
pub struct Document {
    /// The JSON, verbatim.
    pub bytes: Bytes,
    /// `Content-Type`.
    pub media_type: MediaType,
    /// The query of the next page, from `Link: <…?query>; rel="next"`: what follows the question mark, without `ns`.
    pub next: Option<String>,
    /// `OCI-Filters-Applied`.
    pub filters_applied: Option<String>,
}

impl Document {
    /// The longest list that is read, in bytes.
    pub const LIMIT: usize = 8 * 1024 * 1024;
}

/// Why a source did not give what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{source_label}: {reason}")]
pub struct SourceError {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// Which source, as in [`Source::label`].
    pub source_label: Arc<str>,
    /// What happened, for people. Holds no secret and no query string.
    pub reason: String,
}

/// Kinds of failures, as far as they make a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// 404, or the blob or manifest is not there.
    NotFound,
    /// 401: this authority is not accepted.
    Unauthorized,
    /// 403: this authority may not.
    Denied,
    /// 429, or still waiting for the end of an earlier one's `Retry-After`.
    RateLimited {
        /// How long to wait, 1 s to 1 h.
        retry_after: Duration,
    },
    /// No connection, TLS failure, 5xx, or the circuit breaker is open.
    Unavailable,
    /// A deadline passed.
    Timeout,
    /// The answer breaks the protocol: conflicting lengths, redirect loop, too large, wrong digest.
    Invalid,
    /// larder itself refuses to ask: an address that is not public and no upstream names.
    Refused,
}

impl SourceError {
    /// An error of a source.
    pub fn new(kind: FailureKind, source_label: impl Into<Arc<str>>, reason: impl Into<String>) -> SourceError {
        SourceError { kind, source_label: source_label.into(), reason: reason.into() }
    }

    /// Whether it is a no, and not a failure to answer.
    pub fn is_definite(&self) -> bool {
        matches!(
            self.kind,
            FailureKind::NotFound | FailureKind::Unauthorized | FailureKind::Denied | FailureKind::Refused
        )
    }

    /// Whether it is a no after which nobody else need be asked.
    pub fn is_final(&self, source: &dyn Source) -> bool {
        self.is_definite() && source.kind() == SourceKind::Registry
    }
}

/// A registry that larder caches: its sources in order, and the rules for what comes from it.
pub struct Upstream {
    /// Its name in image names.
    pub registry: Registry,
    /// Where its content comes from, tried in order.
    pub sources: Vec<Arc<dyn Source>>,
    /// How its content is kept and who may have it.
    pub rules: Rules,
}

/// How long a tag's answer is good at least while little is left of what the source allows. Docker Hub counts in windows of
/// six hours: a tag costs six questions in each then.
const WHILE_SCARCE: Duration = Duration::from_secs(3600);

impl Upstream {
    /// How long a tag's answer is good now: as the rules say, and longer while the source that is asked first is scarce.
    pub fn freshness_of(&self, repository: &Repository, tag: &Tag) -> Freshness {
        match self.rules.freshness_of(repository, tag) {
            Freshness::For(time) if self.sources.first().is_some_and(|source| source.is_scarce()) => {
                Freshness::For(time.max(WHILE_SCARCE))
            }
            freshness => freshness,
        }
    }
}

/// Finds the upstream of a registry.
pub trait Upstreams: Send + Sync + 'static {
    /// The upstream, or why there is none. Makes no connection.
    fn find(&self, registry: &Registry) -> Result<Arc<Upstream>, NoUpstream>;
}

/// Why a registry has no upstream: it is excluded, or only named ones are served. Answered 404, so that a runtime goes to
/// the origin itself.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{registry} is not cached here: {reason}")]
pub struct NoUpstream {
    /// The registry asked for.
    pub registry: Registry,
    /// Why.
    pub reason: &'static str,
}
