//! A server over a real engine and store, an origin within the process, and a client that sees every byte.
#![allow(dead_code)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use cache::{
    Ask, Authority, BlobBody, BlobHead, Budget, Credential, DiskStore, Document, DocumentQuery, Engine, EngineSettings,
    FailureKind, ManifestBody, ManifestHead, NoUpstream, Rules, Source, SourceError, StoreSettings, Upstream,
    Upstreams,
};
use oci::{Digest, MediaType, Name, Reference, Registry};
use prometheus_client::registry::Registry as Numbers;
use serve::{Metrics, Port, ServeSettings, Server, TlsChoice};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a slow machine.
pub const LONG: Duration = Duration::from_secs(30);

/// How the origin sends a blob.
#[derive(Clone)]
pub struct OriginBlob {
    pub bytes: Bytes,
    pub tell_size: bool,
    /// The body breaks off after so many bytes, always.
    pub cut: Option<usize>,
    /// Permits to send a quarter each, where the blob is to come slowly.
    pub gate: Option<Arc<Semaphore>>,
}

/// An origin within the process. `private/…` needs the password `right`.
#[derive(Default)]
pub struct Origin {
    pub manifests: Mutex<HashMap<String, Bytes>>,
    pub blobs: Mutex<HashMap<Digest, OriginBlob>>,
    pub lists: Mutex<Vec<DocumentQuery>>,
    pub next: Mutex<Option<String>>,
    pub down: Mutex<Option<FailureKind>>,
    /// Whoever asks for a blob has to wait.
    pub hangs: Mutex<bool>,
}

impl Origin {
    pub fn tag(&self, tag: &str, text: &str) -> Digest {
        let bytes = Bytes::from(text.to_owned());
        let digest = Digest::sha256(&bytes);
        let mut manifests = self.manifests.lock().unwrap();
        manifests.insert(tag.to_owned(), bytes.clone());
        manifests.insert(digest.to_string(), bytes);
        digest
    }

    pub fn blob(&self, bytes: Vec<u8>) -> Digest {
        self.blob_with(OriginBlob { bytes: bytes.into(), tell_size: true, cut: None, gate: None })
    }

    pub fn blob_with(&self, blob: OriginBlob) -> Digest {
        let digest = Digest::sha256(&blob.bytes);
        self.blobs.lock().unwrap().insert(digest, blob);
        digest
    }

    fn admit(&self, ask: &Ask) -> Result<(), SourceError> {
        if let Some(kind) = *self.down.lock().unwrap() {
            return Err(SourceError::new(kind, "origin", "as the test wishes"));
        }
        let right = Credential::new("me", "right");
        match &ask.authority {
            _ if !ask.name.repository.as_str().starts_with("private/") => Ok(()),
            Authority::Client(credential) if *credential == right => Ok(()),
            _ => Err(SourceError::new(FailureKind::Unauthorized, "origin", "not with this credential")),
        }
    }

    fn find(&self, digest: &Digest) -> Result<OriginBlob, SourceError> {
        let found = self.blobs.lock().unwrap().get(digest).cloned();
        found.ok_or_else(|| SourceError::new(FailureKind::NotFound, "origin", "no such blob"))
    }
}

#[async_trait]
impl Source for Here {
    fn label(&self) -> &str {
        "origin"
    }

    async fn head_manifest(&self, ask: &Ask, reference: &Reference) -> Result<ManifestHead, SourceError> {
        let body = self.manifest(ask, reference).await?;
        Ok(ManifestHead { digest: body.digest, media_type: Some(body.media_type), size: Some(body.bytes.len() as u64) })
    }

    async fn manifest(&self, ask: &Ask, reference: &Reference) -> Result<ManifestBody, SourceError> {
        self.0.admit(ask)?;
        let found = self.0.manifests.lock().unwrap().get(&reference.to_string()).cloned();
        let bytes = found.ok_or_else(|| SourceError::new(FailureKind::NotFound, "origin", "no such manifest"))?;
        let digest = Some(Digest::sha256(&bytes));
        Ok(ManifestBody { bytes, media_type: MediaType::OCI_MANIFEST, digest })
    }

    async fn head_blob(&self, ask: &Ask, digest: &Digest) -> Result<BlobHead, SourceError> {
        self.0.admit(ask)?;
        Ok(BlobHead { size: Some(self.0.find(digest)?.bytes.len() as u64) })
    }

    async fn blob(&self, ask: &Ask, digest: &Digest, from: u64, _until: Option<u64>) -> Result<BlobBody, SourceError> {
        self.0.admit(ask)?;
        while *self.0.hangs.lock().unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let OriginBlob { bytes, tell_size, cut, gate } = self.0.find(digest)?;
        let size = bytes.len();
        let end = cut.unwrap_or(size);
        if from as usize >= end && cut.is_some() {
            return Err(SourceError::new(FailureKind::Unavailable, "origin", "as the test wishes"));
        }
        let step = if gate.is_some() { size.div_ceil(4) } else { 300_000 };
        let start = (from as usize, false);
        let stream = futures_util::stream::unfold(start, move |(at, failed)| {
            let (bytes, gate) = (bytes.clone(), gate.clone());
            async move {
                if at >= end {
                    let broken = cut.is_some() && !failed;
                    let error = || SourceError::new(FailureKind::Unavailable, "origin", "as the test wishes");
                    return broken.then(|| (Err(error()), (at, true)));
                }
                if let Some(gate) = gate {
                    gate.acquire().await.unwrap().forget();
                }
                let next = end.min(at + step);
                Some((Ok(bytes.slice(at..next)), (next, false)))
            }
        });
        Ok(BlobBody { size: tell_size.then_some(size as u64), offset: from, stream: Box::pin(stream), placed: None })
    }

    async fn document(&self, ask: &Ask, query: &DocumentQuery) -> Result<Document, SourceError> {
        self.0.admit(ask)?;
        self.0.lists.lock().unwrap().push(query.clone());
        let (text, filters) = match query {
            DocumentQuery::Tags { .. } => (r#"{"name":"a/b","tags":["x"]}"#, None),
            DocumentQuery::Referrers { .. } => {
                (r#"{"schemaVersion":2,"manifests":[]}"#, Some("artifactType".to_owned()))
            }
        };
        Ok(Document {
            bytes: text.into(),
            media_type: MediaType::JSON,
            next: self.0.next.lock().unwrap().clone(),
            filters_applied: filters,
        })
    }
}

/// The origin as a source.
pub struct Here(pub Arc<Origin>);

struct One(Arc<Upstream>);

impl Upstreams for One {
    fn find(&self, registry: &Registry) -> Result<Arc<Upstream>, NoUpstream> {
        match *registry == self.0.registry {
            true => Ok(self.0.clone()),
            false => Err(NoUpstream { registry: registry.clone(), reason: "the test names one only" }),
        }
    }
}

/// A running server.
pub struct Fixture {
    pub origin: Arc<Origin>,
    pub engine: Arc<Engine>,
    pub addr: SocketAddr,
    /// Where nodes come to.
    pub nodes: Option<SocketAddr>,
    pub numbers: Arc<Numbers>,
    pub store: PathBuf,
    pub cancel: CancellationToken,
    pub ended: tokio::task::JoinHandle<()>,
    pub runtime: Option<tokio::runtime::Runtime>,
    _folder: tempfile::TempDir,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(runtime) = self.runtime.take() {
            // Before the folder goes: a store makes its folders anew where they are missing.
            let _ = runtime.block_on(async { tokio::time::timeout(LONG, self.engine.shutdown()).await });
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

pub const GRACE: Duration = Duration::from_secs(3);

impl Fixture {
    pub fn new() -> Fixture {
        Fixture::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ServeSettings)) -> Fixture {
        Fixture::build(change, None)
    }

    /// One with an address for nodes besides.
    pub fn with_nodes(change: impl FnOnce(&mut ServeSettings), tls: TlsChoice) -> Fixture {
        Fixture::build(change, Some(tls))
    }

    fn build(change: impl FnOnce(&mut ServeSettings), nodes: Option<TlsChoice>) -> Fixture {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let origin = Arc::new(Origin::default());
        let registry: Registry = "reg.test".parse().unwrap();
        let source: Arc<dyn Source> = Arc::new(Here(origin.clone()));
        let upstream = Upstream { registry, sources: vec![source], rules: Rules::default() };
        let mut numbers = Numbers::with_prefix("larder");
        let store = folder.path().join("store");
        let settings = StoreSettings { root: store.clone(), budget: Budget::Bytes(1 << 30) };
        let disk = DiskStore::open(settings).unwrap();
        let cache_metrics = cache::Metrics::register(&mut numbers);
        let metrics = Metrics::register(&mut numbers);
        let mut settings = ServeSettings::default();
        change(&mut settings);
        let (engine, server) = runtime.block_on(async {
            let port = Port::take("127.0.0.1:0".parse().unwrap()).unwrap();
            let upstreams = Arc::new(One(Arc::new(upstream)));
            let engine = Engine::start(Arc::new(disk), upstreams, EngineSettings::default(), cache_metrics);
            let mut server = Server::new(port, settings, engine.clone(), metrics).unwrap();
            if let Some(tls) = nodes {
                server = server.with_nodes(Port::take("127.0.0.1:0".parse().unwrap()).unwrap(), tls, None);
            }
            (engine, server)
        });
        let (addr, nodes, cancel) = (server.local_addr(), server.nodes_addr(), CancellationToken::new());
        let ended = runtime.spawn(server.run(cancel.clone(), GRACE));
        Fixture {
            origin,
            engine,
            addr,
            nodes,
            numbers: Arc::new(numbers),
            store,
            cancel,
            ended,
            runtime: Some(runtime),
            _folder: folder,
        }
    }

    /// Has a blob fetched and waits until it is in the store.
    pub fn keep(&self, digest: &Digest) {
        let request = cache::Request { name: Name::parse("reg.test/a/b").unwrap(), claim: None };
        wait_for("the blob is kept", || {
            let reply = self.runtime.as_ref().unwrap().block_on(self.engine.blob(&request, digest)).unwrap();
            matches!(reply.content, cache::Content::Whole(_))
        });
    }

    pub fn connect(&self) -> Client {
        Client::new(self.addr)
    }

    /// The value of a metric without labels.
    pub fn number(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.numbers).unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap()
    }
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that are not the same anywhere else.
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = size as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// One connection.
pub struct Client<S = TcpStream> {
    pub stream: S,
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// The body is as long as announced.
    pub complete: bool,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The code in an error's body.
    pub fn code(&self) -> &str {
        let at = self.text().find(r#"{"errors":[{"code":""#).expect("an OCI error");
        self.text()[at + 20..].split('"').next().unwrap()
    }
}

impl Client {
    pub fn new(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        Client::over(stream)
    }
}

impl<S: Read + Write> Client<S> {
    pub fn over(stream: S) -> Client<S> {
        Client { stream, read: Vec::new() }
    }

    pub fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: larder\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        self.stream.write_all(format!("{text}\r\n").as_bytes()).unwrap();
    }

    pub fn get(&mut self, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.send("GET", target, headers);
        self.reply()
    }

    pub fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(method, target, headers);
        let mut reply = self.head().expect("an answer");
        if method != "HEAD" {
            self.body(&mut reply);
        }
        reply
    }

    pub fn reply(&mut self) -> Reply {
        let mut reply = self.head().expect("an answer");
        self.body(&mut reply);
        reply
    }

    /// Reads a head; `None` if the connection ends before.
    pub fn head(&mut self) -> Option<Reply> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if !self.more() {
                assert!(self.read.is_empty(), "half a head");
                return None;
            }
        };
        let head: Vec<u8> = self.read.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HashMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            assert!(headers.insert(name.to_lowercase(), value.to_owned()).is_none(), "{name} twice");
        }
        Some(Reply { status, headers, body: Vec::new(), complete: false })
    }

    pub fn body(&mut self, reply: &mut Reply) {
        if reply.header("transfer-encoding") == Some("chunked") {
            return self.chunked(reply);
        }
        if matches!(reply.status, 204 | 304) {
            reply.complete = true;
            return;
        }
        let length: usize = reply.header("content-length").expect("a length").parse().unwrap();
        while self.read.len() < length && self.more() {}
        let most = length.min(self.read.len());
        reply.body = self.read.drain(..most).collect();
        reply.complete = reply.body.len() == length;
    }

    fn chunked(&mut self, reply: &mut Reply) {
        loop {
            let line = loop {
                if let Some(at) = self.read.windows(2).position(|two| two == b"\r\n") {
                    break at;
                }
                if !self.more() {
                    return;
                }
            };
            let size = String::from_utf8(self.read.drain(..line + 2).collect()).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            while self.read.len() < size + 2 {
                if !self.more() {
                    reply.body.append(&mut self.read);
                    return;
                }
            }
            reply.body.extend(self.read.drain(..size));
            self.read.drain(..2);
            if size == 0 {
                reply.complete = true;
                return;
            }
        }
    }

    /// Reads once; false at the end of the connection.
    pub fn more(&mut self) -> bool {
        let mut buffer = vec![0; 256 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(read) => {
                self.read.extend_from_slice(&buffer[..read]);
                true
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("the server neither sends nor closes")
            }
            Err(_) => false,
        }
    }

    /// Whether nothing comes any more.
    pub fn ended(&mut self) -> bool {
        self.read.is_empty() && !self.more()
    }

    /// What was read and not yet looked at.
    pub fn buffered(&self) -> usize {
        self.read.len()
    }
}

impl Default for Fixture {
    fn default() -> Fixture {
        Fixture::new()
    }
}
