use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::sync::Cache;
use oci::{Digest, MediaType, Name, Reference, Registry, Tag};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Access, Who};
use crate::credential::Authority;
use crate::fill::{Failure, Filling};
use crate::flight::{Failures, Flights};
use crate::keep::Keeping;
use crate::metrics::Metrics;
use crate::passes::Passes;
use crate::pulls::Pulls;
use crate::reply::{DocumentReply, Error, ManifestReply, Outcome, Request};
use crate::source::{Ask, DocumentQuery, FailureKind, Source, SourceError, Upstream, Upstreams};
use crate::store::Store;
use crate::tags::Tags;

/// The shortest and the longest time from one eviction to the next.
const PACE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How the engine works.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// How long the origin's giving something to anyone makes a repository public.
    pub public_for: Duration,
    /// How long a grant is good.
    pub grant_for: Duration,
    /// How long a grant is honoured while the origin cannot be asked.
    pub grant_outage: Duration,
    /// Memory for manifests and small blobs, in bytes.
    pub memory: u64,
    /// Images that eviction never takes, with all that their manifests name.
    pub pins: Vec<(Name, Reference)>,
    /// How fast the store is hashed again in the background; 0 for never.
    pub scrub_bytes_per_second: u64,
    /// The time from one background scrub to the next; the first begins so long after the start at the latest an hour.
    pub scrub_interval: Duration,
}

impl Default for EngineSettings {
    fn default() -> EngineSettings {
        EngineSettings {
            public_for: Duration::from_secs(3600),
            grant_for: Duration::from_secs(600),
            grant_outage: Duration::from_secs(24 * 3600),
            memory: 8 << 20,
            pins: Vec::new(),
            scrub_bytes_per_second: 8 << 20,
            scrub_interval: Duration::from_secs(24 * 3600),
        }
    }
}

/// How long the origin's word that there is no such tag is repeated while it cannot be asked.
const ABSENT_FOR: Duration = Duration::from_secs(3600);

/// How often what is to be kept is looked up anew. What comes in between is protected as it comes.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Whoever is asked whether something is public may hear so much later that it is no longer.
const SETTLED: Duration = Duration::from_secs(30);

/// How often copies of what the runtime keeps are looked for.
const SHED_EVERY: Duration = Duration::from_secs(5);

/// The engine: answers from a store, and fills the store from sources.
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) upstreams: Arc<dyn Upstreams>,
    pub(crate) settings: EngineSettings,
    pub(crate) metrics: Metrics,
    pub(crate) access: Access,
    pub(crate) tags: Tags,
    /// Manifests that are in a repository, by what was used lately.
    pub(crate) manifests: Cache<(Name, Digest), Arc<StoredManifest>>,
    /// Blobs that are small enough to be answered from memory.
    pub(crate) small: Cache<Digest, Arc<SmallBlob>>,
    /// Blobs that are known to be in a repository.
    pub(crate) members: Cache<(Name, Digest), ()>,
    /// Tags that the origin lately did not know.
    pub(crate) absent: Cache<(Name, Tag), ()>,
    pub(crate) fills: Mutex<HashMap<(Name, Digest), Filling>>,
    pub(crate) failed_fills: Failures<(Name, Digest, Who)>,
    /// The source, by its number, that was wrong about a blob lately.
    pub(crate) wrong: Cache<(Name, Digest), usize>,
    /// Questions with whose right a blob may be asked for.
    pub(crate) proofs: Flights<(Name, Digest, Who), Authority>,
    /// Questions how long a blob is.
    pub(crate) head_flights: Flights<(Name, Digest, Who), (u64, Outcome)>,
    pub(crate) manifest_flights: Flights<ManifestKey, ManifestReply>,
    pub(crate) document_flights: Flights<DocumentKey, DocumentReply>,
    pub(crate) passes: Passes,
    pub(crate) pulls: Pulls,
    pub(crate) keeping: Keeping,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
}

/// One question about a manifest.
pub(crate) type ManifestKey = (Name, Reference, Who);
/// One question about a list.
pub(crate) type DocumentKey = (Name, DocumentQuery, Who);

pub(crate) struct StoredManifest {
    pub(crate) bytes: Bytes,
    pub(crate) media_type: MediaType,
    used: Mutex<Instant>,
}

pub(crate) struct SmallBlob {
    pub(crate) bytes: Bytes,
    used: Mutex<Instant>,
}

impl StoredManifest {
    pub(crate) fn new(bytes: Bytes, media_type: MediaType) -> Arc<StoredManifest> {
        Arc::new(StoredManifest { bytes, media_type, used: Mutex::new(Instant::now()) })
    }
}

impl SmallBlob {
    pub(crate) fn new(bytes: Bytes) -> Arc<SmallBlob> {
        Arc::new(SmallBlob { bytes, used: Mutex::new(Instant::now()) })
    }
}

impl Engine {
    /// Starts an engine and its background work.
    pub fn start(
        store: Arc<dyn Store>,
        upstreams: Arc<dyn Upstreams>,
        settings: EngineSettings,
        metrics: Metrics,
    ) -> Arc<Engine> {
        let weigh = |bytes: &Bytes| u32::try_from(bytes.len() + 256).unwrap_or(u32::MAX);
        let inner = Arc::new(Inner {
            access: Access::new(settings.public_for, settings.grant_for, settings.grant_outage, store.clone()),
            tags: Tags::new(store.clone()),
            manifests: Cache::builder()
                .weigher(move |_, stored: &Arc<StoredManifest>| weigh(&stored.bytes))
                .max_capacity(settings.memory / 2)
                .build(),
            small: Cache::builder()
                .weigher(move |_, stored: &Arc<SmallBlob>| weigh(&stored.bytes))
                .max_capacity(settings.memory / 2)
                .build(),
            members: Cache::new(20_000),
            absent: Cache::builder().max_capacity(10_000).time_to_live(ABSENT_FOR).build(),
            fills: Mutex::new(HashMap::new()),
            failed_fills: Failures::new(),
            wrong: Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(600)).build(),
            proofs: Flights::new(),
            head_flights: Flights::new(),
            manifest_flights: Flights::new(),
            document_flights: Flights::new(),
            passes: Passes::default(),
            pulls: Pulls::default(),
            keeping: Keeping::default(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            store,
            upstreams,
            settings,
            metrics,
        });
        for work in [
            tokio::spawn(inner.clone().keep_budget()),
            tokio::spawn(inner.clone().keep_single()),
            tokio::spawn(inner.clone().keep_whole()),
            tokio::spawn(inner.clone().keep_used()),
        ] {
            inner.tasks.spawn(work);
        }
        Arc::new(Engine { inner })
    }

    /// Whether the engine can answer, from its store or without it. The error says what is degraded.
    pub fn ready(&self) -> Result<(), String> {
        self.inner.store.check().map_err(|error| error.to_string())
    }

    /// Takes note that who may have what of a registry is perhaps no longer what it was: what is public there is asked for anew, and
    /// answers make nothing public before those who are asked have had the time to hear of it too. Grants stay.
    pub fn reconsider(&self, registry: &Registry) {
        self.inner.access.reconsider(registry, SETTLED);
    }

    /// What the store holds and may hold, in bytes.
    pub fn usage(&self) -> crate::store::Usage {
        let usage = self.inner.store.usage();
        self.inner.metrics.usage(usage);
        usage
    }

    /// Ends all fills and background work, and waits until they have ended.
    pub async fn shutdown(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Inner {
    /// Asks the sources of an upstream with a right that is sufficient, finding out which one is.
    ///
    /// What is known is used; otherwise everybody's right comes first and the client's second. Where the upstream's own credential is
    /// everybody's, it is not tried for a client who shows one: [`Inner::once`] has tried it. A yes is remembered.
    pub(crate) async fn authorized<T, F, Fut>(
        &self,
        upstream: &Upstream,
        request: &Request,
        call: F,
    ) -> Result<T, SourceError>
    where
        F: Fn(Arc<dyn Source>, Ask) -> Fut,
        Fut: Future<Output = Result<T, SourceError>>,
    {
        let Request { name, claim } = request;
        let rules = &upstream.rules;
        let known = self.access.known(upstream, request).await;
        let mut hidden = None;
        let mut answer = Err(SourceError::new(FailureKind::Unavailable, upstream.registry.as_str(), "not asked"));
        if let Some(authority) = &known {
            let others = claim.clone().is_some_and(|own| *authority != own.into());
            match self.each_source(upstream, name, authority.clone(), &call).await {
                Err(error) if is_no(error.kind) => {
                    self.refused(upstream, name, authority).await;
                    answer = Err(error);
                }
                // Only those without a credential are held to the limit of those without.
                Err(error) if others && matches!(error.kind, FailureKind::RateLimited { .. }) => {}
                // Many say so of what is private, as this may be by now.
                Err(error) if others && error.kind == FailureKind::NotFound => hidden = Some(error),
                Ok(found) => {
                    if *authority == Authority::Own {
                        self.access.remember(name, authority, rules).await;
                    }
                    return Ok(found);
                }
                answer => return answer,
            }
        }
        let everybodys = match rules.for_all() {
            None => Some(Authority::Anonymous),
            Some(_) if known.is_none() => claim.is_none().then_some(Authority::Own),
            Some(_) => Some(Authority::Own).filter(|own| known.as_ref() != Some(own)),
        };
        let mut absent = hidden.is_some();
        for authority in everybodys.into_iter().chain(claim.iter().flat_map(|claim| self.access.rights(name, claim))) {
            answer = self.each_source(upstream, name, authority.clone(), &call).await;
            match &answer {
                Ok(_) => {
                    self.metrics.access(match &authority {
                        Authority::Anonymous => "public",
                        Authority::Own => "shared",
                        Authority::Client(_) | Authority::Prefetch(_) => "granted",
                    });
                    if absent {
                        self.close(upstream, name).await;
                    }
                    self.access.remember(name, &authority, rules).await;
                    return answer;
                }
                Err(error) => {
                    if is_no(error.kind) {
                        self.refused(upstream, name, &authority).await;
                    }
                    absent |= error.kind == FailureKind::NotFound;
                    let limited = matches!(authority, Authority::Anonymous | Authority::Own)
                        && matches!(error.kind, FailureKind::RateLimited { .. });
                    if !is_no(error.kind) && error.kind != FailureKind::NotFound && !limited {
                        break;
                    }
                }
            }
        }
        if let Some(error) = hidden {
            return Err(error);
        }
        answer.map_err(|error| match error.kind {
            kind if is_no(kind) && rules.for_all().is_some() && claim.is_none() => {
                let reason = "the origin refused the credential that is configured for this upstream";
                SourceError::new(FailureKind::Denied, error.source_label, reason)
            }
            FailureKind::Unauthorized if claim.is_some() => {
                self.metrics.access("refused");
                SourceError::new(FailureKind::Denied, error.source_label, "the origin refused the credential")
            }
            _ => error,
        })
    }

    /// Takes note that the origin has refused a right.
    pub(crate) async fn refused(&self, upstream: &Upstream, name: &Name, authority: &Authority) {
        let rules = &upstream.rules;
        let shared = *authority == Authority::Own && rules.for_all().is_some();
        if shared {
            self.metrics.access("own_refused");
        }
        // What is served nevertheless must be known to have been open.
        if !(shared && rules.serve_when_denied) {
            self.access.forget(name, authority, rules).await;
        }
    }

    /// Takes note that the origin does not show to everybody what it showed before, or shows to others. Many do so with what is private:
    /// then the repository is open no longer, whatever comes.
    pub(crate) async fn close(&self, upstream: &Upstream, name: &Name) {
        let rules = &upstream.rules;
        self.access.forget(name, &Authority::Anonymous, rules).await;
        // What is served nevertheless must be known to have been open.
        if !rules.serve_when_gone {
            self.access.forget(name, &Authority::Own, rules).await;
        }
    }

    /// Puts a question once for all clients who may share its answer: where the upstream's own credential is everybody's, first whether
    /// that may, whoever asks.
    pub(crate) async fn once<K, V, F>(
        self: &Arc<Self>,
        flights: fn(&Inner) -> &Flights<K, V>,
        upstream: &Upstream,
        (request, known): (&Request, Option<&Authority>),
        key: impl Fn(Who) -> K,
        work: impl Fn(Request) -> F,
    ) -> (Result<V, Error>, bool)
    where
        K: Hash + Eq + Clone + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
        F: Future<Output = Result<V, Error>> + Send + 'static,
    {
        let ask = async |who, request: &Request| {
            flights(self).run(&self.tasks, self.clone(), flights, key(who), work(request.clone())).await
        };
        let mut hidden = None;
        if known.is_none() && request.claim.is_some() && upstream.rules.for_all().is_some() {
            match ask(Who::Anonymous, &Request { claim: None, ..request.clone() }).await {
                (Err(error), _) if error.kind == FailureKind::NotFound => hidden = Some(error),
                (Err(error), _) if is_for_another(error.kind) => {}
                answer => return answer,
            }
        }
        let who = self.access.who(known.is_some(), request);
        let (mut result, mut joined) = ask(who, request).await;
        // What is refused to the client who came first says nothing about another one's right.
        let refused = result.as_ref().err().is_some_and(|error| match error.kind {
            FailureKind::NotFound => matches!(known, Some(Authority::Client(_) | Authority::Prefetch(_))),
            kind => is_for_another(kind),
        });
        if refused && joined && who == Who::Known {
            (result, joined) = ask(self.access.who(false, request), request).await;
        }
        match (&result, hidden) {
            (Ok(_), Some(_)) => self.close(upstream, &request.name).await,
            (Err(error), Some(hidden)) if is_no(error.kind) => result = Err(hidden),
            (Err(error), None) if is_failure(error.kind) && self.access.asks_in_outage(upstream, request).await => {
                result = Err(Error::new(FailureKind::Unauthorized, error.reason.clone()));
            }
            _ => {}
        }
        (result, joined)
    }

    /// Asks the sources in order until one gives what is wanted.
    async fn each_source<T, F, Fut>(
        &self,
        upstream: &Upstream,
        name: &Name,
        authority: Authority,
        call: &F,
    ) -> Result<T, SourceError>
    where
        F: Fn(Arc<dyn Source>, Ask) -> Fut,
        Fut: Future<Output = Result<T, SourceError>>,
    {
        let mut failure = Failure::default();
        for source in &upstream.sources {
            match call(source.clone(), Ask { name: name.clone(), authority: authority.clone() }).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_final(&**source) => return Err(error),
                Err(error) => failure.add(error),
            }
        }
        Err(failure.into_error(upstream))
    }

    /// Tells the store now and then that something answered from memory is in use.
    pub(crate) fn touch(self: &Arc<Self>, digest: &Digest, used: &Mutex<Instant>) {
        let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.elapsed() > Duration::from_secs(5) {
            *used = Instant::now();
            let (inner, digest) = (self.clone(), *digest);
            self.tasks.spawn(async move { drop(inner.store.open(&digest).await) });
        }
    }

    pub(crate) fn touch_manifest(self: &Arc<Self>, digest: &Digest, stored: &StoredManifest) {
        self.touch(digest, &stored.used);
    }

    pub(crate) fn touch_small(self: &Arc<Self>, digest: &Digest, stored: &SmallBlob) {
        self.touch(digest, &stored.used);
    }

    /// Background work: drops what was used longest ago while the store is over its budget.
    async fn keep_budget(self: Arc<Self>) {
        self.recall_keep().await;
        let mut pause = PACE.0;
        let mut looked: Option<Instant> = None;
        loop {
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
                self.protect_kept().await;
                looked = Some(Instant::now());
            }
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = self.store.over_budget() => {}
                // What a tag names changes with the tag.
                () = tokio::time::sleep(LOOK_EVERY), if self.keeps_something() => continue,
            }
            match self.store.evict().await {
                Ok((blobs, bytes)) if blobs > 0 => {
                    tracing::info!(blobs, bytes, "evicted what was used longest ago");
                    pause = PACE.0;
                }
                // Nothing could be dropped, because all is pinned or being read: that may last.
                Ok(_) => pause = (pause * 2).min(PACE.1),
                Err(error) => {
                    self.metrics.store_error(&error);
                    pause = (pause * 2).min(PACE.1);
                }
            }
            self.metrics.usage(self.store.usage());
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Background work: drops copies of what the container runtime keeps too.
    async fn keep_single(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(SHED_EVERY) => {}
            }
            match self.store.shed().await {
                Ok((0, _)) => {}
                Ok((blobs, bytes)) => {
                    tracing::debug!(blobs, bytes, "dropped copies of what the runtime keeps");
                    self.metrics.usage(self.store.usage());
                }
                Err(error) => self.metrics.store_error(&error),
            }
        }
    }

    /// Background work: hashes the store again, slowly.
    async fn keep_whole(self: Arc<Self>) {
        let EngineSettings { scrub_bytes_per_second: speed, scrub_interval: interval, .. } = self.settings;
        if speed == 0 {
            return;
        }
        let mut wait = interval.min(Duration::from_secs(3600));
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = interval;
            let scrubbed = tokio::select! {
                () = self.cancel.cancelled() => return,
                scrubbed = self.store.scrub(speed) => scrubbed,
            };
            match scrubbed {
                Ok(report) => {
                    self.metrics.quarantined(report.quarantined.len() as u64);
                    tracing::info!(
                        blobs = report.blobs,
                        bytes = report.bytes,
                        bad = report.quarantined.len(),
                        "scrubbed the store"
                    );
                }
                Err(error) => tracing::warn!(%error, "the store cannot be scrubbed"),
            }
        }
    }
}

/// Whether a right was refused.
fn is_no(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Unauthorized | FailureKind::Denied)
}

/// Whether a failure is one of whose right was used, so that another's may do.
pub(crate) fn is_for_another(kind: FailureKind) -> bool {
    is_no(kind) || matches!(kind, FailureKind::RateLimited { .. })
}

/// Whether a source could not be asked.
fn is_failure(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Unavailable | FailureKind::Timeout | FailureKind::Invalid)
}
