use std::path::PathBuf;
use std::time::Duration;

use oci::Registry;

use super::Role;
use super::certificates::Checks;
use super::cluster::Cluster;
use super::file::RegistryName;
use super::peers::Peering;
use super::section::Section;
use super::units::Span;

/// What only a node is told.
#[derive(Clone)]
pub struct Node {
    /// The larder registry that is asked before the origins.
    pub registry: Option<String>,
    /// Authorities (PEM) that vouch for it besides the system's.
    pub registry_ca: Option<PathBuf>,
    /// The folder of `tls.crt`, `tls.key` and `ca.crt` by which this node and it know each other.
    pub registry_certificates: Option<PathBuf>,
    /// How long a runtime waits for the head of an answer at most.
    pub answer: Duration,
    /// Whether the runtimes of this machine are pointed at the mirror.
    pub hosts: bool,
    /// Whether what was written for the runtimes is taken back when larder ends.
    pub restore: bool,
    /// The root of the machine's file system, as this process sees it.
    pub host_root: PathBuf,
    /// The registries that CRI-O asks the mirror for.
    pub crio: Vec<Registry>,
    /// The other nodes, if it shares with any.
    pub peers: Option<Peering>,
    /// The cluster whose ImageCaches it acts on, if it does.
    pub cluster: Option<Cluster>,
}

impl Default for Node {
    fn default() -> Node {
        Node {
            registry: None,
            registry_ca: None,
            registry_certificates: None,
            answer: Duration::from_secs(8),
            hosts: true,
            restore: false,
            host_root: PathBuf::from("/"),
            crio: ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io"]
                .map(|name| name.parse().expect("a host"))
                .into(),
            peers: None,
            cluster: None,
        }
    }
}

impl Node {
    /// Reads `[node]`.
    pub fn read(mut section: Section<'_>, checks: &mut Checks) -> Node {
        let default = Node::default();
        let answer = section.value("answer").map_or(default.answer, |Span(span)| span);
        // containerd gives up on a head after 30 s, and pays for it with every request.
        if !(Duration::from_millis(100)..=Duration::from_secs(25)).contains(&answer) {
            section.problem("answer", "must be between 100ms and 25s");
        }
        let crio = section.value("crio").map(|list: Vec<RegistryName>| list.into_iter().map(|RegistryName(name)| name));
        let node = Node {
            registry: section.value("registry"),
            registry_ca: section.value("registry_ca"),
            registry_certificates: section.value("registry_certificates"),
            answer,
            hosts: section.value("hosts").unwrap_or(default.hosts),
            restore: section.value("restore").unwrap_or(default.restore),
            host_root: section.value("host_root").unwrap_or(default.host_root),
            crio: crio.map_or(default.crio, Iterator::collect),
            peers: section.section("peers").and_then(|section| Peering::read(section, checks)),
            cluster: section.section("cluster").and_then(Cluster::read),
        };
        if let Some(folder) = &node.registry_certificates {
            if node.registry_ca.is_some() {
                let what = "is of no use beside registry_ca: a registry is known by the one or by the other";
                section.problem("registry_certificates", what);
            }
            checks.check(&section, "registry_certificates", folder, Role::Node);
        }
        if !node.host_root.is_absolute() {
            section.problem("host_root", "must be an absolute path");
        }
        section.finish();
        node
    }

    /// What pointing the runtimes of this machine at `mirror` needs.
    pub fn setup(&self, mirror: std::net::SocketAddr) -> node::Settings {
        node::Settings {
            mirror: mirror.to_string(),
            state: self.host_root.join("var/lib/larder-node/hosts"),
            crio_registries: self.crio.iter().map(ToString::to_string).collect(),
            ..node::Settings::new(&self.host_root)
        }
    }
}
