use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{Request, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ground::{Answer, Arriving, Ground, Lost};
use super::wire::{self, Frame, Frames, Query};
use crate::identity::{Identity, Role};
use crate::members::{Member, NodeId};

/// How long a connection may take, and its handshake once more.
const CONNECT: Duration = Duration::from_millis(500);
/// Connections that nobody uses are closed after so long.
const KEPT_IDLE: Duration = Duration::from_secs(30);

/// The way to other nodes over mutual TLS, by connections that are kept for a while.
pub(super) struct Sockets {
    me: NodeId,
    http: legacy::Client<Dialer, Empty<Bytes>>,
}

impl Sockets {
    pub fn new(me: NodeId, identity: Arc<Identity>) -> Sockets {
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_IDLE)
            .http1_max_buf_size(wire::FRAME + 16 * 1024)
            .build(Dialer(identity));
        Sockets { me, http }
    }
}

#[async_trait::async_trait]
impl Ground for Sockets {
    async fn ask(&self, node: &Member, query: &Query) -> Result<Answer<Arriving>, Lost> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = format!("http://{}{}", node.address, query.target())
            .parse()
            .map_err(|_| Lost("its address cannot be written".to_owned()))?;
        query.write_headers(&self.me, request.headers_mut());
        let answer = self.http.request(request).await.map_err(|error| Lost(root(&error)))?;
        Ok(match answer.status() {
            StatusCode::OK => {
                Answer::Frames(Box::pin(Body { body: answer.into_body(), frames: Frames::default(), ended: false }))
            }
            StatusCode::SEE_OTHER => Answer::Holders(wire::read_holders(answer.headers())),
            status => Answer::Nothing(status),
        })
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

/// The frames of a body.
struct Body {
    body: Incoming,
    frames: Frames,
    ended: bool,
}

impl Stream for Body {
    type Item = Result<Frame, Lost>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Lost>>> {
        let failed = |why: String| Poll::Ready(Some(Err(Lost(why))));
        while !self.ended {
            match self.frames.next() {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) => {}
                Err(wire::Malformed) => {
                    self.ended = true;
                    return failed("it speaks another language".to_owned());
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(part)) => {
                    if let Ok(bytes) = part.into_data() {
                        self.frames.feed(bytes);
                    }
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return failed(root(&error));
                }
                None => self.ended = true,
            }
        }
        Poll::Ready(None)
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
