//! A node: a machine with containerd and kubelet.

use std::{fs, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use programs::{Paths, Program};
use serde_json::{Value, json};

use crate::{
    authority::{Authority, kubeconfig},
    cgroup,
    control::DNS_ADDRESS,
    image::{BUSYBOX, Image, Layer},
    machine::Machine,
    network::{Link, pods_of},
    process::{Launch, Process},
    spec::{NodeSpec, Runtime},
    wait::wait_for,
};

/// Where containerd listens, on every node.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// The image of the containers that hold a pod's namespaces. It is on every node from the start.
pub(crate) const PAUSE_IMAGE: &str = "registry.test/pause:1";
/// What fills a node's disk up.
const FILLER: &str = "/var/lib/containerd/filler";
const PATIENCE: Duration = Duration::from_secs(60);

/// A running node. Paths on it are the usual ones: `/etc/containerd/certs.d`, `/run/containerd/containerd.sock`,
/// `/var/lib/containerd`, `/var/lib/kubelet`.
#[derive(Debug)]
pub struct Node {
    spec: NodeSpec,
    cluster: String,
    machine: Machine,
    link: Link,
    programs: Paths,
}

impl Node {
    /// Starts containerd on it.
    pub(crate) fn start(
        spec: &NodeSpec,
        cluster: &str,
        machine: Machine,
        link: Link,
        programs: &Paths,
        pause: &Path,
    ) -> Result<Self> {
        if let Some(rate) = spec.rate {
            link.cap(rate)?;
        }
        // It forwards what its pods send, and answers on the wire for their addresses.
        for setting in ["conf/all/forwarding", "conf/eth0/proxy_arp"] {
            machine.run(&["sh", "-c", &format!("echo 1 >/proc/sys/net/ipv4/{setting}")])?;
        }
        machine.run(&["sh", "-c", "echo 0 >/proc/sys/net/ipv4/neigh/eth0/proxy_delay"])?;
        cgroup::create(cluster, &spec.name)?;
        let [daemon, _] = spec.runtime.programs();
        machine.spawn("containerd", Launch::new(programs.get(daemon)))?;
        let node = Self { spec: spec.clone(), cluster: cluster.to_owned(), machine, link, programs: programs.clone() };
        node.await_containerd()?;
        // The import service of containerd 1.7 makes no image of it; the client's own way works with all.
        node.ctr(&["images", "import", "--local", &pause.display().to_string()])?;
        Ok(node)
    }

    /// Starts kubelet, which registers the node, and the service proxy.
    pub(crate) fn join(&self, server: &str, authority: &Authority) -> Result<()> {
        self.start_kubelet(server, authority)?;
        let identity =
            authority.client(&format!("kube-proxy-{}", self.name()), "system:kube-proxy", "system:node-proxier")?;
        let config = "/etc/kubernetes/kube-proxy.conf";
        kubeconfig(&self.machine.path(config), server, authority, &identity)?;
        self.machine.spawn(
            "kube-proxy",
            Launch::new(self.programs.get(Program::KubeProxy))
                .args([format!("--kubeconfig={config}"), format!("--hostname-override={}", self.name())])
                .arg("--proxy-mode=nftables")
                // The limits on connections are those of the whole host, which is not ours to set.
                .args(["--conntrack-max-per-core=0", "--conntrack-min=0"]),
        )?;
        Ok(())
    }

    fn start_kubelet(&self, server: &str, authority: &Authority) -> Result<()> {
        let name = &self.spec.name;
        let identity = authority.client(&format!("kubelet-{name}"), &format!("system:node:{name}"), "system:nodes")?;
        kubeconfig(&self.machine.path("/etc/kubernetes/kubelet.conf"), server, authority, &identity)?;
        self.machine.write("/etc/kubernetes/kubelet.json", &self.kubelet_config().to_string())?;
        let zone = self.spec.zone.iter().map(|zone| format!("topology.kubernetes.io/zone={zone}"));
        let labels = self.spec.labels.iter().map(|(key, value)| format!("{key}={value}"));
        self.machine.spawn(
            "kubelet",
            Launch::new(self.programs.get(Program::Kubelet))
                .args(["--config=/etc/kubernetes/kubelet.json", "--kubeconfig=/etc/kubernetes/kubelet.conf"])
                .args(["--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki"])
                .args([format!("--hostname-override={name}"), format!("--node-ip={}", self.machine.address())])
                .arg(format!("--node-labels={}", zone.chain(labels).collect::<Vec<_>>().join(","))),
        )?;
        Ok(())
    }

    /// Its name in Kubernetes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its namespaces, files and processes.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its link to everything else.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Its containerd. Containers live on without it.
    ///
    /// # Errors
    ///
    /// Never on a node that has started.
    pub fn containerd(&self) -> Result<Arc<Process>> {
        self.machine.process("containerd")
    }

    /// Its kubelet.
    ///
    /// # Errors
    ///
    /// Never on a node that has started.
    pub fn kubelet(&self) -> Result<Arc<Process>> {
        self.machine.process("kubelet")
    }

    /// Waits until containerd answers, which it does not at once after a start.
    ///
    /// # Errors
    ///
    /// It has ended, or does not answer within a minute.
    pub fn await_containerd(&self) -> Result<()> {
        let containerd = self.containerd()?;
        wait_for(&format!("containerd of {} answers", self.name()), PATIENCE, || {
            containerd.require_running()?;
            let there = self.machine.path(CONTAINERD_SOCKET).exists();
            Ok(if there { self.ctr(&["plugins", "list", "--quiet"]).ok() } else { None })
        })?;
        Ok(())
    }

    /// Runs `ctr` in the namespace of Kubernetes and gives what it printed.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let program = self.programs.get(Program::Ctr).display().to_string();
        self.machine.run(&[&[&program, "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"], arguments].concat())
    }

    /// Runs `crictl` and gives what it printed.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn crictl(&self, arguments: &[&str]) -> Result<String> {
        let program = self.programs.get(Program::Crictl).display().to_string();
        let endpoint = format!("unix://{CONTAINERD_SOCKET}");
        self.machine
            .run(&[&[&program, "--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint], arguments].concat())
    }

    /// Whether its containerd has a disk of its own ([`NodeSpec::disk`]).
    #[must_use]
    pub const fn has_disk(&self) -> bool {
        self.spec.disk.is_some()
    }

    /// Fills the disk of its containerd but for so many bytes. The node must have a [`NodeSpec::disk`].
    ///
    /// # Errors
    ///
    /// The node has no disk of its own, or less free than is to be left.
    pub fn fill_disk(&self, leave: u64) -> Result<()> {
        if self.spec.disk.is_none() {
            bail!("{} has no disk of its own to fill", self.name());
        }
        self.free_disk()?;
        let text = self.machine.run(&["df", "-B1", "--output=avail", "/var/lib/containerd"])?;
        let free: u64 = text.split_whitespace().last().context("df printed nothing")?.parse()?;
        let size = free.checked_sub(leave).with_context(|| format!("only {free} bytes are free"))?;
        self.machine.run(&["fallocate", "--length", &size.to_string(), FILLER]).map(drop)
    }

    /// Takes away what [`Self::fill_disk`] has put there.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub fn free_disk(&self) -> Result<()> {
        self.machine.run(&["rm", "-f", FILLER]).map(drop)
    }

    /// Loses every packet between this node and that address, as a broken path between the two would. Open connections hang.
    ///
    /// # Errors
    ///
    /// The kernel refuses the rule.
    pub fn cut_off(&self, other: Ipv4Addr) -> Result<()> {
        let rules = format!(
            "add table ip testbed\n\
             add chain ip testbed in {{ type filter hook input priority 0; }}\n\
             add chain ip testbed out {{ type filter hook output priority 0; }}\n\
             add rule ip testbed in ip saddr {other} drop\n\
             add rule ip testbed out ip daddr {other} drop\n"
        );
        self.machine.run(&["nft", &rules]).map(drop)
    }

    /// Takes away everything that [`Self::cut_off`] has set.
    ///
    /// # Errors
    ///
    /// Nothing was set.
    pub fn reconnect(&self) -> Result<()> {
        self.machine.run(&["nft", "delete table ip testbed"]).map(drop)
    }

    /// Ends every process on it and removes what they leave in the kernel.
    pub(crate) fn end(&self) -> Result<()> {
        self.machine.end();
        cgroup::remove_node(&self.cluster, self.name())
    }

    fn kubelet_config(&self) -> Value {
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup::path(&self.cluster, self.name()),
            "failCgroupV1": false,
            "failSwapOn": false,
            "enforceNodeAllocatable": [],
            // The disk is the one of this machine, and it may well be nearly full.
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "readOnlyPort": 0,
            "registerWithTaints": self.spec.taints,
        });
        for (field, value) in &self.spec.kubelet {
            config[field] = value.clone();
        }
        config
    }
}

/// The files of a node below `/etc` that are there before anything runs on it.
pub(crate) fn etc_files<'a>(spec: &'a NodeSpec, address: Ipv4Addr, programs: &Paths) -> Result<Vec<(&'a str, String)>> {
    let plugins = programs.get(Program::CniPtp).parent().context("programs have folders")?;
    let mut files = vec![
        ("containerd/config.toml", containerd_config(spec.runtime, &plugins.display().to_string())),
        // A folder of mirrors with nothing in it.
        ("containerd/certs.d/.keep", String::new()),
        ("cni/net.d/10-pods.conflist", pod_network(&pods_of(address))),
    ];
    files.extend(spec.files.iter().map(|(path, text)| (path.as_str(), text.clone())));
    Ok(files)
}

fn pod_network(addresses: &str) -> String {
    let routes = json!([{"dst": "0.0.0.0/0"}]);
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": addresses}]], "routes": routes});
    let link = json!({"type": "ptp", "ipam": ipam});
    let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables"});
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [link, ports]}).to_string()
}

fn containerd_config(runtime: Runtime, plugins: &str) -> String {
    match runtime {
        Runtime::Containerd24 => format!(
            r#"version = 3
imports = []
disabled_plugins = ["io.containerd.nri.v1.nri"]
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE runc fails otherwise.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{plugins}"]
  conf_dir = "/etc/cni/net.d"
"#
        ),
        Runtime::Containerd17 => format!(
            r#"version = 2
imports = []
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE runc fails otherwise.
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{plugins}"
  conf_dir = "/etc/cni/net.d"
"#
        ),
    }
}

/// It shares no layer with [`Image::new`], of which nodes shall have nothing until they pull it.
fn pause_image() -> Result<Image> {
    let program = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}: install busybox-static"))?;
    Ok(Image::empty().layer(Layer::file("busybox", 0o755, program)).command(["/busybox", "sleep", "2147483647"]))
}

/// Writes the archive from which every node takes the image [`PAUSE_IMAGE`].
pub(crate) fn write_pause_archive(dir: &Path) -> Result<std::path::PathBuf> {
    let layout = dir.join("layout");
    pause_image()?.write(&layout)?;
    let index = layout.join("index.json");
    let mut named: Value = serde_json::from_str(&fs::read_to_string(&index)?)?;
    named["manifests"][0]["annotations"] = json!({"io.containerd.image.name": PAUSE_IMAGE});
    fs::write(&index, named.to_string())?;
    let archive = dir.join("pause.tar");
    let mut tar = std::process::Command::new("tar");
    crate::machine::output_of(tar.arg("-C").arg(&layout).arg("-cf").arg(&archive).arg("."))?;
    Ok(archive)
}
