//! Nodes of one process, over real connections, and an origin in memory.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part of it, and fails where it must")]

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use cache::{
    Ask, Authority, Blob, BlobBody, BlobHead, Budget, Chunk, Content, Credential, DiskStore, Document, DocumentQuery,
    Engine, EngineSettings, Error, FailureKind, ManifestBody, ManifestHead, NoUpstream, Request, Rules, Source,
    SourceError, Store, StoreSettings, Upstream, Upstreams,
};
use oci::{Digest, Name, Reference, Registry};
use peers::{
    Exchange, Files, Health, Identity, Leaf, Member, Members, Metrics, Peers, Role, Settings, Swarm, WithPeers,
};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// The longest that a test waits for what must happen.
pub const SOON: Duration = Duration::from_secs(60);

/// What the origin has: one blob, for everybody or for one credential.
pub struct Origin {
    pub blob: Bytes,
    pub sent: AtomicU64,
    pub asked: AtomicU64,
    pub down: AtomicBool,
    /// Whether it takes questions and never answers.
    pub silent: AtomicBool,
    /// Bytes per second of each answer.
    pub rate: Option<u64>,
    pub owner: Option<Credential>,
}

impl Origin {
    pub fn new(blob: Bytes) -> Origin {
        Origin {
            blob,
            sent: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            down: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            rate: None,
            owner: None,
        }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    async fn check(&self, ask: &Ask) -> Result<(), SourceError> {
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending().await
        }
        let error = |kind| Err(SourceError::new(kind, "origin", "as the test wants it"));
        if self.down.load(Ordering::Relaxed) {
            return error(FailureKind::Unavailable);
        }
        match &self.owner {
            Some(owner) if ask.authority != Authority::Client(owner.clone()) => error(FailureKind::Unauthorized),
            _ => Ok(()),
        }
    }
}

struct Endpoint(Arc<Origin>);

fn missing<T>() -> Result<T, SourceError> {
    Err(SourceError::new(FailureKind::NotFound, "origin", "not there"))
}

#[async_trait]
impl Source for Endpoint {
    fn label(&self) -> &str {
        "origin"
    }
    async fn head_manifest(&self, _: &Ask, _: &Reference) -> Result<ManifestHead, SourceError> {
        missing()
    }
    async fn manifest(&self, _: &Ask, _: &Reference) -> Result<ManifestBody, SourceError> {
        missing()
    }
    async fn document(&self, _: &Ask, _: &DocumentQuery) -> Result<Document, SourceError> {
        missing()
    }
    async fn head_blob(&self, ask: &Ask, _: &Digest) -> Result<BlobHead, SourceError> {
        self.0.check(ask).await?;
        Ok(BlobHead { size: Some(self.0.blob.len() as u64) })
    }
    async fn blob(&self, ask: &Ask, digest: &Digest, from: u64, until: Option<u64>) -> Result<BlobBody, SourceError> {
        let origin = self.0.clone();
        origin.check(ask).await?;
        if Digest::sha256(&origin.blob) != *digest {
            return missing();
        }
        origin.asked.fetch_add(1, Ordering::Relaxed);
        let size = origin.blob.len() as u64;
        let part = origin.blob.slice(from as usize..until.unwrap_or(size).min(size) as usize);
        let stream = futures_util::stream::unfold((origin, part), |(origin, mut rest)| async move {
            if rest.is_empty() {
                return None;
            }
            let bytes = rest.split_to(rest.len().min(64 * 1024));
            if let Some(rate) = origin.rate {
                tokio::time::sleep(Duration::from_secs_f64(bytes.len() as f64 / rate as f64)).await;
            }
            if origin.down.load(Ordering::Relaxed) {
                return Some((
                    Err(SourceError::new(FailureKind::Unavailable, "origin", "cut")),
                    (origin, Bytes::new()),
                ));
            }
            origin.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Some((Ok(bytes), (origin, rest)))
        });
        Ok(BlobBody { size: Some(size), offset: from, stream: Box::pin(stream), placed: None })
    }
}

struct One(Arc<Upstream>);

impl Upstreams for One {
    fn find(&self, _: &Registry) -> Result<Arc<Upstream>, NoUpstream> {
        Ok(self.0.clone())
    }
}

/// A node of the cluster.
pub struct Node {
    pub name: String,
    pub engine: Arc<Engine>,
    pub swarm: Arc<Swarm>,
    pub members: Arc<Members>,
    pub health: Arc<Health>,
    pub store: Arc<dyn Store>,
    pub address: SocketAddr,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    folder: TempDir,
}

impl Node {
    /// Reads the blob through the node, as a runtime would.
    pub async fn pull(&self, digest: &Digest, credential: Option<Credential>) -> Result<Bytes, Error> {
        let request = Request { name: name(), claim: credential.map(cache::Claim::Credential) };
        let reply = self.engine.blob(&request, digest).await?;
        read(reply.content).await
    }

    /// Has the origin say that everybody may have the blob, as it does when a pull's manifest is asked for.
    pub async fn ask(&self, digest: &Digest) {
        self.engine.head_blob(&Request { name: name(), claim: None }, digest).await.unwrap();
    }

    pub async fn kill(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.swarm.shutdown().await;
    }
}

async fn read(content: Content) -> Result<Bytes, Error> {
    let filling = match content {
        Content::Whole(blob) => return Ok(whole(&blob)),
        Content::Filling(filling) => filling,
    };
    let mut reader = filling.reader(0..filling.size().unwrap_or(u64::MAX));
    let mut out = Vec::new();
    while let Some(chunk) = reader.next(1 << 20).await? {
        match chunk {
            Chunk::Memory(bytes) => out.extend_from_slice(&bytes),
            Chunk::File { file, range } => {
                let at = out.len();
                out.resize(at + (range.end - range.start) as usize, 0);
                file.read_exact_at(&mut out[at..], range.start).unwrap();
            }
        }
    }
    Ok(out.into())
}

pub fn whole(blob: &Blob) -> Bytes {
    match blob {
        Blob::Memory(bytes) => bytes.clone(),
        Blob::File { file, size } => {
            let mut out = vec![0; *size as usize];
            file.read_exact_at(&mut out, 0).unwrap();
            out.into()
        }
    }
}

pub fn name() -> Name {
    Name::parse("registry.example/team/app").unwrap()
}

/// Bytes that no two pieces have in common.
pub fn bytes(length: usize) -> Bytes {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out.into()
}

/// Nodes that know each other, and their origin.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub origin: Arc<Origin>,
    pub digest: Digest,
    pub list: Vec<Member>,
    certificates: TempDir,
}

/// Listens on a port that the system gives to no connection, so that a node that was killed finds it free when it starts anew.
async fn listen() -> TcpListener {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 15_000 + (std::process::id() % 500 * 32) as u16;
    for _ in 0..10_000 {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 1000;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            return listener;
        }
    }
    panic!("no port is free");
}

impl Cluster {
    /// So many nodes in each of these zones.
    pub async fn start(origin: Origin, zones: &[(&str, usize)], settings: Settings) -> Cluster {
        let certificates = tempfile::tempdir().unwrap();
        let origin = Arc::new(origin);
        let (mut list, mut listeners) = (Vec::new(), Vec::new());
        for (zone, count) in zones {
            for _ in 0..*count {
                let listener = listen().await;
                list.push(Member::new(format!("node-{}", list.len() + 1), listener.local_addr().unwrap(), zone));
                listeners.push(listener);
            }
        }
        let request = peers::Request {
            dir: certificates.path().into(),
            leaves: list.iter().map(|m| Leaf { name: m.id.to_string(), role: Role::Node }).collect(),
            validity: Duration::from_secs(3600),
            ca_validity: Duration::from_secs(3600),
            force: false,
        };
        peers::mint(&request, SystemTime::now()).unwrap();
        let digest = Digest::sha256(&origin.blob);
        let is_open = origin.owner.is_none();
        let mut cluster = Cluster { nodes: Vec::new(), origin, digest, list, certificates };
        for (member, listener) in cluster.list.clone().iter().zip(listeners) {
            let node = cluster.node(member, listener, settings.clone());
            if is_open {
                node.ask(&cluster.digest).await;
            }
            cluster.nodes.push(node);
        }
        cluster
    }

    pub fn identity(&self, name: &str) -> Arc<Identity> {
        Arc::new(Identity::load(Files::in_folder(self.certificates.path().join(name))).unwrap())
    }

    pub fn node(&self, member: &Member, listener: TcpListener, settings: Settings) -> Node {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let store = DiskStore::open(StoreSettings { root, budget: Budget::Bytes(1 << 32) }).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let rules = Rules::default();
        let registry: Registry = "registry.example".parse().unwrap();
        let endpoint: Arc<dyn Source> = Arc::new(Endpoint(self.origin.clone()));
        let upstreams: Arc<dyn Upstreams> =
            Arc::new(One(Arc::new(Upstream { registry, sources: vec![endpoint], rules })));
        let members = Arc::new(Members::new(member.clone()));
        members.replace(self.list.clone());
        let health = Arc::new(Health::default());
        let identity = self.identity(member.id.as_str());
        let swarm = Swarm::new(
            settings,
            members.clone(),
            health.clone(),
            identity.clone(),
            store.clone(),
            upstreams.clone(),
            Metrics::default(),
        );
        let exchange = Exchange::new(listener, identity, swarm.clone()).unwrap();
        let tidying = swarm.clone();
        let tasks = vec![tokio::spawn(exchange.run()), tokio::spawn(async move { tidying.tidy().await })];
        let mut registry = prometheus_client::registry::Registry::default();
        let engine = Engine::start(
            store.clone(),
            Arc::new(WithPeers::new(upstreams, Peers::new(swarm.clone()))),
            EngineSettings::default(),
            cache::Metrics::register(&mut registry),
        );
        Node {
            name: member.id.to_string(),
            engine,
            swarm,
            members,
            health,
            store,
            address: member.address,
            tasks,
            folder,
        }
    }

    /// Has all these nodes pull at once, and checks what they get.
    pub async fn pull_all(&self, nodes: impl IntoIterator<Item = usize>, credential: Option<Credential>) {
        let pulls = nodes.into_iter().map(|index| {
            let credential = credential.clone();
            async move {
                let got = tokio::time::timeout(SOON, self.nodes[index].pull(&self.digest, credential)).await;
                let got = got.unwrap_or_else(|_| panic!("node {index} is stuck"));
                let got = got.unwrap_or_else(|error| panic!("node {index}: {error:?}"));
                assert!(got == self.origin.blob, "node {index} got other bytes");
            }
        });
        futures_util::future::join_all(pulls).await;
    }
}
