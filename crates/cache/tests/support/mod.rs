//! Registries in memory, and an engine over them.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part of it, and fails where it must")]

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cache::{
    Ask, Authority, Blob, BlobBody, BlobHead, BlobReply, Budget, Chunk, Claim, Content, Credential, DiskStore,
    Document, DocumentQuery, Engine, EngineSettings, Error, FailureKind, FillReader, ManifestBody, ManifestHead,
    Metrics, NoUpstream, Purpose, Request, Rules, Source, SourceError, Store, StoreSettings, Upstream, Upstreams,
};
use futures_util::StreamExt;
use oci::{Digest, MediaType, Name, Reference, Registry};
use tokio::sync::Semaphore;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The longest that a test waits for what must happen.
pub const SOON: Duration = Duration::from_secs(20);

/// Who may read a repository.
#[derive(Clone)]
pub enum Readers {
    Anyone,
    Only(Vec<Credential>),
}

#[derive(Clone)]
pub struct Repository {
    pub readers: Readers,
    pub tags: HashMap<String, Digest>,
    pub manifests: HashMap<Digest, Bytes>,
    pub blobs: HashMap<Digest, Bytes>,
}

/// A registry in memory.
pub struct Origin {
    pub label: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    repositories: HashMap<String, Repository>,
    log: Vec<String>,
    /// What is answered instead of the truth.
    failing: Option<fn(&Ask) -> Option<FailureKind>>,
    /// What is not allowed is answered like what is not there.
    hides: bool,
    /// HEAD says that everything is there, a tag being this digest.
    lies: Option<Digest>,
    /// Bodies of blobs are of these pieces instead, the size said being the first part.
    bodies: HashMap<Digest, (Option<u64>, Vec<Piece>)>,
    /// Every answer waits for a permit.
    gate: Option<Arc<Semaphore>>,
}

/// A part of a body.
#[derive(Clone)]
pub enum Piece {
    Bytes(Bytes),
    /// Waits for a permit.
    Wait(Arc<Semaphore>),
    Fail(FailureKind),
}

impl Origin {
    pub fn new(label: &str) -> Arc<Origin> {
        Arc::new(Origin { label: label.to_owned(), state: Mutex::default() })
    }

    /// Makes a repository.
    pub fn repository(&self, name: &str, readers: Readers) {
        let repository = Repository { readers, tags: HashMap::new(), manifests: HashMap::new(), blobs: HashMap::new() };
        self.state.lock().unwrap().repositories.insert(name.to_owned(), repository);
    }

    pub fn change(&self, name: &str, change: impl FnOnce(&mut Repository)) {
        change(self.state.lock().unwrap().repositories.get_mut(name).unwrap());
    }

    /// Puts a blob into a repository.
    pub fn blob(&self, name: &str, bytes: &Bytes) -> Digest {
        let digest = Digest::sha256(bytes);
        self.change(name, |repository| drop(repository.blobs.insert(digest, bytes.clone())));
        digest
    }

    /// Puts a manifest under a tag.
    pub fn manifest(&self, name: &str, tag: &str, text: &str) -> Digest {
        self.tagged(name, tag, manifest(text))
    }

    /// Puts an image of this config and these layers under a tag.
    pub fn image(&self, name: &str, tag: &str, body: &str) -> Digest {
        self.tagged(name, tag, format!(r#"{{"schemaVersion":2,{body}}}"#).into())
    }

    /// Puts an index of these children under a tag.
    pub fn index(&self, name: &str, tag: &str, children: &str) -> Digest {
        self.tagged(name, tag, format!(r#"{{"schemaVersion":2,"manifests":[{children}]}}"#).into())
    }

    fn tagged(&self, name: &str, tag: &str, bytes: Bytes) -> Digest {
        let digest = Digest::sha256(&bytes);
        self.change(name, |repository| {
            repository.tags.insert(tag.to_owned(), digest);
            repository.manifests.insert(digest, bytes);
        });
        digest
    }

    pub fn fail(&self, failing: Option<fn(&Ask) -> Option<FailureKind>>) {
        self.state.lock().unwrap().failing = failing;
    }

    pub fn hide(&self) {
        self.state.lock().unwrap().hides = true;
    }

    pub fn lie(&self, digest: Digest) {
        self.state.lock().unwrap().lies = Some(digest);
    }

    pub fn body(&self, digest: Digest, size: Option<u64>, pieces: Vec<Piece>) {
        self.state.lock().unwrap().bodies.insert(digest, (size, pieces));
    }

    pub fn gate(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.state.lock().unwrap().gate = Some(gate.clone());
        gate
    }

    /// How many calls of a method came.
    pub fn calls(&self, method: &str) -> usize {
        self.state.lock().unwrap().log.iter().filter(|line| line.split(' ').next() == Some(method)).count()
    }

    fn error(&self, kind: FailureKind) -> SourceError {
        SourceError::new(kind, self.label.as_str(), "as the test wants it")
    }

    /// Logs a call, waits until it may be answered, and gives the repository if the authority may read it.
    async fn enter(&self, method: &str, ask: &Ask, what: &str) -> Result<Repository, SourceError> {
        let gate = {
            let mut state = self.state.lock().unwrap();
            let who = match &ask.authority {
                Authority::Anonymous => "-",
                Authority::Own => "own",
                Authority::Prefetch(purpose) => purpose.as_str(),
                Authority::Client(credential) => credential.username(),
            };
            state.log.push(format!("{method} {} {who} {what}", ask.name.repository));
            state.gate.clone()
        };
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        let state = self.state.lock().unwrap();
        if let Some(kind) = state.failing.and_then(|failing| failing(ask)) {
            return Err(self.error(kind));
        }
        let Some(repository) = state.repositories.get(ask.name.repository.as_str()) else {
            return Err(self.error(FailureKind::NotFound));
        };
        let allowed = match (&repository.readers, &ask.authority) {
            (Readers::Anyone, _) => true,
            (Readers::Only(_), Authority::Anonymous) => false,
            (Readers::Only(readers), Authority::Client(credential)) => readers.contains(credential),
            // Such a source has this one's.
            (Readers::Only(readers), Authority::Own) => readers.contains(&credential("larder")),
            (Readers::Only(readers), Authority::Prefetch(purpose)) => {
                *purpose == Purpose::Store && readers.contains(&credential("larder"))
            }
        };
        match allowed {
            true => Ok(repository.clone()),
            false if state.hides => Err(self.error(FailureKind::NotFound)),
            false => Err(self.error(FailureKind::Unauthorized)),
        }
    }

    fn digest_of(repository: &Repository, reference: &Reference) -> Option<Digest> {
        match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => repository.tags.get(tag.as_str()).copied(),
        }
    }
}

#[async_trait]
impl Source for Origin {
    fn label(&self) -> &str {
        &self.label
    }

    async fn head_manifest(&self, ask: &Ask, reference: &Reference) -> Result<ManifestHead, SourceError> {
        let repository = self.enter("head_manifest", ask, &reference.to_string()).await?;
        let lie = self.state.lock().unwrap().lies;
        let digest = match lie {
            Some(lie) => lie,
            None => Origin::digest_of(&repository, reference)
                .filter(|digest| repository.manifests.contains_key(digest))
                .ok_or_else(|| self.error(FailureKind::NotFound))?,
        };
        Ok(ManifestHead { digest: Some(digest), media_type: Some(MediaType::OCI_MANIFEST), size: None })
    }

    async fn manifest(&self, ask: &Ask, reference: &Reference) -> Result<ManifestBody, SourceError> {
        let repository = self.enter("manifest", ask, &reference.to_string()).await?;
        let digest = Origin::digest_of(&repository, reference).ok_or_else(|| self.error(FailureKind::NotFound))?;
        let bytes = repository.manifests.get(&digest).ok_or_else(|| self.error(FailureKind::NotFound))?.clone();
        let is_index = bytes.windows(12).any(|part| part == b"\"manifests\":");
        let media_type = if is_index { MediaType::parse(INDEX).unwrap() } else { MediaType::OCI_MANIFEST };
        Ok(ManifestBody { bytes, media_type, digest: Some(digest) })
    }

    async fn head_blob(&self, ask: &Ask, digest: &Digest) -> Result<BlobHead, SourceError> {
        let repository = self.enter("head_blob", ask, &digest.to_string()).await?;
        if self.state.lock().unwrap().lies.is_some() {
            return Ok(BlobHead { size: Some(1) });
        }
        let blob = repository.blobs.get(digest).ok_or_else(|| self.error(FailureKind::NotFound))?;
        Ok(BlobHead { size: Some(blob.len() as u64) })
    }

    async fn blob(&self, ask: &Ask, digest: &Digest, from: u64, _until: Option<u64>) -> Result<BlobBody, SourceError> {
        let repository = self.enter("blob", ask, &format!("{digest} {from}")).await?;
        let scripted = self.state.lock().unwrap().bodies.get(digest).cloned();
        let (size, pieces) = match scripted {
            Some(scripted) => scripted,
            None => {
                let blob = repository.blobs.get(digest).ok_or_else(|| self.error(FailureKind::NotFound))?;
                (Some(blob.len() as u64), vec![Piece::Bytes(blob.clone())])
            }
        };
        let label = self.label.clone();
        let stream = futures_util::stream::iter(pieces).filter_map(move |piece| {
            let label = label.clone();
            async move {
                match piece {
                    Piece::Bytes(bytes) => Some(Ok(bytes)),
                    Piece::Wait(gate) => {
                        gate.acquire().await.unwrap().forget();
                        None
                    }
                    Piece::Fail(kind) => Some(Err(SourceError::new(kind, label.as_str(), "as the test wants it"))),
                }
            }
        });
        Ok(BlobBody { size, offset: 0, stream: Box::pin(stream), placed: None })
    }

    async fn document(&self, ask: &Ask, query: &DocumentQuery) -> Result<Document, SourceError> {
        self.enter("document", ask, "").await?;
        let text = match query {
            DocumentQuery::Tags { .. } => r#"{"name":"a/b","tags":["v1"]}"#,
            DocumentQuery::Referrers { .. } => {
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"digest":"x"}]}"#
            }
        };
        Ok(Document { bytes: text.into(), media_type: MediaType::OCI_INDEX, next: None, filters_applied: None })
    }
}

/// A manifest that is like no other with another text.
pub fn manifest(text: &str) -> Bytes {
    let config = Digest::sha256(text.as_bytes());
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{}}},"layers":[]}}"#,
        text.len()
    )
    .into()
}

/// Bytes that follow from a letter.
pub fn content(letter: u8, size: usize) -> Bytes {
    (0..size).map(|at| letter ^ (at as u8) ^ ((at >> 8) as u8)).collect::<Vec<u8>>().into()
}

/// The same bytes, but for one.
pub fn spoilt(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes.into()
}

struct Directory(HashMap<String, Arc<Upstream>>);

impl Upstreams for Directory {
    fn find(&self, registry: &Registry) -> Result<Arc<Upstream>, NoUpstream> {
        let found = self.0.get(registry.as_str()).cloned();
        found.ok_or_else(|| NoUpstream { registry: registry.clone(), reason: "the test names no other" })
    }
}

/// An engine over registries, each with its sources in order.
pub struct Setting {
    pub engine: Arc<Engine>,
    pub store: Arc<DiskStore>,
    pub folder: Arc<tempfile::TempDir>,
}

pub fn start(registries: &[(&str, &[Arc<Origin>], Rules)]) -> Setting {
    start_with(registries, EngineSettings::default(), |store| Arc::new(store))
}

/// As [`start`], with settings, and something around the store.
pub fn start_with(
    registries: &[(&str, &[Arc<Origin>], Rules)],
    settings: EngineSettings,
    around: impl FnOnce(Arc<DiskStore>) -> Arc<dyn Store>,
) -> Setting {
    open(Arc::new(tempfile::tempdir().unwrap()), registries, settings, around)
}

/// Another engine over what the last one has left.
pub fn restart(last: Setting, registries: &[(&str, &[Arc<Origin>], Rules)], settings: EngineSettings) -> Setting {
    let folder = last.folder.clone();
    drop(last);
    open(folder, registries, settings, |store| Arc::new(store))
}

fn open(
    folder: Arc<tempfile::TempDir>,
    registries: &[(&str, &[Arc<Origin>], Rules)],
    settings: EngineSettings,
    around: impl FnOnce(Arc<DiskStore>) -> Arc<dyn Store>,
) -> Setting {
    let upstreams = registries.iter().map(|(registry, sources, rules)| {
        let sources = sources.iter().map(|source| source.clone() as Arc<dyn Source>).collect();
        let upstream = Upstream { registry: registry.parse().unwrap(), sources, rules: rules.clone() };
        ((*registry).to_owned(), Arc::new(upstream))
    });
    let store =
        DiskStore::open(StoreSettings { root: folder.path().to_owned(), budget: Budget::Bytes(1 << 30) }).unwrap();
    let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
    let upstreams = Arc::new(Directory(upstreams.collect()));
    let engine = Engine::start(around(store.clone()), upstreams, settings, metrics);
    Setting { engine, store, folder }
}

pub fn credential(user: &str) -> Credential {
    Credential::new(user, "a password")
}

pub fn by(name: &str, user: Option<&str>) -> Request {
    Request { name: Name::parse(name).unwrap(), claim: user.map(|user| Claim::Credential(credential(user))) }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // Before the folder goes: a store makes its folders anew where they are missing.
        tokio::task::block_in_place(|| {
            let shutdown = tokio::time::timeout(SOON, self.engine.shutdown());
            let _ = tokio::runtime::Handle::current().block_on(shutdown);
        });
    }
}

impl Setting {
    /// Fetches a whole blob.
    pub async fn fetch(&self, request: &Request, digest: &Digest) -> Result<Bytes, Error> {
        read(self.engine.blob(request, digest).await?).await
    }
}

pub async fn read(reply: BlobReply) -> Result<Bytes, Error> {
    match reply.content {
        Content::Whole(Blob::Memory(bytes)) => Ok(bytes),
        Content::Whole(Blob::File { file, size }) => Ok(part(&file, 0, size)),
        Content::Filling(filling) => rest(&mut filling.reader(0..filling.size().unwrap_or(u64::MAX))).await,
    }
}

/// What a reader still gives.
pub async fn rest(reader: &mut FillReader) -> Result<Bytes, Error> {
    let mut all = Vec::new();
    let reading = async {
        while let Some(bytes) = give(reader, 1 << 20).await? {
            all.extend_from_slice(&bytes);
        }
        Ok::<(), Error>(())
    };
    tokio::time::timeout(SOON, reading).await.expect("the reader hangs")?;
    Ok(all.into())
}

/// The next bytes that a reader gives.
pub async fn give(reader: &mut FillReader, most: u64) -> Result<Option<Bytes>, Error> {
    Ok(reader.next(most).await?.map(|chunk| match chunk {
        Chunk::Memory(bytes) => bytes,
        Chunk::File { file, range } => part(&file, range.start, range.end),
    }))
}

fn part(file: &File, start: u64, end: u64) -> Bytes {
    let mut bytes = vec![0; (end - start) as usize];
    file.read_exact_at(&mut bytes, start).unwrap();
    bytes.into()
}

/// Waits for something to be so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}
