//! Which runtimes a host has, and where each distribution of Kubernetes keeps their configuration.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::containerd::config::{self, ContainerdConfig};
use crate::containerd::{Introspection, Version};
use crate::settings::under;

/// A distribution of Kubernetes or of Linux, as far as it moves the runtime's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "names say it")]
pub enum Distribution {
    K3s,
    Rke2,
    K0s,
    Kind,
    Talos,
    EksAl2023,
    MicroK8s,
    Bottlerocket,
    Other,
}

/// A runtime that was found.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Whose layout it has.
    pub distribution: Distribution,
    /// Its version, if it said.
    pub version: Option<Version>,
    /// Its socket, as the host sees it.
    pub socket: PathBuf,
    /// What it is, with what only that kind has.
    pub kind: RuntimeKind,
}

/// What a runtime is.
#[derive(Debug, Clone)]
pub enum RuntimeKind {
    /// containerd, with what its configuration says.
    Containerd(ContainerdConfig),
    /// CRI-O, which reads registries.conf.d.
    Crio,
}

struct Facts {
    distribution: Distribution,
    /// Any of these shows that it is this one.
    signs: &'static [&'static str],
    config: &'static str,
    socket: &'static str,
    /// containerd's `root` where its configuration does not say it.
    root: &'static str,
}

const CONFIG: &str = "/etc/containerd/config.toml";
const SOCKET: &str = "/run/containerd/containerd.sock";
const ROOT: &str = "/var/lib/containerd";

/// The first whose sign is there holds, so what lives beside another one's files comes before it.
const FACTS: &[Facts] = &[
    Facts {
        distribution: Distribution::Rke2,
        signs: &["/var/lib/rancher/rke2/agent"],
        config: "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        socket: "/run/k3s/containerd/containerd.sock",
        root: "/var/lib/rancher/rke2/agent/containerd",
    },
    Facts {
        distribution: Distribution::K3s,
        signs: &["/var/lib/rancher/k3s/agent"],
        config: "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        socket: "/run/k3s/containerd/containerd.sock",
        root: "/var/lib/rancher/k3s/agent/containerd",
    },
    Facts {
        distribution: Distribution::K0s,
        signs: &["/var/lib/k0s"],
        config: "/etc/k0s/containerd.toml",
        socket: "/run/k0s/containerd.sock",
        root: "/var/lib/k0s/containerd",
    },
    Facts {
        distribution: Distribution::MicroK8s,
        signs: &["/var/snap/microk8s/current"],
        config: "/var/snap/microk8s/current/args/containerd.toml",
        socket: "/var/snap/microk8s/common/run/containerd.sock",
        root: "/var/snap/microk8s/common/var/lib/containerd",
    },
    Facts {
        distribution: Distribution::Talos,
        signs: &["/etc/cri/conf.d"],
        config: "/etc/cri/containerd.toml",
        socket: SOCKET,
        root: ROOT,
    },
    Facts { distribution: Distribution::Kind, signs: &["/kind/version"], config: CONFIG, socket: SOCKET, root: ROOT },
    Facts {
        distribution: Distribution::EksAl2023,
        signs: &["/etc/eks/nodeadm"],
        config: CONFIG,
        socket: SOCKET,
        root: ROOT,
    },
    Facts {
        distribution: Distribution::Bottlerocket,
        signs: &["/etc/bottlerocket-release"],
        config: CONFIG,
        socket: SOCKET,
        root: ROOT,
    },
    Facts { distribution: Distribution::Other, signs: &[CONFIG, SOCKET], config: CONFIG, socket: SOCKET, root: ROOT },
];

/// The runtimes of the host under `host_root`: containerd where a known layout is there, and CRI-O.
///
/// # Errors
/// If containerd's configuration is there and cannot be read.
pub fn detect(host_root: &Path, running: Option<&dyn Introspection>) -> Result<Vec<Runtime>, Error> {
    let there = |path: &&str| under(host_root, Path::new(path)).exists();
    let mut found = Vec::new();
    if let Some(facts) = FACTS.iter().find(|facts| facts.signs.iter().any(&there)) {
        let version = running.and_then(Introspection::version).and_then(|text| Version::parse(&text));
        let config = config::read(host_root, Path::new(facts.config), Path::new(facts.root), version, running)?;
        found.push(Runtime {
            distribution: facts.distribution,
            version,
            socket: facts.socket.into(),
            kind: RuntimeKind::Containerd(config),
        });
    }
    if ["/etc/crio", "/run/crio/crio.sock", "/var/run/crio/crio.sock"].iter().any(there) {
        found.push(Runtime {
            distribution: Distribution::Other,
            version: None,
            socket: "/run/crio/crio.sock".into(),
            kind: RuntimeKind::Crio,
        });
    }
    Ok(found)
}
