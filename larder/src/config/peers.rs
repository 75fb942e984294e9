use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::Role;
use super::certificates::Checks;
use super::section::Section;
use super::units::{Address, Size};

/// What a node is told about the other nodes that it shares with.
#[derive(Clone)]
pub struct Peering {
    /// Where other nodes connect to.
    pub listen: SocketAddr,
    /// What this node is called, as in the list of members.
    pub name: String,
    /// The zone of this node, where the list of members does not say it.
    pub zone: String,
    /// The folder of `tls.crt`, `tls.key` and `ca.crt`.
    pub certificates: PathBuf,
    /// Where the members are known.
    pub members: MemberList,
    /// Bytes per second to all other nodes together.
    pub upload: Option<Size>,
    /// Bytes per second from all other nodes together.
    pub download: Option<Size>,
}

/// Where the members are known.
#[derive(Clone)]
pub enum MemberList {
    /// Here.
    Fixed(Vec<peers::Member>),
    /// In the EndpointSlices of a headless Service: its namespace and name.
    Service(node::membership::PeerService),
}

impl Peering {
    /// Reads `[node.peers]`.
    pub fn read(mut section: Section<'_>, checks: &mut Checks) -> Option<Peering> {
        let listen = section.value("listen").map_or((Ipv4Addr::UNSPECIFIED, 7440).into(), |Address(address)| address);
        let name: Option<String> = section.value("name");
        let name = name.or_else(own_name).unwrap_or_default();
        if name.is_empty() {
            section.problem("name", "is missing: the name of this node, as in the list of members");
        }
        let zone = section.value("zone").unwrap_or_default();
        let certificates = section.value("certificates").unwrap_or_else(|| PathBuf::from("/etc/larder/peers"));
        checks.check(&section, "certificates", &certificates, Role::Node);
        let service: Option<String> = section.value("service");
        let fixed: Vec<peers::Member> = section.sections("members").into_iter().filter_map(member).collect();
        let members = match (service, section.has("members")) {
            (Some(_), true) => {
                section.problem("service", "is of no use beside members: give one of both");
                None
            }
            (Some(service), false) => match service.parse() {
                Ok(service) => Some(MemberList::Service(service)),
                Err(error) => {
                    section.problem("service", error);
                    None
                }
            },
            (None, true) => Some(MemberList::Fixed(fixed)),
            (None, false) => {
                section.problem("members", "is missing: list the nodes, this one included, or name their Service");
                None
            }
        };
        if let Some(MemberList::Fixed(list)) = &members
            && !list.is_empty()
            && !name.is_empty()
            && !list.iter().any(|member| member.id.as_str() == name)
        {
            section.problem("members", format_args!("this node, {name:?}, is not among them: add it, or set name"));
        }
        let rate = |section: &mut Section<'_>, key| {
            let rate: Option<Size> = section.value(key);
            if rate.is_some_and(|Size(rate)| rate < 64 * 1024) {
                section.problem(key, "must be at least 64KiB, in each second");
            }
            rate
        };
        let (upload, download) = (rate(&mut section, "upload"), rate(&mut section, "download"));
        section.finish();
        Some(Peering { listen, name, zone, certificates, members: members?, upload, download })
    }
}

fn member(mut section: Section<'_>) -> Option<peers::Member> {
    let name: Option<String> = section.value("name");
    let address = section.value("address").map(|Address(address)| address);
    let zone: String = section.value("zone").unwrap_or_default();
    if name.as_ref().is_none_or(String::is_empty) {
        section.problem("name", "is missing: what the node is called");
    }
    if address.is_none() && !section.has("address") {
        section.problem("address", "is missing: where the node answers others, such as \"10.0.0.1:7440\"");
    }
    if address.is_some_and(|address| address.ip().is_unspecified() || address.port() == 0) {
        section.problem("address", "is none that others could connect to");
    }
    section.finish();
    Some(peers::Member::new(name?, address?, &zone))
}

/// The name of this node where none is given: as its pod is told, or that of this machine.
pub(super) fn own_name() -> Option<String> {
    std::env::var("NODE_NAME").ok().or_else(host_name)
}

/// The name of this machine.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}

impl fmt::Display for MemberList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemberList::Fixed(members) => write!(f, "{} nodes are listed", members.len()),
            MemberList::Service(service) => write!(f, "nodes of the Service {service}"),
        }
    }
}
