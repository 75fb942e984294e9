//! The handle that tests hold.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::auth::{Auth, TokenSettings};
use crate::content::Image;
use crate::log::{Log, Request};
use crate::pace::Bucket;
use crate::request::Kind;
use crate::rules::{Armed, Rule};
use crate::serve::{GateBoard, Order, Quota, Shared, run};
use crate::source::Source;
use crate::tls::Tls;

const BACKLOG: u32 = 1024;
/// How long a port that was free for a while may be somebody else's.
const PORT_COMES_BACK: Duration = Duration::from_secs(20);

/// A registry under the test's control. It runs on threads of its own, so a test may block; dropping it closes everything.
pub struct Upstream {
    shared: Arc<Shared>,
    trust: Option<String>,
    orders: watch::Sender<Order>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    runtime: Option<Runtime>,
}

impl Upstream {
    /// Plain HTTP on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn start() -> anyhow::Result<Self> {
        Self::open(SocketAddr::from(([127, 0, 0, 1], 0)), None)
    }

    /// Plain HTTP on this address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_on(addr: SocketAddr) -> anyhow::Result<Self> {
        Self::open(addr, None)
    }

    /// TLS on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be had or the certificate cannot be made or read.
    pub async fn start_tls(tls: Tls) -> anyhow::Result<Self> {
        Self::open(SocketAddr::from(([127, 0, 0, 1], 0)), Some(tls))
    }

    /// The same for callers that are not async: this address, with TLS or without.
    ///
    /// # Errors
    /// When the address cannot be bound or the certificate cannot be made or read.
    pub fn open(addr: SocketAddr, tls: Option<Tls>) -> anyhow::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("faulty").enable_all().build()?;
        let (config, trust) = tls.map(|tls| tls.build()).transpose()?.unzip();
        let listener = {
            let _context = runtime.enter();
            listen(addr)?
        };
        let shared = Arc::new(Shared {
            addr: listener.local_addr()?,
            tls: config,
            content: RwLock::default(),
            accounts: RwLock::default(),
            rules: RwLock::default(),
            cap: RwLock::default(),
            quota: Mutex::default(),
            log: Log::new(),
            gates: GateBoard::default(),
        });
        let orders = watch::Sender::new(Order::Run);
        let task = runtime.spawn(run(listener, shared.clone(), orders.subscribe()));
        Ok(Self { shared, trust, orders, accepting: Mutex::new(Some(task)), runtime: Some(runtime) })
    }

    /// Address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// `http://127.0.0.1:PORT` or `https://...`, without a slash at the end.
    pub fn url(&self) -> String {
        self.shared.url()
    }

    /// `127.0.0.1:PORT`, as it stands in an image reference.
    pub fn host(&self) -> String {
        self.shared.addr.to_string()
    }

    /// What clients must trust to accept the certificate: the CA, or the certificate itself where it is self-signed or given.
    /// Empty without TLS.
    pub fn ca_pem(&self) -> &str {
        self.trust.as_deref().unwrap_or_default()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// Content.
impl Upstream {
    /// Puts a blob; gives its `sha256:` digest.
    pub fn blob(&self, repo: &str, bytes: impl Into<Bytes>) -> String {
        let source = Source::bytes(bytes);
        let digest = source.sha256();
        self.shared.content(|content| content.put_blob(repo, &digest, source));
        digest
    }

    /// Puts a blob under its `sha512:` digest.
    pub fn blob_sha512(&self, repo: &str, bytes: impl Into<Bytes>) -> String {
        let source = Source::bytes(bytes);
        let digest = source.sha512();
        self.shared.content(|content| content.put_blob(repo, &digest, source));
        digest
    }

    /// Puts `size` bytes that follow from `seed`, without holding them. Blocks about 1 s per GB for the digest, once per
    /// process for equal size and seed.
    pub fn generated_blob(&self, repo: &str, size: u64, seed: u64) -> String {
        let source = Source::generated(size, seed);
        let digest = source.sha256();
        self.shared.content(|content| content.put_blob(repo, &digest, source));
        digest
    }

    /// Puts `source` under a digest that need not be its own.
    pub fn blob_as(&self, repo: &str, digest: &str, source: Source) {
        self.shared.content(|content| content.put_blob(repo, digest, source));
    }

    /// Puts a manifest of any type, or any bytes in its place; gives its `sha256:` digest. It is found by its `sha512:`
    /// digest as well, and by the tag, if one is given (`"latest"` or `None`).
    pub fn manifest<'a>(
        &self,
        repo: &str,
        tag: impl Into<Option<&'a str>>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> String {
        self.shared.content(|content| content.put_manifest(repo, tag.into(), media_type, bytes.into()))
    }

    /// Puts a whole image with layers of these sizes in bytes. Layers are tar archives that a runtime can unpack (from 2 KiB
    /// up) and follow from the seed.
    pub fn image<'a>(&self, repo: &str, tag: impl Into<Option<&'a str>>, layers: &[usize], seed: u64) -> Image {
        let layers: Vec<u64> = layers.iter().map(|size| *size as u64).collect();
        self.shared.content(|content| content.put_image(repo, tag.into(), &layers, seed))
    }

    /// Puts an index over images of the same repository, each with its platform (`linux/amd64`).
    pub fn index<'a>(&self, repo: &str, tag: impl Into<Option<&'a str>>, children: &[(&str, &Image)]) -> Image {
        self.shared.content(|content| content.put_index(repo, tag.into(), children))
    }

    /// Puts an artifact that refers to `subject`.
    pub fn artifact(&self, repo: &str, artifact_type: &str, subject: &Image, payload: impl Into<Bytes>) -> Image {
        self.shared.content(|content| content.put_artifact(repo, artifact_type, subject, payload.into()))
    }

    /// Points a tag at a digest.
    pub fn move_tag(&self, repo: &str, tag: &str, digest: &str) {
        self.shared.content(|content| content.move_tag(repo, tag, digest));
    }

    /// Removes a tag, a manifest with its tags, or a blob; false if there was none.
    pub fn delete(&self, repo: &str, reference: &str) -> bool {
        self.shared.content(|content| content.delete(repo, reference))
    }

    /// Serves the content of `other` from now on, whatever is put there later included: a mirror, or a CDN to redirect to.
    pub fn mirror_of(&self, other: &Upstream) {
        let content = other.shared.content.read().expect("no panic while held").clone();
        *self.shared.content.write().expect("no panic while held") = content;
    }
}

/// Faults.
impl Upstream {
    /// Adds a rule after those there are.
    pub fn rule(&self, rule: Rule) {
        self.shared.rules.write().expect("no panic while held").push(Armed::new(rule));
    }

    /// Puts these rules in place of those there are; all counting begins anew.
    pub fn rules(&self, rules: Vec<Rule>) {
        *self.shared.rules.write().expect("no panic while held") = rules.into_iter().map(Armed::new).collect();
    }

    /// The rules in force.
    pub fn rules_in_force(&self) -> Vec<Rule> {
        self.shared.rules.read().expect("no panic while held").iter().map(|armed| armed.rule().clone()).collect()
    }

    /// Behaves well from now on; answers under way keep their faults.
    pub fn clear_rules(&self) {
        self.rules(Vec::new());
    }

    /// Limits all answers of this upstream together to so many body bytes per second; `None` lifts the limit. Answers under
    /// way keep the limit that they began with.
    pub fn cap(&self, bytes_per_second: Option<u64>) {
        *self.shared.cap.write().expect("no panic while held") = bytes_per_second.map(Bucket::new);
    }

    /// Counts manifest GETs as Docker Hub does: quota headers on every manifest answer, 429 when it is used up, HEAD is free.
    pub fn docker_hub_limit(&self, limit: u64) {
        *self.shared.quota.lock().expect("no panic while held") = Some(Quota { limit, used: 0 });
    }

    /// Lets all answers pass that are held at this gate, and those to come.
    pub fn open_gate(&self, gate: &str) {
        self.shared.gates.set(gate, true);
    }

    /// Shuts a gate again.
    pub fn shut_gate(&self, gate: &str) {
        self.shared.gates.set(gate, false);
    }

    /// Waits until so many answers are held at the gate; false if the deadline comes first.
    pub async fn wait_at_gate(&self, gate: &str, answers: usize, deadline: Duration) -> bool {
        let end = tokio::time::Instant::now() + deadline;
        while self.shared.gates.waiting(gate) < answers {
            if tokio::time::Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        true
    }

    /// Cuts every connection that is open now.
    pub fn drop_connections(&self) {
        self.orders.send_modify(|order| {
            *order = match order {
                Order::Drop(number) => Order::Drop(*number + 1),
                _ => Order::Drop(0),
            };
        });
    }

    /// Closes the listener and all connections: from now on connections are refused. Returns when that is so.
    pub async fn refuse(&self) {
        let task = self.accepting.lock().expect("no panic while held").take();
        if let Some(task) = task {
            self.orders.send_replace(Order::Stop);
            // The task ends by itself; that it panicked would show in the test anyway.
            let _ = task.await;
        }
    }

    /// Listens again on the same address after [`refuse`](Self::refuse).
    ///
    /// # Errors
    /// When the address cannot be bound again.
    pub async fn accept(&self) -> anyhow::Result<()> {
        let mut accepting = self.accepting.lock().expect("no panic while held");
        if let (None, Some(runtime)) = (accepting.as_ref(), &self.runtime) {
            // Somebody may have been given the port for a connection of theirs meanwhile.
            let end = Instant::now() + PORT_COMES_BACK;
            let listener = loop {
                let listening = {
                    let _context = runtime.enter();
                    listen(self.shared.addr)
                };
                match listening {
                    Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
                    listening => break listening?,
                }
            };
            self.orders.send_replace(Order::Run);
            *accepting = Some(runtime.spawn(run(listener, self.shared.clone(), self.orders.subscribe())));
        }
        Ok(())
    }
}

/// Accounts.
impl Upstream {
    /// How repositories are guarded that nothing else is said about. With `Basic` or `Bearer` all are private at first.
    pub fn auth(&self, mode: Auth) {
        self.shared.accounts(|accounts| accounts.mode = mode);
    }

    /// Another way for repositories of this pattern (a `*` at the end stands for any rest).
    pub fn repo_auth(&self, pattern: &str, mode: Auth) {
        self.shared.accounts(|accounts| accounts.repo_modes.push((pattern.to_owned(), mode)));
    }

    /// Adds or replaces an account that may read repositories of these patterns.
    pub fn account(&self, user: &str, password: &str, repos: &[&str]) {
        self.shared.accounts(|accounts| accounts.put(user, password, repos));
    }

    /// Removes an account; its tokens read only what is public from now on.
    pub fn remove_account(&self, user: &str) {
        self.shared.accounts(|accounts| accounts.remove(user));
    }

    /// Lets an account read a repository or pattern.
    pub fn grant(&self, user: &str, repo: &str) {
        self.shared.accounts(|accounts| accounts.grant(user, repo));
    }

    /// Takes a repository or pattern from an account, at once, for tokens that exist as well.
    pub fn revoke(&self, user: &str, repo: &str) {
        self.shared.accounts(|accounts| accounts.revoke(user, repo));
    }

    /// Repositories of this pattern need no account. With `Bearer` they still need an anonymous token, as on Docker Hub.
    pub fn public(&self, pattern: &str) {
        self.shared.accounts(|accounts| accounts.set_public(pattern, true));
    }

    /// Takes back [`public`](Self::public).
    pub fn private(&self, pattern: &str) {
        self.shared.accounts(|accounts| accounts.set_public(pattern, false));
    }

    /// What somebody with a valid but insufficient credential gets: 401, 403 or 404. Before: 403 with Basic, 401 with Bearer.
    pub fn deny_with(&self, pattern: &str, status: u16) {
        self.shared.accounts(|accounts| accounts.deny_with(pattern, status));
    }

    /// What the token service hands out and what challenges say.
    pub fn tokens(&self, settings: TokenSettings) {
        self.shared.accounts(|accounts| accounts.settings = settings);
    }

    /// All tokens handed out so far are invalid from now on.
    pub fn expire_tokens(&self) {
        self.shared.accounts(|accounts| accounts.expire_tokens());
    }

    /// Requests to the token service so far, refused ones included.
    pub fn token_fetches(&self) -> u64 {
        self.shared.accounts(|accounts| accounts.fetches)
    }

    /// Answers `/token` for `other` too, whose challenges point here from now on: a token server on another host.
    pub fn token_service_for(&self, other: &Upstream) {
        let accounts = other.shared.accounts.read().expect("no panic while held").clone();
        *self.shared.accounts.write().expect("no panic while held") = accounts;
        self.shared.accounts(|accounts| accounts.settings.realm = Some(format!("{}/token", self.url())));
    }
}

/// What happened.
impl Upstream {
    /// All requests since the start or the last `clear_log`, in order of arrival; control requests are not in it.
    pub fn log(&self) -> Vec<Request> {
        self.shared.log.all()
    }

    /// Microseconds since the start, the clock of the log.
    pub fn now_us(&self) -> u64 {
        self.shared.log.now_us()
    }

    /// Forgets the requests and the count of connections.
    pub fn clear_log(&self) {
        self.shared.log.clear();
    }

    /// Requests of this method and kind.
    pub fn count(&self, method: &str, kind: Kind) -> usize {
        self.log().iter().filter(|request| request.method == method && request.kind == kind).count()
    }

    /// GETs of this blob in any repository, ranged ones included.
    pub fn blob_gets(&self, digest: &str) -> usize {
        let get = |request: &&Request| request.method == "GET" && request.kind == Kind::Blob;
        self.log().iter().filter(get).filter(|request| request.reference == digest).count()
    }

    /// Connections accepted since the start or the last `clear_log`, those that ended before a request included.
    pub fn connections(&self) -> u64 {
        self.shared.log.connections()
    }

    /// Body bytes sent of this blob or manifest so far.
    pub fn bytes_sent(&self, digest: &str) -> u64 {
        self.log().iter().filter(|request| request.reference == digest).map(|request| request.bytes).sum()
    }

    /// Waits until `wanted` is true of the log; false if the deadline comes first.
    pub async fn wait_for(&self, wanted: impl FnMut(&[Request]) -> bool, deadline: Duration) -> bool {
        self.shared.log.wait_for(wanted, deadline).await
    }

    /// Appends each request to this file as a line of JSON when it has been answered.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn log_to(&self, path: &std::path::Path) -> std::io::Result<()> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        self.shared.log.write_to(file);
        Ok(())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.orders.send_replace(Order::Stop);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn listen(addr: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}
