//! Agents that cannot reach the API server or the registry, from their start or in the middle of a pull, or that have no room, and whose nodes
//! pull all the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nodes::{Agent, KUBECONFIG, binary};
use serde_json::json;
use testbed::{Cluster, ClusterSpec, Image, Launch, Layer, Node, NodeSpec, Rate, Written, wait_for, with_cluster};

const PATIENCE: Duration = Duration::from_secs(120);
/// What has been cut off knows of the others again within this time.
const HEALED: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

/// The headless Service of the agents, whose list the test writes, and the right to read it.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: larder-peers, namespace: larder}
spec:
  clusterIP: None
  ports: [{name: peers, port: 7440}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: larder, namespace: larder}
rules: [{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: larder, namespace: larder}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: larder}
subjects: [{kind: ServiceAccount, name: larder-node, namespace: larder}]
";

/// The list of all nodes.
fn list(cluster: &Cluster) -> String {
    let endpoints = cluster.nodes().iter().map(
        |node| json!({"addresses": [node.machine().address()], "nodeName": node.name(), "conditions": {"ready": true}}),
    );
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "larder-peers-1",
            "namespace": "larder",
            "labels": {"kubernetes.io/service-name": "larder-peers", "endpointslice.kubernetes.io/managed-by": "test"},
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "peers", "port": 7440}],
    })
    .to_string()
}

/// Starts the agents of all nodes, which learn of each other from the API server. `settings` come before their sections.
fn start<'a>(cluster: &'a Cluster, settings: &str) -> Result<Vec<Agent<'a>>> {
    let authority = tempfile::tempdir()?;
    nodes::certify(authority.path(), cluster.nodes().iter().map(Node::name))?;
    let one = |node: &'a Node| {
        let peering = nodes::peering(node.machine(), authority.path(), "service = \"larder/larder-peers\"")?;
        let launch = Launch::new(binary()).args(["node", "--log", "debug"]).env("KUBECONFIG", KUBECONFIG);
        Agent::launch(node, &format!("{settings}\n{peering}"), launch)
    };
    cluster.nodes().iter().map(one).collect()
}

fn await_neighbours(agents: &[Agent<'_>], patience: Duration) -> Result<()> {
    agents.iter().try_for_each(|agent| {
        wait_for("the agent knows the others", patience, || {
            Ok((agent.metric("larder_peers", &[])? == (agents.len() - 1) as f64).then_some(()))
        })
    })
}

/// Has all runtimes pull at once, and `act` in the middle of it.
fn pull_all(agents: &[Agent<'_>], cluster: &Cluster, image: &str, act: &dyn Fn() -> Result<()>) -> Result<()> {
    let received = || agents[0].metric("larder_peer_received_bytes_total", &[]);
    let before = received()?;
    std::thread::scope(|scope| {
        let pull = |node: &'_ Node| node.crictl(&["pull", image]).with_context(|| node.name().to_owned());
        let pulls: Vec<_> = cluster.nodes().iter().map(|node| scope.spawn(move || pull(node))).collect();
        wait_for("bytes come in", PATIENCE, || Ok((received()? >= before + 4e6).then_some(())))?;
        act()?;
        pulls.into_iter().try_for_each(|pull| pull.join().expect("a pull does not panic").map(drop))
    })
}

/// How many times the origin sent the largest layer; the smallest is in all images.
fn times_sent(cluster: &Cluster, image: &Written) -> Result<f64> {
    let layer = image.layers.iter().max_by_key(|layer| layer.size).context("it has layers")?;
    let requests = cluster.origin("docker.io")?.requests()?;
    let of_layer = requests.iter().filter(|request| request.is_blob_get() && request.path.contains(&layer.digest));
    Ok(of_layer.map(|request| request.bytes).sum::<u64>() as f64 / layer.size as f64)
}

// P-07, P-08, K-12
#[test]
fn agents_start_and_go_on_without_the_api_server_and_the_registry() -> Result<()> {
    let nodes = (1..=3).map(|number| NodeSpec::new(&format!("node-{number}")).rate(Rate::mbit(100)));
    with_cluster(&ClusterSpec::new("outages").with_nodes(nodes), |cluster| {
        let origin = cluster.origin("docker.io")?;
        let image = |seed| Image::new().seed(seed).layer(Layer::random(40 * MIB));
        let alone = origin.push("library/alone:1", &image(1))?;
        let cut = origin.push("library/cut:1", &image(2))?;
        nodes::make_account(cluster)?;
        cluster.kubectl().apply(SERVICE)?;
        cluster.kubectl().apply(&list(cluster))?;
        for node in cluster.nodes() {
            nodes::give_account(cluster, node.machine())?;
        }

        // Neither is there when the agents start: they are mirrors all the same.
        let server = cluster.control().machine().process("kube-apiserver")?;
        server.kill()?;
        let nobody = format!("[node]\nregistry = \"http://{}:5000\"\n", cluster.internet().address());
        let agents = start(cluster, &nobody)?;
        for (node, agent) in cluster.nodes().iter().zip(&agents) {
            node.crictl(&["pull", "docker.io/library/alone:1"])?;
            ensure!(agent.metric("larder_served_bytes_total", &[])? > 40e6, "{} pulled past larder", node.name());
        }
        ensure!(times_sent(cluster, &alone)? > 2.9, "nodes that do not know each other cannot share");

        // The API server comes back, and all know each other.
        server.start_again()?;
        wait_for("the API server answers", PATIENCE, || Ok(cluster.kubectl().apply(&list(cluster)).ok()))?;
        await_neighbours(&agents, HEALED)?;

        // It is cut off in the middle of a pull: what is known of the others stays.
        pull_all(&agents, cluster, "docker.io/library/cut:1", &|| cluster.control().link().cut())?;
        let times = times_sent(cluster, &cut)?;
        ensure!(times <= 1.02, "the origin sent {times} times the image");
        ensure!(agents[0].metric("larder_peers", &[])? == 2.0, "others were forgotten");
        cluster.control().link().mend()
    })
}

#[test]
fn a_node_without_room_pulls_and_keeps_nobody_from_pulling() -> Result<()> {
    let nodes = (1..=3).map(|number| NodeSpec::new(&format!("node-{number}")).rate(Rate::mbit(200)));
    with_cluster(&ClusterSpec::new("outages-room").with_nodes(nodes), |cluster| {
        let image = Image::new().layer(Layer::random(60 * MIB)).layer(Layer::random(5 * MIB));
        let pushed = cluster.origin("docker.io")?.push("library/app:1", &image)?;
        nodes::make_account(cluster)?;
        cluster.kubectl().apply(SERVICE)?;
        cluster.kubectl().apply(&list(cluster))?;
        for node in cluster.nodes() {
            nodes::give_account(cluster, node.machine())?;
        }
        let full = cluster.nodes()[2].machine();
        full.run(&["mkdir", "-p", "/var/lib/larder-node"])?;
        full.run(&["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", "/var/lib/larder-node"])?;
        let agents = start(cluster, "[store]\nbudget = \"300MiB\"\n")?;
        await_neighbours(&agents, PATIENCE)?;

        pull_all(&agents, cluster, "docker.io/library/app:1", &|| Ok(()))?;
        let errors = agents[2].metric("larder_store_errors_total", &[])?;
        ensure!(errors > 0.0, "there was room after all");
        // Whoever has no room may take it from the origin once more.
        let times = times_sent(cluster, &pushed)?;
        ensure!(times <= 2.02, "the origin sent {times} times the image");
        for (node, agent) in cluster.nodes().iter().zip(&agents) {
            ensure!(agent.metric("larder_digest_mismatch_total", &[])? == 0.0, "{} got wrong bytes", node.name());
        }
        // What it keeps of it is nothing that could not be kept.
        ensure!(nodes::is_ready(full), "it is not ready any more");
        Ok(())
    })
}
