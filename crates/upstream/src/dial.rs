use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::address::{Resolver, is_global};
use crate::handshake::{Named, Problem};
use crate::trust::Trust;

/// How long an address has for itself before the next one is tried beside it (RFC 8305, "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);
/// So many addresses of a name are tried.
const MOST_ADDRESSES: usize = 8;

/// Hosts about which the configuration says something.
pub(crate) type Hosts = HashMap<(String, Option<u16>), HostRule>;

/// What the configuration says about a host.
#[derive(Clone, Default)]
pub(crate) struct HostRule {
    /// Whose certificates it may show. Being in the map at all allows it any address.
    pub(crate) trust: Trust,
    /// Where it says so.
    pub(crate) named: Named,
}

/// Connects to hosts: looks up, checks every address, dials, does TLS.
#[derive(Clone)]
pub(crate) struct Dialer(Arc<Inner>);

struct Inner {
    resolver: Arc<dyn Resolver>,
    hosts: Hosts,
    deadline: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(
        "{0} has no address that larder may connect to: only public addresses are, unless an upstream names the host"
    )]
    Refused(String),
    #[error("no connection to {0} in time")]
    Timeout(String),
    #[error("{host} cannot be looked up: {error}")]
    Lookup { host: String, error: io::Error },
    #[error("no connection to {host}: {error}")]
    Connect { host: String, error: io::Error },
    #[error("TLS with {host} failed: {problem}")]
    Tls { host: String, problem: Problem, named: Named },
}

impl Dialer {
    pub(crate) fn new(resolver: Arc<dyn Resolver>, hosts: Hosts, deadline: Duration) -> Dialer {
        Dialer(Arc::new(Inner { resolver, hosts, deadline }))
    }
}

impl Inner {
    fn rule(&self, host: &str, port: u16) -> Option<&HostRule> {
        let mut key = (host.to_owned(), Some(port));
        self.hosts.get(&key).or_else(|| {
            key.1 = None;
            self.hosts.get(&key)
        })
    }

    async fn dial(&self, uri: Uri) -> Result<Conduit, DialError> {
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let named = format!("{host}:{port}");
        let rule = self.rule(&host, port);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let deadline = Instant::now() + self.deadline;
        let connecting = timeout_at(deadline, self.connect(bare, port, rule.is_some(), &named)).await;
        let stream = connecting.unwrap_or_else(|_| Err(DialError::Timeout(named.clone())))?;
        if !secure {
            return Ok(Conduit::Plain(TokioIo::new(stream)));
        }
        let HostRule { trust, named: setting } = rule.cloned().unwrap_or_default();
        let shaken = timeout_at(deadline, shake_hands(trust, bare, stream)).await;
        match shaken.unwrap_or(Err(Problem::Silent)) {
            Ok(stream) => Ok(Conduit::Tls(Box::new(TokioIo::new(stream)))),
            Err(problem) => Err(DialError::Tls { host: named, problem, named: setting }),
        }
    }

    async fn connect(&self, bare: &str, port: u16, listed: bool, named: &str) -> Result<TcpStream, DialError> {
        let mut addresses = match bare.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => {
                let found = self.resolver.resolve(bare, port).await;
                found.map_err(|error| DialError::Lookup { host: named.to_owned(), error })?
            }
        };
        if addresses.is_empty() {
            let error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            return Err(DialError::Lookup { host: named.to_owned(), error });
        }
        if !listed {
            addresses.retain(|address| is_global(address.ip()));
        }
        if addresses.is_empty() {
            return Err(DialError::Refused(named.to_owned()));
        }
        let stream = race(interleave(addresses)).await;
        let stream = stream.map_err(|error| DialError::Connect { host: named.to_owned(), error })?;
        // Failing to set an option of a fresh socket means that it is gone already, which the next write tells better.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

async fn shake_hands(trust: Trust, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, Problem> {
    // The first use reads files.
    let config = tokio::task::spawn_blocking(move || trust.config()).await;
    let config = config.map_err(|error| Problem::Other(error.to_string()))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Problem::Other(error.to_string()))?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| Problem::of(&error))
}

/// Alternates between the families, beginning with the one that the resolver put first.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut other = other.into_iter();
    let mut mixed: Vec<_> = same.into_iter().flat_map(|address| [Some(address), other.next()]).flatten().collect();
    mixed.extend(other);
    mixed.truncate(MOST_ADDRESSES);
    mixed
}

/// The first connection that opens. An address that fails makes room for the next at once, one that is silent after a while.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::other("the name has no address");
    loop {
        match waiting.next() {
            Some(address) => attempts.push(TcpStream::connect(address)),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        let more = waiting.len() > 0;
        let head_start = async {
            if more {
                tokio::time::sleep(HEAD_START).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            Some(outcome) = attempts.next() => match outcome {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            },
            () = head_start => {}
        }
    }
}

impl tower_service::Service<Uri> for Dialer {
    type Response = Conduit;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Conduit, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move { inner.dial(uri).await })
    }
}

/// A connection, plain or by TLS.
pub(crate) enum Conduit {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Conduit {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Conduit {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conduit::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Conduit::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl Write for Conduit {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Conduit::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Conduit::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conduit::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Conduit::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conduit::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Conduit::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert_eq!(
            interleave(addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"])),
            addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"])
        );
        assert_eq!(interleave(addresses(&["1.1.1.1:1"])), addresses(&["1.1.1.1:1"]));
        assert_eq!(
            interleave(addresses(&["1.1.1.1:1", "[::1]:1", "[::2]:1"])),
            addresses(&["1.1.1.1:1", "[::1]:1", "[::2]:1"])
        );
    }
}
