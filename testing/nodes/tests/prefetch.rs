//! What ImageCaches want is ready on the nodes that they select, without a pod, and each node's NodeCache tells the truth of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nodes::{Agent, Controller, KUBECONFIG};
use serde_json::{Value, json};
use testbed::{
    Cluster, ClusterSpec, Image, Launch, Layer, Node, NodeSpec, PRIVATE_PASSWORD, Rate, wait_for, with_cluster,
};

const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// Installs what agents need, and starts them on all nodes.
fn start(cluster: &Cluster) -> Result<Vec<Agent<'_>>> {
    nodes::install_definitions(cluster)?;
    nodes::make_account(cluster)?;
    cluster.nodes().iter().map(|node| start_on(cluster, node)).collect()
}

fn start_on<'a>(cluster: &Cluster, node: &'a Node) -> Result<Agent<'a>> {
    nodes::give_account(cluster, node.machine())?;
    launch(node)
}

fn launch(node: &Node) -> Result<Agent<'_>> {
    // Nodes without a disk of their own have this machine's, which may be nearly full.
    let keep_free = if node.has_disk() { "15%" } else { "0%" };
    let launch = Launch::new(nodes::binary()).args(["node", "--log", "debug"]).env("KUBECONFIG", KUBECONFIG);
    Agent::launch(node, &format!("[node.cluster]\nname = {:?}\nkeep_free = {keep_free:?}\n", node.name()), launch)
}

fn push(cluster: &Cluster, name: &str, seed: u64) -> Result<String> {
    let image = Image::new().seed(seed).layer(Layer::random(2 * MIB));
    Ok(cluster.origin("docker.io")?.push(name, &image)?.digest)
}

/// Writes an ImageCache of the namespace default.
fn want(cluster: &Cluster, name: &str, spec: &Value) -> Result<()> {
    want_in(cluster, "default", name, spec)
}

fn want_in(cluster: &Cluster, namespace: &str, name: &str, spec: &Value) -> Result<()> {
    let object = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    });
    cluster.kubectl().apply(&object.to_string())
}

/// What the runtime of a node has under a name.
fn held(node: &Node, name: &str) -> Result<Option<Value>> {
    let list: Value = serde_json::from_str(&node.crictl(&["images", "-o", "json"])?)?;
    let images = list["images"].as_array().context("crictl lists images")?;
    let named = |image: &&Value| image["repoTags"].as_array().is_some_and(|tags| tags.contains(&json!(name)));
    Ok(images.iter().find(named).cloned())
}

fn await_held(node: &Node, name: &str) -> Result<Value> {
    wait_for(&format!("{} has {name}", node.name()), PATIENCE, || held(node, name))
}

fn await_gone(node: &Node, name: &str) -> Result<()> {
    wait_for(&format!("{} has no {name}", node.name()), PATIENCE, || Ok(held(node, name)?.is_none().then_some(())))
}

/// The NodeCache of a node, once its status is as is expected.
fn await_told(cluster: &Cluster, node: &str, what: &str, expected: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let waited = wait_for(&format!("the NodeCache of {node} tells that {what}"), PATIENCE, || {
        last = cluster.kubectl().json(&["get", "nodecache", node]).unwrap_or_default();
        Ok(expected(&last["status"]).then_some(()))
    });
    waited.with_context(|| format!("{last:#}"))?;
    Ok(last)
}

/// What a status says of an image.
fn told<'a>(status: &'a Value, image: &str) -> &'a Value {
    let images = status["images"].as_array().map(Vec::as_slice).unwrap_or_default();
    images.iter().find(|one| one["image"] == image).unwrap_or(&Value::Null)
}

fn is_warm(status: &Value, image: &str) -> bool {
    told(status, image)["state"] == "Warm"
}

/// How often a node's agent has written to the API server.
fn writes(agent: &Agent<'_>) -> Result<f64> {
    agent.metric("larder_prefetch_status_writes_total", &[])
}

fn pods_and_jobs(cluster: &Cluster) -> Result<usize> {
    let list = cluster.kubectl().json(&["get", "pods,jobs", "--all-namespaces"])?;
    Ok(list["items"].as_array().map_or(0, Vec::len))
}

// K-08: a node that is added later
#[test]
fn an_image_cache_makes_images_ready_on_the_nodes_that_it_selects() -> Result<()> {
    let spec = ClusterSpec::new("prefetch")
        .with_nodes([NodeSpec::new("node-1").label("pool", "web"), NodeSpec::new("node-2")]);
    with_cluster(&spec, |cluster| {
        for (name, seed) in [("library/app:1", 1), ("library/app:2", 2), ("library/app:3", 3)] {
            push(cluster, name, seed)?;
        }
        let [one, two, three] = [1, 2, 3].map(|tag| format!("docker.io/library/app:{tag}"));
        let before = pods_and_jobs(cluster)?;
        let agents = start(cluster)?;
        let [node_1, node_2] = [&cluster.nodes()[0], &cluster.nodes()[1]];

        // On nodes that match, and no others.
        want(cluster, "web", &json!({"images": [one], "nodeSelector": {"pool": "web"}}))?;
        await_held(node_1, &one)?;
        let cache = await_told(cluster, "node-1", "it is warm", |status| is_warm(status, &one))?;
        let status = &cache["status"];
        ensure!(status["wanted"] == 1 && status["warm"] == 1 && status["failed"] == 0, "{status:#}");
        ensure!(told(status, &one)["pinned"] == true, "{status:#}");
        ensure!(held(node_1, &one)?.context("it is there")?["pinned"] == true, "crictl tells of the pin");
        let owner = &cache["metadata"]["ownerReferences"][0];
        ensure!(owner["kind"] == "Node" && owner["name"] == "node-1", "{owner:#}");
        let listed = cluster.kubectl().run(&["get", "nodecaches"])?;
        let row = listed.lines().find(|line| line.starts_with("node-1 ")).context("it is listed")?;
        let columns: Vec<&str> = row.split_whitespace().collect();
        ensure!(columns[1] == "True" && columns[3..6] == ["1", "1", "0"], "{listed}");
        await_told(cluster, "node-2", "nothing is wanted", |status| status["wanted"] == 0 && status["present"] != 0)?;
        ensure!(held(node_2, &one)?.is_none(), "nothing wants it on node-2");

        // An edit, and what it costs the API server.
        let written = writes(&agents[0])?;
        want(cluster, "web", &json!({"images": [one, two], "nodeSelector": {"pool": "web"}}))?;
        let edited = Instant::now();
        wait_for("the pull has begun", PATIENCE, || {
            let requests = cluster.origin("docker.io")?.requests()?;
            Ok(requests.iter().any(|request| request.path.ends_with("/app/manifests/2")).then_some(()))
        })?;
        println!("the origin was asked {} ms after the edit", edited.elapsed().as_millis());
        await_told(cluster, "node-1", "both are warm", |status| is_warm(status, &one) && is_warm(status, &two))?;
        ensure!(writes(&agents[0])? - written <= 2.0, "{} writes for an edit", writes(&agents[0])? - written);

        // A node comes to match.
        cluster.kubectl().run(&["label", "node", "node-2", "pool=web"])?;
        await_held(node_2, &two)?;
        await_told(cluster, "node-2", "both are warm", |status| status["warm"] == 2)?;

        // A node joins.
        cluster.add_node(&NodeSpec::new("node-3").label("pool", "web"))?;
        cluster.await_ready()?;
        let node_3 = cluster.node("node-3")?;
        let late = start_on(cluster, node_3)?;
        await_held(node_3, &one)?;
        await_held(node_3, &two)?;
        let mut log = String::new();
        wait_for("its log tells of both pulls", PATIENCE, || {
            log = late.log()?;
            Ok((log.matches("pulled for ImageCaches").count() == 2).then_some(()))
        })?;

        // What is not wanted any more stays, without its pin, or goes.
        let node_1 = cluster.node("node-1")?;
        want(cluster, "more", &json!({"images": [three], "onDelete": "Remove"}))?;
        await_told(cluster, "node-1", "the third is pinned", |status| told(status, &three)["pinned"] == true)?;
        cluster.kubectl().run(&["delete", "imagecache", "more"])?;
        await_gone(node_1, &three)?;
        want(cluster, "web", &json!({"images": [one], "nodeSelector": {"pool": "web"}}))?;
        wait_for("the second has lost its pin", PATIENCE, || {
            let image = held(node_1, &two)?.context("it stays")?;
            Ok((image["pinned"] != true).then_some(()))
        })?;
        ensure!(held(node_1, &one)?.context("it stays")?["pinned"] == true);
        ensure!(pods_and_jobs(cluster)? == before, "no pod and no job was made");
        pods_pull_first(cluster, node_1)
    })
}

/// What comes to be wanted while a pod's image is being pulled waits until that is there.
fn pods_pull_first(cluster: &Cluster, node: &Node) -> Result<()> {
    let origin = cluster.origin("docker.io")?;
    let image = Image::new().seed(40).layer(Layer::random(16 * MIB));
    let digest = &origin.push("library/pods:1", &image)?.layers[1].digest;
    push(cluster, "library/has-time:1", 41)?;
    node.link().cap(Rate::mbit(40))?;
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| node.crictl(&["pull", "docker.io/library/pods:1"]));
        wait_for("the layer is on its way", PATIENCE, || {
            Ok((nodes::metric(node.machine(), "larder_streams", &[])? >= 1.0).then_some(()))
        })?;
        want(cluster, "late", &json!({"images": ["docker.io/library/has-time:1"]}))?;
        await_held(node, "docker.io/library/has-time:1")?;
        pull.join().expect("it does not panic").map(drop)
    })?;
    node.link().uncap()?;
    let requests = origin.requests()?;
    let address = node.machine().address().to_string();
    let first = |part: &str| {
        let asks = |one: &testbed::Request| one.path.contains(part) && one.method == "GET" && one.client == address;
        requests.iter().position(asks).with_context(|| format!("{address} got no {part}"))
    };
    let (layer, wanted) = (first(digest)?, first("/has-time/manifests/")?);
    ensure!(layer < wanted, "what was wanted was asked for while the pod's layer came: {requests:#?}");
    Ok(())
}

// K-08
#[test]
fn what_cannot_be_made_ready_is_told_with_its_reason_and_tried_again() -> Result<()> {
    let spec = ClusterSpec::new("prefetch-failing").with_nodes([NodeSpec::new("node-1")]);
    with_cluster(&spec, |cluster| {
        push(cluster, "library/app:1", 1)?;
        let image = Image::new().layer(Layer::random(MIB));
        cluster.origin("registry.private.example")?.push("acme/secret:1", &image)?;
        let elsewhere = Image::new().platforms(["linux/s390x", "linux/riscv64"]).layer(Layer::random(MIB));
        cluster.origin("docker.io")?.push("library/elsewhere:1", &elsewhere)?;
        start(cluster)?;
        let node = &cluster.nodes()[0];
        let (good, missing) = ("docker.io/library/app:1", "docker.io/library/app:none");
        let (private, elsewhere) = ("registry.private.example/acme/secret:1", "docker.io/library/elsewhere:1");
        want(cluster, "web", &json!({"images": [missing, private, elsewhere, good]}))?;
        let is = |status: &Value, image: &str, reason: &str| {
            told(status, image)["state"] == "Failed" && told(status, image)["reason"] == reason
        };
        let cache = await_told(cluster, "node-1", "three have failed", |status| {
            is(status, missing, "ImageNotFound")
                && is(status, private, "CredentialNeeded")
                && is(status, elsewhere, "PlatformMissing")
                && is_warm(status, good)
        })?;
        ensure!(cache["status"]["failed"] == 3, "{cache:#}");
        ensure!(!cache.to_string().contains(PRIVATE_PASSWORD));
        let requests = |path: &str, origin: &str| -> Result<usize> {
            let requests = cluster.origin(origin)?.requests()?;
            Ok(requests.iter().filter(|request| request.path.ends_with(path)).count())
        };
        let asked = requests("/acme/secret/manifests/1", "registry.private.example")?;

        // It is tried again, and it comes when it is there.
        await_told(cluster, "node-1", "it was tried again", |status| {
            told(status, missing)["attempts"].as_u64().is_some_and(|attempts| attempts >= 2)
        })?;
        push(cluster, "library/app:none", 2)?;
        await_held(node, missing)?;
        await_told(cluster, "node-1", "it is warm", |status| is_warm(status, missing) && status["failed"] == 2)?;
        ensure!(
            requests("/acme/secret/manifests/1", "registry.private.example")? == asked,
            "what needs a credential is not tried again by itself"
        );
        what_is_edited_or_deleted_while_it_comes_is_let_go_of(cluster, node)
    })
}

/// An ImageCache is edited, deleted, or goes with its namespace, while a pull for it is on its way.
fn what_is_edited_or_deleted_while_it_comes_is_let_go_of(cluster: &Cluster, node: &Node) -> Result<()> {
    let large = |number: u64| -> Result<String> {
        let image = Image::new().seed(100 + number).layer(Layer::random(16 * MIB));
        cluster.origin("docker.io")?.push(&format!("library/large:{number}"), &image)?;
        Ok(format!("docker.io/library/large:{number}"))
    };
    let [edited, deleted, orphaned] = [large(1)?, large(2)?, large(3)?];
    push(cluster, "library/app:next", 50)?;
    let next = "docker.io/library/app:next";
    let comes = |image: &str| {
        await_told(cluster, "node-1", "it is coming", |status| told(status, image)["state"] == "Pulling").map(drop)
    };
    let is_let_go_of = |image: &str| {
        await_told(cluster, "node-1", "it is wanted no more", |status| told(status, image).is_null()).map(drop)
    };
    node.link().cap(Rate::mbit(16))?;
    want(cluster, "web", &json!({"images": [edited]}))?;
    comes(&edited)?;
    want(cluster, "web", &json!({"images": [next]}))?;
    await_told(cluster, "node-1", "the other one is warm", |status| is_warm(status, next) && status["wanted"] == 1)?;
    is_let_go_of(&edited)?;

    want(cluster, "more", &json!({"images": [deleted]}))?;
    comes(&deleted)?;
    cluster.kubectl().run(&["delete", "imagecache", "more", "--timeout=30s"])?;
    is_let_go_of(&deleted)?;

    cluster.kubectl().run(&["create", "namespace", "doomed"])?;
    want_in(cluster, "doomed", "more", &json!({"images": [orphaned], "onDelete": "Remove"}))?;
    comes(&orphaned)?;
    cluster.kubectl().run(&["delete", "namespace", "doomed", "--timeout=60s"])?;
    is_let_go_of(&orphaned)?;
    node.link().uncap()?;
    await_told(cluster, "node-1", "nothing else is wanted", |status| status["wanted"] == 1 && status["failed"] == 0)?;
    for image in [edited, deleted, orphaned] {
        ensure!(held(node, &image)?.is_none(), "{image} came although nobody wanted it any more");
    }
    Ok(())
}

// K-12
#[test]
fn agents_go_on_through_restarts_and_without_the_api_server() -> Result<()> {
    let spec = ClusterSpec::new("prefetch-outage").with_nodes([NodeSpec::new("node-1")]);
    with_cluster(&spec, |cluster| {
        for (name, seed) in [("library/app:1", 1), ("library/app:2", 2), ("library/pod:1", 3), ("library/gone:1", 4)] {
            push(cluster, name, seed)?;
        }
        let [one, two, pod, gone] =
            ["app:1", "app:2", "pod:1", "gone:1"].map(|name| format!("docker.io/library/{name}"));
        // The agent is there before the definitions.
        nodes::make_account(cluster)?;
        let node = &cluster.nodes()[0];
        let agent = start_on(cluster, node)?;
        wait_for("it tells of what is missing", PATIENCE, || {
            Ok(agent.log()?.contains("no imagecaches.larder.dev").then_some(()))
        })?;
        node.crictl(&["pull", &pod])?;
        nodes::install_definitions(cluster)?;
        want(cluster, "web", &json!({"images": [one, gone], "onDelete": "Remove"}))?;
        await_told(cluster, "node-1", "both are pinned", |status| {
            told(status, &one)["pinned"] == true && told(status, &gone)["pinned"] == true
        })?;
        let said = agent.log()?.lines().filter(|line| line.contains("WARN") && line.contains("imagecaches")).count();
        ensure!(said == 1, "that the definitions are missing was said {said} times");

        // What is changed while the agent is away is done when it is back.
        agent.process().kill()?;
        want(cluster, "web", &json!({"images": [one, two], "onDelete": "Remove"}))?;
        agent.process().start_again()?;
        await_held(node, &two)?;
        await_gone(node, &gone)?;
        ensure!(held(node, &pod)?.is_some(), "what larder did not pull stays");

        // The API server is away: images that vanish come back, and pods' pulls are none of it.
        let server = cluster.control().machine().process("kube-apiserver")?;
        server.kill()?;
        node.crictl(&["rmi", &one])?;
        node.crictl(&["rmi", &pod])?;
        node.crictl(&["pull", &pod])?;
        await_held(node, &one)?;
        server.start_again()?;
        let three = json!({"images": [one, two, pod], "onDelete": "Remove"});
        wait_for("the API server takes changes", PATIENCE, || Ok(want(cluster, "web", &three).ok()))?;
        await_told(cluster, "node-1", "all three are warm", |status| status["warm"] == 3)?;

        // The runtime is away.
        node.containerd()?.kill()?;
        await_told(cluster, "node-1", "the runtime is away", |status| {
            status["conditions"][0]["status"] == "False" && status["conditions"][0]["reason"] == "RuntimeUnavailable"
        })?;
        node.containerd()?.start_again()?;
        node.await_containerd()?;
        await_told(cluster, "node-1", "it is back", |status| status["conditions"][0]["status"] == "True")?;

        // What was there before larder wanted it stays, whatever the ImageCache says.
        cluster.kubectl().run(&["delete", "imagecache", "web"])?;
        await_gone(node, &one)?;
        await_gone(node, &two)?;
        ensure!(held(node, &pod)?.is_some_and(|image| image["pinned"] != true));
        Ok(())
    })
}

#[test]
fn a_tag_that_moved_is_pulled_anew_and_a_full_disk_waits() -> Result<()> {
    let small = NodeSpec::new("node-1").disk(400 * MIB);
    with_cluster(&ClusterSpec::new("prefetch-moving").with_nodes([small]), |cluster| {
        let old = push(cluster, "library/app:1", 1)?;
        start(cluster)?;
        let node = &cluster.nodes()[0];
        let app = "docker.io/library/app:1";
        want(cluster, "web", &json!({"images": [app]}))?;
        await_told(cluster, "node-1", "it is warm", |status| {
            is_warm(status, app) && told(status, app)["digest"] == old
        })?;

        // The mirror still believes the old answer; the status says what the controller found.
        let new = push(cluster, "library/app:1", 2)?;
        let found = json!({"status": {"images": [{"image": app, "digest": new}]}}).to_string();
        cluster.kubectl().run(&["patch", "imagecache", "web", "--subresource=status", "--type=merge", "-p", &found])?;
        await_told(cluster, "node-1", "the new one is warm", |status| {
            is_warm(status, app) && told(status, app)["digest"] == new
        })?;
        let digests = held(node, app)?.context("it is there")?["repoDigests"].to_string();
        ensure!(digests.contains(&new), "{digests}");

        node.fill_disk(20 * MIB)?;
        push(cluster, "library/app:3", 3)?;
        let more = "docker.io/library/app:3";
        want(cluster, "web", &json!({"images": [app, more]}))?;
        await_told(cluster, "node-1", "the disk is full", |status| told(status, more)["reason"] == "DiskFull")?;
        node.free_disk()?;
        await_held(node, more)?;
        Ok(())
    })
}

// K-09: the cap
#[test]
fn where_one_node_may_pull_at_once_never_do_two() -> Result<()> {
    with_cluster(&ClusterSpec::new("prefetch-turns").nodes(3), |cluster| {
        let names = [1, 2, 3, 4].map(|tag| format!("library/app:{tag}"));
        for (name, seed) in names.iter().zip(1..) {
            push(cluster, name, seed)?;
        }
        let images = names.map(|name| format!("docker.io/{name}"));
        let agents = start(cluster)?;
        nodes::make_controller_account(cluster, &nodes::controller_rights()?)?;
        Controller::start(cluster, cluster.control().machine(), ("larder-controller", Controller::ALONE), "")?;

        let written: Vec<f64> = agents.iter().map(writes).collect::<Result<_>>()?;
        want(cluster, "web", &json!({"images": images[..3], "parallelism": {"nodes": 1}}))?;
        // What needs no turn does not wait for one.
        want(cluster, "free", &json!({"images": images[3..]}))?;
        let node_caches = || cluster.kubectl().json(&["get", "nodecaches"]);
        let mut waited = false;
        wait_for("all nodes have all images", PATIENCE, || {
            let list = node_caches()?;
            let caches = list["items"].as_array().context("a list")?;
            let turns = caches.iter().filter(|cache| cache["status"]["turns"]["imageCaches"][0].is_string()).count();
            ensure!(turns <= 1, "{turns} nodes have their turn at once: {list:#}");
            waited |= caches.iter().any(|cache| told(&cache["status"], &images[0])["reason"] == "WaitsForTurn");
            Ok((caches.len() == 3 && caches.iter().all(|cache| cache["status"]["warm"] == 4)).then_some(()))
        })?;
        ensure!(waited, "no node said that it waits for its turn");
        for (agent, before) in agents.iter().zip(written) {
            // Two edits, and the words in between of which each was written a second after the one before.
            ensure!(writes(agent)? - before <= 6.0, "{} writes", writes(agent)? - before);
        }

        // Each takes all that waited from the origin before the next one begins: nothing of two nodes is mixed.
        let requests = cluster.origin("docker.io")?.requests()?;
        let free = requests.iter().filter(|request| request.path.ends_with("/app/manifests/4")).count();
        ensure!(free >= 3, "{free} questions for what needs no turn");
        let addresses: Vec<String> = cluster.nodes().iter().map(|node| node.machine().address().to_string()).collect();
        let asked = requests.iter().filter(|request| {
            let tag = request.path.rsplit_once("/app/manifests/").map(|(_, tag)| tag);
            tag.is_some_and(|tag| ["1", "2", "3"].contains(&tag)) && addresses.contains(&request.client)
        });
        let mut order: Vec<&str> = asked.map(|request| request.client.as_str()).collect();
        order.dedup();
        ensure!(order.len() == 3, "nodes asked for manifests in this order: {order:?}");
        Ok(())
    })
}
