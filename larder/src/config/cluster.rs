use std::fmt;
use std::str::FromStr;

use super::peers::own_name;
use super::section::{Section, textual};

/// What a node is told about the cluster that it belongs to.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The name of its Node object.
    pub name: String,
    /// What prefetch leaves free of the filesystem of images.
    pub keep_free: Share,
}

/// So many hundredths, 0 to 90.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub u8);

impl Cluster {
    /// What holds where nothing is said.
    ///
    /// # Errors
    /// Nothing tells the node's name.
    pub fn usual() -> Result<Cluster, String> {
        // Kubelet registers a host under its name in lower case.
        let name = own_name().unwrap_or_default().to_lowercase();
        // Kubelet evicts pods below 15 %, and begins to remove images when as much is left.
        checked(Cluster { name, keep_free: Share(15) })
    }

    /// Reads `[node.cluster]`.
    pub fn read(mut section: Section<'_>) -> Option<Cluster> {
        let name: Option<String> = section.value("name");
        let keep_free = section.value("keep_free");
        let cluster = match name {
            Some(name) => checked(Cluster { name, keep_free: Share(15) }),
            None => Cluster::usual(),
        };
        let cluster = cluster.map_err(|error| section.problem("name", error)).ok();
        section.finish();
        Some(Cluster { keep_free: keep_free.unwrap_or(Share(15)), ..cluster? })
    }
}

/// Names of Nodes are those of a DNS subdomain (RFC 1123).
fn checked(cluster: Cluster) -> Result<Cluster, String> {
    let Cluster { name, .. } = &cluster;
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-');
    match name.len() <= 253 && name.split('.').all(label) {
        true => Ok(cluster),
        false if name.is_empty() => Err("is missing: the name of this node, as kubectl get nodes shows it".to_owned()),
        false => Err(format!("{name:?} is the name of no Node: write it as kubectl get nodes shows it")),
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let share = text.strip_suffix('%').and_then(|number| number.parse().ok()).filter(|share| *share <= 90);
        share
            .map(Share)
            .ok_or_else(|| format!("{text:?} is no share of a disk; write it like \"15%\", at most \"90%\""))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

textual!(Share: "a share such as \"15%\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        assert_eq!("15%".parse(), Ok(Share(15)));
        assert_eq!("0%".parse(), Ok(Share(0)));
        for text in ["15", "91%", "-1%", "%", "1.5%", ""] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_those_of_nodes() {
        let named = |name: &str| checked(Cluster { name: name.to_owned(), keep_free: Share(15) }).is_ok();
        assert!(named("node-1") && named("ip-10-0-0-1.eu-west-1.compute.internal"));
        for wrong in ["", "Node-1", "-a", "a-", "a..b", "a_b", "a/b", &"a".repeat(254)] {
            assert!(!named(wrong), "{wrong}");
        }
    }
}
