//! A tag moves at its origin: the controller finds out, once for all nodes, and all of them have the new image.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nodes::{Agent, Controller, KUBECONFIG, Registry, binary};
use serde_json::{Value, json};
use testbed::{Cluster, ClusterSpec, Image, Launch, Layer, Written, wait_for, with_cluster};

const PATIENCE: Duration = Duration::from_secs(180);
const APP: &str = "docker.io/library/app:1";
const SECRET: &str = "registry.private.example/acme/secret:1";

fn push(cluster: &Cluster, host: &str, name: &str, seed: u64) -> Result<String> {
    Ok(written(cluster, host, name, seed)?.digest)
}

fn written(cluster: &Cluster, host: &str, name: &str, seed: u64) -> Result<Written> {
    let image = Image::new().seed(seed).layer(Layer::random(1 << 20));
    cluster.origin(host)?.push(name, &image)
}

fn cache(cluster: &Cluster) -> Result<Value> {
    cluster.kubectl().json(&["get", "imagecache", "web"])
}

/// What the status says of an image.
fn told<'a>(cache: &'a Value, image: &str) -> &'a Value {
    let images = cache["status"]["images"].as_array().map(Vec::as_slice).unwrap_or_default();
    images.iter().find(|one| one["image"] == image).unwrap_or(&Value::Null)
}

/// Waits until the status has a digest, and all nodes have it.
fn await_everywhere(cluster: &Cluster, digest: &str) -> Result<Value> {
    let mut last = Value::Null;
    let waited = wait_for("the status has the digest and all nodes are warm", PATIENCE, || {
        last = cache(cluster)?;
        let app = told(&last, APP);
        Ok((app["digest"] == digest && app["warm"] == cluster.nodes().len()).then_some(()))
    });
    waited.with_context(|| format!("{last:#}"))?;
    for node in cluster.nodes() {
        wait_for(&format!("{} has {digest}", node.name()), PATIENCE, || {
            let list: Value = serde_json::from_str(&node.crictl(&["images", "-o", "json"])?)?;
            let images = list["images"].as_array().context("crictl lists images")?;
            let named = images
                .iter()
                .filter(|image| image["repoTags"].as_array().is_some_and(|tags| tags.contains(&json!(APP))));
            Ok(named.into_iter().any(|image| image["repoDigests"].to_string().contains(digest)).then_some(()))
        })?;
    }
    Ok(last)
}

/// How often the origin was asked what the tag means, by HEAD and by GET.
fn questions(cluster: &Cluster) -> Result<(usize, usize)> {
    let requests = cluster.origin("docker.io")?.requests()?;
    let asked = |method: &str| {
        requests.iter().filter(|one| one.method == method && one.path.ends_with("/library/app/manifests/1")).count()
    };
    Ok((asked("HEAD"), asked("GET")))
}

/// With a registry or without.
fn a_tag_moves(name: &str, with_registry: bool) -> Result<()> {
    with_cluster(&ClusterSpec::new(name).nodes(3), |cluster| {
        let first = written(cluster, "docker.io", "library/app:1", 1)?;
        push(cluster, "registry.private.example", "acme/secret:1", 9)?;
        nodes::install_definitions(cluster)?;
        nodes::make_account(cluster)?;
        let registry = match with_registry {
            true => Some(Registry::start(cluster.internet())?),
            false => None,
        };
        let url = registry.as_ref().map(Registry::url);
        let mut agents = Vec::new();
        for node in cluster.nodes() {
            nodes::give_account(cluster, node.machine())?;
            let launch = Launch::new(binary()).args(["node", "--log", "debug"]).env("KUBECONFIG", KUBECONFIG);
            let registry = url.as_ref().map_or(String::new(), |url| format!("[node]\nregistry = {url:?}\n"));
            let config = format!("{registry}[node.cluster]\nname = {:?}\nkeep_free = \"0%\"\n", node.name());
            agents.push(Agent::launch(node, &config, launch)?);
        }
        let lines = url.as_ref().map_or(String::new(), |url| format!("registry = {url:?}\n"));
        nodes::make_controller_account(cluster, &nodes::controller_rights()?)?;
        Controller::start(cluster, cluster.control().machine(), ("larder-controller", Controller::BESIDE), &lines)?;
        let web = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"images": [APP, SECRET], "refreshInterval": "1m"},
        });
        cluster.kubectl().apply(&web.to_string())?;
        await_everywhere(cluster, &first.digest)?;
        if with_registry {
            // K-09: however many nodes want it at once, each blob comes from the origin once.
            for layer in &first.layers {
                let requests = cluster.origin("docker.io")?.requests()?;
                let gets = requests.iter().filter(|one| one.is_blob_get() && one.path.ends_with(&layer.digest));
                ensure!(gets.count() == 1, "{} was taken from the origin more than once", layer.digest);
            }
        }
        let mut last = Value::Null;
        wait_for("what needs a credential is said to", PATIENCE, || {
            last = cache(cluster)?;
            let reasons = last["status"]["failures"].to_string();
            Ok((told(&last, SECRET)["private"] == true && reasons.contains("CredentialNeeded")).then_some(()))
        })
        .with_context(|| format!("{last:#}"))?;

        // By itself, within its interval.
        let (begun, asked) = (Instant::now(), questions(cluster)?);
        let second = push(cluster, "docker.io", "library/app:1", 2)?;
        await_everywhere(cluster, &second)?;
        println!("by itself: {} ms after the tag moved", begun.elapsed().as_millis());

        // At once, when it is told to.
        let third = push(cluster, "docker.io", "library/app:1", 3)?;
        let told_to = Instant::now();
        cluster.kubectl().run(&["annotate", "imagecache", "web", "larder.dev/refresh=now"])?;
        await_everywhere(cluster, &third)?;
        let took = told_to.elapsed();
        println!("told to: {} ms later", took.as_millis());
        ensure!(took < Duration::from_secs(40), "before its time would have come by itself");
        wait_for("the annotation is gone", PATIENCE, || {
            Ok(cache(cluster)?["metadata"]["annotations"]["larder.dev/refresh"].is_null().then_some(()))
        })?;
        ensure!(!cache(cluster)?["status"]["lastRefresh"].is_null());

        // Nodes ask nobody for it by themselves.
        let settled = questions(cluster)?;
        println!("the origin was asked {asked:?}, then {settled:?} times (HEAD, GET)");
        let intervals = begun.elapsed().as_secs() as usize / 60 + 2;
        if with_registry {
            // One for each interval and the annotation, and the new manifest twice, however many nodes there are.
            let most = 2 * (intervals + 1);
            let more = settled.0 + settled.1 - asked.0 - asked.1;
            ensure!(more <= most, "{more} questions in {intervals} intervals");
        }
        drop(agents);
        Ok(())
    })
}

#[test]
fn a_tag_that_moves_behind_a_registry_is_everywhere_in_time() -> Result<()> {
    a_tag_moves("refresh-registry", true)
}

#[test]
fn a_tag_that_moves_is_everywhere_in_time_without_a_registry() -> Result<()> {
    a_tag_moves("refresh-origin", false)
}
