//! Upstreams are made, changed and deleted while registry, agents and controller run, and the next pulls are as they say.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faulty::{Auth, Tls, Upstream};
use nodes::{Agent, Controller, KUBECONFIG, Registry, await_ready, binary};
use serde_json::{Value, json};
use testbed::{Cluster, ClusterSpec, Image, Launch, Layer, Node, wait_for, with_cluster};

const PATIENCE: Duration = Duration::from_secs(120);
const PORT: u16 = 8443;
/// What larder shows the origin, and what no log may have.
const PASSWORDS: [&str; 2] = ["S3NT1NEL-first", "S3NT1NEL-second"];
const REGISTRY: &str = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: larder-registry, namespace: larder}}";

/// A registry of one's own, at an address that is not public, with a certificate of an authority that nobody knows.
struct Origin {
    served: Upstream,
    host: String,
}

impl Origin {
    fn start(cluster: &Cluster) -> Result<Origin> {
        let machine = cluster.internet();
        let address = machine.address();
        let tls = Tls::trusted().names(&[&address.to_string()]);
        let served = machine.in_network(|| Upstream::open(SocketAddr::from((address, PORT)), Some(tls)))??;
        served.auth(Auth::Bearer);
        Ok(Origin { served, host: format!("{address}:{PORT}") })
    }

    /// Its images are given to whoever has this password.
    fn password(&self, password: &str) {
        self.served.remove_account("robot");
        self.served.expire_tokens();
        self.served.account("robot", password, &["acme/app"]);
    }

    /// A new image.
    fn push(&self, seed: u64) -> String {
        self.served.image("acme/app", seed.to_string().as_str(), &[1 << 20], seed);
        format!("{}/acme/app:{seed}", self.host)
    }

    fn upstream(&self) -> Value {
        upstream(
            "corp",
            json!({
                "registry": self.host,
                "endpoints": [{"url": format!("https://{}", self.host), "ca": self.served.ca_pem()}],
                "credential": {"secretName": "corp", "shared": true},
            }),
        )
    }
}

fn upstream(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "larder.dev/v1alpha1", "kind": "Upstream", "metadata": {"name": name}, "spec": spec})
}

fn apply(cluster: &Cluster, object: &Value) -> Result<()> {
    cluster.kubectl().apply(&object.to_string())
}

fn secret(cluster: &Cluster, password: &str) -> Result<()> {
    apply(
        cluster,
        &json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "corp", "namespace": "larder"},
            "type": "kubernetes.io/basic-auth", "stringData": {"username": "robot", "password": password},
        }),
    )
}

fn condition(cluster: &Cluster, name: &str, kind: &str) -> Result<Value> {
    let object = cluster.kubectl().json(&["get", "upstream", name])?;
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|one| one["type"] == kind).unwrap_or_default();
    Ok(json!([found["status"], found["reason"], found["observedGeneration"] == object["metadata"]["generation"]]))
}

fn await_condition(cluster: &Cluster, name: &str, kind: &str, status: &str, reason: &str) -> Result<()> {
    let mut last = Value::Null;
    wait_for(&format!("{kind} of {name} is {status} for {reason}"), PATIENCE, || {
        last = condition(cluster, name, kind)?;
        Ok((last == json!([status, reason, true])).then_some(()))
    })
    .with_context(|| {
        format!("it is {last}: {}", cluster.kubectl().json(&["get", "upstream", name]).unwrap_or_default())
    })
}

fn pull(node: &Node, image: &str) -> Result<()> {
    node.crictl(&["pull", image]).map(drop).with_context(|| format!("{image} on {}", node.name()))
}

fn await_pull(node: &Node, image: &str) -> Result<()> {
    let mut last = None;
    let waited = wait_for(&format!("{} pulls {image}", node.name()), PATIENCE, || match pull(node, image) {
        Ok(()) => Ok(Some(())),
        Err(error) => {
            last = Some(format!("{error:#}"));
            Ok(None)
        }
    });
    waited.with_context(|| last.unwrap_or_default())
}

/// Waits until it is refused, though it was pulled before: what the runtime has goes first.
fn await_refused(node: &Node, image: &str) -> Result<()> {
    wait_for(&format!("{} is refused {image}", node.name()), PATIENCE, || {
        // It may be gone already.
        let _ = node.crictl(&["rmi", image]);
        Ok(pull(node, image).is_err().then_some(()))
    })
}

struct Larder<'a> {
    registry: Registry,
    controller: Controller,
    agents: Vec<Agent<'a>>,
}

fn start(cluster: &Cluster) -> Result<Larder<'_>> {
    nodes::install_definitions(cluster)?;
    nodes::make_account(cluster)?;
    cluster.kubectl().apply(REGISTRY)?;
    cluster.kubectl().apply(&nodes::registry_rights()?)?;

    let machine = cluster.internet();
    nodes::act_as(cluster, machine, "larder-registry", KUBECONFIG)?;
    let launch = Launch::new(binary()).args(["registry", "--cluster", "true"]).env("KUBECONFIG", KUBECONFIG);
    let registry = Registry::launch(machine, launch)?;

    let mut agents = Vec::new();
    for node in cluster.nodes() {
        nodes::give_account(cluster, node.machine())?;
        let launch = Launch::new(binary()).args(["node", "--log", "debug"]).env("KUBECONFIG", KUBECONFIG);
        let config = format!("[node]\nregistry = {:?}\n[node.cluster]\nname = {:?}\n", registry.url(), node.name());
        agents.push(Agent::launch(node, &config, launch)?);
    }

    nodes::make_controller_account(cluster, &nodes::controller_rights()?)?;
    let (machine, lines) = (cluster.control().machine(), format!("registry = {:?}\n", registry.url()));
    let controller = Controller::start(cluster, machine, ("larder-controller", Controller::ALONE), &lines)?;
    Ok(Larder { registry, controller, agents })
}

#[test]
fn upstreams_are_heeded_while_everything_runs() -> Result<()> {
    with_cluster(&ClusterSpec::new("upstreams").nodes(2), |cluster| {
        let origin = Origin::start(cluster)?;
        origin.password(PASSWORDS[0]);
        let (first, second) = (origin.push(1), origin.push(2));
        let [one, two] = cluster.nodes() else { anyhow::bail!("there are two nodes") };
        let larder = start(cluster)?;
        ensure!(pull(one, &first).is_err(), "nobody has said anything of the registry");

        // Its Secret comes later than it.
        apply(cluster, &origin.upstream())?;
        await_condition(cluster, "corp", "Ready", "False", "SecretMissing")?;
        ensure!(pull(one, &first).is_err(), "there is no credential");
        secret(cluster, PASSWORDS[0])?;
        await_condition(cluster, "corp", "Ready", "True", "InUse")?;
        await_condition(cluster, "corp", "Available", "True", "EndpointAnswers")?;
        for node in [one, two] {
            await_pull(node, &first)?;
        }

        // A bad one says so and disturbs nobody, and so does one about the same registry.
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
        let endpoints = json!([{"url": "https://10.9.9.9:1", "ca": no_certificate}]);
        apply(cluster, &upstream("bad", json!({"registry": "bad.example", "endpoints": endpoints})))?;
        apply(cluster, &upstream("twin", json!({"registry": origin.host, "endpoints": endpoints})))?;
        await_condition(cluster, "bad", "Ready", "False", "InvalidSettings")?;
        await_condition(cluster, "twin", "Ready", "False", "NamedTwice")?;
        pull(one, &second)?;

        // The password changes at the origin, then in the Secret.
        origin.password(PASSWORDS[1]);
        let third = origin.push(3);
        ensure!(pull(two, &third).is_err(), "the origin has another password");
        secret(cluster, PASSWORDS[1])?;
        await_pull(two, &third)?;

        // What is the same is not written again.
        let version = || -> Result<Value> {
            Ok(cluster.kubectl().json(&["get", "upstream", "corp"])?["metadata"]["resourceVersion"].take())
        };
        let before = version()?;
        apply(cluster, &upstream("ghcr", json!({"registry": "ghcr.io"})))?;
        await_condition(cluster, "ghcr", "Ready", "True", "InUse")?;
        await_condition(cluster, "ghcr", "Available", "True", "EndpointAnswers")?;
        ensure!(version()? == before, "nothing about it has changed");

        // The API server is away: what was known stays.
        let server = cluster.control().machine().process("kube-apiserver")?;
        server.kill()?;
        let fourth = origin.push(4);
        pull(one, &fourth)?;
        // A start without it does not wait, and heeds what it says as soon as it says it.
        cluster.origin("docker.io")?.push("library/open:1", &Image::new().layer(Layer::random(1 << 20)))?;
        larder.registry.process().kill()?;
        larder.registry.process().start_again()?;
        await_ready(cluster.internet())?;
        pull(two, "docker.io/library/open:1")?;
        ensure!(pull(two, &fourth).is_err(), "it has heard of nothing yet");
        server.start_again()?;
        await_pull(two, &fourth)?;

        // Its elder twin gone, the younger one counts, and then nobody does.
        wait_for("the API server takes changes", PATIENCE, || {
            Ok(cluster.kubectl().run(&["delete", "upstream", "corp"]).ok())
        })?;
        await_condition(cluster, "twin", "Ready", "False", "InvalidSettings")?;
        for node in [one, two] {
            await_refused(node, &first)?;
        }
        ensure!(pull(two, &second).is_err(), "no node has it any more");

        // The origin is gone, and whoever looks is told.
        apply(
            cluster,
            &upstream(
                "gone",
                json!({"registry": "gone.example", "endpoints": [{"url": format!("https://{}:9", cluster.internet().address())}]}),
            ),
        )?;
        await_condition(cluster, "gone", "Available", "False", "NoEndpointAnswers")?;

        let others = [larder.registry.process(), larder.controller.process()];
        let logs = larder.agents.iter().map(Agent::process).chain(others);
        for process in logs {
            let log = std::fs::read_to_string(process.log())?;
            ensure!(
                !PASSWORDS.iter().any(|password| log.contains(password)),
                "{} has a password",
                process.log().display()
            );
        }
        Ok(())
    })
}

#[test]
fn a_node_alone_goes_where_an_upstream_says() -> Result<()> {
    with_cluster(&ClusterSpec::new("upstreams-alone").nodes(1), |cluster| {
        let origin = Origin::start(cluster)?;
        origin.password(PASSWORDS[0]);
        let (first, second) = (origin.push(1), origin.push(2));
        nodes::install_definitions(cluster)?;
        nodes::make_account(cluster)?;
        let node = &cluster.nodes()[0];
        nodes::give_account(cluster, node.machine())?;
        let launch = Launch::new(binary()).args(["node", "--log", "debug"]).env("KUBECONFIG", KUBECONFIG);
        let agent = Agent::launch(node, &format!("[node.cluster]\nname = {:?}\n", node.name()), launch)?;

        // As kubelet with a pod's own secret.
        let credential = format!("robot:{}", PASSWORDS[0]);
        let with_secret = |image: &str| node.crictl(&["pull", "--creds", &credential, image]);
        ensure!(with_secret(&first).is_err(), "nobody has said whom to believe");
        let mut upstream = origin.upstream();
        upstream["spec"]["limits"] = json!({"requestsPerMinute": 6000});
        apply(cluster, &upstream)?;
        wait_for("the pod's secret opens it", PATIENCE, || Ok(with_secret(&first).ok()))?;
        let served = agent.metric("larder_served_bytes_total", &[])?;
        ensure!(served > 1e6, "{served} bytes came by the mirror");
        // It shares nothing that it has no credential for.
        ensure!(pull(node, &second).is_err());

        cluster.kubectl().run(&["delete", "upstream", "corp"])?;
        // What it was given before it may still have.
        let mut seeds = 3..;
        wait_for("it goes there no more", PATIENCE, || {
            let image = origin.push(seeds.next().context("there are more")?);
            Ok(with_secret(&image).is_err().then_some(()))
        })?;
        let log = agent.log()?;
        ensure!(!log.contains(PASSWORDS[0]), "the log has a password");
        Ok(())
    })
}
