use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use peers::{Leaf, Role};
use testbed::Machine;

/// What the registry's certificate calls it.
const REGISTRY: &str = "registry";
/// How long the certificates are good, and their authority.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Makes an authority in a folder, and a certificate for each of these nodes.
///
/// # Errors
/// Files cannot be written, or are there already.
pub fn certify<'a>(authority: &Path, nodes: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let leaves = nodes.into_iter().map(|name| Leaf { name: name.to_owned(), role: Role::Node }).collect();
    let request = peers::Request { dir: authority.into(), leaves, validity: DAY, ca_validity: DAY, force: false };
    peers::mint(&request, SystemTime::now())?;
    Ok(())
}

/// Makes the certificate of a registry, by the authority in a folder; its own folder is below that.
///
/// # Errors
/// Files cannot be written, or are there already.
pub fn certify_registry(authority: &Path) -> Result<PathBuf> {
    let leaves = vec![Leaf { name: REGISTRY.to_owned(), role: Role::Registry }];
    let request = peers::Request { dir: authority.into(), leaves, validity: DAY, ca_validity: DAY, force: false };
    peers::mint(&request, SystemTime::now())?;
    Ok(authority.join(REGISTRY))
}

/// Puts a certificate with its key and authority, which are in a folder of this machine, into one of `machine`.
pub(crate) fn identify(machine: &Machine, from: &Path, to: &str) -> Result<()> {
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        machine.write(format!("{to}/{file}"), &fs::read_to_string(from.join(file))?)?;
    }
    Ok(())
}

/// A line of the list of members, in the configuration.
#[must_use]
pub fn member(name: &str, address: &str, zone: &str) -> String {
    format!("[[node.peers.members]]\nname = {name:?}\naddress = \"{address}:7440\"\nzone = {zone:?}\n")
}

/// Gives a machine its certificate; returns what its configuration says of the others.
///
/// # Errors
/// It has no certificate, or the machine is gone.
pub fn peering(machine: &Machine, authority: &Path, members: &str) -> Result<String> {
    identify(machine, &authority.join(machine.name()), "/etc/larder/peers")?;
    Ok(format!("[node.peers]\nname = {:?}\n{members}", machine.name()))
}
