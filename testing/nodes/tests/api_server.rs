//! The API server is slow, wants to be left alone or is away: pulls go on as ever, what was wanted stays ready, and then all is done once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nodes::{Agent, Between, Controller, KUBECONFIG, Mode, await_ready, binary, metric};
use serde_json::{Value, json};
use testbed::{Cluster, ClusterSpec, Image, Launch, Layer, Node, wait_for, with_cluster};

const PATIENCE: Duration = Duration::from_secs(120);
/// How long the API server wants to be left alone, and is away then.
const SECONDS: u64 = 15;

/// How long each outage is.
fn outage() -> Result<Duration> {
    match std::env::var("LARDER_OUTAGE_SECONDS") {
        Ok(seconds) => Ok(Duration::from_secs(seconds.parse().context("LARDER_OUTAGE_SECONDS")?)),
        Err(_) => Ok(Duration::from_secs(SECONDS)),
    }
}

fn push(cluster: &Cluster, name: &str, seed: u64) -> Result<String> {
    cluster
        .origin("docker.io")?
        .push(&format!("library/{name}"), &Image::new().seed(seed).layer(Layer::random(1 << 20)))?;
    Ok(format!("docker.io/library/{name}"))
}

fn want(cluster: &Cluster, images: &[String]) -> Result<()> {
    let object = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"images": images},
    });
    cluster.kubectl().apply(&object.to_string())
}

fn await_warm(cluster: &Cluster, images: usize) -> Result<()> {
    let mut last = Value::Null;
    let waited = wait_for(&format!("{images} images are warm"), PATIENCE, || {
        last = cluster.kubectl().json(&["get", "imagecache", "web"])?["status"].take();
        Ok((last["imageCount"] == images && last["warmNodes"] == 1 && last["nodes"] == 1).then_some(()))
    });
    waited.with_context(|| format!("{last:#}"))
}

fn has(node: &Node, image: &str) -> Result<bool> {
    let list: Value = serde_json::from_str(&node.crictl(&["images", "-o", "json"])?)?;
    let images = list["images"].as_array().context("crictl lists images")?;
    Ok(images.iter().any(|one| one["repoTags"].as_array().is_some_and(|tags| tags.contains(&json!(image)))))
}

/// Pulls what nobody wants for so long, and until what is kept ready is there again; how often, and how long the longest took.
fn pull_until_back(node: &Node, image: &str, kept: &str, duration: Duration) -> Result<(u32, Duration)> {
    let (begun, mut pulls, mut longest) = (Instant::now(), 0, Duration::ZERO);
    loop {
        let one = Instant::now();
        node.crictl(&["pull", image])?;
        longest = longest.max(one.elapsed());
        node.crictl(&["rmi", image])?;
        pulls += 1;
        let is_back = has(node, kept)?;
        if is_back && begun.elapsed() >= duration {
            return Ok((pulls, longest));
        }
        ensure!(is_back || begun.elapsed() < duration + PATIENCE, "{kept} was wanted before and has not come back");
        std::thread::sleep(Duration::from_millis(500));
    }
}

// K-12
#[test]
fn whatever_the_api_server_does_pulls_go_on_and_afterwards_all_is_done_once() -> Result<()> {
    let outage = outage()?;
    with_cluster(&ClusterSpec::new("api-server").nodes(1), |cluster| {
        let images: Vec<String> =
            (1..=4).map(|number| push(cluster, &format!("app:{number}"), number)).collect::<Result<_>>()?;
        let other = push(cluster, "pod:1", 9)?;
        nodes::install_definitions(cluster)?;
        cluster.kubectl().run(&["create", "namespace", "larder"])?;
        let between = Between::start(cluster)?;
        let node = &cluster.nodes()[0];
        between.lead(node.machine(), KUBECONFIG)?;
        let launch = Launch::new(binary()).args(["node", "--log", "debug"]).env("KUBECONFIG", KUBECONFIG);
        let agent =
            Agent::launch(node, &format!("[node.cluster]\nname = {:?}\nkeep_free = \"0%\"\n", node.name()), launch)?;
        let machines = [cluster.internet(), cluster.control().machine()];
        let mut controllers = Vec::new();
        for (number, machine) in machines.into_iter().enumerate() {
            let name = format!("larder-controller-{number}");
            let kubeconfig = format!("/etc/larder/{name}.kubeconfig");
            between.lead(machine, &kubeconfig)?;
            controllers.push(Controller::launch(machine, (&name, Controller::ALONE), &kubeconfig, "")?);
            await_ready(machine)?;
        }
        want(cluster, &images[..1])?;
        await_warm(cluster, 1)?;

        // Slow: what is wanted comes all the same, and a pull takes no longer.
        between.turn(Mode::Slow(Duration::from_millis(300)));
        want(cluster, &images[..2])?;
        await_warm(cluster, 2)?;
        let served = agent.metric("larder_served_bytes_total", &[])?;
        node.crictl(&["pull", &other])?;
        ensure!(agent.metric("larder_served_bytes_total", &[])? - served > 1e6, "it came past larder");
        node.crictl(&["rmi", &other])?;

        // It wants to be left alone, then it is away: pulls go on, what was wanted comes back, and nobody storms it.
        for (mode, kept, count) in [(Mode::TooMany, &images[0], 3), (Mode::Away, &images[1], 4)] {
            let refused = between.refused();
            between.turn(mode);
            // What is wanted meanwhile is known afterwards.
            want(cluster, &images[..count])?;
            node.crictl(&["rmi", kept])?;
            let (served, begun) = (agent.metric("larder_served_bytes_total", &[])?, Instant::now());
            let (pulls, longest) = pull_until_back(node, &other, kept, outage)?;
            let served = agent.metric("larder_served_bytes_total", &[])? - served;
            ensure!(served > f64::from(pulls) * 1e6, "{pulls} pulls, of which larder served {served} bytes");
            let seconds = begun.elapsed().as_secs().max(5);
            let asked = between.refused() - refused;
            println!(
                "{pulls} pulls of at most {} ms, while the API server was asked {asked} times",
                longest.as_millis()
            );
            ensure!(asked > 0 && asked < 20 * seconds, "the API server was asked {asked} times in {seconds} s");
            ensure!(nodes::is_ready(node.machine()), "the agent is not ready");
            between.turn(Mode::Well);
            await_warm(cluster, count)?;
        }

        // One of them leads, and nothing is done twice.
        let lease = cluster.kubectl().json(&["get", "lease", "-n", "larder", "larder-controller"])?;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        ensure!(holder.starts_with("larder-controller-"), "{lease:#}");
        let mut writes = 0.0;
        for machine in machines {
            writes += metric(machine, "larder_controller_writes_total", &[("kind", "ImageCache"), ("result", "done")])?;
        }
        println!("{writes} statuses were written");
        // For each of four edits: that it is wanted, what its tag means, that it is ready; and as much again where figures change in between.
        ensure!(writes <= 24.0, "{writes} statuses were written");
        let log = agent.log()?;
        for image in &images[2..] {
            let pulled =
                log.lines().filter(|line| line.contains("pulled for ImageCaches") && line.contains(image)).count();
            ensure!(pulled == 1, "{image} was pulled {pulled} times");
        }
        drop(controllers);
        Ok(())
    })
}
