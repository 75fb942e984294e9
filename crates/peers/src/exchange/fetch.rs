use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cache::{Ask, Authority, FailureKind, Rules, Source, SourceError, SourceKind};
use futures_util::StreamExt;
use http::StatusCode;
use oci::Name;
use tokio::sync::watch;

use super::client::{Answer, Lost, Reading};
use super::gathering::{Flow, Gathering, Trouble};
use super::swarm::Swarm;
use super::wire::{DEEPEST, Frame, No, Query};
use crate::health::Reason;
use crate::members::{Member, NodeId};
use crate::placement::{PIECE, Placement};

/// How many homes are tried in vain before the sources beyond the nodes.
const HOMES: usize = 2;
/// How many are asked that others named.
const HOLDERS: usize = 4;
/// How many are asked whether they have a piece that its home stopped giving.
const NEIGHBOURS: usize = 3;
/// How many nodes are asked whether they have a piece, where nobody else can give it.
const ANYBODY: usize = 16;
/// A node that gives less than this, in bytes per second, may be slow.
const SLOW: f64 = 128.0 * 1024.0;
/// So many bytes are written at once, or what comes in so much time: many slow streams cost no more than a few fast ones.
const BATCH: usize = 128 * 1024;
const LINGER: Duration = Duration::from_millis(50);
/// How long a node is looked at before it counts as slow.
const WATCHED: Duration = Duration::from_secs(2);

/// For whom a piece is fetched.
#[derive(Clone, Debug)]
pub(super) struct Errand {
    pub name: Name,
    /// This node's own pull, and its right; `None` for another node's.
    pub own: Option<Authority>,
    /// As [`Query::hops`], and 3 for an own pull.
    pub hops: u8,
    /// The node that asks.
    pub asker: Option<NodeId>,
}

/// One piece on its way here, from whoever gives it.
pub(super) struct Fetch {
    swarm: Arc<Swarm>,
    gathering: Arc<Gathering>,
    piece: u64,
    errand: Errand,
    flow: watch::Sender<Flow>,
    got: u64,
    depth: Option<u8>,
    /// A node was left for others because it gave little; that is done once.
    slow: bool,
    ended: bool,
}

/// How one source did.
enum Tried {
    /// The piece is there.
    Done,
    /// It was not asked.
    Skipped,
    /// It failed; another one may do.
    Failed,
    /// It gives little while others give more: one of those who have got the piece by now may be better.
    Slow,
    /// It has nothing, and would have asked those that would be asked next.
    Absent,
    /// It may not have it without the asker's right.
    Private,
}

impl Fetch {
    pub fn new(
        swarm: Arc<Swarm>,
        gathering: Arc<Gathering>,
        piece: u64,
        errand: Errand,
        flow: watch::Sender<Flow>,
    ) -> Fetch {
        Fetch { swarm, gathering, piece, errand, flow, got: 0, depth: None, slow: false, ended: false }
    }

    pub async fn run(mut self) {
        let running = self.swarm.metrics.download();
        let outcome = self.bring().await;
        drop(running);
        if let Err(trouble) = &outcome {
            self.swarm.metrics.failed();
            tracing::debug!(digest = %self.gathering.digest, piece = self.piece, ?trouble, "a piece did not come");
        }
        self.end(outcome);
    }

    fn end(&mut self, outcome: Result<(), Trouble>) {
        self.ended = true;
        // First what is found by who looks, then who waits is told.
        self.gathering.settle(self.piece, outcome.is_ok());
        self.flow.send_modify(|flow| flow.end = Some(outcome));
    }

    async fn bring(&mut self) -> Result<(), Trouble> {
        let placement = self.swarm.members.placement();
        let zone = self.swarm.members.zone();
        let digest = self.gathering.digest;
        // Whether this node is the home: of its zone, then of the cluster.
        let (mut home, mut private) = (self.errand.hops < 3, false);
        if self.errand.hops >= 3 {
            self.waits(2);
            let order = placement.in_zone(&digest, self.piece, &zone);
            match self.ask_homes(order, &placement, 2).await? {
                Homes::Done => return Ok(()),
                Homes::Myself => home = true,
                Homes::Nobody => {}
                Homes::Private => private = true,
            }
        }
        if home && self.errand.hops >= 2 {
            self.waits(1);
            let order = placement.in_cluster(&digest, self.piece);
            match self.ask_homes(order, &placement, 1).await? {
                Homes::Done => return Ok(()),
                Homes::Private => private = true,
                Homes::Myself | Homes::Nobody => {}
            }
        }
        if private && self.errand.own.is_none() {
            return Err(Trouble::Private);
        }
        if self.errand.own.is_some() {
            // One that was sent to fetch it with a right of its own.
            for id in self.gathering.takers(self.piece, &self.swarm.members.me().id) {
                if let Some(member) = placement.get(&id)
                    && self.is_given_by(member, &placement).await?
                {
                    return Ok(());
                }
            }
        }
        for id in self.swarm.settled_holders(&digest, self.errand.asker.as_ref()) {
            if let Some(member) = placement.get(&id)
                && self.is_given_by(member, &placement).await?
            {
                return Ok(());
            }
            self.swarm.no_holder(&digest, &id);
        }
        let trouble = match self.beyond().await {
            Ok(()) => return Ok(()),
            Err(trouble) => trouble,
        };
        if matches!(&trouble, Trouble::Source(error) if !error.is_definite()) {
            for member in placement.in_cluster(&digest, self.piece).take(ANYBODY) {
                if self.is_given_by(member, &placement).await? {
                    self.swarm.note_holder(&digest, &member.id, true);
                    return Ok(());
                }
            }
        }
        Err(trouble)
    }

    /// Asks the piece's home, or who stands in for it, unless that is this node.
    async fn ask_homes<'a>(
        &mut self,
        order: impl Iterator<Item = &'a Arc<Member>>,
        placement: &Placement,
        hops: u8,
    ) -> Result<Homes, Trouble> {
        let mut tried = 0;
        for member in order {
            if self.swarm.members.is_me(member) {
                return Ok(Homes::Myself);
            }
            match self.ask(member, placement, hops).await? {
                Tried::Done => return Ok(Homes::Done),
                Tried::Skipped => continue,
                slow @ (Tried::Failed | Tried::Slow) => {
                    tried += 1;
                    // Others may have got it by now, or further than the one that failed.
                    let neighbours = placement.in_cluster(&self.gathering.digest, self.piece).take(NEIGHBOURS + 1);
                    for neighbour in neighbours.filter(|one| one.id != member.id) {
                        if self.is_given_by(neighbour, placement).await? {
                            return Ok(Homes::Done);
                        }
                    }
                    // Little is better than taking from beyond what others have taken already.
                    if matches!(slow, Tried::Slow)
                        && let Tried::Done = self.ask(member, placement, hops).await?
                    {
                        return Ok(Homes::Done);
                    }
                }
                Tried::Absent => break,
                Tried::Private => return Ok(Homes::Private),
            }
            if tried == HOMES {
                break;
            }
        }
        Ok(Homes::Nobody)
    }

    /// Whether another node had the piece and gave it.
    async fn is_given_by(&mut self, member: &Member, placement: &Placement) -> Result<bool, Trouble> {
        Ok(!self.swarm.members.is_me(member) && matches!(self.ask(member, placement, 0).await?, Tried::Done))
    }

    /// Asks a node, and those it names instead.
    async fn ask(&mut self, member: &Member, placement: &Placement, hops: u8) -> Result<Tried, Trouble> {
        let admission = self.swarm.health.admit(&member.id, Instant::now());
        if !admission.may_ask() {
            return Ok(Tried::Skipped);
        }
        let holders = match self.put(member, hops, false).await? {
            Put::Tried(tried) => return Ok(tried),
            Put::Holders(holders) => holders,
        };
        // Each may name others in turn, who are nearer to the end of the chain.
        let mut asked: Vec<NodeId> = vec![member.id.clone()];
        let mut named = holders;
        while let Some(id) = named.pop().filter(|_| asked.len() <= HOLDERS) {
            let Some(holder) = placement.get(&id).filter(|holder| !self.swarm.members.is_me(holder)) else { continue };
            if asked.contains(&id) || !self.swarm.health.admit(&id, Instant::now()).may_ask() {
                continue;
            }
            asked.push(id);
            match self.put(holder, 0, false).await? {
                Put::Tried(Tried::Done) => return Ok(Tried::Done),
                Put::Tried(_) => {}
                Put::Holders(more) => named.extend(more),
            }
        }
        if hops == 0 {
            return Ok(Tried::Absent);
        }
        match self.put(member, hops, true).await? {
            Put::Tried(tried) => Ok(tried),
            Put::Holders(_) => Ok(Tried::Absent),
        }
    }

    /// Puts one question to one node.
    async fn put(&mut self, member: &Member, hops: u8, insist: bool) -> Result<Put, Trouble> {
        let below = match (hops, self.depth) {
            (_, Some(depth)) => depth,
            (0, None) if self.errand.hops < 3 => 2,
            _ => DEEPEST,
        };
        let query = Query {
            name: self.errand.name.clone(),
            digest: self.gathering.digest,
            piece: self.piece,
            from: self.got,
            hops,
            below,
            insist,
        };
        let swarm = self.swarm.clone();
        let tried = match swarm.client.ask(member, &query).await {
            Err(lost) => {
                swarm.pass_over(&member.id, Reason::Dead, &lost);
                Tried::Failed
            }
            Ok(Answer::Holders(holders)) => {
                swarm.health.succeeded(&member.id);
                return Ok(Put::Holders(holders));
            }
            Ok(Answer::Nothing(status)) => {
                let tried = match status {
                    StatusCode::FORBIDDEN => Tried::Private,
                    StatusCode::NOT_FOUND | StatusCode::LOOP_DETECTED => Tried::Absent,
                    other => {
                        swarm.pass_over(&member.id, Reason::Dead, &format_args!("it answers {other}"));
                        return Ok(Put::Tried(Tried::Failed));
                    }
                };
                swarm.health.succeeded(&member.id);
                tried
            }
            Ok(Answer::Frames(reading)) => {
                let before = self.got;
                let mut holders = Vec::new();
                let tried = self.read(member, reading, &mut holders).await?;
                if !holders.is_empty() {
                    swarm.health.succeeded(&member.id);
                    return Ok(Put::Holders(holders));
                }
                let came = self.got - before;
                if came > 0 {
                    swarm.metrics.received(SourceKind::Peer.as_str(), came);
                    self.gathering.gave(self.piece, &member.id);
                }
                if let Tried::Done = tried {
                    swarm.metrics.came(SourceKind::Peer.as_str());
                    swarm.health.succeeded(&member.id);
                }
                tried
            }
        };
        Ok(Put::Tried(tried))
    }

    /// Takes what a node gives into the file.
    async fn read(
        &mut self,
        member: &Member,
        mut reading: Reading,
        holders: &mut Vec<NodeId>,
    ) -> Result<Tried, Trouble> {
        let swarm = self.swarm.clone();
        let dead = |lost: &Lost| {
            swarm.pass_over(&member.id, Reason::Dead, lost);
            Ok(Tried::Failed)
        };
        let (mut since, mut bytes_then, mut beats_then) = (Instant::now(), self.got, 0);
        let mut started = false;
        let mut batch = Batch::default();
        loop {
            let frame = match batch.or(reading.next()).await {
                Next::Due => {
                    self.take_paced(&mut batch).await?;
                    continue;
                }
                Next::Came(Err(lost)) => {
                    self.take_paced(&mut batch).await?;
                    return dead(&lost);
                }
                Next::Came(Ok(frame)) => frame,
            };
            match frame {
                None => {
                    self.take_paced(&mut batch).await?;
                    let whole = started && self.gathering.length(self.piece) == Some(self.got);
                    // It ends in the middle where what it waited for ended, which is no fault of its own.
                    return Ok(if whole { Tried::Done } else { Tried::Failed });
                }
                Some(Frame::Beat) => {}
                Some(Frame::No(No::Private)) => return Ok(Tried::Private),
                Some(Frame::No(No::Absent)) => return Ok(Tried::Absent),
                Some(Frame::Elsewhere(others)) => {
                    *holders = others;
                    return Ok(Tried::Absent);
                }
                Some(Frame::Start { size, depth }) => {
                    if self.depth.is_some_and(|mine| depth >= mine) || depth >= DEEPEST {
                        return Ok(Tried::Absent);
                    }
                    match self.gathering.place(&*swarm.store, size, Some(&member.id)).await {
                        Err(error) => return Err(Trouble::Store(error)),
                        // One of two lies about the length; the digest will tell.
                        Ok(Err(_)) => return Ok(Tried::Failed),
                        Ok(Ok(())) => {}
                    }
                    if self.gathering.length(self.piece).is_none() {
                        return Ok(Tried::Failed);
                    }
                    self.flows(depth + 1);
                    started = true;
                }
                Some(Frame::Bytes(bytes)) => {
                    let length = self.gathering.length(self.piece).filter(|_| started);
                    let end = self.got + (batch.length + bytes.len()) as u64;
                    if length.is_none_or(|length| end > length) {
                        swarm.pass_over(&member.id, Reason::Lying, &"it sends more than the piece has");
                        return Ok(Tried::Failed);
                    }
                    batch.push(bytes);
                    // The first bytes are waited for.
                    if batch.length >= BATCH || self.got == 0 || length == Some(end) {
                        self.take_paced(&mut batch).await?;
                    }
                }
            }
            let watched = since.elapsed();
            if watched >= WATCHED {
                let rate = (self.got - bytes_then) as f64 / watched.as_secs_f64();
                let waits = reading.beats > beats_then || swarm.download.is_some();
                let left = self.gathering.length(self.piece).unwrap_or(0).saturating_sub(self.got);
                if !waits && rate < SLOW && left > PIECE / 32 {
                    if swarm.meter.is_idle(Instant::now()) {
                        swarm.pass_over(&member.id, Reason::Slow, &format_args!("{rate:.0} bytes per second"));
                        return Ok(Tried::Failed);
                    }
                    if !swarm.meter.is_busy(Instant::now()) && !self.slow {
                        self.slow = true;
                        return Ok(Tried::Slow);
                    }
                }
                (since, bytes_then, beats_then) = (Instant::now(), self.got, reading.beats);
            }
        }
    }

    /// Takes the piece from the sources beyond the nodes, in order.
    async fn beyond(&mut self) -> Result<(), Trouble> {
        let name = self.errand.name.clone();
        let upstream = self.swarm.upstreams.find(&name.registry).map_err(|_| Trouble::Other("not cached here"))?;
        let authority = self.errand.own.clone().unwrap_or_else(|| common_right(&upstream.rules));
        let ask = Ask { name: name.clone(), authority };
        let mut trouble = Trouble::Other("no source beyond the nodes");
        // Whoever waits for this node waits for nobody else from here on.
        self.waits(0);
        self.flows(1);
        for source in upstream.sources.iter().filter(|source| source.kind() != SourceKind::Peer) {
            // Once more from where it stopped.
            for _ in 0..2 {
                let before = self.got;
                match self.take_from(&**source, &ask).await {
                    Ok(()) => return Ok(()),
                    Err(failed @ (Trouble::Store(_) | Trouble::Other(_))) => return Err(failed),
                    Err(failed) => trouble = failed,
                }
                if self.got == before {
                    break;
                }
            }
            if matches!(&trouble, Trouble::Source(error) if error.is_final(&**source)) {
                break;
            }
        }
        if let Trouble::Source(error) = &trouble
            && self.errand.own.is_none()
            && matches!(error.kind, FailureKind::Unauthorized | FailureKind::Denied | FailureKind::NotFound)
        {
            self.swarm.note_private(&name, &self.gathering.digest);
            return Err(Trouble::Private);
        }
        Err(trouble)
    }

    async fn take_from(&mut self, source: &dyn Source, ask: &Ask) -> Result<(), Trouble> {
        let from = self.piece * PIECE + self.got;
        let end = (self.piece + 1) * PIECE;
        let until = self.gathering.size().map_or(end, |size| size.min(end));
        let invalid = |reason: &str| Trouble::Source(SourceError::new(FailureKind::Invalid, source.label(), reason));
        let body = source.blob(ask, &self.gathering.digest, from, Some(until)).await.map_err(Trouble::Source)?;
        let size = body.size.ok_or_else(|| invalid("it does not tell the blob's length"))?;
        if body.offset != from {
            return Err(invalid("it does not give a part of a blob"));
        }
        match self.gathering.place(&*self.swarm.store, size, None).await.map_err(Trouble::Store)? {
            Ok(()) => {}
            Err(liar) => {
                if let Some(liar) = liar {
                    self.swarm.pass_over(&liar, Reason::Lying, &"it told another length of the blob");
                }
                self.swarm.forget(&self.gathering);
                return Err(Trouble::Other("the blob's length was wrong"));
            }
        }
        let length = self.gathering.length(self.piece).ok_or_else(|| invalid("the blob has no such piece"))?;
        let mut stream = body.stream;
        let kind = source.kind().as_str();
        let mut batch = Batch::default();
        let before = self.got;
        let ended = loop {
            if self.got + batch.length as u64 == length {
                break None;
            }
            match batch.or(stream.next()).await {
                Next::Due => self.take(&mut batch).await?,
                Next::Came(Some(Ok(mut bytes))) => {
                    // A source may send more than it was asked for.
                    bytes.truncate((length - self.got) as usize - batch.length);
                    batch.push(bytes);
                    if batch.length >= BATCH || self.got == 0 {
                        self.take(&mut batch).await?;
                    }
                }
                Next::Came(Some(Err(error))) => break Some(error),
                Next::Came(None) => {
                    break Some(SourceError::new(FailureKind::Unavailable, source.label(), "the body ended too early"));
                }
            }
        };
        self.take(&mut batch).await?;
        self.swarm.metrics.received(kind, self.got - before);
        match ended {
            Some(error) => Err(Trouble::Source(error)),
            None => {
                self.swarm.metrics.came(kind);
                Ok(())
            }
        }
    }

    /// Says how many nodes are between this one and the origin, once: others rely on it.
    fn flows(&mut self, depth: u8) {
        if self.depth.is_none() {
            self.depth = Some(depth);
            self.flow.send_modify(|flow| flow.depth = Some(depth));
        }
    }

    fn waits(&self, level: u8) {
        self.flow.send_modify(|flow| flow.level = level);
    }

    /// As [`take`](Fetch::take), at the pace at which nodes may give.
    async fn take_paced(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        if let Some(pace) = self.swarm.clone().download.as_ref() {
            pace.turn(batch.length).await;
        }
        self.take(batch).await
    }

    /// Writes what came, and lets others have it.
    async fn take(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        let Batch { parts: batch, length, .. } = std::mem::take(batch);
        if length == 0 {
            return Ok(());
        }
        let (gathering, piece, offset) = (self.gathering.clone(), self.piece, self.got);
        let written = tokio::task::spawn_blocking(move || gathering.write(piece, offset, &batch)).await;
        written.unwrap_or(Err(Trouble::Other("the program is ending")))?;
        self.got += length as u64;
        self.swarm.meter.count(length as u64, Instant::now());
        let got = self.got;
        self.flow.send_modify(|flow| flow.got = got);
        Ok(())
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Err(Trouble::Other("the program is ending")));
        }
    }
}

/// With whose right a piece is fetched for others: what the origin gives to everybody, or the administrator.
fn common_right(rules: &Rules) -> Authority {
    if rules.shared && rules.own_credential { Authority::Own } else { Authority::Anonymous }
}

/// Bytes that are to be written together.
#[derive(Default)]
struct Batch {
    parts: Vec<Bytes>,
    length: usize,
    /// When they are written though they are few.
    due: Option<tokio::time::Instant>,
}

/// What comes first: more bytes, or the time to write those that are there.
enum Next<T> {
    Came(T),
    Due,
}

impl Batch {
    fn push(&mut self, bytes: Bytes) {
        self.due.get_or_insert_with(|| tokio::time::Instant::now() + LINGER);
        self.length += bytes.len();
        self.parts.push(bytes);
    }

    /// Waits for more, unless those that are there are due. `more` must be cancellation-safe.
    async fn or<T>(&self, more: impl Future<Output = T>) -> Next<T> {
        match self.due {
            None => Next::Came(more.await),
            Some(due) => match tokio::time::timeout_at(due, more).await {
                Ok(came) => Next::Came(came),
                Err(_) => Next::Due,
            },
        }
    }
}

/// How the homes of a piece did.
enum Homes {
    Done,
    /// This node comes first of those that are alive.
    Myself,
    Nobody,
    Private,
}

/// What came of one question.
enum Put {
    Tried(Tried),
    Holders(Vec<NodeId>),
}
