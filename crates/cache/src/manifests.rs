use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oci::{Algorithm, Digest, Manifest, MediaType, Name, Reference, Tag};

use crate::blocking::blocking;
use crate::engine::{Engine, Inner, StoredManifest};
use crate::reply::{Blob, Error, ManifestReply, Outcome, Request};
use crate::rules::Rules;
use crate::source::{FailureKind, ManifestBody, Source, SourceError, Upstream};
use crate::store::{Record, RecordKind, StoreError};

/// The warning of an answer that may be out of date (RFC 9111 section 5.5 once, and the distribution specification).
const STALE: &str = "the origin cannot be asked: this answer may be out of date";

/// Nobody gets a tag asked for again sooner than so long after the last answer.
const RENEWED: Duration = Duration::from_secs(1);

impl Engine {
    /// Gives a manifest, for HEAD and GET alike: from the store, or fetched and verified whole.
    pub async fn manifest(&self, request: &Request, reference: &Reference) -> Result<ManifestReply, Error> {
        let upstream = self.inner.upstreams.find(&request.name.registry)?;
        let reply = match reference {
            Reference::Digest(digest) => self.inner.manifest_by_digest(upstream, request, digest).await,
            Reference::Tag(tag) => self.inner.manifest_by_tag(upstream, request, tag).await,
        };
        if let Ok(reply) = &reply {
            self.inner.metrics.answered("manifest", reply.outcome);
        }
        reply
    }

    /// Takes note that a tag is said to mean this digest by now: where the last answer was another one, the sources are asked before the
    /// next answer, however fresh the last one is. What is said is not believed: their answer counts, and in an outage the last
    /// one as ever.
    pub async fn expect(&self, name: &Name, tag: &Tag, digest: &Digest) {
        self.inner.tags.doubt(name, tag, digest).await;
    }

    /// Has the sources asked before the next answer about a tag, however fresh the last one is. As anybody may wish for that, one that is
    /// younger than a second stays.
    pub async fn renew(&self, name: &Name, tag: &Tag) {
        self.inner.tags.renew(name, tag, RENEWED).await;
    }
}

impl Inner {
    async fn manifest_by_digest(
        self: &Arc<Self>,
        upstream: Arc<Upstream>,
        request: &Request,
        digest: &Digest,
    ) -> Result<ManifestReply, Error> {
        let known = self.access.known(&upstream, request).await;
        if known.is_some()
            && let Some(stored) = self.stored_manifest(&request.name, digest).await
        {
            return Ok(stored.reply(*digest, Outcome::Hit));
        }
        let key = |who| (request.name.clone(), Reference::Digest(*digest), who);
        let work = |request: Request| {
            let (inner, upstream, digest) = (self.clone(), upstream.clone(), *digest);
            async move { inner.fetch_by_digest(&upstream, &request, digest).await }
        };
        let (result, joined) =
            self.once(|inner| &inner.manifest_flights, &upstream, (request, known.as_ref()), key, work).await;
        match result {
            Ok(reply) => Ok(reply.joined(joined)),
            // What a digest names never changes, so that the only question is who may have it.
            Err(error)
                if may_stand_in(&upstream.rules, error.kind)
                    && self.access.through_outage(&upstream, request).await =>
            {
                match self.stored_manifest(&request.name, digest).await {
                    Some(stored) => Ok(stored.reply(*digest, Outcome::Stale)),
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn fetch_by_digest(
        self: &Arc<Self>,
        upstream: &Upstream,
        request: &Request,
        digest: Digest,
    ) -> Result<ManifestReply, Error> {
        let reference = Reference::Digest(digest);
        // The bytes may be there from another repository, or from this one before its grant ran out: asking whether the
        // client may have them is enough.
        if self.came_from(&request.name, &digest).await
            && let Some(bytes) = self.stored_bytes(&digest).await
        {
            let asked = &reference;
            let head = self
                .authorized(upstream, request, |source, ask| async move { source.head_manifest(&ask, asked).await })
                .await;
            let head = match head {
                Err(error) if error.kind == FailureKind::NotFound => {
                    self.manifest_hidden(upstream, &request.name, &digest).await;
                    return Err(error.into());
                }
                answer => answer?,
            };
            let media_type =
                self.media_type_of(&request.name, &digest).await.or(head.media_type).unwrap_or(MediaType::OCI_MANIFEST);
            self.admit(&request.name, digest, &media_type, &bytes).await;
            return Ok(ManifestReply { bytes, media_type, digest, warning: None, outcome: Outcome::Revalidated });
        }
        self.fetch(upstream, request, &reference).await
    }

    async fn manifest_by_tag(
        self: &Arc<Self>,
        upstream: Arc<Upstream>,
        request: &Request,
        tag: &Tag,
    ) -> Result<ManifestReply, Error> {
        let name = &request.name;
        let known = self.access.known(&upstream, request).await;
        let last = self.tags.get(name, tag).await;
        if known.is_some()
            && let Some(last) = &last
            && last.is_fresh(upstream.freshness_of(&name.repository, tag))
            && let Some(stored) = self.stored_manifest(name, &last.digest).await
        {
            return Ok(stored.reply(last.digest, Outcome::Hit));
        }
        let key = |who| (name.clone(), Reference::Tag(tag.clone()), who);
        let work = |request: Request| {
            let (inner, upstream, tag) = (self.clone(), upstream.clone(), tag.clone());
            async move { inner.resolve(&upstream, &request, &tag).await }
        };
        let (result, joined) =
            self.once(|inner| &inner.manifest_flights, &upstream, (request, known.as_ref()), key, work).await;
        let absent = (name.clone(), tag.clone());
        let error = match result {
            Ok(reply) => {
                self.absent.invalidate(&absent);
                return Ok(reply.joined(joined));
            }
            Err(error) => error,
        };
        if error.kind == FailureKind::NotFound {
            self.absent.insert(absent.clone(), ());
        }
        if may_stand_in(&upstream.rules, error.kind)
            && let Some(last) = &last
            && last.age() < upstream.rules.stale
            && self.access.through_outage(&upstream, request).await
            && let Some(stored) = self.stored_manifest(name, &last.digest).await
        {
            tracing::debug!(%name, %tag, %error, "serving the last known answer");
            let mut reply = stored.reply(last.digest, Outcome::Stale);
            reply.warning = Some(STALE.into());
            return Ok(reply);
        }
        // Clients that look for referrers ask for tags that are not there, and go on when they hear so.
        if is_outage(error.kind)
            && last.is_none()
            && self.absent.contains_key(&absent)
            && self.access.through_outage(&upstream, request).await
        {
            let reason = "it was not there when the origin could last be asked";
            return Err(Error::new(FailureKind::NotFound, reason));
        }
        Err(error)
    }

    /// Asks what a tag is now: one HEAD where the answer may be the one that is known, else a GET.
    async fn resolve(
        self: &Arc<Self>,
        upstream: &Upstream,
        request: &Request,
        tag: &Tag,
    ) -> Result<ManifestReply, Error> {
        let name = &request.name;
        let reference = Reference::Tag(tag.clone());
        if self.tags.get(name, tag).await.is_some() {
            let asked = &reference;
            let head = self
                .authorized(upstream, request, |source, ask| async move { source.head_manifest(&ask, asked).await })
                .await?;
            if let Some(digest) = head.digest
                && self.came_from(name, &digest).await
                && let Some(bytes) = self.stored_bytes(&digest).await
            {
                let media_type =
                    self.media_type_of(name, &digest).await.or(head.media_type).unwrap_or(MediaType::OCI_MANIFEST);
                self.admit(name, digest, &media_type, &bytes).await;
                self.protect_arriving(name, &reference, &digest, (&media_type, &bytes));
                self.tags.put(name, tag, digest).await;
                return Ok(ManifestReply { bytes, media_type, digest, warning: None, outcome: Outcome::Revalidated });
            }
        }
        let reply = self.fetch(upstream, request, &reference).await?;
        self.tags.put(name, tag, reply.digest).await;
        Ok(reply)
    }

    /// Fetches a manifest, verifies it and keeps it.
    async fn fetch(
        self: &Arc<Self>,
        upstream: &Upstream,
        request: &Request,
        reference: &Reference,
    ) -> Result<ManifestReply, Error> {
        let reply = self
            .authorized(upstream, request, |source, ask| async move {
                let body = source.manifest(&ask, reference).await?;
                self.verify(body, reference, &*source)
            })
            .await?;
        self.protect_arriving(&request.name, reference, &reply.digest, (&reply.media_type, &reply.bytes));
        if let Err(error) = self.keep_bytes(&reply.digest, &reply.bytes).await {
            self.metrics.store_error(&error);
            tracing::warn!(name = %request.name, digest = %reply.digest, %error, "a manifest could not be kept");
        }
        self.note_origin(&request.name, &reply.digest).await;
        // The store may have dropped the record with the bytes, whatever memory still has.
        self.manifests.invalidate(&(request.name.clone(), reply.digest));
        self.admit(&request.name, reply.digest, &reply.media_type, &reply.bytes).await;
        Ok(reply)
    }

    /// Checks a manifest against all that is said of it.
    fn verify(
        &self,
        body: ManifestBody,
        reference: &Reference,
        source: &dyn Source,
    ) -> Result<ManifestReply, SourceError> {
        let ManifestBody { bytes, media_type, digest: said } = body;
        let invalid = |reason: String| SourceError::new(FailureKind::Invalid, source.label(), reason);
        let asked = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => None,
        };
        for expected in asked.iter().chain(&said) {
            let found = Digest::of(expected.algorithm(), &bytes);
            if found != *expected {
                self.metrics.mismatched(source.kind());
                return Err(invalid(format!("the manifest's bytes have the digest {found} instead of {expected}")));
            }
        }
        let digest = asked.or(said).unwrap_or_else(|| Digest::of(Algorithm::Sha256, &bytes));
        Manifest::read(&media_type, &bytes).map_err(|error| invalid(error.to_string()))?;
        Ok(ManifestReply { bytes, media_type, digest, warning: None, outcome: Outcome::Miss })
    }

    /// A manifest that is known to be in the repository.
    pub(crate) async fn stored_manifest(self: &Arc<Self>, name: &Name, digest: &Digest) -> Option<Arc<StoredManifest>> {
        let key = (name.clone(), *digest);
        if let Some(stored) = self.manifests.get(&key) {
            self.touch_manifest(digest, &stored);
            return Some(stored);
        }
        let media_type = self.media_type_of(name, digest).await?;
        let bytes = self.stored_bytes(digest).await?;
        let stored = StoredManifest::new(bytes, media_type);
        self.manifests.insert(key, stored.clone());
        Some(stored)
    }

    async fn media_type_of(&self, name: &Name, digest: &Digest) -> Option<MediaType> {
        if let Some(stored) = self.manifests.get(&(name.clone(), *digest)) {
            return Some(stored.media_type.clone());
        }
        let value = self.store.read(&Record::new(name, RecordKind::Manifest(*digest))).await.ok()??;
        MediaType::parse(std::str::from_utf8(&value).ok()?)
    }

    /// A manifest's bytes, whichever repository they came with. They are small and served from memory, so they are hashed
    /// whenever they come from the disk.
    pub(crate) async fn stored_bytes(self: &Arc<Self>, digest: &Digest) -> Option<Bytes> {
        let blob = match self.store.open(digest).await {
            Ok(blob) => blob?,
            Err(error) => {
                self.metrics.store_error(&error);
                return None;
            }
        };
        if blob.size() > oci::MANIFEST_LIMIT as u64 {
            return None;
        }
        match read_whole(blob).await {
            Ok(bytes) if Digest::of(digest.algorithm(), &bytes) == *digest => Some(bytes),
            _ => {
                self.metrics.quarantined(1);
                self.store.quarantine(digest).await;
                None
            }
        }
    }

    /// Records that a manifest is in a repository.
    async fn admit(&self, name: &Name, digest: Digest, media_type: &MediaType, bytes: &Bytes) {
        let key = (name.clone(), digest);
        if self.manifests.get(&key).is_some() {
            return;
        }
        self.manifests.insert(key, StoredManifest::new(bytes.clone(), media_type.clone()));
        let value = Bytes::copy_from_slice(media_type.as_str().as_bytes());
        if let Err(error) = self.store.write(&Record::new(name, RecordKind::Manifest(digest)), value, true).await {
            self.metrics.store_error(&error);
        }
    }

    async fn keep_bytes(&self, digest: &Digest, bytes: &Bytes) -> Result<(), StoreError> {
        let ingest = self.store.ingest(digest, Some(bytes.len() as u64)).await?;
        let bytes = bytes.clone();
        blocking(move || {
            ingest.write_at(&bytes, 0)?;
            ingest.commit(bytes.len() as u64).map(drop)
        })
        .await
    }
}

impl StoredManifest {
    fn reply(&self, digest: Digest, outcome: Outcome) -> ManifestReply {
        ManifestReply { bytes: self.bytes.clone(), media_type: self.media_type.clone(), digest, warning: None, outcome }
    }
}

impl ManifestReply {
    fn joined(mut self, joined: bool) -> ManifestReply {
        if joined && self.outcome == Outcome::Miss {
            self.outcome = Outcome::Joined;
        }
        self
    }
}

/// Whether the last known answer may stand in for a failure.
pub(crate) fn may_stand_in(rules: &Rules, kind: FailureKind) -> bool {
    match kind {
        FailureKind::NotFound => rules.serve_when_gone,
        FailureKind::Unauthorized | FailureKind::Denied => rules.serve_when_denied,
        kind => is_outage(kind),
    }
}

/// Whether a failure is one that says nothing about what was asked for.
pub(crate) fn is_outage(kind: FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::Unavailable | FailureKind::Timeout | FailureKind::RateLimited { .. } | FailureKind::Invalid
    )
}

/// Reads a small blob into memory.
pub(crate) async fn read_whole(blob: Blob) -> std::io::Result<Bytes> {
    match blob {
        Blob::Memory(bytes) => Ok(bytes),
        Blob::File { file, size } => {
            blocking(move || {
                use std::os::unix::fs::FileExt;
                let mut bytes = vec![0; size as usize];
                file.read_exact_at(&mut bytes, 0).map(|()| Bytes::from(bytes))
            })
            .await
        }
    }
}
