use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::meter::Meter;
use super::pulse::Pulse;
use super::wire::{self, Frame, Frames, Query};
use crate::identity::{Identity, Role};
use crate::members::{Member, NodeId};

/// How long a connection may take, and its handshake once more.
const CONNECT: Duration = Duration::from_millis(500);
/// How long the head of an answer may take, a connection that has to be made first included, and where this node is busy.
const ANSWER: [Duration; 2] = [Duration::from_millis(1200), Duration::from_secs(3)];
/// Connections that nobody uses are closed after so long.
const KEPT_IDLE: Duration = Duration::from_secs(30);

/// Why a node could not be asked, or stopped answering: it is dead as far as this one can tell.
#[derive(Debug)]
pub(super) struct Lost(pub String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node says.
pub(super) enum Answer {
    /// Frames follow.
    Frames(Reading),
    /// Others have it.
    Holders(Vec<NodeId>),
    /// Nothing: the status says why.
    Nothing(StatusCode),
}

/// Asks other nodes, over connections that are kept for a while.
pub(super) struct Client {
    me: NodeId,
    http: legacy::Client<Dialer, Empty<Bytes>>,
    pulses: Mutex<HashMap<NodeId, Arc<Pulse>>>,
    meter: Arc<Meter>,
}

impl Client {
    pub fn new(me: NodeId, identity: Arc<Identity>, meter: Arc<Meter>) -> Client {
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_IDLE)
            .http1_max_buf_size(wire::FRAME + 16 * 1024)
            .build(Dialer(identity));
        Client { me, http, pulses: Mutex::default(), meter }
    }

    /// Asks a node. The answer's head comes in time, or the node is lost.
    pub async fn ask(&self, member: &Member, query: &Query) -> Result<Answer, Lost> {
        let pulse = self.pulse(&member.id);
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = format!("http://{}{}", member.address, query.target())
            .parse()
            .map_err(|_| Lost("its address cannot be written".to_owned()))?;
        query.write_headers(&self.me, request.headers_mut());
        let listening = Listening::new(pulse);
        let limit = ANSWER[usize::from(self.meter.is_busy(Instant::now()))];
        let limit = tokio::time::timeout(limit, self.http.request(request));
        let answer = match limit.await {
            Err(_) => return Err(Lost("it does not answer".to_owned())),
            Ok(Err(error)) => return Err(Lost(root(&error))),
            Ok(Ok(answer)) => answer,
        };
        listening.0.heard(Instant::now());
        Ok(match answer.status() {
            StatusCode::OK => Answer::Frames(Reading {
                body: answer.into_body(),
                frames: Frames::default(),
                listening,
                meter: self.meter.clone(),
                beats: 0,
            }),
            StatusCode::SEE_OTHER => Answer::Holders(wire::read_holders(answer.headers())),
            status => Answer::Nothing(status),
        })
    }

    fn pulse(&self, id: &NodeId) -> Arc<Pulse> {
        let mut pulses = self.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pulse) = pulses.get(id) {
            return pulse.clone();
        }
        let pulse = Arc::new(Pulse::new(Instant::now()));
        pulses.insert(id.clone(), pulse.clone());
        pulse
    }

    /// Forgets nodes that are no members any more.
    pub fn keep(&self, is_member: impl Fn(&NodeId) -> bool) {
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| is_member(id));
    }
}

/// The innermost cause, which is what people want to know.
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

struct Listening(Arc<Pulse>);

impl Listening {
    fn new(pulse: Arc<Pulse>) -> Listening {
        pulse.listen(Instant::now());
        Listening(pulse)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The frames of an answer, as they come.
pub(super) struct Reading {
    body: Incoming,
    frames: Frames,
    listening: Listening,
    meter: Arc<Meter>,
    /// Signs of life without bytes so far: the node waits for somebody else then, and is not slow itself.
    pub beats: u64,
}

impl Reading {
    /// The next frame; `None` at the end. Beats are counted and passed over. Cancellation-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, Lost> {
        loop {
            match self.frames.next() {
                Ok(Some(Frame::Beat)) => {
                    self.beats += 1;
                    continue;
                }
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(wire::Malformed) => return Err(Lost("it speaks another language".to_owned())),
            }
            let frame = loop {
                let due = self.listening.0.due(self.meter.is_busy(Instant::now()));
                tokio::select! {
                    biased;
                    frame = self.body.frame() => break frame,
                    () = tokio::time::sleep_until(due.into()) => {
                        // Something may have come from it on another connection, or from others.
                        let now = Instant::now();
                        if self.listening.0.due(self.meter.is_busy(now)) <= now {
                            return Err(Lost("it has gone silent".to_owned()));
                        }
                    }
                }
            };
            self.listening.0.heard(Instant::now());
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.frames.feed(bytes);
                    }
                }
                Some(Err(error)) => return Err(Lost(root(&error))),
            }
        }
    }
}

/// Connects to nodes with the certificates of this moment.
#[derive(Clone)]
struct Dialer(Arc<Identity>);

impl tower_service::Service<Uri> for Dialer {
    type Response = Conduit;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Conduit>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let identity = self.0.clone();
        Box::pin(async move {
            let address = uri.authority().and_then(|authority| authority.as_str().parse::<SocketAddr>().ok());
            let address = address.ok_or_else(|| io::Error::other("not an address"))?;
            Ok(Conduit(TokioIo::new(connect(&identity, address, CONNECT).await?)))
        })
    }
}

/// Connects to a node with the certificates of this moment. The connection may take `limit`, and its handshake once more.
pub(super) async fn connect(
    identity: &Identity,
    address: SocketAddr,
    limit: Duration,
) -> io::Result<TlsStream<TcpStream>> {
    let late = |what: &'static str| move |_| io::Error::new(io::ErrorKind::TimedOut, what);
    let stream = tokio::time::timeout(limit, TcpStream::connect(address));
    let stream = stream.await.map_err(late("no connection in time"))??;
    let _ = stream.set_nodelay(true);
    // The configuration looks at roles and not at names; this one stands for none.
    let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let connector = TlsConnector::from(identity.client(Role::Node));
    tokio::time::timeout(limit, connector.connect(nobody, stream)).await.map_err(late("no handshake in time"))?
}

/// A connection to a node.
struct Conduit(TokioIo<TlsStream<TcpStream>>);

impl Connection for Conduit {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Conduit {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Conduit {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
