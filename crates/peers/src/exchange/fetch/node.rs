use std::time::Duration;

use cache::SourceKind;
use http::StatusCode;

use super::batch::{Batch, Next};
use super::{Fetch, Put, Tried};
use crate::exchange::client::{Answer, Reading};
use crate::exchange::clock::now;
use crate::exchange::gathering::Trouble;
use crate::exchange::ground::Lost;
use crate::exchange::wire::{DEEPEST, Frame, No, Query};
use crate::health::Reason;
use crate::members::{Member, NodeId};
use crate::placement::PIECE;

/// A node that gives less than this, in bytes per second, may be slow.
const SLOW: f64 = 128.0 * 1024.0;
/// How long a node is looked at before it counts as slow.
const WATCHED: Duration = Duration::from_secs(2);

impl Fetch {
    /// Puts one question to one node.
    pub(super) async fn put(&mut self, member: &Member, hops: u8, insist: bool) -> Result<Put, Trouble> {
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
        let (mut since, mut bytes_then, mut beats_then) = (now(), self.got, 0);
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
                    if batch.is_full() || self.got == 0 || length == Some(end) {
                        self.take_paced(&mut batch).await?;
                    }
                }
            }
            let watched = now() - since;
            if watched >= WATCHED {
                let rate = (self.got - bytes_then) as f64 / watched.as_secs_f64();
                let waits = reading.beats > beats_then || swarm.download.is_some();
                let left = self.gathering.length(self.piece).unwrap_or(0).saturating_sub(self.got);
                if !waits && rate < SLOW && left > PIECE / 32 {
                    if swarm.meter.is_idle(now()) {
                        swarm.pass_over(&member.id, Reason::Slow, &format_args!("{rate:.0} bytes per second"));
                        return Ok(Tried::Failed);
                    }
                    if !swarm.meter.is_busy(now()) && !self.slow {
                        self.slow = true;
                        return Ok(Tried::Slow);
                    }
                }
                (since, bytes_then, beats_then) = (now(), self.got, reading.beats);
            }
        }
    }

    /// As [`take`](Fetch::take), at the pace at which nodes may give.
    async fn take_paced(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        if let Some(pace) = self.swarm.clone().download.as_ref() {
            pace.turn(batch.length).await;
        }
        self.take(batch).await
    }
}
