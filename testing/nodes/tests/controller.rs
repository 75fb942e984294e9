//! `larder controller` against a real API server, with the rights that docs/controller.md gives it. Nodes and NodeCaches are objects here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nodes::{Controller, await_ready, make_node, metric, taints, tell};
use serde_json::{Value, json};
use testbed::{ClusterSpec, Kubectl, Machine, wait_for, with_cluster};

const PATIENCE: Duration = Duration::from_secs(180);

fn status(kubectl: &Kubectl, name: &str) -> Result<Value> {
    Ok(kubectl.json(&["get", "imagecache", "-n", "shop", name])?["status"].take())
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn await_status(kubectl: &Kubectl, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let waited = wait_for(&format!("of {name}, {what}"), PATIENCE, || {
        last = status(kubectl, name)?;
        Ok(holds(&last).then(|| last.clone()))
    });
    waited.with_context(|| format!("its status is {last:#}"))
}

fn await_message(kubectl: &Kubectl, name: &str, message: &str) -> Result<Value> {
    await_status(kubectl, name, message, |status| {
        condition(status, "Warm").is_some_and(|warm| warm["message"] == message)
    })
}

fn await_released(kubectl: &Kubectl, name: &str) -> Result<()> {
    wait_for(&format!("{name} has lost its taint"), PATIENCE, || {
        Ok((!taints(kubectl, name)?.iter().any(|key| key == "larder.dev/warming")).then_some(()))
    })
}

fn holder(kubectl: &Kubectl) -> Result<String> {
    let lease = kubectl.json(&["get", "lease", "-n", "larder", "larder-controller"])?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

// K-08: the controller is killed; K-12: the API server is
#[test]
fn statuses_gates_and_leaders() -> Result<()> {
    with_cluster(&ClusterSpec::new("controller").nodes(0), |cluster| {
        let kubectl = cluster.kubectl();
        kubectl.run(&["create", "namespace", "shop"])?;
        nodes::make_controller_account(cluster, &nodes::controller_rights()?)?;
        let (first_machine, second_machine) = (cluster.internet(), cluster.control().machine());
        let start = |name: &str, machine: &Machine| Controller::start(cluster, machine, (name, Controller::ALONE), "");

        // The kinds come late: it says so and waits.
        let first = start("larder-controller-1", first_machine)?;
        wait_for("it tells what is missing", PATIENCE, || {
            Ok(first.log()?.contains("install larder's custom resource definitions").then_some(()))
        })?;
        nodes::install_definitions(cluster)?;
        await_ready(first_machine)?;

        // What the nodes tell is summed up, and the images of workloads are known before their pods.
        let taint =
            json!([{"key": "larder.dev/warming", "effect": "NoSchedule"}, {"key": "gpu", "effect": "NoSchedule"}]);
        make_node(kubectl, "n1", &json!([]))?;
        make_node(kubectl, "n2", &json!([]))?;
        tell(kubectl, "n1", &[("quay.io/acme/a:1", "Warm")])?;
        let web = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache", "metadata": {"namespace": "shop", "name": "web"},
            "spec": {
                "images": ["quay.io/acme/a:1"], "nodeSelector": {"pool": "web"}, "gateNodes": true, "gateTimeout": "40s",
                "tolerations": [{"operator": "Exists"}],
                "workloads": {"selector": {"matchLabels": {"app": "web"}}},
            },
        });
        kubectl.apply(&web.to_string())?;
        await_message(kubectl, "web", "1 of 2 nodes have every image")?;
        let deployment = |image: &str| {
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"namespace": "shop", "name": "web", "labels": {"app": "web"}},
                "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"initContainers": [{"name": "i", "image": "busybox"}], "containers": [{"name": "c", "image": image}]},
                }},
            })
            .to_string()
        };
        kubectl.apply(&deployment("ghcr.io/acme/b:1"))?;
        let all = json!(["quay.io/acme/a:1", "docker.io/library/busybox:latest", "ghcr.io/acme/b:1"]);
        let names = |status: &Value| {
            let images = status["images"].as_array().cloned().unwrap_or_default();
            json!(images.iter().map(|image| image["image"].clone()).collect::<Vec<_>>())
        };
        await_status(kubectl, "web", "the images of its workload are known", |status| names(status) == all)?;
        let warm =
            [("quay.io/acme/a:1", "Warm"), ("docker.io/library/busybox:latest", "Warm"), ("ghcr.io/acme/b:1", "Warm")];
        tell(kubectl, "n1", &warm)?;
        tell(kubectl, "n2", &warm)?;
        await_message(kubectl, "web", "all 2 nodes have every image")?;
        let columns = kubectl.run(&["get", "imagecache", "-n", "shop", "web", "--no-headers"])?;
        ensure!(columns.split_whitespace().collect::<Vec<_>>()[1..6] == ["3", "2", "2", "0", "True"], "{columns}");

        // A node waits until it is warm; the other taint stays. One whose time is over goes on with an event.
        make_node(kubectl, "n3", &taint)?;
        await_message(kubectl, "web", "2 of 3 nodes have every image")?;
        ensure!(taints(kubectl, "n3")?.contains(&"larder.dev/warming".to_owned()));
        tell(kubectl, "n3", &warm)?;
        await_released(kubectl, "n3")?;
        ensure!(taints(kubectl, "n3")?.contains(&"gpu".to_owned()), "the other taint stays");
        make_node(kubectl, "n4", &taint)?;
        await_released(kubectl, "n4")?;
        wait_for("an event says why", PATIENCE, || {
            let which = "--field-selector=reason=WarmingTimeout,involvedObject.name=n4";
            let events = kubectl.json(&["get", "events", "-n", "default", which])?;
            let message = events["items"][0]["message"].as_str().unwrap_or_default();
            Ok(message.contains("its agent has not told anything yet").then_some(()))
        })?;

        // Nothing changes, and nothing is written.
        let writes = || metric(first_machine, "larder_controller_writes_total", &[("kind", "ImageCache")]);
        await_message(kubectl, "web", "3 of 4 nodes have every image")?;
        let version = || -> Result<Value> {
            Ok(kubectl.json(&["get", "imagecache", "-n", "shop", "web"])?["metadata"]["resourceVersion"].take())
        };
        let (before, written) = (version()?, writes()?);
        tell(kubectl, "n4", &[("quay.io/acme/a:1", "Present")])?;
        wait_for("the agent of n4 is heard of", PATIENCE, || {
            let known = metric(first_machine, "larder_controller_objects", &[("kind", "NodeCache")])?;
            Ok((known > 3.5).then_some(()))
        })?;

        // The policy limits it.
        let policy = |spec: Value| {
            json!({"apiVersion": "larder.dev/v1alpha1", "kind": "CachePolicy", "metadata": {"name": "default"}, "spec": spec}).to_string()
        };
        ensure!((version()?, writes()?) == (before, written), "what changes nothing is not written");
        kubectl.apply(&policy(json!({"imageCaches": {"images": 1, "gateNodes": "Refuse"}})))?;
        let limited = await_status(kubectl, "web", "the limit is told", |status| {
            condition(status, "Ready").is_some_and(|ready| ready["reason"] == "TooManyImages")
        })?;
        ensure!(names(&limited) == json!(["quay.io/acme/a:1"]), "{limited:#}");
        kubectl.run(&["delete", "cachepolicy", "default"])?;
        await_status(kubectl, "web", "all is as before", |status| names(status) == all)?;

        // The leader dies; the other one takes over and nothing is lost.
        let second = start("larder-controller-2", second_machine)?;
        await_ready(second_machine)?;
        let leader = holder(kubectl)?;
        first.process().kill()?;
        kubectl.apply(&deployment("ghcr.io/acme/b:2"))?;
        let moved = json!(["quay.io/acme/a:1", "docker.io/library/busybox:latest", "ghcr.io/acme/b:2"]);
        await_status(kubectl, "web", "the rollout is known", |status| names(status) == moved)?;
        ensure!(holder(kubectl)? != leader, "another one leads");

        // The API server goes and comes back.
        let server = cluster.control().machine().process("kube-apiserver")?;
        server.kill()?;
        server.start_again()?;
        wait_for("the API server takes changes", PATIENCE, || Ok(kubectl.apply(&deployment("ghcr.io/acme/b:3")).ok()))?;
        await_status(kubectl, "web", "the next rollout is known", |status| names(status)[2] == "ghcr.io/acme/b:3")?;

        // It ends when it is told to, and lets go of the Lease.
        second.process().terminate()?;
        wait_for("the Lease is free", PATIENCE, || Ok(holder(kubectl)?.is_empty().then_some(())))
    })
}
