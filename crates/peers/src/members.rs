use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::placement::Placement;

/// What a node is called, the same on all nodes: in Kubernetes the node's name. A piece's home follows from it, so a node
/// that keeps its name keeps its pieces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for NodeId {
    fn from(name: &str) -> NodeId {
        NodeId(name.into())
    }
}

impl From<String> for NodeId {
    fn from(name: String) -> NodeId {
        NodeId(name.into())
    }
}

impl Borrow<str> for NodeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node that shares pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// Where it answers other nodes.
    pub address: SocketAddr,
    /// The zone it is in. Nodes of which none is known share the empty one.
    pub zone: Arc<str>,
}

impl Member {
    /// A member from its name, address and zone.
    pub fn new(id: impl Into<NodeId>, address: SocketAddr, zone: &str) -> Member {
        Member { id: id.into(), address, zone: zone.into() }
    }

    /// Whether anybody can connect to its address.
    fn usable(&self) -> bool {
        !self.id.as_str().is_empty() && self.address.port() != 0 && !self.address.ip().is_unspecified()
    }
}

/// What a new list of members changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Who was not there before.
    pub added: Vec<NodeId>,
    /// Who is not there any more.
    pub removed: Vec<NodeId>,
    /// Whose address or zone is another one. What was known of its health is void.
    pub changed: Vec<NodeId>,
    /// What the list had but nobody can use: no name, an address without host or port, a name or an address twice.
    pub refused: Vec<Member>,
}

impl Changes {
    /// Whether the members are the same as before.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// The nodes that share pieces, at this moment.
///
/// The list is taken as a whole from whoever knows it: the configuration, or [`Slices`](crate::Slices) that a watcher feeds. Whether this
/// node is in it is for the list to say: the placement must be the one that all others work out, and a node that
/// nobody knows is nobody's home.
#[derive(Debug)]
pub struct Members {
    me: Member,
    now: watch::Sender<Arc<Placement>>,
}

impl Members {
    /// No members yet; `me` is this node.
    pub fn new(me: Member) -> Members {
        Members { me, now: watch::Sender::new(Arc::default()) }
    }

    /// This node, as its own configuration has it.
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// Whether a member is this node, also where the list calls it something else.
    pub fn is_me(&self, member: &Member) -> bool {
        member.id == self.me.id || member.address == self.me.address
    }

    /// The zone of this node: what the list says or, where it is not listed, its own configuration.
    pub fn zone(&self) -> Arc<str> {
        self.now.borrow().get(&self.me.id).map_or_else(|| self.me.zone.clone(), |listed| listed.zone.clone())
    }

    /// The placement over the members of this moment. A request should use one throughout.
    pub fn placement(&self) -> Arc<Placement> {
        self.now.borrow().clone()
    }

    /// Whether there is nobody but this node, so that asking peers is of no use.
    pub fn alone(&self) -> bool {
        self.now.borrow().members().iter().all(|member| self.is_me(member))
    }

    /// Tells of every change to come. Cancellation safe, as the channel is.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Placement>> {
        self.now.subscribe()
    }

    /// Puts a placement that was worked out already in the place of the one before: one for many nodes of one process.
    pub fn share(&self, placement: Arc<Placement>) {
        self.now.send_replace(placement);
    }

    /// Puts a new list in the place of the old, at once for all who ask from now on. Who is subscribed is told only if it
    /// differs. Of several members with one name the last counts, of several with one address the one whose name sorts
    /// first, so that all nodes choose alike.
    pub fn replace(&self, list: impl IntoIterator<Item = Member>) -> Changes {
        let mut changes = Changes::default();
        let mut named: BTreeMap<NodeId, Member> = BTreeMap::new();
        for member in list {
            if !member.usable() {
                changes.refused.push(member);
            } else if let Some(earlier) = named.insert(member.id.clone(), member) {
                // The very same line twice is nothing to talk about.
                if named.get(&earlier.id) != Some(&earlier) {
                    changes.refused.push(earlier);
                }
            }
        }
        let mut addresses = BTreeSet::new();
        let mut members = Vec::with_capacity(named.len());
        for member in named.into_values() {
            if addresses.insert(member.address) { members.push(member) } else { changes.refused.push(member) }
        }
        self.now.send_if_modified(|now| {
            let mut kept = 0;
            let next: Vec<Arc<Member>> = members
                .into_iter()
                .map(|member| match now.get(&member.id) {
                    Some(before) if **before == member => {
                        kept += 1;
                        before.clone()
                    }
                    Some(_) => {
                        changes.changed.push(member.id.clone());
                        Arc::new(member)
                    }
                    None => {
                        changes.added.push(member.id.clone());
                        Arc::new(member)
                    }
                })
                .collect();
            if kept == next.len() && kept == now.len() {
                return false;
            }
            let next = Placement::new(next);
            changes.removed =
                now.members().iter().map(|member| &member.id).filter(|id| next.get(id).is_none()).cloned().collect();
            *now = Arc::new(next);
            true
        });
        changes
    }
}
