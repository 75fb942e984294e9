use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::members::{Member, NodeId};

/// One endpoint of an EndpointSlice, as far as it matters here (Kubernetes API, `discovery.k8s.io/v1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `nodeName`; endpoints without one are not nodes.
    pub node: Option<String>,
    /// The first of `addresses`, with the slice's port.
    pub address: SocketAddr,
    /// `zone`.
    pub zone: Option<String>,
    /// `conditions.ready`, where absent means yes.
    pub ready: bool,
    /// `conditions.terminating`, where absent means no.
    pub terminating: bool,
}

/// An EndpointSlice: a part of the endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// `metadata.name`.
    pub name: String,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
}

/// The EndpointSlices of one Service, put together from what a watcher saw. Knows nothing of an API server: the watcher
/// feeds it, and gives [`Slices::members`] to [`Members::replace`](crate::Members::replace).
#[derive(Clone, Debug, Default)]
pub struct Slices(BTreeMap<String, Vec<Endpoint>>);

impl Slices {
    /// Takes in a slice that was added or has changed.
    pub fn apply(&mut self, slice: Slice) {
        self.0.insert(slice.name, slice.endpoints);
    }

    /// Drops a slice that was deleted. One that is not known is none to drop.
    pub fn delete(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Puts a full list in the place of all that was known, as after a watch that broke off.
    pub fn restart(&mut self, slices: impl IntoIterator<Item = Slice>) {
        self.0 = slices.into_iter().map(|slice| (slice.name, slice.endpoints)).collect();
    }

    /// The nodes that are ready and not about to end, one member each, sorted by name.
    ///
    /// A node may be in several slices for a moment (they are rearranged in steps), with both families of addresses, or
    /// with the pod that goes and the one that comes: the lowest address of those that are ready counts, which prefers IPv4.
    pub fn members(&self) -> Vec<Member> {
        let mut members: BTreeMap<NodeId, Member> = BTreeMap::new();
        let present = self.0.values().flatten().filter(|endpoint| endpoint.ready && !endpoint.terminating);
        for endpoint in present {
            let Some(node) = endpoint.node.as_deref().filter(|node| !node.is_empty()) else { continue };
            let member = Member::new(node, endpoint.address, endpoint.zone.as_deref().unwrap_or_default());
            match members.get(node) {
                Some(other) if other.address <= member.address => {}
                _ => {
                    members.insert(member.id.clone(), member);
                }
            }
        }
        members.into_values().collect()
    }
}
