use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use apiserver::News;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use peers::{Health, Member, Members, Slice, Slices};

use super::PeerService;

/// The port by which nodes exchange pieces, where a Service has several.
const PORT: &str = "peers";
const PORTLESS: &str = "it needs a TCP port called \"peers\", or one TCP port and no other";

/// Puts together what becomes known, and passes it on.
pub(super) struct Listing {
    service: PeerService,
    slices: Slices,
    members: Arc<Members>,
    health: Arc<Health>,
    /// What was last complained about.
    refused: Vec<Member>,
    portless: bool,
}

impl Listing {
    pub(super) fn new(service: &PeerService, members: Arc<Members>, health: Arc<Health>) -> Listing {
        let (slices, refused) = Default::default();
        Listing { service: service.clone(), slices, members, health, refused, portless: false }
    }

    /// Takes in what becomes known.
    pub(super) fn take(&mut self, news: News<Reduced>) {
        match news {
            News::All(all) => {
                let all: Vec<Slice> = all.into_iter().map(|one| self.read(one)).collect();
                self.slices.restart(all);
            }
            News::Changed(one) => {
                let slice = self.read(one);
                self.slices.apply(slice);
            }
            News::Gone(one) => self.slices.delete(&one.slice.name),
        }
        self.publish();
    }

    fn read(&mut self, one: Reduced) -> Slice {
        if one.portless && !self.portless {
            tracing::warn!(service = %self.service, "the endpoints of the Service cannot be used: {PORTLESS}");
        }
        self.portless = one.portless;
        one.slice
    }

    fn publish(&mut self) {
        let changes = self.members.replace(self.slices.members());
        self.health.follow(&changes, Instant::now());
        if !changes.is_empty() {
            tracing::info!(
                nodes = self.members.placement().members().len(),
                added = changes.added.len(),
                removed = changes.removed.len(),
                changed = changes.changed.len(),
                "the list of nodes has changed"
            );
        }
        if changes.refused != self.refused {
            for member in changes.refused.iter().filter(|member| !self.refused.contains(member)) {
                tracing::warn!(node = %member.id, address = %member.address, "passing over a node whose address is not one, or that of another");
            }
            self.refused = changes.refused;
        }
    }
}

/// The nodes of a complete list; what keeps them from being known, if something does.
pub(super) fn members_of(slices: Vec<EndpointSlice>) -> Result<Vec<Member>, &'static str> {
    if slices.iter().any(portless) {
        return Err(PORTLESS);
    }
    let mut all = Slices::default();
    all.restart(slices.into_iter().map(reduced));
    Ok(all.members())
}

/// Whether there are endpoints, and none of them can be connected to.
fn portless(slice: &EndpointSlice) -> bool {
    let some = slice.endpoints.as_ref().is_some_and(|endpoints| !endpoints.is_empty());
    some && port(slice.ports.as_deref().unwrap_or_default()).is_none()
}

/// What matters here of an EndpointSlice.
pub(super) struct Reduced {
    slice: Slice,
    portless: bool,
}

impl From<EndpointSlice> for Reduced {
    fn from(slice: EndpointSlice) -> Reduced {
        Reduced { portless: portless(&slice), slice: reduced(slice) }
    }
}

/// Its endpoints. Of IPv4 and IPv6 alike; those of names have no endpoints to us.
fn reduced(slice: EndpointSlice) -> Slice {
    let port = port(slice.ports.as_deref().unwrap_or_default());
    let endpoints = slice.endpoints.unwrap_or_default();
    Slice {
        name: slice.metadata.name.unwrap_or_default(),
        endpoints: endpoints.into_iter().filter_map(|one| endpoint(one, port?)).collect(),
    }
}

fn endpoint(endpoint: Endpoint, port: u16) -> Option<peers::Endpoint> {
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.unwrap_or_default();
    Some(peers::Endpoint {
        node: endpoint.node_name,
        address: SocketAddr::new(address, port),
        zone: endpoint.zone,
        ready: conditions.ready.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
    })
}

/// The TCP port that is called [`PORT`] or, if there is none, the only one.
fn port(ports: &[EndpointPort]) -> Option<u16> {
    let tcp = || ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let named = tcp().find(|port| port.name.as_deref() == Some(PORT));
    let only = || tcp().next().filter(|_| tcp().count() == 1);
    let number = named.or_else(only)?.port?;
    u16::try_from(number).ok().filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn slice(name: &str, endpoints: Value) -> EndpointSlice {
        with_ports(name, endpoints, json!([{"name": "peers", "port": 7440, "protocol": "TCP"}]))
    }

    fn with_ports(name: &str, endpoints: Value, ports: Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": ports,
        }))
        .unwrap()
    }

    fn listing() -> Listing {
        let me = Member::new("me", "10.0.0.9:7440".parse().unwrap(), "");
        let service = PeerService { namespace: "larder".into(), name: "larder-peers".into() };
        Listing::new(&service, Arc::new(Members::new(me)), Arc::new(Health::seeded(1)))
    }

    fn known(listing: &Listing) -> BTreeMap<String, String> {
        let placement = listing.members.placement();
        placement.members().iter().map(|one| (one.id.to_string(), one.address.to_string())).collect()
    }

    fn node(name: &str, address: &str) -> Value {
        json!({"addresses": [address], "nodeName": name})
    }

    #[test]
    fn an_endpoint_keeps_what_matters() {
        let read = reduced(slice(
            "one",
            json!([
                {"addresses": ["10.0.0.1", "10.0.0.7"], "nodeName": "a", "zone": "z", "conditions": {"ready": true}},
                {"addresses": ["fd00::2"], "nodeName": "b", "conditions": {"ready": false, "terminating": true}},
                {"addresses": ["10.0.0.3"], "conditions": {}},
            ]),
        ));
        let endpoint = |node: Option<&str>, address: &str, zone: Option<&str>, ready, terminating| peers::Endpoint {
            node: node.map(str::to_owned),
            address: address.parse().unwrap(),
            zone: zone.map(str::to_owned),
            ready,
            terminating,
        };
        let expected = vec![
            endpoint(Some("a"), "10.0.0.1:7440", Some("z"), true, false),
            endpoint(Some("b"), "[fd00::2]:7440", None, false, true),
            endpoint(None, "10.0.0.3:7440", None, true, false),
        ];
        assert_eq!(read, Slice { name: "one".into(), endpoints: expected });
    }

    #[test]
    fn an_endpoint_without_an_ip_address_is_none() {
        let strange = json!([{"addresses": ["node.example"], "nodeName": "a"}, {"addresses": [], "nodeName": "b"}, node("c", "10.0.0.3")]);
        let read = reduced(slice("one", strange));
        assert_eq!(read.endpoints.iter().map(|one| one.node.as_deref()).collect::<Vec<_>>(), [Some("c")]);
        assert!(reduced(slice("one", Value::Null)).endpoints.is_empty());
    }

    #[test]
    fn the_port_is_the_one_that_is_meant() {
        let ports = |ports: Value| port(&serde_json::from_value::<Vec<EndpointPort>>(ports).unwrap());
        assert_eq!(ports(json!([{"name": "metrics", "port": 1}, {"name": "peers", "port": 2}])), Some(2));
        assert_eq!(ports(json!([{"name": "", "port": 3}])), Some(3));
        assert_eq!(ports(json!([{"port": 3}])), Some(3));
        assert_eq!(ports(json!([{"port": 4, "protocol": "UDP"}, {"port": 5, "protocol": "TCP"}])), Some(5));
        assert_eq!(ports(json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}])), None);
        assert_eq!(ports(json!([{"name": "peers", "protocol": "SCTP", "port": 1}])), None);
        assert_eq!(ports(json!([{"name": "peers"}])), None);
        assert_eq!(ports(json!([{"name": "peers", "port": 70000}])), None);
        assert_eq!(ports(json!([])), None);
    }

    #[test]
    fn slices_without_a_port_have_no_nodes() {
        let mut listing = listing();
        listing.take(News::Changed(with_ports("one", json!([node("a", "10.0.0.1")]), Value::Null).into()));
        assert!(known(&listing).is_empty() && listing.portless);
        listing.take(News::Changed(slice("one", json!([node("a", "10.0.0.1")])).into()));
        assert!(known(&listing).len() == 1 && !listing.portless);
    }

    #[test]
    fn a_list_taken_once_has_the_nodes_that_can_be_used() {
        let ending = json!({"addresses": ["10.0.0.3"], "nodeName": "c", "conditions": {"terminating": true}});
        let slices =
            vec![slice("one", json!([node("b", "10.0.0.2"), ending])), slice("two", json!([node("a", "10.0.0.1")]))];
        let names: Vec<_> = members_of(slices).unwrap().into_iter().map(|one| one.id.to_string()).collect();
        assert_eq!(names, ["a", "b"]);
        let without = with_ports("one", json!([node("a", "10.0.0.1")]), Value::Null);
        assert_eq!(members_of(vec![without]), Err(PORTLESS));
        assert_eq!(members_of(Vec::new()), Ok(Vec::new()));
    }

    #[test]
    fn nobody_hears_of_a_list_that_is_as_before() {
        let mut listing = listing();
        let all = || {
            let (one, two) = (json!([node("a", "10.0.0.1")]), json!([node("b", "10.0.0.2")]));
            News::All(vec![slice("one", one).into(), slice("two", two).into()])
        };
        listing.take(all());
        let both = known(&listing);
        assert_eq!(both.len(), 2);
        let changes = listing.members.subscribe();
        listing.take(all());
        assert_eq!(known(&listing), both);
        assert!(!changes.has_changed().unwrap());
        listing.take(News::All(vec![slice("two", json!([node("b", "10.0.0.2")])).into()]));
        assert_eq!(known(&listing).keys().collect::<Vec<_>>(), ["b"]);
        assert!(changes.has_changed().unwrap());
    }

    #[test]
    fn nodes_appear_move_and_vanish() {
        let mut listing = listing();
        listing.take(News::All(Vec::new()));
        listing.take(News::Changed(slice("one", json!([node("a", "10.0.0.1")])).into()));
        listing.take(News::Changed(slice("two", json!([node("b", "10.0.0.2")])).into()));
        let a = peers::NodeId::from("a");
        listing.health.failed(&a, peers::Reason::Dead, Instant::now());
        listing.take(News::Changed(slice("one", json!([node("a", "10.0.0.5")])).into()));
        assert_eq!(known(&listing)["a"], "10.0.0.5:7440");
        assert!(listing.health.passed_over().is_empty(), "another process answers there");
        listing.take(News::Gone(slice("one", Value::Null).into()));
        assert_eq!(known(&listing).keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn an_address_of_two_nodes_is_that_of_one() {
        let mut listing = listing();
        let twice = json!([node("a", "10.0.0.1"), node("b", "10.0.0.1")]);
        listing.take(News::Changed(slice("one", twice).into()));
        assert_eq!(listing.refused.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(known(&listing).keys().collect::<Vec<_>>(), ["a"]);
    }
}
