use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use oci::{Digest, Name};

use crate::credential::Authority;
use crate::engine::{Engine, Inner, SmallBlob, is_for_another};
use crate::fill::{self, Filling, Start};
use crate::manifests::{is_outage, may_stand_in, read_whole};
use crate::reply::{Blob, BlobReply, Content, Error, Outcome, Request};
use crate::source::{Ask, FailureKind, Source, Upstream};
use crate::store::{Record, RecordKind};

/// Blobs up to this size are answered from memory, in bytes.
const SMALL: u64 = 64 * 1024;

/// How often a client tries to start what others with another right could not.
const ATTEMPTS: usize = 5;

impl Engine {
    /// Gives a blob: from the store, or from the fill that is in progress or starts now. Waits until a source has
    /// answered, not until the bytes are there.
    pub async fn blob(&self, request: &Request, digest: &Digest) -> Result<BlobReply, Error> {
        let reply = self.inner.blob(request, digest).await;
        if let Ok(reply) = &reply {
            self.inner.metrics.answered("blob", reply.outcome);
        }
        reply
    }

    /// Tells a blob's size in bytes. Never starts a fill.
    pub async fn head_blob(&self, request: &Request, digest: &Digest) -> Result<(u64, Outcome), Error> {
        let upstream = self.inner.upstreams.find(&request.name.registry)?;
        self.inner.head_blob(&upstream, request, digest).await
    }
}

impl Inner {
    async fn blob(self: &Arc<Self>, request: &Request, digest: &Digest) -> Result<BlobReply, Error> {
        let name = &request.name;
        let upstream = self.upstreams.find(&name.registry)?;
        let (authority, proven) = match self.access.known(&upstream, request).await {
            Some(authority) => (authority, false),
            None => match self.prove(&upstream, request, digest).await {
                Ok(authority) => (authority, true),
                Err(error)
                    if may_stand_in(&upstream.rules, error.kind)
                        && self.access.through_outage(&upstream, request).await =>
                {
                    return match self.stored_blob(name, digest).await {
                        Some(blob) => Ok(BlobReply { content: Content::Whole(blob), outcome: Outcome::Stale }),
                        None => Err(error),
                    };
                }
                Err(error) => return Err(error),
            },
        };
        if let Some(blob) = self.stored_blob(name, digest).await {
            return Ok(BlobReply { content: Content::Whole(blob), outcome: Outcome::Hit });
        }
        // The bytes may be there from another repository: if the origin says that they are in this one too, they need not
        // be fetched again.
        if let Some(blob) = self.open_from(name, digest).await {
            let said = if proven { Ok(authority.clone()) } else { self.prove(&upstream, request, digest).await };
            match said {
                Ok(_) => return Ok(BlobReply { content: Content::Whole(blob), outcome: Outcome::Revalidated }),
                Err(error) if is_outage(error.kind) => {}
                Err(error) => return Err(error),
            }
        }
        let ask = Ask { name: name.clone(), authority };
        let others = request.claim.clone().is_some_and(|own| ask.authority != own.into());
        let error = match self.fill(upstream.clone(), ask.clone(), digest).await {
            Err(error) if request.claim.is_some() && is_for_another(error.kind) => error,
            Err(error) if others && error.kind == FailureKind::NotFound => error,
            answer => return answer,
        };
        // What is no longer given to anyone, or not to so many, may still be given to this client.
        match self.prove(&upstream, request, digest).await {
            Ok(authority) if authority != ask.authority => self.fill(upstream, Ask { authority, ..ask }, digest).await,
            _ => Err(error),
        }
    }

    /// Finds out with whose right a blob may be asked for: one question, however many clients ask at once.
    async fn prove(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        request: &Request,
        digest: &Digest,
    ) -> Result<Authority, Error> {
        let key = |who| (request.name.clone(), *digest, who);
        let work = |request: Request| {
            let (inner, upstream, digest) = (self.clone(), upstream.clone(), *digest);
            async move {
                let asked = &digest;
                let ask = |source: Arc<dyn Source>, ask: Ask| async move {
                    source.head_blob(&ask, asked).await.map(|_| ask.authority)
                };
                let authority = match inner.authorized(&upstream, &request, ask).await {
                    Err(error) if error.kind == FailureKind::NotFound => {
                        inner.blob_hidden(&upstream, &request.name, &digest).await;
                        return Err(error.into());
                    }
                    answer => answer?,
                };
                if inner.came_from(&request.name, &digest).await {
                    inner.admit_blob(&request.name, &digest).await;
                }
                Ok(authority)
            }
        };
        self.once(|inner| &inner.proofs, upstream, (request, None), key, work).await.0
    }

    async fn head_blob(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        request: &Request,
        digest: &Digest,
    ) -> Result<(u64, Outcome), Error> {
        let name = &request.name;
        let known = self.access.known(upstream, request).await;
        if known.is_some() {
            if let Some(blob) = self.stored_blob(name, digest).await {
                return Ok((blob.size(), Outcome::Hit));
            }
            let filling =
                self.fills.lock().unwrap_or_else(PoisonError::into_inner).get(&(name.clone(), *digest)).cloned();
            if let Some(size) = filling.and_then(|filling| filling.size()) {
                return Ok((size, Outcome::Joined));
            }
        }
        let key = |who| (name.clone(), *digest, who);
        let work = |request: Request| {
            let (inner, upstream, digest) = (self.clone(), upstream.clone(), *digest);
            async move { inner.ask_for_size(&upstream, &request, &digest).await }
        };
        let (result, joined) =
            self.once(|inner| &inner.head_flights, upstream, (request, known.as_ref()), key, work).await;
        match result {
            Ok((size, Outcome::Miss)) if joined => Ok((size, Outcome::Joined)),
            Ok(answer) => Ok(answer),
            Err(error)
                if may_stand_in(&upstream.rules, error.kind) && self.access.through_outage(upstream, request).await =>
            {
                let blob = self.stored_blob(name, digest).await.ok_or(error)?;
                Ok((blob.size(), Outcome::Stale))
            }
            Err(error) => Err(error),
        }
    }

    async fn ask_for_size(
        self: &Arc<Self>,
        upstream: &Upstream,
        request: &Request,
        digest: &Digest,
    ) -> Result<(u64, Outcome), Error> {
        let name = &request.name;
        let head =
            self.authorized(upstream, request, |source, ask| async move { source.head_blob(&ask, digest).await }).await;
        let head = match head {
            Err(error) if error.kind == FailureKind::NotFound => {
                self.blob_hidden(upstream, name, digest).await;
                return Err(error.into());
            }
            answer => answer?,
        };
        if let Some(blob) = self.open_from(name, digest).await {
            self.admit_blob(name, digest).await;
            return Ok((blob.size(), Outcome::Revalidated));
        }
        let size =
            head.size.ok_or_else(|| Error::new(FailureKind::Invalid, "the origin does not tell the blob's length"))?;
        Ok((size, Outcome::Miss))
    }

    /// Starts a fill or joins the one in progress.
    async fn fill(self: &Arc<Self>, upstream: Arc<Upstream>, ask: Ask, digest: &Digest) -> Result<BlobReply, Error> {
        let key = (ask.name.clone(), *digest);
        // A fill that another client's right could not start says nothing about this client's: it is tried once more.
        for attempt in 1..=ATTEMPTS {
            let (mut filling, joined) = self.join(&upstream, &ask, digest, &key)?;
            match filling.started().await {
                Ok(Start::Whole(blob)) => {
                    let outcome = if joined { Outcome::Joined } else { Outcome::Miss };
                    return Ok(BlobReply { content: Content::Whole(blob), outcome });
                }
                Ok(Start::Running) => {
                    let outcome = if joined { Outcome::Joined } else { Outcome::Miss };
                    return Ok(BlobReply { content: Content::Filling(filling), outcome });
                }
                Err(error) => {
                    let refused = error.kind == FailureKind::NotFound || is_for_another(error.kind);
                    let others = joined && filling.ask().authority != ask.authority;
                    if !(refused && others && attempt < ATTEMPTS) {
                        let shared = ask.authority == Authority::Own && upstream.rules.for_all().is_some();
                        if error.kind == FailureKind::Unauthorized || shared && error.kind == FailureKind::Denied {
                            self.refused(&upstream, &ask.name, &ask.authority).await;
                        }
                        if error.kind == FailureKind::Unauthorized && ask.authority != Authority::Anonymous {
                            return Err(Error::new(FailureKind::Denied, error.reason));
                        }
                        return Err(error);
                    }
                }
            }
        }
        Err(Error::new(FailureKind::Unavailable, "the blob could not be fetched"))
    }

    fn join(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        ask: &Ask,
        digest: &Digest,
        key: &(Name, Digest),
    ) -> Result<(Filling, bool), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(FailureKind::Unavailable, "larder is shutting down"));
        }
        let mut fills = self.fills.lock().unwrap_or_else(PoisonError::into_inner);
        let last = fills.get(key);
        if let Some(running) = last.filter(|filling| !filling.has_failed()) {
            return Ok((running.clone(), true));
        }
        // One that has just failed may not have been taken off the list and into account yet.
        let just_wrong = last.and_then(Filling::wrong);
        let failed = (key.0.clone(), key.1, self.access.whose(&ask.authority));
        if let Some(error) = self.failed_fills.get(&failed) {
            return Err(error);
        }
        // A source that was wrong about this blob is asked last.
        let first =
            just_wrong.or_else(|| self.wrong.get(key)).map_or(0, |wrong| (wrong + 1) % upstream.sources.len().max(1));
        let (store, metrics, ending) = (self.store.clone(), self.metrics.clone(), self.cancel.clone());
        let (filling, work) = fill::run(store, upstream.clone(), ask.clone(), *digest, first, metrics, ending);
        fills.insert(key.clone(), filling.clone());
        self.metrics.fills_running(fills.len());
        let landing = Landing { inner: self.clone(), key: key.clone(), filling: filling.clone() };
        let shown = filling.clone();
        self.tasks.spawn(async move {
            let blob = work.await;
            // Membership is written before the fill is taken off the list, so that nobody starts another one in between.
            if blob.is_some() {
                landing.inner.note_origin(&landing.key.0, &landing.key.1).await;
                landing.inner.admit_blob(&landing.key.0, &landing.key.1).await;
                landing.inner.failed_fills.clear(&failed);
            } else {
                if let Some(error) = shown.failure_to_repeat() {
                    landing.inner.failed_fills.add(&failed, &error);
                }
                if let Some(wrong) = shown.wrong() {
                    landing.inner.wrong.insert(landing.key.clone(), wrong);
                }
            }
            landing.inner.metrics.usage(landing.inner.store.usage());
        });
        Ok((filling, false))
    }

    /// A blob that is known to be in the repository.
    pub(crate) async fn stored_blob(self: &Arc<Self>, name: &Name, digest: &Digest) -> Option<Blob> {
        let key = (name.clone(), *digest);
        if self.members.get(&key).is_none() {
            // A manifest may be asked for as a blob.
            if !self.is_recorded(name, RecordKind::Blob(*digest)).await
                && !self.is_recorded(name, RecordKind::Manifest(*digest)).await
            {
                return None;
            }
            self.members.insert(key.clone(), ());
        }
        let blob = self.open(digest).await;
        if blob.is_none() {
            // When the bytes come in again, it is recorded again: the store may drop records of what is not there.
            self.members.invalidate(&key);
        }
        blob
    }

    /// Whether something is recorded as part of a repository.
    async fn is_recorded(&self, name: &Name, kind: RecordKind) -> bool {
        matches!(self.store.read(&Record::new(name, kind)).await, Ok(Some(_)))
    }

    /// Takes note that the origin has said of a blob that it is not there.
    async fn blob_hidden(&self, upstream: &Upstream, name: &Name, digest: &Digest) {
        let recorded = self.is_recorded(name, RecordKind::Blob(*digest)).await;
        // What memory knows may not be on the disk yet. It knows manifests that were asked for as blobs too, and many
        // origins do not.
        let manifest = self.is_recorded(name, RecordKind::Manifest(*digest)).await;
        if recorded || !manifest && self.members.contains_key(&(name.clone(), *digest)) {
            self.close(upstream, name).await;
        }
    }

    /// Takes note that the origin has said of a manifest that it is not there.
    pub(crate) async fn manifest_hidden(&self, upstream: &Upstream, name: &Name, digest: &Digest) {
        let known = self.manifests.contains_key(&(name.clone(), *digest));
        if known || self.is_recorded(name, RecordKind::Manifest(*digest)).await {
            self.close(upstream, name).await;
        }
    }

    /// A blob's verified bytes, if they came from the registry of `name` before. The word of one registry is no reason to
    /// give away what another one keeps: it might say yes to any digest.
    async fn open_from(self: &Arc<Self>, name: &Name, digest: &Digest) -> Option<Blob> {
        if self.came_from(name, digest).await { self.open(digest).await } else { None }
    }

    /// Whether the registry of `name` itself has sent these bytes.
    pub(crate) async fn came_from(&self, name: &Name, digest: &Digest) -> bool {
        matches!(self.store.read(&Record::new(name, RecordKind::Origin(*digest))).await, Ok(Some(_)))
    }

    /// Records that the registry of `name` has sent these bytes. Where that is lost, they are fetched once more.
    pub(crate) async fn note_origin(&self, name: &Name, digest: &Digest) {
        if let Err(error) = self.store.write(&Record::new(name, RecordKind::Origin(*digest)), Bytes::new(), false).await
        {
            self.metrics.store_error(&error);
        }
    }

    /// A blob's verified bytes, whichever repository they came with.
    async fn open(self: &Arc<Self>, digest: &Digest) -> Option<Blob> {
        if let Some(small) = self.small.get(digest) {
            self.touch_small(digest, &small);
            return Some(Blob::Memory(small.bytes.clone()));
        }
        match self.store.open(digest).await {
            Ok(Some(blob)) if blob.size() <= SMALL => self.remember_small(digest, blob).await,
            Ok(blob) => blob,
            Err(error) => {
                self.metrics.store_error(&error);
                None
            }
        }
    }

    async fn remember_small(&self, digest: &Digest, blob: Blob) -> Option<Blob> {
        match read_whole(blob).await {
            Ok(bytes) if Digest::of(digest.algorithm(), &bytes) == *digest => {
                self.small.insert(*digest, SmallBlob::new(bytes.clone()));
                Some(Blob::Memory(bytes))
            }
            _ => {
                self.metrics.quarantined(1);
                self.store.quarantine(digest).await;
                None
            }
        }
    }

    /// Records that a blob is in a repository.
    async fn admit_blob(&self, name: &Name, digest: &Digest) {
        let key = (name.clone(), *digest);
        if self.members.get(&key).is_some() {
            return;
        }
        // Known before it is written, for a herd need not wait for the disk to be told.
        self.members.insert(key, ());
        if let Err(error) = self.store.write(&Record::new(name, RecordKind::Blob(*digest)), Bytes::new(), true).await {
            self.metrics.store_error(&error);
        }
    }
}

/// Takes a fill off the list when its task ends, however that happens.
struct Landing {
    inner: Arc<Inner>,
    key: (Name, Digest),
    filling: Filling,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut fills = self.inner.fills.lock().unwrap_or_else(PoisonError::into_inner);
        // One that failed may have been replaced.
        if fills.get(&self.key).is_some_and(|filling| filling.is(&self.filling)) {
            fills.remove(&self.key);
        }
        self.inner.metrics.fills_running(fills.len());
        drop(fills);
        self.filling.land();
    }
}
