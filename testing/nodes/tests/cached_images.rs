//! What a cluster's pods and workloads name is known as CachedImages, and the registry keeps what is in use, through restarts of all
//! that tells it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nodes::{Agent, Controller, KUBECONFIG, await_ready, binary, metric};
use peers::Role;
use serde_json::{Value, json};
use testbed::{Cluster, ClusterSpec, Image, Launch, Layer, Machine, Process, Written, wait_for, with_cluster};

const PATIENCE: Duration = Duration::from_secs(240);
const MIB: u64 = 1 << 20;
/// The layer of each image, three of which fill the registry's store.
const LAYER: u64 = 20 * MIB;
const BUDGET: &str = "64MiB";

fn full(name: &str) -> String {
    format!("docker.io/library/{name}")
}

/// An image with a layer that no other has.
fn push(cluster: &Cluster, name: &str, seed: u64) -> Result<Written> {
    let image = Image::new().seed(seed).layer(Layer::random(LAYER));
    cluster.origin("docker.io")?.push(&format!("library/{name}"), &image)
}

struct Registry<'a> {
    machine: &'a Machine,
    process: Arc<Process>,
}

impl<'a> Registry<'a> {
    fn start(machine: &'a Machine) -> Result<Registry<'a>> {
        let config = format!(
            "listen = \"127.0.0.1:5000\"\n[store]\npath = \"/var/lib/larder-registry\"\nbudget = {BUDGET:?}\n\
             [registry.nodes]\nlisten = \"0.0.0.0:5002\"\ncertificates = \"/etc/larder/registry\"\n"
        );
        machine.write("/etc/larder/registry.toml", &config)?;
        let launch = Launch::new(binary()).args(["registry", "--config", "/etc/larder/registry.toml"]);
        let launch = launch.args(["--log", "debug", "--metrics", "127.0.0.1:7441"]);
        let process = machine.spawn("larder-registry", launch)?;
        await_ready(machine)?;
        Ok(Registry { machine, process })
    }

    fn restart(&self) -> Result<()> {
        self.process.kill()?;
        self.process.start_again()?;
        await_ready(self.machine)
    }

    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.machine.path(format!("/var/lib/larder-registry/blobs/sha256/{hex}"))
    }

    /// Whether it has all of an image's layers.
    fn has(&self, image: &Written) -> bool {
        image.layers.iter().all(|layer| self.blob(&layer.digest).exists())
    }

    fn await_gone(&self, what: &str, image: &Written) -> Result<()> {
        wait_for(&format!("{what} is gone"), PATIENCE, || Ok((!self.has(image)).then_some(())))
    }

    /// Until the list that it has written down says this of an image.
    fn await_told(&self, image: &str, keep: bool) -> Result<()> {
        let path = self.machine.path("/var/lib/larder-registry/keep.json");
        wait_for(&format!("the registry is told that {image} is kept: {keep}"), PATIENCE, || {
            let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
            let list: Value = serde_json::from_str(&text)?;
            let images = list["images"].as_array().context("a list")?;
            let found = images.iter().find(|one| one["image"] == image);
            Ok((found.is_some_and(|one| one["keep"] == true) == keep).then_some(()))
        })
    }
}

fn deployment(name: &str, image: &str, replicas: u32) -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}],
            }},
        },
    })
    .to_string()
}

fn policy(cluster: &Cluster, retention: &Value) -> Result<()> {
    let object = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "CachePolicy", "metadata": {"name": "default"},
        "spec": {"retention": retention, "images": {"exclude": [{"registry": "quay.io"}]}},
    });
    cluster.kubectl().apply(&object.to_string())
}

fn all(cluster: &Cluster) -> Result<Vec<Value>> {
    let list = cluster.kubectl().json(&["get", "cachedimages"])?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn of(cluster: &Cluster, image: &str) -> Result<Option<Value>> {
    Ok(all(cluster)?.into_iter().find(|one| one["spec"]["image"] == image))
}

/// Waits until what is known of an image is so.
fn await_image(cluster: &Cluster, image: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let waited = wait_for(&format!("of {image}, {what}"), PATIENCE, || {
        last = of(cluster, image)?.unwrap_or_default();
        Ok(holds(&last["status"]).then(|| last.clone()))
    });
    waited.with_context(|| format!("it is {last:#}"))
}

#[test]
fn what_is_in_use_is_known_and_kept() -> Result<()> {
    with_cluster(&ClusterSpec::new("cached-images").nodes(2), |cluster| {
        let kubectl = cluster.kubectl();
        let authority = cluster.dir().join("certificates");
        let names = [
            ("node-1", Role::Node),
            ("node-2", Role::Node),
            ("registry", Role::Registry),
            ("controller", Role::Controller),
        ];
        nodes::certify_roles(&authority, names)?;
        nodes::give_certificate(cluster.internet(), &authority, "registry", "/etc/larder/registry")?;
        nodes::give_certificate(cluster.control().machine(), &authority, "controller", "/etc/larder/controller")?;
        let (used, pinned) = (push(cluster, "used:1", 1)?, push(cluster, "pinned:1", 2)?);
        let others: Vec<Written> =
            (0..5).map(|n| push(cluster, &format!("other-{n}:1"), 10 + n)).collect::<Result<_>>()?;

        nodes::install_definitions(cluster)?;
        nodes::make_account(cluster)?;
        let registry = Registry::start(cluster.internet())?;
        let url = format!("https://{}:5002", cluster.internet().address());
        let mut agents = Vec::new();
        for node in cluster.nodes() {
            nodes::give_account(cluster, node.machine())?;
            nodes::give_certificate(node.machine(), &authority, node.name(), "/etc/larder/peers")?;
            let launch = Launch::new(binary()).args(["node", "--log", "debug"]).env("KUBECONFIG", KUBECONFIG);
            let config = format!(
                "[node]\nregistry = {url:?}\nregistry_certificates = \"/etc/larder/peers\"\n[node.cluster]\nname = {:?}\nkeep_free = \"0%\"\n",
                node.name()
            );
            agents.push(Agent::launch(node, &config, launch)?);
        }
        nodes::make_controller_account(cluster, &nodes::controller_rights()?)?;
        let control = cluster.control().machine();
        let lines = format!("registry = {url:?}\nregistry_certificates = \"/etc/larder/controller\"\n");
        let start = |name: &str| Controller::start(cluster, control, (name, Controller::ALONE), &lines);
        let first = start("larder-controller-1")?;
        await_ready(control)?;

        // A workload without pods is known, one with pods is counted, and what the policy excludes is not there.
        policy(cluster, &json!({"pins": [full("pinned:1")]}))?;
        kubectl.apply(&deployment("none", &full("other-4:1"), 0))?;
        kubectl.apply(&deployment("app", &full("used:1"), 2))?;
        kubectl.apply(&deployment("excluded", "quay.io/acme/x:1", 0))?;
        kubectl.await_ready_pods("default", "app=app", 2, PATIENCE)?;
        let known = await_image(cluster, &full("used:1"), "it is all known", |status| {
            status["pods"] == 2
                && status["workloads"] == 1
                && status["held"]["registry"] == true
                && status["held"]["nodes"].as_u64().is_some_and(|nodes| nodes > 0)
        })?;
        let status = &known["status"];
        ensure!(status["digest"] == used.digest, "{known:#}");
        ensure!(status["bytes"].as_u64().is_some_and(|bytes| bytes > LAYER), "{known:#}");
        ensure!(status["platforms"][0].as_str().is_some_and(|platform| platform.starts_with("linux/")), "{known:#}");
        ensure!(!status["lastUsed"].is_null() && !status["lastChecked"].is_null(), "{known:#}");
        ensure!(status["unusedSince"].is_null() && status["expires"].is_null(), "{known:#}");
        let idle =
            await_image(cluster, &full("other-4:1"), "its workload is known", |status| status["workloads"] == 1)?;
        ensure!(idle["status"]["pods"] == 0 && idle["status"]["lastUsed"].is_null(), "{idle:#}");
        await_image(cluster, &full("pinned:1"), "it is known for its pin", |status| !status.is_null())?;
        ensure!(of(cluster, "quay.io/acme/x:1")?.is_none(), "what is excluded is there");
        let name = known["metadata"]["name"].as_str().context("it has a name")?;
        ensure!(name.starts_with("used-1-"), "{name}");
        let columns = kubectl.run(&["get", "cachedimages", name, "--no-headers"])?;
        let columns: Vec<&str> = columns.split_whitespace().collect();
        ensure!(columns[1..3] == [full("used:1").as_str(), "2"] && columns[4] == "true", "{columns:?}");

        // Nothing changes, and nothing is written.
        let writes = || metric(control, "larder_controller_writes_total", &[("kind", "CachedImage")]);
        let settled = wait_for("writes have ended", PATIENCE, || {
            let before = writes()?;
            std::thread::sleep(Duration::from_secs(15));
            Ok((writes()? == before).then_some(before))
        })?;
        println!("{settled} writes until all was settled");

        // The registry is too small for all: what is in use and what is pinned stays, whatever comes.
        registry.await_told(&full("used:1"), true)?;
        registry.await_told(&full("pinned:1"), true)?;
        let node = &cluster.nodes()[0];
        node.crictl(&["pull", &full("pinned:1")])?;
        for n in 0..3 {
            node.crictl(&["pull", &full(&format!("other-{n}:1"))])?;
        }
        registry.await_gone("what is not in use", &others[0])?;
        ensure!(registry.has(&used) && registry.has(&pinned), "something went that is in use");
        let held = metric(cluster.internet(), "larder_store_bytes", &[])?;
        ensure!(held < (80 * MIB) as f64, "{held} bytes are held");

        // Both die, and only the registry comes back: it still knows.
        first.process().kill()?;
        registry.restart()?;
        for n in 0..4 {
            let name = full(&format!("other-{n}:1"));
            let _ = node.crictl(&["rmi", &name]);
            node.crictl(&["pull", &name])?;
        }
        ensure!(registry.has(&used) && registry.has(&pinned), "something went that is in use");
        let alone = of(cluster, &full("used:1"))?.context("it is known")?;
        ensure!(alone["status"]["pods"] == 2, "{alone:#}");

        // Another one leads, and knows what has changed meanwhile.
        kubectl.apply(&deployment("app", &full("used:1"), 1))?;
        let second = start("larder-controller-2")?;
        await_ready(control)?;
        await_image(cluster, &full("used:1"), "one pod is left", |status| status["pods"] == 1)?;

        // The API server goes. The registry is told on, and what changes then is known afterwards.
        let server = control.process("kube-apiserver")?;
        server.kill()?;
        let told = metric(control, "larder_controller_registry_tells_total", &[("result", "done")])?;
        wait_for("the registry is told without the API server", PATIENCE, || {
            let now = metric(control, "larder_controller_registry_tells_total", &[("result", "done")])?;
            Ok((now > told).then_some(()))
        })?;
        registry.await_told(&full("used:1"), true)?;
        server.start_again()?;
        wait_for("the API server takes changes", PATIENCE, || {
            Ok(kubectl.apply(&deployment("app", &full("used:1"), 2)).ok())
        })?;
        await_image(cluster, &full("used:1"), "two pods are there again", |status| status["pods"] == 2)?;

        // Nothing names it any more: it stays known with what is known of it, then it expires, and the pin stays.
        policy(cluster, &json!({"pins": [full("pinned:1")], "unusedFor": "1m"}))?;
        let before = Instant::now();
        kubectl.run(&["delete", "deployment", "app", "none"])?;
        let unused = await_image(cluster, &full("used:1"), "no pod is left", |status| {
            status["pods"] == 0 && status["workloads"] == 0 && !status["expires"].is_null()
        })?;
        ensure!(!unused["status"]["lastUsed"].is_null() && !unused["status"]["unusedSince"].is_null(), "{unused:#}");
        registry.await_gone("what nothing uses any more", &used)?;
        let took = before.elapsed();
        ensure!(took > Duration::from_secs(55), "after {} s", took.as_secs());
        println!("what nothing used was gone after {} s", took.as_secs());
        wait_for("the CachedImage is gone", PATIENCE, || Ok(of(cluster, &full("used:1"))?.is_none().then_some(())))?;
        ensure!(registry.has(&pinned), "what is pinned went");
        await_image(cluster, &full("pinned:1"), "it is there", |status| status["held"]["registry"] == true)?;
        second.process().terminate()?;
        drop(agents);
        Ok(())
    })
}

#[test]
fn without_the_right_to_follow_pods_all_else_goes_on() -> Result<()> {
    with_cluster(&ClusterSpec::new("cached-images-rights").nodes(0), |cluster| {
        const PODS: &str = "- {apiGroups: [''], resources: [pods], verbs: [list, watch]}\n";
        let kubectl = cluster.kubectl();
        nodes::install_definitions(cluster)?;
        let rights = nodes::controller_rights()?;
        ensure!(rights.contains(PODS), "the documentation says what is needed");
        nodes::make_controller_account(cluster, &rights.replace(PODS, ""))?;
        let control = cluster.control().machine();
        let controller = Controller::start(cluster, control, ("larder-controller", Controller::ALONE), "")?;
        let cache = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"images": [full("app:1")]},
        });
        kubectl.apply(&cache.to_string())?;
        wait_for("the status of the ImageCache is written", PATIENCE, || {
            let cache = kubectl.json(&["get", "imagecache", "web"])?;
            Ok((cache["status"]["imageCount"] == 1).then_some(()))
        })?;
        ensure!(!nodes::is_ready(control), "it cannot know all images");
        ensure!(all(cluster)?.is_empty(), "nothing is told of images before all is known");
        let log = controller.log()?;
        ensure!(log.contains("resources: [pods], verbs: [list, watch]"), "it says what it needs: {log}");
        kubectl.apply(&rights)?;
        await_image(cluster, &full("app:1"), "it is wanted", |status| status["wantedBy"][0] == "default/web")?;
        await_ready(control)
    })
}
