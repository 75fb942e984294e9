//! Images that nothing uses go from a node as the CachePolicy says, and all others stay.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nodes::{Agent, KUBECONFIG};
use serde_json::{Value, json};
use testbed::{Cluster, ClusterSpec, Image, Launch, Layer, Node, NodeSpec, wait_for, with_cluster};

/// Nodes look once in a minute here, which is the least that a policy can say.
const PATIENCE: Duration = Duration::from_secs(240);
const MIB: u64 = 1 << 20;

fn launch(node: &Node) -> Result<Agent<'_>> {
    let launch = Launch::new(nodes::binary()).args(["node", "--log", "debug"]).env("KUBECONFIG", KUBECONFIG);
    Agent::launch(node, &format!("[node.cluster]\nname = {:?}\nkeep_free = \"0%\"\n", node.name()), launch)
}

/// Puts images of the origin `docker.io` onto a node as its kubelet does.
fn pull(cluster: &Cluster, node: &Node, names: &[&str], mib: u64) -> Result<()> {
    for (seed, name) in names.iter().enumerate() {
        let image = Image::new().seed(seed as u64).layer(Layer::random(mib * MIB));
        cluster.origin("docker.io")?.push(name, &image)?;
        node.crictl(&["pull", &format!("docker.io/{name}")])?;
    }
    Ok(())
}

/// The names of all images of a node.
fn images(node: &Node) -> Result<Vec<String>> {
    let list: Value = serde_json::from_str(&node.crictl(&["images", "-o", "json"])?)?;
    let tags =
        list["images"].as_array().context("crictl lists images")?.iter().filter_map(|one| one["repoTags"].as_array());
    Ok(tags.flatten().filter_map(Value::as_str).map(str::to_owned).collect())
}

fn policy(cluster: &Cluster, cleanup: &Value) -> Result<()> {
    let object = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "CachePolicy", "metadata": {"name": "default"},
        "spec": {"cleanup": cleanup},
    });
    cluster.kubectl().apply(&object.to_string())
}

fn last_cleanup(cluster: &Cluster, node: &str) -> Result<Value> {
    Ok(cluster.kubectl().json(&["get", "nodecache", node])?["status"]["lastCleanup"].clone())
}

fn names_of(cleanup: &Value) -> Vec<&str> {
    let images = cleanup["images"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut names: Vec<&str> = images.iter().filter_map(|one| one["image"].as_str()).collect();
    names.sort_unstable();
    names
}

/// A pod with a container that runs, one that ran before it, and an image as a volume.
fn pod(running: &str, before: &str, volume: &str) -> String {
    let container = |name: &str, image: &str| json!({"name": name, "image": image, "imagePullPolicy": "IfNotPresent"});
    let (mut init, mut main) = (container("before", before), container("main", running));
    init["command"] = json!(["/bin/busybox", "true"]);
    main["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "labels": {"app": "app"}},
        "spec": {
            "terminationGracePeriodSeconds": 0, "initContainers": [init], "containers": [main],
            "volumes": [{"name": "data", "image": {"reference": volume, "pullPolicy": "IfNotPresent"}}],
        },
    })
    .to_string()
}

/// A pod that has done its work and is kept.
fn done(image: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "done"},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["/bin/busybox", "true"]}],
        },
    })
    .to_string()
}

/// K-10. That nothing goes while an image is coming, and that what was used lately stays, is shown where time can be turned
/// (`crates/node/src/prefetch/tests/cleanup.rs`).
#[test]
fn what_nothing_uses_goes_and_all_else_stays() -> Result<()> {
    with_cluster(&ClusterSpec::new("cleanup").with_nodes([NodeSpec::new("node-1")]), |cluster| {
        nodes::install_definitions(cluster)?;
        nodes::make_account(cluster)?;
        let node = &cluster.nodes()[0];
        nodes::give_account(cluster, node.machine())?;
        let agent = launch(node)?;
        let all = ["used:1", "volume:1", "wanted:1", "kept:1", "one:1", "two:1", "init:1", "done:1"];
        let all = all.map(|name| format!("library/{name}"));
        pull(cluster, node, &all.each_ref().map(|name| &**name), 2)?;
        let full = |name: &str| format!("docker.io/{name}");
        // What runs has another tag here too, which nothing names.
        let running = Image::new().seed(0).layer(Layer::random(2 * MIB));
        cluster.origin("docker.io")?.push("library/twin:1", &running)?;
        node.crictl(&["pull", "docker.io/library/twin:1"])?;
        cluster.kubectl().apply(&pod(&full(&all[0]), &full(&all[6]), &full(&all[1])))?;
        cluster.kubectl().apply(&done(&full(&all[7])))?;
        cluster.kubectl().await_ready_pods("default", "app=app", 1, PATIENCE)?;
        wait_for("the other pod has ended", PATIENCE, || {
            let pod = cluster.kubectl().json(&["get", "pod", "done"])?;
            Ok((pod["status"]["phase"] == "Succeeded").then_some(()))
        })?;
        let cache = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"images": [full(&all[2])]},
        });
        cluster.kubectl().apply(&cache.to_string())?;
        let before = images(node)?;
        ensure!(
            before.iter().any(|name| name.contains("pause")) && before.contains(&full("library/twin:1")),
            "{before:?}"
        );

        // First it only says what would go.
        let rules = |mode: &str| json!({"mode": mode, "unusedFor": "1m", "interval": "1m", "minimumAge": "1m", "keep": [{"repository": "library/kept"}]});
        policy(cluster, &rules("DryRun"))?;
        let gone = [full(&all[4]), full(&all[5])];
        let told = wait_for("the NodeCache tells what would go", PATIENCE, || {
            Ok(Some(last_cleanup(cluster, "node-1")?).filter(|told| names_of(told) == gone))
        })?;
        ensure!(told["dryRun"] == true && told["removed"] == 2, "{told}");
        ensure!(images(node)? == before, "something went");

        // Then it goes: once the agent has come back, which remembers.
        agent.process().terminate()?;
        agent.process().start_again()?;
        policy(cluster, &rules("Remove"))?;
        let told = wait_for("the NodeCache tells what went", PATIENCE, || {
            Ok(Some(last_cleanup(cluster, "node-1")?)
                .filter(|told| told["dryRun"] != true && !names_of(told).is_empty()))
        })?;
        ensure!(names_of(&told) == gone, "{told}");
        ensure!(told["freedBytes"].as_u64().is_some_and(|bytes| bytes > 4_000_000), "{told}");
        let stays: Vec<&String> = before.iter().filter(|name| !gone.contains(name)).collect();
        ensure!(images(node)?.iter().collect::<Vec<_>>() == stays, "{:?}", images(node)?);
        let reason = [("reason", "Unused")];
        ensure!(agent.metric("larder_cleanup_removed_total", &reason)? == 2.0, "they were not counted");
        let event = wait_for("an event tells of it", PATIENCE, || {
            let events = cluster.kubectl().json(&["get", "events", "--field-selector=reason=ImagesRemoved"])?;
            Ok(events["items"][0]["message"].as_str().map(str::to_owned))
        })?;
        ensure!(gone.iter().all(|name| event.contains(name)), "{event}");
        let mib = told["freedBytes"].as_u64().context("a number")?.div_ceil(MIB);
        ensure!(event.contains(&format!("2 images of {mib} MiB")), "{event}");
        Ok(())
    })
}

#[test]
fn a_disk_above_the_mark_loses_what_was_used_longest_ago_until_it_is_below() -> Result<()> {
    let small = NodeSpec::new("node-1").disk(700 * MIB);
    with_cluster(&ClusterSpec::new("cleanup-disk").with_nodes([small]), |cluster| {
        nodes::install_definitions(cluster)?;
        nodes::make_account(cluster)?;
        let node = &cluster.nodes()[0];
        nodes::give_account(cluster, node.machine())?;
        launch(node)?;
        pull(cluster, node, &["library/one:1", "library/two:1", "library/three:1"], 40)?;
        // About half of it is used by now; nothing goes for its age.
        policy(
            cluster,
            &json!({"unusedFor": "30d", "interval": "1m", "minimumAge": "1m", "diskAbove": 90, "diskBelow": 80}),
        )?;
        wait_for("all images have been seen", PATIENCE, || {
            let labels = node.ctr(&["-n", "k8s.io", "images", "ls"])?;
            Ok((labels.matches("larder.dev/last-use").count() >= 3).then_some(()))
        })?;
        ensure!(last_cleanup(cluster, "node-1")?.is_null(), "something went although there is room");
        node.fill_disk(40 * MIB)?;
        let told = wait_for("something goes", PATIENCE, || {
            Ok(Some(last_cleanup(cluster, "node-1")?).filter(|told| !names_of(told).is_empty()))
        })?;
        ensure!(told["images"][0]["reason"] == "DiskFull", "{told}");
        wait_for("there is room", PATIENCE, || {
            let cache = cluster.kubectl().json(&["get", "nodecache", "node-1"])?;
            let bytes = |field: &str| cache["status"]["bytes"][field].as_f64().unwrap_or_default();
            Ok((bytes("available") >= 0.1 * bytes("capacity")).then_some(()))
        })?;
        Ok(())
    })
}
