use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use testbed::larder::binary;
use testbed::{Launch, Machine, Node, Process, wait_for};

use crate::peering::give_certificate;

/// Where a runtime finds its node's larder.
pub const MIRROR: &str = "127.0.0.1:7439";

/// Where a node's larder shows how it is.
const ADMIN: &str = "127.0.0.1:7441";

const PATIENCE: Duration = Duration::from_secs(60);

/// `larder registry` on a machine, for the nodes of its cluster.
pub struct Registry {
    machine: Arc<Process>,
    address: Ipv4Addr,
}

impl Registry {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn start(machine: &Machine) -> Result<Registry> {
        Registry::launch(machine, Launch::new(binary()).arg("registry"))
    }

    /// As [`Registry::start`], of a binary with further arguments of the caller's choice.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn launch(machine: &Machine, launch: Launch) -> Result<Registry> {
        let launch = launch.args(["--listen", "0.0.0.0:5000", "--log", "debug"]);
        let process = machine.spawn("larder-registry", launch.args(["--metrics", ADMIN]))?;
        await_ready(machine)?;
        Ok(Registry { machine: process, address: machine.address() })
    }

    /// Starts it with this configuration, which lets nodes in at port 5002 by the certificate of this name.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn start_for_nodes(machine: &Machine, authority: &Path, name: &str, config: &str) -> Result<Registry> {
        give_certificate(machine, authority, name, "/etc/larder/registry")?;
        machine.write("/etc/larder/registry.toml", &format!("{config}\n[registry.nodes]\n"))?;
        let launch = Launch::new(binary()).args(["registry", "--config", "/etc/larder/registry.toml"]);
        let launch = launch.args(["--listen", "0.0.0.0:5000", "--log", "debug", "--metrics", ADMIN]);
        let process = machine.spawn("larder-registry", launch)?;
        await_ready(machine)?;
        Ok(Registry { machine: process, address: machine.address() })
    }

    /// Where nodes find it that have certificates.
    pub fn url_for_nodes(&self) -> String {
        format!("https://{}:5002", self.address)
    }

    /// Where nodes find it.
    pub fn url(&self) -> String {
        format!("http://{}:5000", self.address)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.machine
    }
}

/// `larder node` on a node.
pub struct Agent<'a> {
    node: &'a Node,
    process: Arc<Process>,
}

impl<'a> Agent<'a> {
    /// Starts it with this configuration and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn start(node: &'a Node, config: &str) -> Result<Agent<'a>> {
        Agent::launch(node, config, Launch::new(binary()).args(["node", "--log", "debug"]))
    }

    /// As [`Agent::start`], of a binary with arguments of the caller's choice.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn launch(node: &'a Node, config: &str, launch: Launch) -> Result<Agent<'a>> {
        let machine = node.machine();
        machine.write("/etc/larder/larder.toml", config)?;
        let process = machine.spawn("larder", launch)?;
        await_ready(machine)?;
        let agent = Agent { node, process };
        agent.await_pointed()?;
        Ok(agent)
    }

    /// Waits until it has pointed the node's runtime at its mirror.
    ///
    /// # Errors
    /// It does not.
    pub fn await_pointed(&self) -> Result<()> {
        let hosts = self.node.machine().path("/etc/containerd/certs.d/_default/hosts.toml");
        wait_for("the runtime is pointed at larder", PATIENCE, || {
            Ok(std::fs::read_to_string(&hosts).is_ok_and(|text| text.contains(MIRROR)).then_some(()))
        })
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The length of what its mirror gives, if it gives it whole.
    ///
    /// # Errors
    /// It refuses or breaks off.
    pub fn pull(&self, path: &str) -> Result<u64> {
        let machine = self.node.machine();
        let body = ask(machine, MIRROR, path)?;
        Ok(body.len() as u64)
    }

    /// All that it has logged.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.process.log())?)
    }

    /// The sum of a metric's samples that have all of `labels`; 0 if there is none.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        metric(self.node.machine(), name, labels)
    }
}

/// The sum of a metric's samples on a machine that have all of `labels`; 0 if there is none.
///
/// # Errors
/// Its larder does not answer.
pub fn metric(machine: &Machine, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let text = String::from_utf8(ask(machine, ADMIN, "/metrics")?)?;
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, rest) = series.split_once('{').unwrap_or((series, ""));
        let all = labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")));
        (found == name && all).then(|| value.parse::<f64>().ok())?
    });
    Ok(samples.sum())
}

/// The body of what the machine's larder answers with 200.
fn ask(machine: &Machine, address: &str, path: &str) -> Result<Vec<u8>> {
    let answer = machine.in_network(|| {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        anyhow::Ok(answer)
    })??;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("an answer has a head")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("{path}: {}", head.lines().next().unwrap_or_default());
    }
    Ok(answer[end + 4..].to_vec())
}

/// Whether the larder of a machine is ready.
#[must_use]
pub fn is_ready(machine: &Machine) -> bool {
    ask(machine, ADMIN, "/readyz").is_ok()
}

/// Waits until the larder of a machine is ready.
///
/// # Errors
/// It does not become so.
pub fn await_ready(machine: &Machine) -> Result<()> {
    wait_for("larder is ready", PATIENCE, || Ok(is_ready(machine).then_some(())))
        .map(drop)
        .with_context(|| format!("on {}", machine.name()))
}
