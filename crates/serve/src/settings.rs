use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oci::Registry;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;

/// How a [`Server`](crate::Server) answers: by default over plain HTTP, with the usual limits.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// The certificate to show, or plain HTTP.
    pub tls: Option<TlsFiles>,
    /// The registry of names that have none, as Docker's `registry-mirrors` sends them.
    pub unqualified: Option<Registry>,
    /// The clients are container runtimes on this machine, which go on to the origin by themselves.
    pub mirror: Option<Mirror>,
    /// `/v2/` asks for credentials. Many clients send theirs only where it does.
    pub login: bool,
    /// The realm of the Basic challenge.
    pub realm: String,
    /// What clients may use up.
    pub limits: Limits,
}

/// How to answer a container runtime, to which any failure that comes quickly is a way around larder.
#[derive(Clone, Copy, Debug)]
pub struct Mirror {
    /// The head of every answer comes within this time: a 504 if nothing better.
    pub answer: Duration,
}

impl Default for ServeSettings {
    fn default() -> ServeSettings {
        ServeSettings {
            tls: None,
            unqualified: None,
            mirror: None,
            login: false,
            realm: "larder".to_owned(),
            limits: Limits::default(),
        }
    }
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub cert_file: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub key_file: PathBuf,
}

/// Gives the TLS configuration of the moment, so that certificates can be replaced at any time.
pub type TlsChoice = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Tells by a certificate, which was verified, whether its owner may say what is in use.
pub type KeeperChoice = Arc<dyn Fn(&CertificateDer<'_>) -> bool + Send + Sync>;

/// What clients may use up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long the head of a request may take from its first byte, and the TLS handshake.
    pub head: Duration,
    /// How long a connection may wait between two requests. Longer than the 90 s after which Go's client drops it, so that
    /// the side that may send the next request is the one that closes.
    pub keep_alive: Duration,
    /// How long a client may take no byte of an answer. Slowness is no stall: a window that opens now and then is enough.
    pub stall: Duration,
    /// Most connections at once; further ones wait in the listen queue.
    pub connections: usize,
    /// How many requests with refused credentials a client address may send at once before it gets 429; one more each second.
    pub refusals: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(100),
            stall: Duration::from_secs(100),
            connections: connections_of_process(),
            refusals: 20,
        }
    }
}

/// Half of the process's file descriptors: a connection needs its socket, and a file while it sends one.
fn connections_of_process() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
    (limit.saturating_sub(64) / 2).clamp(16, 1 << 16) as usize
}
