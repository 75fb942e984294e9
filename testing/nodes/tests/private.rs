//! Images that need a credential, kept ready for ImageCaches with the registry's, and for nobody else.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nodes::{Agent, Controller, KUBECONFIG, Registry, binary};
use peers::Role;
use serde_json::{Value, json};
use testbed::{
    Cluster, ClusterSpec, Image, Launch, Layer, Node, PRIVATE_PASSWORD, PRIVATE_USER, wait_for, with_cluster,
};

const PATIENCE: Duration = Duration::from_secs(120);
const STORED: &str = "registry.private.example/team/stored:1";
const PULLED: &str = "registry.private.example/team/pulled:1";
const LAYER: u64 = 3 << 20;

const PASSWORD: &str = "/etc/larder/private.password";

/// Starts the controller beside the registry, by whom that knows what ImageCaches want.
fn control(cluster: &Cluster, authority: &Path, registry: &Registry) -> Result<Controller> {
    nodes::make_controller_account(cluster, &nodes::controller_rights()?)?;
    let machine = cluster.control().machine();
    nodes::give_certificate(machine, authority, "controller", "/etc/larder/controller")?;
    let url = registry.url_for_nodes();
    let lines = format!("registry = {url:?}\nregistry_certificates = \"/etc/larder/controller\"\n");
    Controller::start(cluster, machine, ("larder-controller", Controller::BESIDE), &lines)
}

/// Makes a pull secret, and lets the controller read those of its namespace.
fn make_secret(cluster: &Cluster, namespace: &str, name: &str, password: &str) -> Result<()> {
    let kubectl = cluster.kubectl();
    let secret = kubectl.run(&[
        "create",
        "secret",
        "docker-registry",
        name,
        "--dry-run=client",
        "-o",
        "yaml",
        "-n",
        namespace,
        "--docker-server=registry.private.example",
        &format!("--docker-username={PRIVATE_USER}"),
        &format!("--docker-password={password}"),
    ])?;
    kubectl.apply(&secret)
}

/// What an administrator grants where ImageCaches name pull secrets.
fn let_controller_read(cluster: &Cluster, namespace: &str) -> Result<()> {
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "role", "larder-pull-secrets", "-n", namespace, "--verb=get", "--resource=secrets"])?;
    let account = "--serviceaccount=larder:larder-controller";
    kubectl.run(&[
        "create",
        "rolebinding",
        "larder-pull-secrets",
        "-n",
        namespace,
        "--role=larder-pull-secrets",
        account,
    ])?;
    Ok(())
}

/// A registry that has a credential, a controller, and agents that are known to it and to each other.
fn start<'a>(cluster: &'a Cluster, password: &str) -> Result<(Registry, Controller, Vec<Agent<'a>>)> {
    for name in ["team/stored:1", "team/pulled:1"] {
        let image = Image::new().seed(name.len() as u64).layer(Layer::random(LAYER));
        cluster.origin("registry.private.example")?.push(name, &image)?;
    }
    nodes::install_definitions(cluster)?;
    nodes::make_account(cluster)?;
    let (authority, list) = (tempfile::tempdir()?, cluster.nodes());
    let names = list.iter().map(|node| (node.name(), Role::Node));
    nodes::certify_roles(
        authority.path(),
        names.chain([("registry", Role::Registry), ("controller", Role::Controller)]),
    )?;
    let machine = cluster.control().machine();
    machine.write(PASSWORD, password)?;
    let credential = format!("credential = {{ username = {PRIVATE_USER:?}, password_file = {PASSWORD:?} }}");
    let config = format!("[[upstream]]\nregistry = \"registry.private.example\"\n{credential}\n");
    let registry = Registry::start_for_nodes(machine, authority.path(), "registry", &config)?;
    let controller = control(cluster, authority.path(), &registry)?;
    let one = |node: &Node| nodes::member(node.name(), &node.machine().address().to_string(), "");
    let members: String = list.iter().map(one).collect();
    let start = |node: &'a Node| {
        nodes::give_account(cluster, node.machine())?;
        let peering = nodes::peering(node.machine(), authority.path(), &members)?;
        let config = format!(
            "[node]\nregistry = {:?}\nregistry_certificates = \"/etc/larder/peers\"\n\
             [node.cluster]\nname = {:?}\nkeep_free = \"0%\"\n{peering}",
            registry.url_for_nodes(),
            node.name()
        );
        Agent::launch(
            node,
            &config,
            Launch::new(binary()).args(["node", "--log", "debug"]).env("KUBECONFIG", KUBECONFIG),
        )
    };
    let agents = list.iter().map(start).collect::<Result<Vec<_>>>()?;
    Ok((registry, controller, agents))
}

fn want(cluster: &Cluster, name: &str, image: &str, private_images: &str, secrets: &[&str]) -> Result<()> {
    let secrets: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
    let object = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache", "metadata": {"name": name, "namespace": "default"},
        "spec": {"images": [image], "privateImages": private_images, "imagePullSecrets": secrets},
    });
    cluster.kubectl().apply(&object.to_string())
}

/// What the NodeCache of a node says of an image, once it is as expected.
fn await_told(cluster: &Cluster, node: &Node, image: &str, expected: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let waited = wait_for(&format!("the NodeCache of {} tells of {image}", node.name()), PATIENCE, || {
        let cache = cluster.kubectl().json(&["get", "nodecache", node.name()]).unwrap_or_default();
        let images = cache["status"]["images"].as_array().cloned().unwrap_or_default();
        last = images.into_iter().find(|one| one["image"] == image).unwrap_or_default();
        Ok(expected(&last).then_some(()))
    });
    waited.with_context(|| format!("{last:#}"))?;
    Ok(last)
}

/// Waits until the condition Ready of an ImageCache says all this.
fn await_ready(cluster: &Cluster, name: &str, words: &[&str]) -> Result<()> {
    let mut last = Value::Null;
    let waited = wait_for(&format!("{name} says {words:?}"), PATIENCE, || {
        let cache = cluster.kubectl().json(&["get", "imagecache", name])?;
        let conditions = cache["status"]["conditions"].as_array().cloned().unwrap_or_default();
        last = conditions.into_iter().find(|one| one["type"] == "Ready").unwrap_or_default();
        Ok(words.iter().all(|word| last.to_string().contains(word)).then_some(()))
    });
    waited.with_context(|| format!("{last:#}"))
}

/// Whether a node's runtime has an image.
fn has(node: &Node, image: &str) -> Result<bool> {
    Ok(node.crictl(&["images", "-o", "json"])?.contains(image))
}

/// Starts a pod on a node, which has a pull secret or none.
fn run(cluster: &Cluster, node: &Node, name: &str, image: &str, secret: Option<&str>) -> Result<()> {
    let secrets: Vec<Value> = secret.iter().map(|name| json!({"name": name})).collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node.name(), "terminationGracePeriodSeconds": 0, "imagePullSecrets": secrets,
            "containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}],
        },
    });
    cluster.kubectl().apply(&pod.to_string())
}

fn await_refused(cluster: &Cluster, name: &str) -> Result<()> {
    wait_for(&format!("{name} cannot pull"), PATIENCE, || {
        let pod = cluster.kubectl().json(&["get", "pod", name])?;
        let reason = pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().unwrap_or_default();
        Ok(["ErrImagePull", "ImagePullBackOff"].contains(&reason).then_some(()))
    })
}

/// How many bytes of layers of a repository the origin sent.
fn sent(cluster: &Cluster, repository: &str) -> Result<u64> {
    let requests = cluster.origin("registry.private.example")?.requests()?;
    let path = format!("/v2/{repository}/blobs/");
    let gets = requests.iter().filter(|one| one.method == "GET" && one.path.starts_with(&path) && one.status < 300);
    Ok(gets.map(|one| one.bytes).sum())
}

// S-05
#[test]
fn private_images_are_ready_in_the_store_and_in_the_runtime_only_where_that_is_asked_for() -> Result<()> {
    with_cluster(&ClusterSpec::new("private").nodes(2), |cluster| {
        let (registry, controller, agents) = start(cluster, PRIVATE_PASSWORD)?;
        let kubectl = cluster.kubectl();
        for (name, password) in [("right", PRIVATE_PASSWORD), ("wrong", "guessed")] {
            make_secret(cluster, "default", name, password)?;
        }
        want(cluster, "stored", STORED, "Store", &[])?;
        for node in cluster.nodes() {
            let told = await_told(cluster, node, STORED, |one| one["state"] == "Warm")?;
            ensure!(told["private"] == true && told["reason"] == "InStore", "{told:#}");
            ensure!(told["bytes"].as_u64().is_some_and(|bytes| bytes > LAYER) && told["pinned"] == false, "{told:#}");
            ensure!(!has(node, STORED)?, "the runtime has it");
        }
        // The origin sent each byte once.
        let once = sent(cluster, "team/stored")?;
        ensure!(once > LAYER && once < 2 * LAYER, "{once} bytes");

        // It is there for pods with a secret of their own.
        let [one, two] = [&cluster.nodes()[0], &cluster.nodes()[1]];
        run(cluster, one, "without", STORED, None)?;
        run(cluster, one, "mistaken", STORED, Some("wrong"))?;
        await_refused(cluster, "without")?;
        await_refused(cluster, "mistaken")?;
        run(cluster, two, "rightful", STORED, Some("right"))?;
        kubectl.await_ready_pods("default", "app=rightful", 1, PATIENCE)?;
        ensure!(sent(cluster, "team/stored")? == once, "its bytes were on the node");
        await_told(cluster, two, STORED, |told| told["state"] == "Warm" && told["pinned"] == true)?;

        // Into the runtime, with what follows from that, and only by a secret of whoever asks for it.
        want(cluster, "pulled", PULLED, "Runtime", &[])?;
        await_told(cluster, one, PULLED, |told| told["state"] == "Failed" && told["reason"] == "CredentialNeeded")?;
        want(cluster, "pulled", PULLED, "Runtime", &["gone", "right"])?;
        await_ready(
            cluster,
            "pulled",
            &["PullSecretRefused", "may not read the Secret gone", "may not read the Secret right"],
        )?;
        let_controller_read(cluster, "default")?;
        await_ready(cluster, "pulled", &["PullSecretMissing", "no Secret gone"])?;
        want(cluster, "pulled", PULLED, "Runtime", &["right"])?;
        await_ready(cluster, "pulled", &["Accepted"])?;
        for node in cluster.nodes() {
            await_told(cluster, node, PULLED, |told| {
                told["state"] == "Warm" && told["private"] == true && told["pinned"] == true && told["reason"].is_null()
            })?;
            ensure!(has(node, PULLED)?);
        }
        wait_for("an event tells what it means", PATIENCE, || {
            let events = kubectl.json(&["get", "events", "-n", "default"])?;
            let items = events["items"].as_array().cloned().unwrap_or_default();
            let told = items.iter().filter(|event| {
                event["reason"] == "PrivateImagesInRuntime" && event["message"].to_string().contains(PULLED)
            });
            Ok((told.count() == 2).then_some(()))
        })?;
        run(cluster, one, "exposed", PULLED, None)?;
        kubectl.await_ready_pods("default", "app=exposed", 1, PATIENCE)?;

        wait_for("the controller knows what the tags mean", PATIENCE, || {
            let cache = kubectl.json(&["get", "imagecache", "stored"])?;
            let image = &cache["status"]["images"][0];
            Ok((image["private"] == true && image["digest"].is_string()).then_some(()))
        })?;

        // What is known is known after a restart, and costs nothing.
        let before = (sent(cluster, "team/stored")?, sent(cluster, "team/pulled")?);
        agents[0].process().kill()?;
        agents[0].process().start_again()?;
        nodes::await_ready(one.machine())?;
        wait_for("it has looked at all", PATIENCE, || {
            Ok((agents[0].metric("larder_prefetch_images", &[("state", "warm")])? == 2.0).then_some(()))
        })?;
        await_told(cluster, one, STORED, |told| told["state"] == "Warm" && told["reason"] == "InStore")?;
        await_told(cluster, one, PULLED, |told| told["state"] == "Warm" && told["private"] == true)?;
        ensure!((sent(cluster, "team/stored")?, sent(cluster, "team/pulled")?) == before);

        // An administrator may not want that at all.
        let policy = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "CachePolicy", "metadata": {"name": "default"},
            "spec": {"imageCaches": {"privateInRuntime": "Refuse"}},
        });
        kubectl.apply(&policy.to_string())?;
        want(cluster, "stored", STORED, "Runtime", &["right"])?;
        std::thread::sleep(Duration::from_secs(5));
        ensure!(!has(one, STORED)?, "it is not allowed");

        for log in agents.iter().map(Agent::log).chain(
            [registry.process(), controller.process()].map(|process| Ok(std::fs::read_to_string(process.log())?)),
        ) {
            let log = log?;
            ensure!(!log.contains(PRIVATE_PASSWORD) && !log.contains("once-") && !log.contains("guessed"), "a secret");
        }
        Ok(())
    })
}

#[test]
fn a_wrong_credential_is_told_and_nothing_is_exposed() -> Result<()> {
    with_cluster(&ClusterSpec::new("private-wrong").nodes(1), |cluster| {
        let (_registry, _controller, _agents) = start(cluster, "guessed")?;
        make_secret(cluster, "default", "wrong", "guessed")?;
        let_controller_read(cluster, "default")?;
        want(cluster, "stored", STORED, "Store", &["wrong"])?;
        want(cluster, "pulled", PULLED, "Runtime", &["wrong"])?;
        let node = &cluster.nodes()[0];
        for image in [STORED, PULLED] {
            let told = await_told(cluster, node, image, |told| told["state"] == "Failed")?;
            ensure!(told["reason"] == "CredentialNeeded", "{told:#}");
            ensure!(!told.to_string().contains("guessed") && !has(node, image)?, "{told:#}");
        }
        Ok(())
    })
}
