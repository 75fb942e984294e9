use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::giving::Giving;
use super::ground::Answer;
use super::swarm::Swarm;
use super::wire::{self, FRAMES, HOLDERS, NODE, Query, WHO};
use crate::identity::{Identity, Role};
use crate::members::NodeId;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection may wait for a request.
const IDLE: Duration = Duration::from_secs(60);
/// How long what was sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// Most connections at once.
const CONNECTIONS: usize = 1024;
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Gives pieces to other nodes.
pub struct Exchange {
    listener: TcpListener,
    address: SocketAddr,
    identity: Arc<Identity>,
    swarm: Arc<Swarm>,
}

impl Exchange {
    /// Answers nodes that connect to `listener`, and are told by `identity`, from [`run`](Exchange::run) on.
    pub fn new(listener: TcpListener, identity: Arc<Identity>, swarm: Arc<Swarm>) -> io::Result<Exchange> {
        Ok(Exchange { address: listener.local_addr()?, listener, identity, swarm })
    }

    /// The address in use, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the swarm is shut down.
    pub async fn run(self) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let cancel = self.swarm.cancel().clone();
        let accept = async {
            loop {
                let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
                let Ok((stream, from)) = self.listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let (swarm, cancel) = (self.swarm.clone(), cancel.clone());
                let identity = self.identity.clone();
                self.swarm.tasks().spawn(async move {
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        () = serve(stream, from, &identity, swarm) => {}
                    }
                    drop(slot);
                });
            }
        };
        tokio::select! {
            () = accept => {}
            () = cancel.cancelled() => {}
        }
    }
}

async fn serve(stream: TcpStream, from: SocketAddr, identity: &Identity, swarm: Arc<Swarm>) {
    let _ = stream.set_nodelay(true);
    // Nodes vanish without a word; what they were sent is not kept for them for ever.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED.as_millis() as u32);
    let acceptor = TlsAcceptor::from(identity.server(&[Role::Node]));
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%from, %error, "not a node");
            return;
        }
        Err(_) => return,
    };
    let service = service_fn(|request| {
        let swarm = swarm.clone();
        async move { Ok::<_, Infallible>(respond(&swarm, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::trace!(%from, %error, "a node's connection ended");
    }
}

async fn respond(swarm: &Arc<Swarm>, request: &Request<Incoming>) -> Response<Body> {
    if request.method() != Method::GET {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    if request.uri().path() == WHO {
        return introduction(swarm);
    }
    let query = match Query::read(request.uri().path(), request.uri().query(), request.headers()) {
        Ok(query) => query,
        Err(reason) => {
            tracing::debug!(reason, "a node asks for what cannot be");
            return status(StatusCode::BAD_REQUEST);
        }
    };
    let asker = request.headers().get(NODE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match swarm.answer(asker.into(), query).await {
        Answer::Frames(giving) => frames(giving),
        Answer::Holders(holders) => redirect(&holders),
        Answer::Nothing(why) => status(why),
    }
}

/// Which node this is; hyper adds the date.
fn introduction(swarm: &Swarm) -> Response<Body> {
    let mut response = status(StatusCode::OK);
    if let Ok(me) = HeaderValue::try_from(swarm.members.me().id.as_str()) {
        response.headers_mut().insert(NODE, me);
    }
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = status;
    response
}

fn redirect(holders: &[NodeId]) -> Response<Body> {
    let mut response = status(StatusCode::SEE_OTHER);
    if let Ok(value) = HeaderValue::try_from(wire::join(holders)) {
        response.headers_mut().insert(HOLDERS, value);
    }
    response
}

fn frames(giving: Giving) -> Response<Body> {
    let stream = futures_util::stream::unfold(giving, |mut giving| async move {
        let bytes = giving.next_encoded().await?;
        Some((Ok(hyper::body::Frame::data(bytes)), giving))
    });
    let mut response = Response::new(StreamBody::new(stream.fuse()).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, FRAMES);
    response
}
