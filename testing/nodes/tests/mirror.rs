//! Every pull of every node goes through larder, with no image name changed; and nothing that happens to larder keeps a pod
//! from starting.

use std::time::Duration;

use anyhow::Result;
use nodes::{Agent, Registry};
use testbed::{
    Cluster, ClusterSpec, Image, Layer, NodeSpec, PRIVATE_PASSWORD, PRIVATE_USER, Runtime, has_condition, wait_for,
    with_cluster,
};

const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// How often the origin sent a blob.
fn sent(cluster: &Cluster, origin: &str, digest: &str) -> Result<usize> {
    let requests = cluster.origin(origin)?.requests()?;
    Ok(requests.iter().filter(|request| request.is_blob_get() && request.path.contains(digest)).count())
}

fn behind(registry: &Registry) -> String {
    format!("[node]\nregistry = {:?}\n", registry.url())
}

fn pod(namespace: &str, name: &str, image: &str, policy: &str, secret: Option<&str>) -> String {
    let secrets = secret.map(|secret| format!("[{{name: {secret}}}]")).unwrap_or_else(|| "[]".to_owned());
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  imagePullSecrets: {secrets}
  containers: [{{name: main, image: '{image}', imagePullPolicy: {policy}}}]
"
    )
}

/// Waits until a pod's container waits for this reason.
fn await_reason(cluster: &Cluster, namespace: &str, name: &str, reasons: &[&str]) -> Result<()> {
    wait_for(&format!("{name} waits for one of {reasons:?}"), PATIENCE, || {
        let pod = cluster.kubectl().json(&["-n", namespace, "get", "pod", name])?;
        let reason = pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().unwrap_or_default();
        Ok(reasons.contains(&reason).then_some(()))
    })
}

// T-09
#[test]
fn pods_of_all_runtimes_pull_through_larder_and_the_origin_sends_once() -> Result<()> {
    let spec = ClusterSpec::new("mirror-pods").with_nodes([
        NodeSpec::new("new"),
        NodeSpec::new("old").runtime(Runtime::Containerd17),
        NodeSpec::new("third"),
    ]);
    with_cluster(&spec, |cluster| {
        let image = Image::new().layer(Layer::random(20 * MIB)).layer(Layer::text(4 * MIB));
        let pushed = cluster.origin("docker.io")?.push("library/app:1", &image)?;
        let registry = Registry::start(cluster.control().machine())?;
        let agents =
            cluster.nodes().iter().map(|node| Agent::start(node, &behind(&registry))).collect::<Result<Vec<_>>>()?;
        cluster.kubectl().apply(
            "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      containers: [{name: main, image: 'docker.io/library/app:1'}]
",
        )?;
        cluster.kubectl().await_ready_pods("default", "app=app", 3, PATIENCE)?;
        for layer in &pushed.layers {
            assert_eq!(sent(cluster, "docker.io", &layer.digest)?, 1, "{}", layer.digest);
        }
        for agent in &agents {
            let log = agent.log()?;
            assert!(log.contains("pulled"), "the pull went through larder");
            assert!(!log.contains("status=5"), "and nothing failed");
        }
        Ok(())
    })
}

#[test]
fn what_containerd_has_is_kept_once_and_served_from_there() -> Result<()> {
    with_cluster(&ClusterSpec::new("mirror-once").nodes(1), |cluster| {
        let image = Image::new().layer(Layer::random(20 * MIB));
        let pushed = cluster.origin("ghcr.io")?.push("acme/app:1", &image)?;
        let node = &cluster.nodes()[0];
        let agent = Agent::start(node, "")?;
        node.crictl(&["pull", "ghcr.io/acme/app:1"])?;
        wait_for("larder keeps no second copy", PATIENCE, || {
            Ok((agent.metric("larder_store_bytes", &[])? < MIB as f64).then_some(()))
        })?;
        cluster.internet_link().cut()?;
        let layer = pushed.layers.last().expect("an image has layers");
        let path = format!("/v2/acme/app/blobs/{}?ns=ghcr.io", layer.digest);
        assert_eq!(agent.pull(&path)?, layer.size, "though the origin cannot be asked");
        Ok(())
    })
}

// S-01, S-03
#[test]
fn a_private_image_is_for_pods_whose_own_secret_the_origin_accepts() -> Result<()> {
    with_cluster(&ClusterSpec::new("mirror-private").nodes(1), |cluster| {
        const IMAGE: &str = "registry.private.example/team/secret:1";
        let origin = cluster.origin("registry.private.example")?;
        origin.push("team/secret:1", &Image::new().layer(Layer::random(MIB)))?;
        let node = &cluster.nodes()[0];
        let agent = Agent::start(node, "")?;
        let kubectl = cluster.kubectl();
        for namespace in ["right", "wrong", "none"] {
            kubectl.run(&["create", "namespace", namespace])?;
        }
        for (namespace, password) in [("right", PRIVATE_PASSWORD), ("wrong", "guessed")] {
            kubectl.run(&[
                "-n",
                namespace,
                "create",
                "secret",
                "docker-registry",
                "pull",
                "--docker-server=registry.private.example",
                &format!("--docker-username={PRIVATE_USER}"),
                &format!("--docker-password={password}"),
            ])?;
        }
        kubectl.apply(&pod("none", "early", IMAGE, "IfNotPresent", None))?;
        await_reason(cluster, "none", "early", &["ErrImagePull", "ImagePullBackOff"])?;
        kubectl.apply(&pod("right", "app", IMAGE, "IfNotPresent", Some("pull")))?;
        kubectl.await_ready_pods("right", "app=app", 1, PATIENCE)?;
        // Now the image is on the node, and in the node's larder.
        for policy in ["Always", "IfNotPresent"] {
            let name = policy.to_lowercase();
            kubectl.apply(&pod("wrong", &name, IMAGE, policy, Some("pull")))?;
            kubectl.apply(&pod("none", &name, IMAGE, policy, None))?;
            for namespace in ["wrong", "none"] {
                await_reason(cluster, namespace, &name, &["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"])?;
            }
        }
        kubectl.apply(&pod("right", "again", IMAGE, "Always", Some("pull")))?;
        kubectl.await_ready_pods("right", "app=again", 1, PATIENCE)?;
        let log = agent.log()?;
        assert!(log.contains("registry.private.example/team/secret"), "larder was asked");
        assert!(!log.contains(PRIVATE_PASSWORD) && !log.contains("guessed"), "no secret is in the log");
        Ok(())
    })
}

// P-14
#[test]
fn pods_start_although_larder_is_killed_or_hangs() -> Result<()> {
    with_cluster(&ClusterSpec::new("mirror-faults").nodes(1), |cluster| {
        let origin = cluster.origin("quay.io")?;
        for number in 0..3 {
            origin
                .push(&format!("acme/app:{number}"), &Image::new().seed(number as u64).layer(Layer::random(8 * MIB)))?;
        }
        let node = &cluster.nodes()[0];
        let agent = Agent::start(node, "")?;
        let kubectl = cluster.kubectl();
        let start = |name: &str, number: usize| {
            kubectl.apply(&pod("default", name, &format!("quay.io/acme/app:{number}"), "IfNotPresent", None))
        };

        // In the middle of a pull.
        node.link().cap(testbed::Rate::mbit(30))?;
        start("killed", 0)?;
        wait_for("the pull goes through larder", PATIENCE, || {
            Ok((agent.metric("larder_streams", &[])? > 0.0).then_some(()))
        })?;
        agent.process().kill()?;
        kubectl.await_ready_pods("default", "app=killed", 1, PATIENCE)?;

        // It is not there at all.
        start("gone", 1)?;
        kubectl.await_ready_pods("default", "app=gone", 1, PATIENCE)?;

        // It is there and does nothing.
        node.link().uncap()?;
        agent.process().start_again()?;
        wait_for("larder is back", PATIENCE, || Ok(agent.metric("larder_streams", &[]).ok()))?;
        agent.process().stop()?;
        start("stopped", 2)?;
        wait_for("the kubelet pulls", PATIENCE, || {
            let pod = kubectl.json(&["get", "pod", "stopped"])?;
            Ok(has_condition(&pod, "PodScheduled").then_some(()))
        })?;
        // What a liveness probe does in the end.
        assert!(agent.metric("larder_streams", &[]).is_err(), "it answers nothing");
        agent.process().kill()?;
        kubectl.await_ready_pods("default", "app=stopped", 1, PATIENCE)
    })
}
