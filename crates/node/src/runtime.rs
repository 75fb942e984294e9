//! Which runtimes a host has, and where each distribution of Kubernetes keeps their configuration.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::containerd::Version;
use crate::containerd::config::{self, ContainerdConfig};
use crate::containerd::running::{Running, ask};
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
    /// Why it said nothing of itself, if it was asked.
    pub silent: Option<String>,
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

/// The runtimes of the host under `host_root`, by their files and by what a running containerd says of itself. It is
/// asked for two seconds at most, through its socket below `host_root`; where it does not answer, its files speak.
/// Cancellation safe.
///
/// # Errors
/// If containerd's configuration is there and cannot be read.
pub async fn detect(host_root: &Path) -> Result<Vec<Runtime>, Error> {
    let root = host_root.to_owned();
    let socket = blocking(move || layout(&root).map(|facts| under(&root, Path::new(facts.socket)))).await;
    let asked = match socket {
        Some(socket) => ask(&socket).await,
        None => Ok(Running::default()),
    };
    let (running, silent) = match asked {
        Ok(running) => (running, None),
        Err(error) => (Running::default(), Some(error.to_string())),
    };
    let root = host_root.to_owned();
    let mut found = blocking(move || detect_by_files(&root, &running)).await?;
    for runtime in &mut found {
        if let RuntimeKind::Containerd(_) = runtime.kind {
            runtime.silent.clone_from(&silent);
        }
    }
    Ok(found)
}

/// Files are read where waiting for a disk holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The runtimes of the host under `host_root`: containerd where a known layout is there, and CRI-O. `running` is what
/// containerd says of itself.
///
/// # Errors
/// If containerd's configuration is there and cannot be read.
pub fn detect_by_files(host_root: &Path, running: &Running) -> Result<Vec<Runtime>, Error> {
    let mut found = Vec::new();
    if let Some(facts) = layout(host_root) {
        let version = running.version.as_deref().and_then(Version::parse);
        let config = config::read(host_root, Path::new(facts.config), Path::new(facts.root), version, running)?;
        found.push(Runtime {
            distribution: facts.distribution,
            version,
            silent: None,
            socket: facts.socket.into(),
            kind: RuntimeKind::Containerd(config),
        });
    }
    let crio = ["/etc/crio", "/run/crio/crio.sock", "/var/run/crio/crio.sock"];
    if crio.iter().any(|path| is_there(host_root, path)) {
        found.push(Runtime {
            distribution: Distribution::Other,
            version: None,
            silent: None,
            socket: "/run/crio/crio.sock".into(),
            kind: RuntimeKind::Crio,
        });
    }
    Ok(found)
}

fn layout(host_root: &Path) -> Option<&'static Facts> {
    FACTS.iter().find(|facts| facts.signs.iter().any(|sign| is_there(host_root, sign)))
}

fn is_there(host_root: &Path, path: &str) -> bool {
    under(host_root, Path::new(path)).exists()
}
