//! Connections and requests: from accept to the end of each answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::auth::{Accounts, is_guarded};
use crate::content::Content;
use crate::control;
use crate::fault::{self, Ending, Fault};
use crate::log::Log;
use crate::pace::Bucket;
use crate::registry;
use crate::reply::Reply;
use crate::request::{Incoming, Kind};
use crate::rules::{Armed, decide};
use crate::wire::{After, Conn, Gates, Stream};

/// The pull quota that is emulated, if any.
#[derive(Clone, Copy)]
pub(crate) struct Quota {
    pub(crate) limit: u64,
    pub(crate) used: u64,
}

/// Everything that the handle and the connections share.
pub(crate) struct Shared {
    pub(crate) addr: SocketAddr,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) content: RwLock<Arc<Mutex<Content>>>,
    pub(crate) accounts: RwLock<Arc<Mutex<Accounts>>>,
    pub(crate) rules: RwLock<Vec<Arc<Armed>>>,
    pub(crate) cap: RwLock<Option<Arc<Bucket>>>,
    pub(crate) quota: Mutex<Option<Quota>>,
    pub(crate) log: Arc<Log>,
    pub(crate) gates: GateBoard,
}

impl Shared {
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    pub(crate) fn content<R>(&self, with: impl FnOnce(&mut Content) -> R) -> R {
        let content = self.content.read().expect("no panic while held").clone();
        with(&mut content.lock().expect("no panic while held"))
    }

    pub(crate) fn accounts<R>(&self, with: impl FnOnce(&mut Accounts) -> R) -> R {
        let accounts = self.accounts.read().expect("no panic while held").clone();
        with(&mut accounts.lock().expect("no panic while held"))
    }

    fn decide(&self, incoming: &Incoming, before_auth: bool) -> Option<Arc<Armed>> {
        decide(&self.rules.read().expect("no panic while held"), incoming, before_auth)
    }

    /// The answer to a request, and the names of the faults in it.
    fn reply(&self, incoming: &Incoming) -> (Reply, Vec<String>) {
        let early = self.decide(incoming, true);
        let refusal = match early {
            None if is_guarded(incoming.kind) => self.accounts(|accounts| accounts.check(incoming, &self.url())),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return (refusal, Vec::new());
        }
        let mut reply = match incoming.kind {
            Kind::Token => self.accounts(|accounts| accounts.issue(incoming)),
            _ => self.content(|content| registry::answer(content, incoming)),
        };
        if incoming.kind == Kind::Manifest {
            self.charge(incoming, &mut reply);
        }
        reply.paces.extend(self.cap.read().expect("no panic while held").clone());
        let Some(rule) = early.or_else(|| self.decide(incoming, false)) else { return (reply, Vec::new()) };
        fault::apply(&rule, incoming, &mut reply);
        (reply, rule.faults().iter().map(Fault::name).collect())
    }

    /// Counts a manifest GET against the quota; a HEAD is free but tells what is left.
    fn charge(&self, incoming: &Incoming, reply: &mut Reply) {
        let mut quota = self.quota.lock().expect("no panic while held");
        let Some(quota) = quota.as_mut() else { return };
        if !incoming.head_only() {
            if quota.used >= quota.limit {
                reply.replace(Reply::error(429, "You have reached your pull rate limit."));
            } else {
                quota.used += 1;
            }
        }
        reply.rate_limit(quota.limit, quota.limit - quota.used);
    }
}

/// Named gates: shut until they are opened.
#[derive(Default)]
pub(crate) struct GateBoard(Mutex<HashMap<String, watch::Sender<bool>>>);

impl GateBoard {
    fn with<R>(&self, gate: &str, with: impl FnOnce(&watch::Sender<bool>) -> R) -> R {
        let mut gates = self.0.lock().expect("no panic while held");
        with(gates.entry(gate.to_owned()).or_insert_with(|| watch::channel(false).0))
    }

    pub(crate) fn set(&self, gate: &str, open: bool) {
        self.with(gate, |sender| sender.send_replace(open));
    }

    pub(crate) fn waiting(&self, gate: &str) -> usize {
        self.with(gate, |sender| sender.receiver_count())
    }
}

impl Gates for GateBoard {
    async fn opened(&self, gate: &str) {
        let mut receiver = self.with(gate, |sender| sender.subscribe());
        // The board owns the sender and outlives every connection.
        let _ = receiver.wait_for(|open| *open).await;
    }
}

/// What the handle tells the accept loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Run,
    /// Cut all connections, and go on. The number makes each order a new one.
    Drop(u64),
    /// Close the listener and cut all connections.
    Stop,
}

/// Accepts until told to stop. Ends only when every connection has ended.
pub(crate) async fn run(listener: TcpListener, shared: Arc<Shared>, mut orders: watch::Receiver<Order>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    connections.spawn(connection(shared.clone(), tcp));
                }
                // Out of descriptors: there will be some when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            changed = orders.changed() => {
                let order = *orders.borrow_and_update();
                if changed.is_err() || order == Order::Stop {
                    break;
                }
                connections.shutdown().await;
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection(shared: Arc<Shared>, tcp: TcpStream) {
    let number = shared.log.connection();
    // Best effort: without it answers are only slower.
    let _ = tcp.set_nodelay(true);
    let newcomer = Incoming { kind: Kind::Connection, ..Incoming::default() };
    if let Some(abort) =
        shared.decide(&newcomer, false).and_then(|rule| rule.faults().iter().find_map(fault::on_connection))
    {
        let mut conn = Conn::new(Stream::Plain(tcp));
        let ending = conn.abort(&abort).await.unwrap_or(Ending::Fin);
        return conn.end(ending).await;
    }
    let stream = match &shared.tls {
        None => Stream::Plain(tcp),
        Some(config) => match TlsAcceptor::from(config.clone()).accept(tcp).await {
            Ok(tls) => Stream::Tls(Box::new(tls)),
            Err(_) => return,
        },
    };
    let mut conn = Conn::new(stream);
    while let Ok(Some(incoming)) = conn.request().await {
        let after = if incoming.path.starts_with("/_faulty/") {
            let entry = Log::new().open(number, &incoming);
            let outgoing = control::answer(&shared, &incoming).finish(&incoming);
            conn.answer(&incoming, outgoing, &shared.gates, &entry).await
        } else {
            let entry = shared.log.open(number, &incoming);
            let (reply, faults) = shared.reply(&incoming);
            entry.update(|request| request.faults = faults);
            let mut unfinished = Unfinished(Some(entry));
            let entry = unfinished.0.as_ref().expect("taken only below").clone();
            let after = conn.answer(&incoming, reply.finish(&incoming), &shared.gates, &entry).await;
            unfinished.finish(matches!(after, Ok(After::Open | After::Close)));
            after
        };
        match after {
            Ok(After::Open) => {}
            Ok(After::Close) => return conn.close().await,
            Ok(After::Broken(ending)) => return conn.end(ending).await,
            Err(_) => return,
        }
    }
}

/// Marks the log entry as ended also when the connection's task is cut in the middle.
struct Unfinished(Option<Arc<crate::log::Entry>>);

impl Unfinished {
    fn finish(&mut self, complete: bool) {
        if let Some(entry) = self.0.take() {
            entry.finish(complete);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.finish(false);
    }
}
