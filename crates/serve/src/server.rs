use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::Host;
use crate::handshake::{Door, Handshake};
use crate::metrics::Metrics;
use crate::port::Port;
use crate::service::Shared;
use crate::settings::{KeeperChoice, Limits, ServeSettings, TlsChoice};
use crate::throttle::Throttle;

/// How long to wait when there are no more file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The realm cannot stand in a header.
    #[error("the realm may hold printable ASCII characters without quotes only")]
    Realm,
}

/// Answers the distribution API from an engine.
pub struct Server {
    clients: Entrance,
    nodes: Option<Entrance>,
    shared: Arc<Shared>,
    limits: Limits,
}

/// An address that is listened on, and how a connection there begins.
struct Entrance {
    listener: TcpListener,
    addr: SocketAddr,
    tls: Option<Arc<Handshake>>,
}

impl Entrance {
    fn new(port: Port, tls: Option<Handshake>) -> Entrance {
        let Port { listener, addr } = port;
        Entrance { listener, addr, tls: tls.map(Arc::new) }
    }

    /// The next connection. Cancellation-safe.
    async fn accept(&self) -> (io::Result<(TcpStream, SocketAddr)>, Option<Arc<Handshake>>) {
        (self.listener.accept().await, self.tls.clone())
    }
}

impl Server {
    /// Answers those who come to `port` from [`Server::run`] on. Reads the certificate.
    pub fn new(
        port: Port,
        settings: ServeSettings,
        engine: Arc<cache::Engine>,
        metrics: Metrics,
    ) -> Result<Server, Error> {
        let ServeSettings { tls, unqualified, mirror, login, realm, limits } = settings;
        let plain = realm.bytes().all(|c| (c == b' ' || c.is_ascii_graphic()) && c != b'"' && c != b'\\');
        let challenge = HeaderValue::try_from(format!("Basic realm=\"{realm}\", charset=\"UTF-8\""))
            .ok()
            .filter(|_| plain)
            .ok_or(Error::Realm)?;
        let tls = tls.as_ref().map(crate::tls::shown).transpose()?;
        let tls = tls.map(|choice| Handshake::new(Door::Clients, choice, metrics.clone()));
        let throttle = Throttle::new(limits.refusals);
        let shared = Arc::new(Shared { engine, metrics, unqualified, mirror, login, challenge, throttle });
        Ok(Server { clients: Entrance::new(port, tls), nodes: None, shared, limits })
    }

    /// Answers nodes besides, who come to `port` over TLS: whom to let in is for `tls` to say, and what a client may have
    /// is then found out as for any other. Whoever `keeper` tells may say what is in use.
    /// Limits hold for both addresses together.
    #[must_use]
    pub fn with_nodes(mut self, port: Port, tls: TlsChoice, keeper: Option<KeeperChoice>) -> Server {
        let mut handshake = Handshake::new(Door::Nodes, tls, self.shared.metrics.clone());
        if let Some(keeper) = keeper {
            handshake = handshake.with_keeper(keeper);
        }
        self.nodes = Some(Entrance::new(port, Some(handshake)));
        self
    }

    /// The address in use, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.clients.addr
    }

    /// The same of the address for nodes, if there is one.
    pub fn nodes_addr(&self) -> Option<SocketAddr> {
        self.nodes.as_ref().map(|nodes| nodes.addr)
    }

    /// Serves until `cancel`; then lets answers in progress end for `grace`, and cuts what is left.
    pub async fn run(self, cancel: CancellationToken, grace: Duration) {
        let Server { clients, nodes, shared, limits, .. } = self;
        let metrics = shared.metrics.clone();
        let slots = Arc::new(Semaphore::new(limits.connections));
        let abort = CancellationToken::new();
        let host =
            Arc::new(Host { shared, limits, drain: cancel.clone(), abort: abort.clone(), pressure: Notify::new() });
        let connections = TaskTracker::new();
        let accept = async {
            loop {
                let slot = match slots.clone().try_acquire_owned() {
                    Ok(slot) => slot,
                    Err(_) => {
                        metrics.waited();
                        freed(&slots, &host).await
                    }
                };
                let (accepted, tls) = match &nodes {
                    None => clients.accept().await,
                    Some(nodes) => tokio::select! {
                        accepted = clients.accept() => accepted,
                        accepted = nodes.accept() => accepted,
                    },
                };
                match accepted {
                    Ok((stream, address)) => {
                        let host = host.clone();
                        connections.spawn(async move {
                            host.serve(stream, address, tls.as_deref()).await;
                            drop(slot);
                        });
                    }
                    // Of this one connection, and no reason to wait (accept(2)).
                    Err(error) if is_of_the_client(&error) => {}
                    Err(error) => {
                        metrics.accept_failed();
                        tracing::warn!(%error, "cannot accept connections");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = cancel.cancelled() => {}
        }
        drop((clients, nodes));
        connections.close();
        if tokio::time::timeout(grace, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "cut what did not end in time");
            abort.cancel();
            connections.wait().await;
        }
    }
}

/// Waits for another connection's end, and has those end that wait for a request that may never come.
async fn freed(slots: &Arc<Semaphore>, host: &Host) -> OwnedSemaphorePermit {
    loop {
        host.pressure.notify_waiters();
        if let Ok(slot) = tokio::time::timeout(PAUSE, slots.clone().acquire_owned()).await {
            return slot.expect("the semaphore is never closed");
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
