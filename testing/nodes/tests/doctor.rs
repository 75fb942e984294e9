//! `larder doctor` on the nodes of a cluster: nothing is wrong where nothing is, and what is wrong is found.

use anyhow::{Context, Result, ensure};
use nodes::{Agent, Registry, binary};
use testbed::{ClusterSpec, Node, NodeSpec, Runtime, with_cluster};

/// What it prints, and how it exits.
fn doctor(node: &Node) -> Result<(String, Option<i32>)> {
    let output = node.machine().command(binary()).arg("doctor").output().context("cannot run larder")?;
    let told = [output.stdout, output.stderr].concat();
    Ok((String::from_utf8(told)?, output.status.code()))
}

#[test]
fn a_node_that_is_well_is_told_from_one_whose_neighbour_is_not() -> Result<()> {
    let spec = ClusterSpec::new("doctor")
        .with_nodes([NodeSpec::new("new"), NodeSpec::new("old").runtime(Runtime::Containerd17)]);
    with_cluster(&spec, |cluster| {
        let nodes = cluster.nodes();
        let registry = Registry::start(cluster.control().machine())?;
        let authority = tempfile::tempdir()?;
        nodes::certify(authority.path(), nodes.iter().map(Node::name))?;
        let member = |node: &Node| nodes::member(node.name(), &node.machine().address().to_string(), "");
        let members: String = nodes.iter().map(member).collect();
        let start = |node| {
            let peering = nodes::peering(Node::machine(node), authority.path(), &members)?;
            Agent::start(node, &format!("[node]\nregistry = {:?}\n{peering}", registry.url()))
        };
        let agents = nodes.iter().map(start).collect::<Result<Vec<_>>>()?;
        let well = (String::from("every pull of this machine goes through larder\n"), Some(0));
        for node in nodes {
            assert_eq!(doctor(node)?, well, "on {}", node.name());
        }

        // One that is stopped takes connections and never answers.
        agents[1].process().stop()?;
        let (told, status) = doctor(&nodes[0])?;
        ensure!(status == Some(1) && told.contains("the node old cannot be reached"), "{told}");
        ensure!(told.contains("it does not answer") && told.matches("warning:").count() == 1, "{told}");
        agents[1].process().go_on()?;
        assert_eq!(doctor(&nodes[0])?, well);

        agents[1].process().kill()?;
        let (told, status) = doctor(&nodes[0])?;
        ensure!(status == Some(1) && told.contains("Connection refused"), "{told}");
        let (told, status) = doctor(&nodes[1])?;
        ensure!(status == Some(1) && told.contains("[agent-down]"), "{told}");

        registry.process().kill()?;
        let (told, _) = doctor(&nodes[0])?;
        ensure!(told.contains("[registry-unreachable]"), "{told}");
        Ok(())
    })
}
