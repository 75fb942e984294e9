mod anybody;
mod batch;
mod beyond;
mod node;

use std::sync::Arc;

use cache::Authority;
use oci::Name;
use tokio::sync::watch;

use super::clock::now;
use super::gathering::{Flow, Gathering, Trouble};
use super::ground::Disk;
use super::swarm::Swarm;
use crate::members::{Member, NodeId};
use crate::placement::Placement;
use batch::Batch;

/// How many homes are tried in vain before the sources beyond the nodes.
const HOMES: usize = 2;
/// How many are asked that others named.
const HOLDERS: usize = 4;
/// How many are asked whether they have a piece that its home stopped giving.
const NEIGHBOURS: usize = 3;

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
        // With a right of its own it is fetched once: by this node from now on, unless another one was sent before.
        let me = &self.swarm.members.me().id;
        let sent = self.errand.own.as_ref().and_then(|_| self.gathering.send(self.piece, me, false));
        if let Some(member) = sent.and_then(|id| placement.get(&id))
            && self.is_given_by(member, &placement).await?
        {
            return Ok(());
        }
        for id in self.swarm.settled_holders(&digest, self.errand.asker.as_ref()) {
            if let Some(member) = placement.get(&id)
                && self.is_given_by(member, &placement).await?
            {
                return Ok(());
            }
            self.swarm.no_holder(&digest, &id);
        }
        self.beyond_or_anybody(&placement).await
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
        let admission = self.swarm.health.admit(&member.id, now());
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
            if asked.contains(&id) || !self.swarm.health.admit(&id, now()).may_ask() {
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

    /// Writes what came, and lets others have it.
    async fn take(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        let Batch { parts: batch, length, .. } = std::mem::take(batch);
        if length == 0 {
            return Ok(());
        }
        if let Disk::Files = self.swarm.disk {
            let (gathering, piece, offset) = (self.gathering.clone(), self.piece, self.got);
            let written = tokio::task::spawn_blocking(move || gathering.write(piece, offset, &batch)).await;
            written.unwrap_or(Err(Trouble::Other("the program is ending")))?;
        }
        self.got += length as u64;
        self.swarm.meter.count(length as u64, now());
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
