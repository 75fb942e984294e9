use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use peers::{Leaf, Role};
use testbed::Machine;

/// How long the certificates are good, and their authority.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Makes an authority in a folder, and a certificate for each of these nodes.
///
/// # Errors
/// Files cannot be written, or are there already.
pub fn certify<'a>(authority: &Path, nodes: impl IntoIterator<Item = &'a str>) -> Result<()> {
    certify_roles(authority, nodes.into_iter().map(|name| (name, Role::Node)))
}

/// Makes an authority in a folder, and certificates for these names in their roles.
///
/// # Errors
/// Files cannot be written, or are there already.
pub fn certify_roles<'a>(authority: &Path, names: impl IntoIterator<Item = (&'a str, Role)>) -> Result<()> {
    let leaves = names.into_iter().map(|(name, role)| Leaf { name: name.to_owned(), role }).collect();
    let request = peers::Request { dir: authority.into(), leaves, validity: DAY, ca_validity: DAY, force: false };
    peers::mint(&request, SystemTime::now())?;
    Ok(())
}

/// Gives a machine the certificate of this name, in this folder.
///
/// # Errors
/// There is none, or the machine is gone.
pub fn give_certificate(machine: &Machine, authority: &Path, name: &str, folder: &str) -> Result<()> {
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        let text = fs::read_to_string(authority.join(name).join(file))?;
        machine.write(format!("{folder}/{file}"), &text)?;
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
    give_certificate(machine, authority, machine.name(), "/etc/larder/peers")?;
    Ok(format!("[node.peers]\nname = {:?}\n{members}", machine.name()))
}
