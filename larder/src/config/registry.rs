use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::Role;
use super::certificates::Checks;
use super::section::Section;
use super::units::Address;

/// Where nodes come to a registry, over mutual TLS.
pub struct ForNodes {
    /// The address.
    pub listen: SocketAddr,
    /// The folder of `tls.crt`, `tls.key` and `ca.crt`.
    pub certificates: PathBuf,
}

/// Reads `[registry]`, which has one table.
pub fn read(mut section: Section<'_>, checks: &mut Checks) -> Option<ForNodes> {
    let nodes = section.section("nodes").map(|section| ForNodes::read(section, checks));
    section.finish();
    nodes
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
