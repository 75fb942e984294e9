use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cache::Blob;
use http::StatusCode;
use tokio::sync::watch;

use super::clock::now;
use super::fetch::Errand;
use super::gathering::{Flow, Gathering, Piece, Trouble};
use super::ground::Answer;
use super::lines::Turn;
use super::metrics::Running;
use super::reading::read_behind;
use super::swarm::Swarm;
use super::wire::{self, FRAME, Frame, No, Query};
use crate::members::NodeId;
use crate::placement::{PIECE, piece_range};

/// How often an asker gets a sign of life while there is nothing else for it.
pub(super) const BEAT: Duration = Duration::from_millis(100);
/// How long a whole blob may take to be found: one that is hashed first is found by a later question.
const FIND: Duration = Duration::from_millis(150);
/// How long an asker waits where it is not certain whom it would wait for.
const UNCERTAIN: Duration = Duration::from_secs(1);
/// How long an asker waits for the first byte.
const FIRST: Duration = Duration::from_secs(12);

impl Swarm {
    /// What a node is answered that asks for a piece. Cancellation-safe.
    pub async fn answer(self: &Arc<Self>, asker: NodeId, query: Query) -> Answer<Giving> {
        let answer = self.decide(asker, query).await;
        if let Answer::Holders(_) = answer {
            self.metrics.redirected();
        }
        answer
    }

    async fn decide(self: &Arc<Self>, asker: NodeId, query: Query) -> Answer<Giving> {
        if asker == self.members.me().id {
            return Answer::Nothing(StatusCode::LOOP_DETECTED);
        }
        let asker = Asker { zone: self.zone_of(&asker), id: asker };
        let Query { digest, piece, .. } = query;

        if let Some(gathering) = self.gathered(&digest)
            && let Some(found) = gathering.piece(piece)
        {
            return give_or_redirect(self, gathering, found, query, asker);
        }
        let finding = {
            let swarm = self.clone();
            tokio::spawn(async move { swarm.stored(&digest).await })
        };
        if let Ok(Ok(Some(blob))) = tokio::time::timeout(FIND, finding).await {
            let Some(range) = piece_range(blob.size(), piece) else { return Answer::Nothing(StatusCode::NOT_FOUND) };
            let size = blob.size();
            let place = match blob {
                Blob::Memory(bytes) => Place::Memory(bytes),
                Blob::File { file, .. } => Place::File(file),
            };
            let flow = present(range.end - range.start);
            return Answer::Frames(Giving::new(self, flow, query, Start::Known { size, place }));
        }
        if query.hops == 0 {
            let others = self.gathered(&digest).map(|gathering| gathering.takers(piece, &asker.id, &asker.zone));
            let others = others.unwrap_or_default();
            return if others.is_empty() || query.insist {
                Answer::Nothing(StatusCode::NOT_FOUND)
            } else {
                Answer::Holders(others)
            };
        }
        let gathering = self.gathering(&digest);
        self.note_holder(&digest, &asker.id, false);
        if self.is_private(&query.name, &digest) {
            return match gathering.send(piece, &asker.id, query.insist) {
                None => Answer::Nothing(StatusCode::FORBIDDEN),
                Some(other) => Answer::Holders(vec![other]),
            };
        }
        let errand = Errand { name: query.name.clone(), own: None, hops: query.hops, asker: Some(asker.id.clone()) };
        let found = self.ensure(&gathering, piece, &errand);
        give_or_redirect(self, gathering, found, query, asker)
    }
}

/// Gives a piece, or sends the asker to the end of the line of those who take it, if it is given to enough already.
fn give_or_redirect(
    swarm: &Arc<Swarm>,
    gathering: Arc<Gathering>,
    found: Piece,
    query: Query,
    asker: Asker,
) -> Answer<Giving> {
    let flow = match found {
        // Only what is here whole is of use to the asker, who stands in no line.
        Piece::Coming(_) if query.below <= 1 => return Answer::Nothing(StatusCode::NOT_FOUND),
        Piece::Coming(flow) => flow,
        Piece::Present => match gathering.length(query.piece) {
            Some(length) => present(length),
            None => return Answer::Nothing(StatusCode::NOT_FOUND),
        },
    };
    let (piece, fanout) = (query.piece, swarm.fanout());
    let most = if query.hops == 0 { fanout.others } else { fanout.home };
    if query.insist {
        gathering.give(piece, &asker.id, &asker.zone);
    } else if let Turn::Ask(others) = gathering.turn(piece, &asker.id, &asker.zone, most, fanout.others) {
        return Answer::Holders(others);
    }
    Answer::Frames(Giving::new(swarm, flow, query, Start::Gathered(gathering, asker)))
}

fn present(length: u64) -> watch::Receiver<Flow> {
    watch::channel(Flow { got: length, depth: Some(0), level: 0, end: Some(Ok(())) }).1
}

/// The node that asks.
struct Asker {
    id: NodeId,
    zone: Arc<str>,
}

/// A part of an answer's body.
pub enum Part {
    /// A frame without bytes of the piece.
    Frame(Frame),
    /// Bytes of the piece.
    Bytes(Stretch),
}

impl Part {
    /// What goes over the wire, unless it cannot be read.
    async fn encode(self) -> io::Result<Bytes> {
        let Stretch { place, from, length } = match self {
            Part::Frame(frame) => return Ok(frame.encode()),
            Part::Bytes(stretch) => stretch,
        };
        match place {
            Place::Memory(all) => {
                let part = all.get(from as usize..from as usize + length).ok_or(io::ErrorKind::UnexpectedEof)?;
                Ok(Frame::Bytes(all.slice_ref(part)).encode())
            }
            Place::File(file) => Ok(read_behind(&wire::bytes_head(length), &file, from, length).await?.into()),
        }
    }
}

/// Bytes of a blob that are to be sent, and where they are.
pub struct Stretch {
    place: Place,
    from: u64,
    length: usize,
}

impl Stretch {
    /// How many bytes.
    pub fn length(&self) -> usize {
        self.length
    }
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
pub struct Giving {
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
            begun: now(),
            running: None,
            ended: false,
            _running: swarm.metrics.upload(),
        }
    }

    /// The next part of the body as it goes over the wire; `None` at its end, and where it cannot be read.
    pub(super) async fn next_encoded(&mut self) -> Option<Bytes> {
        match self.next().await?.encode().await {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::warn!(digest = %self.query.digest, %error, "a piece cannot be read");
                None
            }
        }
    }

    /// The next part of the body; `None` at its end. Where there is nothing for a while, a sign of life. Cancellation-safe.
    pub async fn next(&mut self) -> Option<Part> {
        if self.ended {
            return None;
        }
        loop {
            let flow = self.flow.borrow_and_update().clone();
            match self.running.clone() {
                None => {
                    if let Some(frame) = self.begin(&flow) {
                        return Some(Part::Frame(frame));
                    }
                }
                Some((length, place)) => {
                    let there = flow.got.min(length);
                    if self.at < there {
                        return Some(self.stretch(place, there).await);
                    }
                    if self.at >= length || flow.end.is_some() {
                        return None;
                    }
                }
            }
            tokio::select! {
                biased;
                changed = self.flow.changed() => {
                    if changed.is_err() && self.flow.borrow().end.is_none() {
                        return None;
                    }
                }
                () = tokio::time::sleep(BEAT) => return Some(Part::Frame(Frame::Beat)),
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
        let waited = now() - self.begun;
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

    async fn stretch(&mut self, place: Place, there: u64) -> Part {
        let length = (there - self.at).min(FRAME as u64) as usize;
        if let Some(pace) = &self.swarm.upload {
            pace.turn(length).await;
        }
        let from = self.query.piece * PIECE + self.at;
        self.at += length as u64;
        self.swarm.metrics.sent(length as u64);
        Part::Bytes(Stretch { place, from, length })
    }
}

impl std::fmt::Debug for Giving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Giving").field("query", &self.query).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Drop for Giving {
    fn drop(&mut self) {
        if let Start::Gathered(gathering, asker) = &self.start {
            gathering.given(self.query.piece, &asker.zone);
        }
    }
}
