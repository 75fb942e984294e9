//! The nodes, and what is done with them in turn.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nodes::{Agent, KUBECONFIG, member, peering};
use testbed::{Cluster, Launch, Node, Written, wait_for};

use crate::machine::Moment;

/// How long containerd may take to delete what nothing refers to any more.
const FORGETS: Duration = Duration::from_secs(60);

/// Where figures are taken.
pub(super) struct Lab<'a> {
    pub(super) cluster: &'a Cluster,
    certificates: PathBuf,
    larder: PathBuf,
    members: String,
    /// Stores are numbered, so that each agent finds an empty one.
    store: usize,
}

/// What a pull took.
pub(super) struct Took {
    pub(super) seconds: f64,
    /// The share of the processors that had nothing to do meanwhile.
    pub(super) idle: f64,
}

impl<'a> Lab<'a> {
    pub(super) fn new(cluster: &'a Cluster, certificates: PathBuf, larder: PathBuf) -> Lab<'a> {
        let one = |node: &Node| member(node.name(), &node.machine().address().to_string(), "");
        let members = cluster.nodes().iter().map(one).collect();
        Lab { cluster, certificates, larder, members, store: 0 }
    }

    /// Starts an agent with an empty store, which knows all nodes, and waits until containerd is pointed at it.
    pub(super) fn start(&mut self, node: &'a Node) -> Result<Agent<'a>> {
        self.store += 1;
        let config = format!("[node]\n{}", peering(node.machine(), &self.certificates, &self.members)?);
        let store = format!("/var/lib/larder/{}", self.store);
        let launch = Launch::new(&self.larder).args(["node", "--log", "warn", "--store", &store]);
        Agent::launch(node, &config, launch)
    }

    /// The same with an agent that keeps ready what ImageCaches want, as the account of agents.
    pub(super) fn start_keeping(&mut self, node: &'a Node) -> Result<Agent<'a>> {
        self.store += 1;
        let peering = peering(node.machine(), &self.certificates, &self.members)?;
        let config = format!("[node.cluster]\nname = {:?}\nkeep_free = \"0%\"\n[node]\n{peering}", node.name());
        let store = format!("/var/lib/larder/{}", self.store);
        let launch = Launch::new(&self.larder).args(["node", "--log", "warn", "--store", &store]);
        Agent::launch(node, &config, launch.env("KUBECONFIG", KUBECONFIG))
    }

    /// Ends a node's agent and leaves nothing of it: neither what it kept nor what it told containerd.
    pub(super) fn end(&self, node: &Node) -> Result<()> {
        node.machine().process("larder")?.kill()?;
        node.machine().run(&[&self.larder.display().to_string(), "node", "--uninstall"])?;
        node.machine().run(&["sh", "-c", "rm -rf /var/lib/larder/*"])?;
        Ok(())
    }

    /// Has a node's containerd pull an image of which it has nothing, and forget it again.
    pub(super) fn pull(&self, node: &Node, reference: &str, image: &Written) -> Result<Took> {
        let took = self.keep(node, reference)?;
        forget(node, reference, image)?;
        Ok(took)
    }

    /// Has a node's containerd pull an image of which it has nothing.
    pub(super) fn keep(&self, node: &Node, reference: &str) -> Result<Took> {
        // What an earlier turn left to be written to the disk is not this one's.
        node.machine().run(&["sync"])?;
        let (moment, began) = (Moment::now([]), Instant::now());
        node.crictl(&["pull", reference])?;
        let seconds = began.elapsed().as_secs_f64();
        Ok(Took { seconds, idle: moment.until(&Moment::now([])).idle })
    }
}

/// Deletes an image from a node's containerd, and waits until its layers are gone.
pub(super) fn forget(node: &Node, reference: &str, image: &Written) -> Result<()> {
    node.crictl(&["rmi", reference])?;
    wait_for("the image's layers are gone", FORGETS, || {
        let there = node.ctr(&["content", "ls", "--quiet"])?;
        Ok((!image.layers.iter().any(|layer| there.contains(&layer.digest))).then_some(()))
    })
}

/// That a pull went through the node's larder.
pub(super) fn ensure_served(agent: &Agent<'_>, image: &Written) -> Result<()> {
    let served = agent.metric("larder_served_bytes_total", &[])?;
    let size: u64 = image.layers.iter().map(|layer| layer.size).sum();
    ensure!(served >= size as f64, "containerd took only {served} of {size} bytes from larder");
    Ok(())
}

/// Whose turn it is in a repetition: larder (true) is first every other time.
pub(super) fn turns(repetition: usize) -> [bool; 2] {
    if repetition.is_multiple_of(2) { [true, false] } else { [false, true] }
}
