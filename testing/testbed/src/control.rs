//! The control plane: etcd, API server, scheduler and controller manager, on a machine of their own.

use std::{path::Path, time::Duration};

use anyhow::Result;
use programs::{Paths, Program};
use serde_json::{Value, json};

use crate::{
    authority::{Authority, SigningKeys, kubeconfig},
    kubectl::Kubectl,
    machine::Machine,
    network::Link,
    process::Launch,
    wait::wait_for,
};

/// The address of the service `kubernetes`, by which pods reach the API server: the first of the range.
const SERVICE_ADDRESS: &str = "10.96.0.1";
/// The address of the cluster's name server.
pub(crate) const DNS_ADDRESS: &str = "10.96.0.10";
const SERVICE_RANGE: &str = "10.96.0.0/16";
const ETCD: &str = "http://127.0.0.1:2379";
const PATIENCE: Duration = Duration::from_secs(90);

/// The running control plane.
#[derive(Debug)]
pub struct Control {
    machine: Machine,
    link: Link,
}

impl Control {
    /// Starts it and waits until the API server is ready.
    pub(crate) fn start(machine: Machine, link: Link, setup: &Setup<'_>) -> Result<Self> {
        let control = Self { machine, link };
        control.start_etcd(setup)?;
        control.start_api_server(setup)?;
        wait_for("the API server is ready", PATIENCE, || {
            control.machine.process("etcd")?.require_running()?;
            control.machine.process("kube-apiserver")?.require_running()?;
            Ok(setup.kubectl.run(&["get", "--raw", "/readyz"]).ok())
        })?;
        let service = |program| {
            Launch::new(setup.programs.get(program)).args([
                "--leader-elect=false",
                "--secure-port=0",
                &format!("--kubeconfig={}", setup.kubectl.config().display()),
            ])
        };
        control.machine.spawn("kube-scheduler", service(Program::Scheduler))?;
        control.machine.spawn(
            "kube-controller-manager",
            service(Program::ControllerManager)
                .arg(format!("--root-ca-file={}", setup.authority.file().display()))
                .arg(format!("--service-account-private-key-file={}", setup.signing_keys.private.display())),
        )?;
        control.start_dns(setup)?;
        Ok(control)
    }

    /// The machine that all of it runs on. Its processes are called `etcd`, `kube-apiserver`, `kube-scheduler`,
    /// `kube-controller-manager` and `coredns`.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The link to that machine.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    fn start_etcd(&self, setup: &Setup<'_>) -> Result<()> {
        let peer = "http://127.0.0.1:2380";
        self.machine.spawn(
            "etcd",
            Launch::new("etcd")
                .arg(format!("--data-dir={}", setup.dir.join("etcd").display()))
                .args([format!("--listen-client-urls={ETCD}"), format!("--advertise-client-urls={ETCD}")])
                .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
                .args([format!("--initial-cluster=default={peer}"), "--unsafe-no-fsync".to_owned()]),
        )?;
        Ok(())
    }

    /// Pods find services and origins by it; for everything else it says that there is no such name.
    fn start_dns(&self, setup: &Setup<'_>) -> Result<()> {
        let config = format!(
            ".:53 {{
                errors
                hosts /etc/hosts {{
                    ttl 5
                    fallthrough
                }}
                kubernetes cluster.local {{
                    kubeconfig {}
                }}
                forward . 127.0.0.1:5353
            }}
            .:5353 {{
                bind 127.0.0.1
                template ANY ANY {{
                    rcode NXDOMAIN
                }}
            }}",
            setup.kubectl.config().display()
        );
        self.machine.write("/etc/coredns/Corefile", &config)?;
        let program = setup.programs.get(Program::CoreDns);
        self.machine.spawn("coredns", Launch::new(program).arg("-conf=/etc/coredns/Corefile"))?;
        let objects = dns_objects(&self.machine.address().to_string()).to_string();
        // The namespace is made by the API server itself, a little after it says that it is ready.
        wait_for("the name server has its service", PATIENCE, || Ok(setup.kubectl.apply(&objects).ok()))
    }

    fn start_api_server(&self, setup: &Setup<'_>) -> Result<()> {
        let address = self.machine.address();
        let names = [
            &address.to_string(),
            SERVICE_ADDRESS,
            "127.0.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(str::to_owned);
        let identity = setup.authority.server("kube-apiserver", &names)?;
        let authority = setup.authority.file();
        let launch = Launch::new(setup.programs.get(Program::ApiServer))
            .args([format!("--etcd-servers={ETCD}"), format!("--advertise-address={address}")])
            .args(["--bind-address=0.0.0.0", "--secure-port=443"])
            .arg(format!("--tls-cert-file={}", identity.certificate.display()))
            .arg(format!("--tls-private-key-file={}", identity.key.display()))
            .arg(format!("--client-ca-file={}", authority.display()))
            .args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"])
            .args(["--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP"])
            // The services of webhooks are then called at the addresses of their pods, since this machine has no service proxy.
            .arg("--enable-aggregator-routing=true")
            .arg(format!("--service-cluster-ip-range={SERVICE_RANGE}"))
            .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
            .arg(format!("--service-account-key-file={}", setup.signing_keys.public.display()))
            .arg(format!("--service-account-signing-key-file={}", setup.signing_keys.private.display()));
        self.machine.spawn("kube-apiserver", launch)?;
        Ok(())
    }
}

/// The service of the name server, and its one endpoint, which is no pod.
fn dns_objects(address: &str) -> Value {
    let ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]);
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": DNS_ADDRESS, "ports": ports},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "testbed"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": ports,
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [service, slice]})
}

/// What the control plane is started with.
pub(crate) struct Setup<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) programs: &'a Paths,
    pub(crate) authority: &'a Authority,
    pub(crate) signing_keys: SigningKeys,
    pub(crate) kubectl: &'a Kubectl,
}

/// A `kubectl` for the administrator of a cluster whose API server will be at `server`.
pub(crate) fn administrator(dir: &Path, server: &str, authority: &Authority, programs: &Paths) -> Result<Kubectl> {
    let identity = authority.client("administrator", "administrator", "system:masters")?;
    let path = dir.join("kubeconfig");
    kubeconfig(&path, server, authority, &identity)?;
    Ok(Kubectl::new(programs.get(Program::Kubectl), &path))
}
