use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cache::Blob;
use futures_util::StreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::fetch::Errand;
use super::gathering::{Flow, Gathering, Piece, Trouble};
use super::lines::Turn;
use super::metrics::Running;
use super::reading::read_behind;
use super::swarm::Swarm;
use super::wire::{self, FRAME, FRAMES, Frame, HOLDERS, NODE, No, Query, WHO};
use crate::identity::Role;
use crate::members::NodeId;
use crate::placement::{PIECE, piece_range};

/// How often an asker gets a sign of life while there is nothing else for it.
pub(super) const BEAT: Duration = Duration::from_millis(100);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection may wait for a request.
const IDLE: Duration = Duration::from_secs(60);
/// How long what was sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// Most connections at once.
const CONNECTIONS: usize = 1024;
/// How long a whole blob may take to be found: one that is hashed first is found by a later question.
const FIND: Duration = Duration::from_millis(150);
/// How long an asker waits where it is not certain whom it would wait for.
const UNCERTAIN: Duration = Duration::from_secs(1);
/// How long an asker waits for the first byte.
const FIRST: Duration = Duration::from_secs(12);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Gives pieces to other nodes.
pub struct Exchange {
    listener: TcpListener,
    address: SocketAddr,
    swarm: Arc<Swarm>,
}

impl Exchange {
    /// Answers nodes that connect to `listener` from [`run`](Exchange::run) on.
    pub fn new(listener: TcpListener, swarm: Arc<Swarm>) -> io::Result<Exchange> {
        Ok(Exchange { address: listener.local_addr()?, listener, swarm })
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
                self.swarm.tasks().spawn(async move {
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        () = serve(stream, from, swarm) => {}
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

async fn serve(stream: TcpStream, from: SocketAddr, swarm: Arc<Swarm>) {
    let _ = stream.set_nodelay(true);
    // Nodes vanish without a word; what they were sent is not kept for them for ever.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED.as_millis() as u32);
    let acceptor = TlsAcceptor::from(swarm.identity.server(&[Role::Node]));
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
        async move { Ok::<_, Infallible>(answer(&swarm, &request).await) }
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

async fn answer(swarm: &Arc<Swarm>, request: &Request<Incoming>) -> Response<Body> {
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
    if asker == swarm.members.me().id.as_str() {
        return status(StatusCode::LOOP_DETECTED);
    }
    let id = NodeId::from(asker);
    let asker = Asker { zone: swarm.zone_of(&id), id };
    let Query { digest, piece, .. } = query;

    if let Some(gathering) = swarm.gathered(&digest)
        && let Some(found) = gathering.piece(piece)
    {
        return give_or_redirect(swarm, gathering, found, query, asker);
    }
    let finding = {
        let swarm = swarm.clone();
        tokio::spawn(async move { swarm.stored(&digest).await })
    };
    if let Ok(Ok(Some(blob))) = tokio::time::timeout(FIND, finding).await {
        let Some(range) = piece_range(blob.size(), piece) else { return status(StatusCode::NOT_FOUND) };
        let size = blob.size();
        let place = match blob {
            Blob::Memory(bytes) => Place::Memory(bytes),
            Blob::File { file, .. } => Place::File(file),
        };
        let flow = present(range.end - range.start);
        return frames(Giving::new(swarm, flow, query, Start::Known { size, place }));
    }
    if query.hops == 0 {
        let others = swarm.gathered(&digest).map(|gathering| gathering.takers(piece, &asker.id, &asker.zone));
        let others = others.unwrap_or_default();
        return if others.is_empty() || query.insist {
            status(StatusCode::NOT_FOUND)
        } else {
            redirect(swarm, &others)
        };
    }
    let gathering = swarm.gathering(&digest);
    swarm.note_holder(&digest, &asker.id, false);
    if swarm.is_private(&query.name, &digest) {
        return match gathering.send(piece, &asker.id, query.insist) {
            None => status(StatusCode::FORBIDDEN),
            Some(other) => redirect(swarm, &[other]),
        };
    }
    let errand = Errand { name: query.name.clone(), own: None, hops: query.hops, asker: Some(asker.id.clone()) };
    let found = swarm.ensure(&gathering, piece, &errand);
    give_or_redirect(swarm, gathering, found, query, asker)
}

/// Gives a piece, or sends the asker to the end of the line of those who take it, if it is given to enough already.
fn give_or_redirect(
    swarm: &Arc<Swarm>,
    gathering: Arc<Gathering>,
    found: Piece,
    query: Query,
    asker: Asker,
) -> Response<Body> {
    let flow = match found {
        // Only what is here whole is of use to the asker, who stands in no line.
        Piece::Coming(_) if query.below <= 1 => return status(StatusCode::NOT_FOUND),
        Piece::Coming(flow) => flow,
        Piece::Present => match gathering.length(query.piece) {
            Some(length) => present(length),
            None => return status(StatusCode::NOT_FOUND),
        },
    };
    let (piece, fanout) = (query.piece, swarm.fanout());
    let most = if query.hops == 0 { fanout.others } else { fanout.home };
    if query.insist {
        gathering.give(piece, &asker.id, &asker.zone);
    } else if let Turn::Ask(others) = gathering.turn(piece, &asker.id, &asker.zone, most, fanout.others) {
        return redirect(swarm, &others);
    }
    frames(Giving::new(swarm, flow, query, Start::Gathered(gathering, asker)))
}

fn present(length: u64) -> watch::Receiver<Flow> {
    watch::channel(Flow { got: length, depth: Some(0), level: 0, end: Some(Ok(())) }).1
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

fn redirect(swarm: &Swarm, holders: &[NodeId]) -> Response<Body> {
    swarm.metrics.redirected();
    let mut response = status(StatusCode::SEE_OTHER);
    if let Ok(value) = HeaderValue::try_from(wire::join(holders)) {
        response.headers_mut().insert(HOLDERS, value);
    }
    response
}

fn frames(giving: Giving) -> Response<Body> {
    let stream = futures_util::stream::unfold(giving, |mut giving| async move {
        let bytes = giving.next().await?;
        Some((Ok(hyper::body::Frame::data(bytes)), giving))
    });
    let mut response = Response::new(StreamBody::new(stream.fuse()).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, FRAMES);
    response
}

/// The node that asks.
struct Asker {
    id: NodeId,
    zone: Arc<str>,
}

/// Where a piece's bytes are read.
#[derive(Clone)]
enum Place {
    File(Arc<File>),
    Memory(Bytes),
}

/// What a piece is part of.
enum Start {
    Gathered(Arc<Gathering>, Asker),
    Known { size: u64, place: Place },
}

/// One answer to one node, as its bytes come in.
struct Giving {
    swarm: Arc<Swarm>,
    flow: watch::Receiver<Flow>,
    query: Query,
    start: Start,
    begun: Instant,
    /// The piece's length and where it is, once the asker was told that it comes.
    running: Option<(u64, Place)>,
    /// How many bytes of the piece the asker has.
    at: u64,
    ended: bool,
    _running: Running,
}

impl Giving {
    fn new(swarm: &Arc<Swarm>, flow: watch::Receiver<Flow>, query: Query, start: Start) -> Giving {
        Giving {
            swarm: swarm.clone(),
            flow,
            at: query.from,
            query,
            start,
            begun: Instant::now(),
            running: None,
            ended: false,
            _running: swarm.metrics.upload(),
        }
    }

    /// The next bytes of the body; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        loop {
            let flow = self.flow.borrow_and_update().clone();
            match self.running.clone() {
                None => {
                    if let Some(frame) = self.begin(&flow) {
                        return Some(frame.encode());
                    }
                }
                Some((length, place)) => {
                    let there = flow.got.min(length);
                    if self.at < there {
                        return self.read(place, there).await;
                    }
                    if self.at >= length || flow.end.is_some() {
                        return None;
                    }
                }
            }
            tokio::select! {
                changed = self.flow.changed() => {
                    if changed.is_err() && self.flow.borrow().end.is_none() {
                        return None;
                    }
                }
                () = tokio::time::sleep(BEAT) => return Some(Frame::Beat.encode()),
            }
        }
    }

    /// What the asker is told first, once it is known.
    fn begin(&mut self, flow: &Flow) -> Option<Frame> {
        let known = match &self.start {
            Start::Known { size, place } => Some((*size, place.clone())),
            Start::Gathered(gathering, _) => {
                gathering.size().and_then(|size| Some((size, Place::File(gathering.ingest()?.file().clone()))))
            }
        };
        let waited = self.begun.elapsed();
        let certain = flow.depth.is_some() || flow.level < self.query.hops;
        let no = match (&flow.end, flow.depth, known) {
            (Some(Err(Trouble::Private)), ..) => return Some(self.private()),
            (Some(Err(_)), ..) => true,
            (end, Some(depth), _) if end.is_none() && depth >= self.query.below => true,
            (_, Some(depth), Some((size, place))) => match piece_range(size, self.query.piece) {
                Some(range) => {
                    self.running = Some((range.end - range.start, place));
                    let depth = if flow.end.is_some() { 0 } else { depth };
                    return Some(Frame::Start { size, depth });
                }
                None => true,
            },
            _ => waited >= if certain { FIRST } else { UNCERTAIN },
        };
        self.ended = no;
        no.then_some(Frame::No(No::Absent))
    }

    /// The origin gives the piece only to who has a right of its own: the first who asks fetches it, the others get it there.
    fn private(&mut self) -> Frame {
        self.ended = true;
        let Start::Gathered(gathering, asker) = &self.start else { return Frame::No(No::Private) };
        match gathering.send(self.query.piece, &asker.id, self.query.insist) {
            None => Frame::No(No::Private),
            Some(other) => Frame::Elsewhere(vec![other]),
        }
    }

    async fn read(&mut self, place: Place, there: u64) -> Option<Bytes> {
        let length = (there - self.at).min(FRAME as u64) as usize;
        let from = self.query.piece * PIECE + self.at;
        if let Some(pace) = &self.swarm.upload {
            pace.turn(length).await;
        }
        let bytes = match place {
            Place::Memory(all) => {
                let part = all.get(from as usize..from as usize + length)?;
                Frame::Bytes(all.slice_ref(part)).encode()
            }
            Place::File(file) => match read_behind(&wire::bytes_head(length), &file, from, length).await {
                Ok(buffer) => Bytes::from(buffer),
                Err(error) => {
                    tracing::warn!(digest = %self.query.digest, %error, "a piece cannot be read");
                    return None;
                }
            },
        };
        self.at += length as u64;
        self.swarm.metrics.sent(length as u64);
        Some(bytes)
    }
}

impl Drop for Giving {
    fn drop(&mut self) {
        if let Start::Gathered(gathering, asker) = &self.start {
            gathering.given(self.query.piece, &asker.zone);
        }
    }
}
