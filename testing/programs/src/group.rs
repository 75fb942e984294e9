//! What a kind of test needs, under one name.

use anyhow::Result;

use crate::{Paths, Program, debian, ensure};

/// A set of programs and packages that are wanted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// What tests of the registry side run: registries, clients, the conformance suite.
    RegistryTests,
    /// What tests of container runtimes run beside these.
    Runtimes,
    /// What a Kubernetes cluster on this machine is made of.
    Cluster,
}

impl Group {
    /// Every group.
    pub const ALL: &'static [Self] = &[Self::RegistryTests, Self::Runtimes, Self::Cluster];

    /// The name by which the command line knows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RegistryTests => "registry-tests",
            Self::Runtimes => "runtimes",
            Self::Cluster => "cluster",
        }
    }

    /// The group with that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|group| group.name() == name)
    }

    /// The programs that are built for it.
    #[must_use]
    pub const fn programs(self) -> &'static [Program] {
        use Program::{
            ApiServer, CniHostLocal, CniLoopback, CniPortmap, CniPtp, Conformance, Containerd, Containerd17,
            ControllerManager, CoreDns, Crane, Crictl, Ctr, Helm, KubeProxy, Kubectl, Kubelet, Oras, Regctl, Registry,
            Scheduler, Shim, Shim17,
        };
        match self {
            Self::RegistryTests => &[Crane, Conformance, Registry, Oras, Regctl],
            Self::Runtimes => &[Containerd, Ctr, Shim, Crictl, Containerd17, Shim17],
            Self::Cluster => &[
                Registry,
                Crane,
                Containerd,
                Shim,
                Ctr,
                Crictl,
                ApiServer,
                Kubelet,
                KubeProxy,
                Kubectl,
                ControllerManager,
                Scheduler,
                CoreDns,
                CniPtp,
                CniLoopback,
                CniHostLocal,
                CniPortmap,
                Helm,
            ],
        }
    }

    /// The Debian packages that it needs.
    #[must_use]
    pub const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::RegistryTests => &[
                "docker-registry",
                "skopeo",
                "umoci",
                "nginx",
                "wrk",
                "busybox-static",
                "iproute2",
                "nftables",
                "strace",
                "faketime",
            ],
            Self::Runtimes => &["runc", "busybox-static"],
            Self::Cluster => &["etcd-server", "runc", "iproute2", "nftables", "busybox-static"],
        }
    }

    /// Builds its programs and installs its packages.
    ///
    /// # Errors
    ///
    /// As [`ensure`] and [`debian()`].
    pub fn ensure(self) -> Result<Paths> {
        debian(self.packages())?;
        ensure(self.programs())
    }
}
