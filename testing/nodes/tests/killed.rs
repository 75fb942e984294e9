//! The controller dies at each step of a rollout, and what it leaves is as if it had lived. Nodes and NodeCaches are objects here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nodes::{Between, Controller, Death, Fate, Mode, await_ready, make_node, metric, taints, tell};
use serde_json::{Value, json};
use testbed::{ClusterSpec, Kubectl, Machine, wait_for, with_cluster};

const PATIENCE: Duration = Duration::from_secs(90);

/// What no tag can change, so that nothing is asked of it.
const LISTED: &str = "quay.io/acme/listed@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const SETTLED: &str = "quay.io/acme/settled@sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

fn rolled(round: usize) -> String {
    format!("ghcr.io/acme/rolled:{round}")
}

/// Writes what the agent of a node would that has all of these images.
fn tell_warm(kubectl: &Kubectl, node: &str, images: &[&str]) -> Result<()> {
    let images: Vec<_> = images.iter().map(|image| (*image, "Warm")).collect();
    tell(kubectl, node, &images)
}

fn cache(name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache", "metadata": {"namespace": "shop", "name": name}, "spec": spec,
    })
    .to_string()
}

fn roll(kubectl: &Kubectl, image: &str) -> Result<()> {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": "shop", "name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]},
        }},
    });
    kubectl.apply(&deployment.to_string())
}

/// Whether the status says that so many nodes have all of these images, and no other ones are wanted.
fn is_warm(kubectl: &Kubectl, images: &[&str], nodes: usize) -> Result<bool> {
    let status = kubectl.json(&["get", "imagecache", "-n", "shop", "web"])?["status"].take();
    let names = status["images"].as_array().into_iter().flatten().map(|one| one["image"].as_str());
    let same = names.eq(images.iter().copied().map(Some));
    Ok(same && status["nodes"] == nodes && status["warmNodes"] == nodes)
}

fn is_open(kubectl: &Kubectl, node: &str) -> Result<bool> {
    Ok(!taints(kubectl, node)?.contains(&"larder.dev/warming".to_owned()))
}

/// A rollout, and a node that is to be open when it is warm, with a controller that dies at a step of that, unless there are fewer; whether there are not.
fn roll_and_die(world: &World<'_>, round: usize, (step, death): (usize, Death)) -> Result<bool> {
    let World { kubectl, between, controller } = world;
    let (image, name) = (rolled(round), format!("n{round}"));
    let images = [LISTED, &image];
    between.die_at(step, death);
    let taints_at_first =
        json!([{"key": "larder.dev/warming", "effect": "NoSchedule"}, {"key": "gpu", "effect": "NoSchedule"}]);
    make_node(kubectl, &name, &taints_at_first)?;
    roll(kubectl, &image)?;
    for node in 0..=round {
        tell_warm(kubectl, &format!("n{node}"), &images)?;
    }
    let dies = wait_for("it dies or has done all", PATIENCE, || {
        let is_done = is_warm(kubectl, &images, round + 1)? && is_open(kubectl, &name)?;
        // What is written last is seen before it dies of that.
        Ok(match between.fate() {
            Fate::IsDead => Some(true),
            Fate::Dies => None,
            Fate::Lives => is_done.then_some(false),
        })
    })?;
    if dies {
        controller.process().kill()?;
        between.turn(Mode::Well);
        controller.process().start_again()?;
    } else {
        between.turn(Mode::Well);
    }
    let mut last = Value::Null;
    wait_for(&format!("{name} and all before it are warm and open"), PATIENCE, || {
        last = kubectl.json(&["get", "imagecache", "-n", "shop", "web"])?["status"].take();
        Ok((is_warm(kubectl, &images, round + 1)? && is_open(kubectl, &name)?).then_some(()))
    })
    .with_context(|| format!("it died at write {step}, {death:?}: {dies}; its status is {last:#}"))?;
    ensure!(taints(kubectl, &name)?.contains(&"gpu".to_owned()), "the other taint stays");
    Ok(dies)
}

struct World<'a> {
    kubectl: &'a Kubectl,
    between: &'a Between,
    controller: &'a Controller,
}

// K-08
#[test]
fn a_controller_that_dies_at_any_step_of_a_rollout_ends_where_one_that_lives_does() -> Result<()> {
    with_cluster(&ClusterSpec::new("killed").nodes(0), |cluster| {
        let kubectl = cluster.kubectl();
        for namespace in ["larder", "shop"] {
            kubectl.run(&["create", "namespace", namespace])?;
        }
        nodes::install_definitions(cluster)?;
        let (machine, between) = (cluster.control().machine(), &Between::start(cluster)?);
        let kubeconfig = "/etc/larder/controller.kubeconfig";
        between.lead(machine, kubeconfig)?;
        let controller = &Controller::launch(machine, ("larder-controller", Controller::ALONE), kubeconfig, "")?;
        await_ready(machine)?;
        let web = json!({
            "images": [LISTED], "nodeSelector": {"pool": "web"}, "gateNodes": true, "gateTimeout": "30m",
            "tolerations": [{"operator": "Exists"}], "workloads": {"selector": {"matchLabels": {"app": "web"}}},
        });
        kubectl.apply(&cache("web", &web))?;

        let world = World { kubectl, between, controller };
        let (mut rounds, mut steps) = (0, [0, 0]);
        for (death, deaths) in [Death::Before, Death::After].into_iter().zip(&mut steps) {
            loop {
                let dies = roll_and_die(&world, rounds, (*deaths, death))?;
                rounds += 1;
                if !dies {
                    break;
                }
                *deaths += 1;
                ensure!(*deaths < 20, "one rollout has no end of writes");
            }
        }
        println!("it died before the first {} writes of a rollout, and after the first {}", steps[0], steps[1]);
        // A status, and the taint.
        ensure!(steps.iter().all(|steps| *steps >= 2), "a rollout takes {steps:?} writes");
        nothing_is_done_again(&world, machine, rounds)?;
        one_that_is_away_keeps_nobody_back(&world, rounds)
    })
}

/// What it finds after its last death it does not do again: all that it writes is what is new.
fn nothing_is_done_again(world: &World<'_>, machine: &Machine, nodes: usize) -> Result<()> {
    let World { kubectl, controller, .. } = world;
    roll(kubectl, SETTLED)?;
    for node in 0..nodes {
        tell_warm(kubectl, &format!("n{node}"), &[LISTED, SETTLED])?;
    }
    wait_for("all is as it stays", PATIENCE, || Ok(is_warm(kubectl, &[LISTED, SETTLED], nodes)?.then_some(())))?;
    controller.process().kill()?;
    let before = kubectl.json(&["get", "imagecache", "-n", "shop", "web"])?;
    controller.process().start_again()?;
    await_ready(machine)?;
    kubectl.apply(&cache("marker", &json!({"images": ["quay.io/acme/marker:1"], "nodeSelector": {"pool": "none"}})))?;
    wait_for("it writes again", PATIENCE, || {
        let marker = kubectl.json(&["get", "imagecache", "-n", "shop", "marker"])?;
        Ok((marker["status"]["imageCount"] == 1).then_some(()))
    })?;
    let after = kubectl.json(&["get", "imagecache", "-n", "shop", "web"])?;
    ensure!(after == before, "a status was written anew that was right: {before:#}\n{after:#}");
    let writes = metric(machine, "larder_controller_writes_total", &[("kind", "ImageCache")])?;
    // The one, and what its tag means.
    ensure!(writes <= 2.0, "{writes} writes");
    let events = kubectl.json(&["get", "events", "-n", "default", "--field-selector=reason=WarmingTimeout"])?;
    ensure!(events["items"].as_array().is_some_and(Vec::is_empty), "{events:#}");
    Ok(())
}

/// A node that Kubernetes cannot hear counts as one that is not warm, and keeps nobody back; and nothing of larder keeps a namespace.
fn one_that_is_away_keeps_nobody_back(world: &World<'_>, nodes: usize) -> Result<()> {
    let World { kubectl, controller, .. } = world;
    let away =
        json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}});
    kubectl.run(&["patch", "node", "n0", "--subresource=status", "--type=merge", "-p", &away.to_string()])?;
    let more = "quay.io/acme/more:1";
    roll(kubectl, more)?;
    for node in 1..nodes {
        tell_warm(kubectl, &format!("n{node}"), &[LISTED, more])?;
    }
    let mut last = Value::Null;
    wait_for("all but the one are warm", PATIENCE, || {
        last = kubectl.json(&["get", "imagecache", "-n", "shop", "web"])?;
        let status = &last["status"];
        Ok((status["nodes"] == nodes && status["warmNodes"] == nodes - 1).then_some(()))
    })
    .with_context(|| format!("{last:#}"))?;
    ensure!(last["metadata"]["finalizers"].is_null(), "{last:#}");
    controller.process().kill()?;
    kubectl.run(&["delete", "namespace", "shop", "--timeout=60s"]).map(drop)
}
