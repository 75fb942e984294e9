//! Which programs exist, and what each is built from.

use std::fmt;

/// A program that is built from a pinned Go module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// `crane`: copies, lists and inspects images in registries; `crane registry serve` is a registry in memory.
    Crane,
    /// The distribution project's registry, version 3.
    Registry,
    /// The conformance suite of the OCI distribution specification.
    Conformance,
    /// `oras`: pushes and pulls artifacts and referrers.
    Oras,
    /// `regctl`: a registry client that shows raw manifests and referrers.
    Regctl,
    /// containerd, the newest version.
    Containerd,
    /// The shim that containerd starts for each pod.
    Shim,
    /// containerd's own command line.
    Ctr,
    /// The command line of the container runtime interface.
    Crictl,
    /// containerd of the 1.7 line, which many clusters still run.
    Containerd17,
    /// The shim of containerd 1.7.
    Shim17,
    /// The Kubernetes API server.
    ApiServer,
    /// The Kubernetes scheduler.
    Scheduler,
    /// The Kubernetes controller manager.
    ControllerManager,
    /// The node agent of Kubernetes.
    Kubelet,
    /// What makes the addresses of Kubernetes services work on a node.
    KubeProxy,
    /// The name server of clusters.
    CoreDns,
    /// The network plugin that links a pod with its node.
    CniPtp,
    /// The network plugin that brings up a pod's own loopback interface.
    CniLoopback,
    /// The network plugin that gives out addresses.
    CniHostLocal,
    /// The network plugin that forwards ports of the node to pods.
    CniPortmap,
    /// The Kubernetes command line.
    Kubectl,
    /// Helm, version 4.
    Helm,
}

/// What a program is built from.
pub(crate) struct Source {
    /// Its name on the command line of `programs`.
    pub(crate) name: &'static str,
    /// The folder of its Go module under `testing/tools`.
    pub(crate) module: &'static str,
    /// The Go package of its `main`. The last element names the binary.
    pub(crate) package: &'static str,
    /// Values for the linker's `-X`.
    pub(crate) define: &'static [&'static str],
    /// Arguments that make it print something and succeed; none where it knows no such thing.
    pub(crate) check: &'static [&'static str],
}

const KUBERNETES_VERSION: &[&str] = &[
    "k8s.io/component-base/version.gitVersion=v1.37.2",
    "k8s.io/component-base/version.gitMajor=1",
    "k8s.io/component-base/version.gitMinor=37",
];

const fn kubernetes(name: &'static str, package: &'static str, check: &'static [&'static str]) -> Source {
    Source { name, module: "kubernetes", package, define: KUBERNETES_VERSION, check }
}

const fn cni(name: &'static str, package: &'static str) -> Source {
    Source { name, module: "cni", package, define: &[], check: &["version"] }
}

impl Program {
    /// Every program, those that many tests need first.
    pub const ALL: &'static [Self] = &[
        Self::Crane,
        Self::Conformance,
        Self::Registry,
        Self::Oras,
        Self::Regctl,
        Self::Containerd,
        Self::Ctr,
        Self::Shim,
        Self::Crictl,
        Self::ApiServer,
        Self::Kubelet,
        Self::Kubectl,
        Self::ControllerManager,
        Self::Scheduler,
        Self::KubeProxy,
        Self::CoreDns,
        Self::CniPtp,
        Self::CniLoopback,
        Self::CniHostLocal,
        Self::CniPortmap,
        Self::Helm,
        Self::Containerd17,
        Self::Shim17,
    ];

    /// The name by which the command line knows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.source().name
    }

    /// The program with that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|program| program.name() == name)
    }

    /// The name of the file, which other programs look for in their `PATH`.
    pub(crate) fn file_name(self) -> &'static str {
        let package = self.source().package;
        package.rsplit('/').next().unwrap_or(package)
    }

    pub(crate) const fn source(self) -> Source {
        match self {
            Self::Crane => Source {
                name: "crane",
                module: "runtime",
                package: "github.com/google/go-containerregistry/cmd/crane",
                define: &["github.com/google/go-containerregistry/cmd/crane/cmd.Version=0.22.1"],
                check: &["version"],
            },
            Self::Registry => Source {
                name: "registry",
                module: "registry",
                package: "github.com/distribution/distribution/v3/cmd/registry",
                define: &["github.com/distribution/distribution/v3/version.version=v3.1.2"],
                check: &["--version"],
            },
            Self::Conformance => Source {
                name: "conformance",
                module: "oci",
                package: "github.com/opencontainers/distribution-spec/conformance",
                define: &[],
                check: &[],
            },
            Self::Oras => Source {
                name: "oras",
                module: "oci",
                package: "oras.land/oras/cmd/oras",
                define: &[],
                check: &["version"],
            },
            Self::Regctl => Source {
                name: "regctl",
                module: "oci",
                package: "github.com/regclient/regclient/cmd/regctl",
                define: &[],
                check: &["version"],
            },
            Self::Containerd => Source {
                name: "containerd",
                module: "runtime",
                package: "github.com/containerd/containerd/v2/cmd/containerd",
                define: &["github.com/containerd/containerd/v2/version.Version=v2.4.2"],
                check: &["--version"],
            },
            Self::Shim => Source {
                name: "containerd-shim-runc-v2",
                module: "runtime",
                package: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                define: &["github.com/containerd/containerd/v2/version.Version=v2.4.2"],
                check: &["-v"],
            },
            Self::Ctr => Source {
                name: "ctr",
                module: "runtime",
                package: "github.com/containerd/containerd/v2/cmd/ctr",
                define: &["github.com/containerd/containerd/v2/version.Version=v2.4.2"],
                check: &["--version"],
            },
            Self::Crictl => Source {
                name: "crictl",
                module: "runtime",
                package: "sigs.k8s.io/cri-tools/cmd/crictl",
                define: &["sigs.k8s.io/cri-tools/pkg/version.Version=v1.37.0"],
                check: &["--version"],
            },
            Self::Containerd17 => Source {
                name: "containerd-1.7",
                module: "containerd-1.7",
                package: "github.com/containerd/containerd/cmd/containerd",
                define: &["github.com/containerd/containerd/version.Version=v1.7.35"],
                check: &["--version"],
            },
            Self::Shim17 => Source {
                name: "containerd-shim-runc-v2-1.7",
                module: "containerd-1.7",
                package: "github.com/containerd/containerd/cmd/containerd-shim-runc-v2",
                define: &["github.com/containerd/containerd/version.Version=v1.7.35"],
                check: &["-v"],
            },
            Self::ApiServer => kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", &["--version"]),
            Self::Scheduler => kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", &["--version"]),
            Self::ControllerManager => {
                kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", &["--version"])
            }
            Self::Kubelet => kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet", &["--version"]),
            Self::KubeProxy => kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", &["--version"]),
            Self::Kubectl => kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl", &["version", "--client"]),
            Self::CoreDns => Source {
                name: "coredns",
                module: "dns",
                package: "github.com/coredns/coredns",
                define: &[],
                check: &["-version"],
            },
            Self::CniPtp => cni("cni-ptp", "github.com/containernetworking/plugins/plugins/main/ptp"),
            Self::CniLoopback => cni("cni-loopback", "github.com/containernetworking/plugins/plugins/main/loopback"),
            Self::CniHostLocal => {
                cni("cni-host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local")
            }
            Self::CniPortmap => cni("cni-portmap", "github.com/containernetworking/plugins/plugins/meta/portmap"),
            Self::Helm => Source {
                name: "helm",
                module: "helm",
                package: "helm.sh/helm/v4/cmd/helm",
                define: &["helm.sh/helm/v4/internal/version.version=v4.3.1"],
                check: &["version", "--short"],
            },
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
