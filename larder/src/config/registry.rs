use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::Role;
use super::certificates::Checks;
use super::controller::{is_name, own_namespace};
use super::section::Section;
use super::units::Address;

/// Where nodes come to a registry, over mutual TLS.
pub struct ForNodes {
    /// The address.
    pub listen: SocketAddr,
    /// The folder of `tls.crt`, `tls.key` and `ca.crt`.
    pub certificates: PathBuf,
}

/// The cluster whose Upstreams a registry heeds.
pub struct InCluster {
    /// The namespace of the Secrets that they name: larder's own.
    pub namespace: String,
}

/// What only a registry is told.
#[derive(Default)]
pub struct Registry {
    /// Where nodes come to it, if they have an address of their own.
    pub nodes: Option<ForNodes>,
    /// The cluster that it belongs to, if it does.
    pub cluster: Option<InCluster>,
}

impl Registry {
    /// Reads `[registry]`.
    pub fn read(mut section: Section<'_>, checks: &mut Checks) -> Registry {
        let nodes = section.section("nodes").map(|section| ForNodes::read(section, checks));
        let cluster = section.section("cluster").map(InCluster::read);
        section.finish();
        Registry { nodes, cluster }
    }
}

impl Default for InCluster {
    fn default() -> InCluster {
        InCluster { namespace: own_namespace() }
    }
}

impl InCluster {
    /// Reads `[registry.cluster]`.
    fn read(mut section: Section<'_>) -> InCluster {
        let namespace: Option<String> = section.value("namespace");
        if namespace.as_deref().is_some_and(|name| !is_name(name)) {
            section.problem("namespace", "is the name of an object: lower-case letters, digits and -");
        }
        section.finish();
        namespace.map_or_else(InCluster::default, |namespace| InCluster { namespace })
    }
}

impl ForNodes {
    fn read(mut section: Section<'_>, checks: &mut Checks) -> ForNodes {
        let listen = section.value("listen").map_or((Ipv4Addr::UNSPECIFIED, 5002).into(), |Address(address)| address);
        let certificates = section.value("certificates").unwrap_or_else(|| PathBuf::from("/etc/larder/registry"));
        checks.check(&section, "certificates", &certificates, Role::Registry);
        section.finish();
        ForNodes { listen, certificates }
    }
}
