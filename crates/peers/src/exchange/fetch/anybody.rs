use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use oci::Digest;
use tokio::sync::watch;

use super::Fetch;
use crate::exchange::client::Answer;
use crate::exchange::clock::now;
use crate::exchange::gathering::{Flow, Trouble};
use crate::exchange::swarm::Swarm;
use crate::exchange::wire::{Frame, Query};
use crate::members::Member;
use crate::placement::Placement;

/// How many nodes are asked whether they have a piece, where nobody else gives it.
const ANYBODY: usize = 16;
/// How long the sources beyond the nodes may be silent before that.
const SILENCE: Duration = Duration::from_millis(100);

impl Fetch {
    /// Takes the piece from the sources beyond the nodes or, where those are silent or out of order, from any node that
    /// turns out to have it.
    pub(super) async fn beyond_or_anybody(&mut self, placement: &Placement) -> Result<(), Trouble> {
        let query = Query {
            name: self.errand.name.clone(),
            digest: self.gathering.digest,
            piece: self.piece,
            from: self.got,
            hops: 0,
            below: 1,
            insist: true,
        };
        let finding = find_in_silence(self.swarm.clone(), placement, query, self.flow.subscribe());
        let outcome = tokio::select! {
            biased;
            outcome = self.beyond() => outcome,
            found = finding => match self.is_given_by_holder(found, placement).await? {
                true => return Ok(()),
                false => self.beyond().await,
            }
        };
        let Err(trouble) = outcome else { return Ok(()) };
        if matches!(&trouble, Trouble::Source(error) if !error.is_definite()) {
            for member in anybody(&self.swarm.clone(), placement, &self.gathering.digest, self.piece) {
                if self.is_given_by_holder(member, placement).await? {
                    return Ok(());
                }
            }
        }
        Err(trouble)
    }

    async fn is_given_by_holder(&mut self, member: &Member, placement: &Placement) -> Result<bool, Trouble> {
        let given = self.is_given_by(member, placement).await?;
        if given {
            self.swarm.note_holder(&self.gathering.digest, &member.id, true);
        }
        Ok(given)
    }
}

/// The nodes that are asked for a piece, nearest to being its home first. They are looked for only where it comes to that:
/// in a large cluster it takes time.
fn anybody<'s, 'p>(
    swarm: &'s Swarm,
    placement: &'p Placement,
    digest: &Digest,
    piece: u64,
) -> impl Iterator<Item = &'p Arc<Member>> + use<'s, 'p> {
    placement.in_cluster(digest, piece).filter(|member| !swarm.members.is_me(member)).take(ANYBODY)
}

/// Once nothing has come for a while, asks nodes whether they have the piece, all at once, and gives the first that has it
/// whole while still nothing has come. Never ends otherwise.
async fn find_in_silence(
    swarm: Arc<Swarm>,
    placement: &Placement,
    query: Query,
    mut flow: watch::Receiver<Flow>,
) -> &Arc<Member> {
    let from = query.from;
    if tokio::time::timeout(SILENCE, flow.wait_for(|flow| flow.got > from)).await.is_err() {
        let (swarm, query) = (&swarm, &query);
        let ask = |node| async move { has_it(swarm, node, query).await.then_some(node) };
        let nodes = anybody(swarm, placement, &query.digest, query.piece);
        let mut answers: FuturesUnordered<_> = nodes.map(ask).collect();
        while let Some(answer) = answers.next().await {
            if let Some(node) = answer.filter(|_| flow.borrow().got == from) {
                return node;
            }
        }
    }
    std::future::pending().await
}

/// Whether a node has all of a piece.
async fn has_it(swarm: &Swarm, node: &Arc<Member>, query: &Query) -> bool {
    if !swarm.health.admit(&node.id, now()).may_ask() {
        return false;
    }
    let Ok(Answer::Frames(mut reading)) = swarm.client.ask(node, query).await else { return false };
    loop {
        match reading.next().await {
            Ok(Some(Frame::Beat)) => {}
            Ok(Some(Frame::Start { depth, .. })) => return depth == 0,
            _ => return false,
        }
    }
}
