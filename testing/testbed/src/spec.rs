//! What a cluster shall be like.

use programs::Program;
use serde_json::Value;

use crate::{network::Rate, origin::OriginSpec};

/// A cluster to be started.
#[derive(Debug, Clone)]
pub struct ClusterSpec {
    pub(crate) name: String,
    pub(crate) nodes: Vec<NodeSpec>,
    pub(crate) origins: Vec<OriginSpec>,
    pub(crate) programs: Vec<Program>,
    pub(crate) progress: bool,
}

impl ClusterSpec {
    /// A cluster of that name, which no other running cluster on this machine may have, with one node and the usual origins:
    /// `docker.io`, `ghcr.io`, `quay.io`, and `registry.private.example`, which asks for a password.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let public = ["docker.io", "ghcr.io", "quay.io"].map(OriginSpec::public);
        Self {
            name: name.to_owned(),
            nodes: vec![NodeSpec::new("node-1")],
            origins: public.into_iter().chain([OriginSpec::private("registry.private.example")]).collect(),
            programs: Vec::new(),
            progress: false,
        }
    }

    /// So many nodes, called `node-1` and so on.
    #[must_use]
    pub fn nodes(mut self, count: usize) -> Self {
        self.nodes = (1..=count).map(|number| NodeSpec::new(&format!("node-{number}"))).collect();
        self
    }

    /// These nodes instead.
    #[must_use]
    pub fn with_nodes(mut self, nodes: impl IntoIterator<Item = NodeSpec>) -> Self {
        self.nodes = nodes.into_iter().collect();
        self
    }

    /// One more origin.
    #[must_use]
    pub fn origin(mut self, origin: OriginSpec) -> Self {
        self.origins.push(origin);
        self
    }

    /// More programs that the test will ask for with [`crate::Cluster::program`].
    #[must_use]
    pub fn programs(mut self, programs: &[Program]) -> Self {
        self.programs.extend(programs);
        self
    }

    /// Whether to say on standard error what is being done.
    #[must_use]
    pub const fn progress(mut self, progress: bool) -> Self {
        self.progress = progress;
        self
    }
}

/// A node to be started.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    pub(crate) name: String,
    pub(crate) zone: Option<String>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) taints: Vec<Value>,
    pub(crate) runtime: Runtime,
    pub(crate) disk: Option<u64>,
    pub(crate) rate: Option<Rate>,
    pub(crate) kubelet: Vec<(String, Value)>,
    pub(crate) files: Vec<(String, String)>,
}

impl NodeSpec {
    /// A node of that name, which is also its host name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            zone: None,
            labels: Vec::new(),
            taints: Vec::new(),
            runtime: Runtime::default(),
            disk: None,
            rate: None,
            kubelet: Vec::new(),
            files: Vec::new(),
        }
    }

    /// The zone that its label names.
    #[must_use]
    pub fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.to_owned());
        self
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A taint with which it registers. `effect` is `NoSchedule` and the like.
    #[must_use]
    pub fn taint(mut self, key: &str, effect: &str) -> Self {
        self.taints.push(serde_json::json!({"key": key, "effect": effect}));
        self
    }

    /// Its container runtime.
    #[must_use]
    pub const fn runtime(mut self, runtime: Runtime) -> Self {
        self.runtime = runtime;
        self
    }

    /// Gives containerd a filesystem of its own, in memory, of that many bytes. It can be filled up.
    #[must_use]
    pub const fn disk(mut self, bytes: u64) -> Self {
        self.disk = Some(bytes);
        self
    }

    /// Caps its link from the start.
    #[must_use]
    pub const fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// A field of its `KubeletConfiguration`.
    #[must_use]
    pub fn kubelet(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.kubelet.push((field.to_owned(), value.into()));
        self
    }

    /// A file that is there before containerd starts, by its path below `/etc`, such as
    /// `containerd/certs.d/docker.io/hosts.toml`.
    #[must_use]
    pub fn etc(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.trim_start_matches('/').to_owned(), text.to_owned()));
        self
    }
}

/// A container runtime with its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtime {
    /// containerd 2.4, the newest.
    #[default]
    Containerd24,
    /// containerd 1.7.
    Containerd17,
}

impl Runtime {
    /// The daemon and the shim.
    pub(crate) const fn programs(self) -> [Program; 2] {
        match self {
            Self::Containerd24 => [Program::Containerd, Program::Shim],
            Self::Containerd17 => [Program::Containerd17, Program::Shim17],
        }
    }
}
