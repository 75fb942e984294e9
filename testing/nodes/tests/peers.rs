//! Nodes that share what they pull: the origin sends once, and nothing that happens to a node keeps another from pulling.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nodes::{Agent, Registry};
use testbed::{Cluster, ClusterSpec, Image, Layer, Node, NodeSpec, Rate, Written, wait_for, with_cluster};

const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// Starts the agents of all nodes, which know each other; `more` is put into `[node]`.
fn start<'a>(cluster: &'a Cluster, more: &str) -> Result<Vec<Agent<'a>>> {
    let (authority, nodes) = (tempfile::tempdir()?, cluster.nodes());
    nodes::certify(authority.path(), nodes.iter().map(Node::name))?;
    let one = |node: &Node| nodes::member(node.name(), &node.machine().address().to_string(), "");
    let members: String = nodes.iter().map(one).collect();
    let start = |node| {
        let peering = nodes::peering(Node::machine(node), authority.path(), &members)?;
        Agent::start(node, &format!("[node]\n{more}\n{peering}"))
    };
    nodes.iter().map(start).collect()
}

/// How many bytes of an image's layers the origin sent, in layers.
fn sent(cluster: &Cluster, origin: &str, image: &Written) -> Result<f64> {
    let requests = cluster.origin(origin)?.requests()?;
    let of_layers = |path: &str| image.layers.iter().any(|layer| path.contains(&layer.digest));
    let bytes: u64 = requests.iter().filter(|r| r.is_blob_get() && of_layers(&r.path)).map(|r| r.bytes).sum();
    Ok(bytes as f64 / image.layers.iter().map(|layer| layer.size).sum::<u64>() as f64)
}

/// Has the runtimes of all these nodes pull at once.
fn pull_all(nodes: &[&Node], image: &str) -> Result<()> {
    std::thread::scope(|scope| {
        let pulls: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(move || node.crictl(&["pull", image]).with_context(|| node.name().to_owned())))
            .collect();
        pulls.into_iter().try_for_each(|pull| pull.join().expect("a pull does not panic").map(drop))
    })
}

/// Waits until a node's larder has received so much from others and the origin.
fn await_received(agent: &Agent<'_>, bytes: u64) -> Result<()> {
    wait_for("bytes come in", PATIENCE, || {
        Ok((agent.metric("larder_peer_received_bytes_total", &[])? >= bytes as f64).then_some(()))
    })
}

// P-11
#[test]
fn cold_nodes_make_the_origin_send_once_and_a_warm_one_serves_through_an_outage() -> Result<()> {
    let spec = ClusterSpec::new("peers-once").with_nodes((1..=4).map(|n| NodeSpec::new(&format!("node-{n}"))));
    with_cluster(&spec, |cluster| {
        let image = Image::new().layer(Layer::random(50 * MIB)).layer(Layer::random(9 * MIB));
        let pushed = cluster.origin("docker.io")?.push("library/app:1", &image)?;
        let registry = Registry::start(cluster.control().machine())?;
        let agents = start(cluster, &format!("registry = {:?}", registry.url()))?;
        let nodes: Vec<&Node> = cluster.nodes().iter().collect();
        pull_all(&nodes[..3], "docker.io/library/app:1")?;
        let times = sent(cluster, "docker.io", &pushed)?;
        ensure!(times <= 1.02, "the origin sent {times} times the image");
        let from_nodes: f64 = agents
            .iter()
            .map(|agent| agent.metric("larder_peer_received_bytes_total", &[("source", "peer")]))
            .sum::<Result<f64>>()?;
        ensure!(from_nodes > 59.0 * MIB as f64, "nodes gave each other {from_nodes} bytes");
        // The registry has the manifest; the layers come from nodes, though larder's own copies are gone by then.
        cluster.internet_link().cut()?;
        nodes[3].crictl(&["pull", "docker.io/library/app:1"])?;
        Ok(())
    })
}

// P-04, P-10, P-15: killed, stopped and upgraded homes.
#[test]
fn whatever_happens_to_other_nodes_a_pull_comes_to_its_end() -> Result<()> {
    let slow = Rate::mbit(200);
    let spec =
        ClusterSpec::new("peers-faults").with_nodes((1..=4).map(|n| NodeSpec::new(&format!("node-{n}")).rate(slow)));
    with_cluster(&spec, |cluster| {
        let origin = cluster.origin("docker.io")?;
        for (tag, size) in [("killed", 100), ("stopped", 101), ("upgraded", 102), ("cut", 103)] {
            origin.push(&format!("library/app:{tag}"), &Image::new().layer(Layer::random(size * MIB)))?;
        }
        let agents = start(cluster, "")?;
        let nodes: Vec<&Node> = cluster.nodes().iter().collect();
        let received = |agent: &Agent<'_>| agent.metric("larder_peer_received_bytes_total", &[]);
        let during = |tag: &str, act: &(dyn Fn() -> Result<()> + Sync)| {
            let (from, begun) = (received(&agents[0])? as u64, std::time::Instant::now());
            let done = std::thread::scope(|scope| {
                let image = format!("docker.io/library/app:{tag}");
                let nodes = &nodes;
                let pull = scope.spawn(move || pull_all(&nodes[..2], &image));
                await_received(&agents[0], from + 40 * MIB)?;
                act()?;
                pull.join().expect("a pull does not panic")
            })
            .with_context(|| format!("while a node was {tag}"));
            println!("{tag}: {:.1} s", begun.elapsed().as_secs_f64());
            done
        };
        during("killed", &|| agents[2].process().kill())?;
        agents[2].process().start_again()?;
        during("stopped", &|| agents[3].process().stop())?;
        agents[3].process().go_on()?;
        during("upgraded", &|| {
            for agent in &agents[2..] {
                agent.process().terminate()?;
                agent.process().start_again()?;
            }
            Ok(())
        })?;
        let others: Vec<_> = cluster.nodes()[2..].iter().map(|node| node.machine().address()).collect();
        during("cut", &|| others.iter().try_for_each(|other| nodes[0].cut_off(*other)))?;
        for agent in &agents {
            ensure!(agent.metric("larder_digest_mismatch_total", &[])? == 0.0, "no wrong byte came");
        }
        Ok(())
    })
}
