//! The controller of a large cluster whose API server is real, and whose nodes are objects alone: what it holds, uses and writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use nodes::{KUBECONFIG, act_as, await_ready, controller_rights, install_definitions};
use serde::Serialize;
use serde_json::Value;
use testbed::{Cluster, ClusterSpec, Image, Launch, Layer, Process, wait_for, with_cluster};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::{machine, process, report, server};

mod population;
mod requests;

use population::{Added, Cache, Population};
use requests::{Body, Server};

/// A kubelet that has nothing new to say writes so often.
const HEARTBEAT: Duration = Duration::from_secs(300);

/// How long is looked at what it does while nothing happens.
const QUIET: Duration = Duration::from_secs(60);

/// It has settled when it has written nothing for so long. It writes a CachedImage every ten seconds at most.
const SETTLED: Duration = Duration::from_secs(15);

const PATIENCE: Duration = Duration::from_secs(300);

const ACCOUNT: &str = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: larder-controller, namespace: larder}}";

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many nodes there are, each with a NodeCache of 60 images.
    #[arg(long, default_value_t = 5000)]
    nodes: usize,
    /// How many pods there are, of 1,000 workloads.
    #[arg(long, default_value_t = 20_000)]
    pods: usize,
    /// Leave docs/benchmarks.md alone.
    #[arg(long)]
    leave_docs: bool,
    /// The binary to measure; the release build of this workspace, made first, if not given.
    #[arg(long, value_name = "PATH")]
    larder: Option<PathBuf>,
}

/// A figure.
#[derive(Clone, Debug, Serialize)]
struct Row {
    what: String,
    unit: &'static str,
    limit: Option<f64>,
    value: f64,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let larder = server::larder(arguments.larder.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rows = Vec::new();
    with_cluster(&ClusterSpec::new("controller-figures").with_nodes([]), |cluster| {
        prepare(cluster)?;
        let digest = tag_images(cluster)?;
        let people = Population { nodes: arguments.nodes, pods: arguments.pods, digest };
        let api = runtime.block_on(Server::of(cluster.kubectl().config()))?;
        let lab = Lab { cluster, runtime: &runtime, api, people, larder: &larder };
        rows = lab.measure()?;
        Ok(())
    })?;
    let text = table(&rows, &arguments);
    println!("{text}");
    eprintln!("raw: {}", report::keep_raw("controller", &rows)?.display());
    if arguments.leave_docs { Ok(()) } else { report::into_docs("controller", &text) }
}

/// Makes the account of the controller, the kinds and the namespaces.
fn prepare(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    install_definitions(cluster)?;
    let namespaces: Vec<String> = population::namespaces().chain(["larder".to_owned()]).collect();
    for namespace in &namespaces {
        kubectl.run(&["create", "namespace", namespace])?;
    }
    kubectl.apply(ACCOUNT)?;
    kubectl.apply(&controller_rights()?)?;
    act_as(cluster, cluster.internet(), "larder-controller", KUBECONFIG)?;
    for namespace in &namespaces {
        wait_for("pods can be made", PATIENCE, || {
            Ok(kubectl.run(&["get", "serviceaccount", "default", "-n", namespace]).ok())
        })?;
    }
    // There is no kubelet behind the nodes: they would be taken for dead, and pods be made and deleted.
    for name in ["kube-scheduler", "kube-controller-manager"] {
        cluster.control().machine().process(name)?.kill()?;
    }
    Ok(())
}

/// Gives the origin an image under all tags; gives its digest.
fn tag_images(cluster: &Cluster) -> Result<String> {
    let image = Image::empty().layer(Layer::random(1000));
    let written = cluster.origin("quay.io")?.push(&format!("{}:first", population::REPOSITORY), &image)?;
    let (manifest, url) = ("/tmp/manifest", format!("https://quay.io/v2/{}/manifests", population::REPOSITORY));
    let accepted = "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
    let machine = cluster.internet();
    let head = machine.run(&["curl", "-sSf", "-D", "-", "-H", accepted, "-o", manifest, &format!("{url}/first")])?;
    let kind = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-type:").map(str::to_owned));
    let kind = kind.context("a manifest has a type")?;
    let one = |number| {
        format!(
            "url = \"{url}/{}\"\nupload-file = \"{manifest}\"\nheader = \"Content-Type: {}\"\nfail\nsilent\nshow-error\n",
            population::tag(number),
            kind.trim()
        )
    };
    let all: Vec<String> = (0..population::IMAGES).map(one).collect();
    machine.write("/etc/tags", &all.join("next\n"))?;
    machine.run(&["curl", "--fail-early", "-K", "/etc/tags"])?;
    Ok(written.digest)
}

/// Where it is measured.
struct Lab<'a> {
    cluster: &'a Cluster,
    runtime: &'a Runtime,
    api: Server,
    people: Population,
    larder: &'a Path,
}

impl Lab<'_> {
    fn measure(&self) -> Result<Vec<Row>> {
        let began = Instant::now();
        self.runtime.block_on(self.populate())?;
        eprintln!("the cluster is there after {:.0} s", began.elapsed().as_secs_f64());
        let kubelets = Beating(self.runtime.spawn(beat(self.api.clone(), self.people.nodes)));
        // Others than the controller write leases too.
        let leases = self.writes_within(QUIET / 2)?.of("leases") * 2.0;

        let mut rows = Vec::new();
        let mut row = |what: String, unit, limit, value| {
            eprintln!("{what}: {value:.3} {unit}");
            rows.push(Row { what, unit, limit, value });
        };
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let started = Instant::now();
        let controller = self.start()?;
        let pid = u32::try_from(controller.pid()?)?;
        await_ready(self.cluster.internet())?;
        row("start until it is ready".to_owned(), "s", None, started.elapsed().as_secs_f64());
        let caches = self.people.caches();
        self.await_right(&caches, |cache| cache.nodes)?;
        row("start until all ImageCaches have the right status".to_owned(), "s", None, started.elapsed().as_secs_f64());
        self.await_settled()?;
        row("start until it writes nothing more".to_owned(), "s", None, (started.elapsed() - SETTLED).as_secs_f64());
        row("resident memory, most while it starts".to_owned(), "MiB", Some(60.0), mib(process::most_resident(pid)));

        let (ticks, quiet) = (process::ticks(pid), Instant::now());
        let written = self.writes_within(QUIET)?;
        let busy = (process::ticks(pid) - ticks) * machine::TICK_MS / 1000.0 / quiet.elapsed().as_secs_f64();
        row("resident memory, idle".to_owned(), "MiB", Some(60.0), mib(process::resident(pid)));
        row("processor, idle".to_owned(), "cores", Some(0.01), busy);
        row("writes in a minute, idle, without the Lease".to_owned(), "", None, written.larder());
        row("renewals of the Lease in a minute".to_owned(), "", None, written.of("leases") - leases);

        let (before, edited, ticks) = (self.runtime.block_on(self.api.writes())?, Instant::now(), process::ticks(pid));
        let by_agents = self.runtime.block_on(self.edit(&caches))?;
        let told = Instant::now();
        self.await_right(&caches, |cache| cache.nodes)?;
        row("last word of an agent until the status is right".to_owned(), "s", None, told.elapsed().as_secs_f64());
        self.await_settled()?;
        let writes = self.runtime.block_on(self.api.writes())?.since(&before);
        let nodes = self.people.nodes as f64;
        let own = writes.larder() - by_agents as f64;
        eprintln!("{writes:?}, {by_agents} of them by agents and the edit, {:.0} s", edited.elapsed().as_secs_f64());
        row("writes of the controller for an edit, all kinds".to_owned(), "", None, own);
        // The edit itself is a person's.
        let each = (writes.larder() - 1.0) / nodes;
        row("writes for an edit, of agents and controller, for each node".to_owned(), "", Some(2.0), each);
        let busy = (process::ticks(pid) - ticks) * machine::TICK_MS / 1000.0;
        row("processor time of the controller for an edit".to_owned(), "s", None, busy);
        row("resident memory, most until then".to_owned(), "MiB", Some(60.0), mib(process::most_resident(pid)));
        kubelets.require_running()?;
        controller.terminate()?;
        Ok(rows)
    }

    fn start(&self) -> Result<Arc<Process>> {
        let launch = Launch::new(self.larder).args(["controller", "--log", "info", "--metrics", "127.0.0.1:7441"]);
        self.cluster.internet().spawn("larder-controller", launch.env("KUBECONFIG", KUBECONFIG))
    }

    async fn populate(&self) -> Result<()> {
        let (api, people) = (&self.api, &self.people);
        let began = Instant::now();
        let say = |what: &str| eprintln!("{what} are there after {:.0} s", began.elapsed().as_secs_f64());
        Server::each(people.nodes, async |node| {
            let made = api.write("/api/v1/nodes", Body::Object, &people.node(node)).await?;
            let uid = made["metadata"]["uid"].as_str().context("a node has a uid")?;
            let path = node_cache(node);
            api.write(&path, Body::Applied(population::AGENT), &Population::node_cache(node, uid)).await?;
            self.report(node, Added::No).await
        })
        .await?;
        say("nodes and NodeCaches");
        Server::each(population::IMAGES, async |number| {
            let (namespace, object) = people.deployment(number);
            api.write(&format!("/apis/apps/v1/namespaces/{namespace}/deployments"), Body::Object, &object)
                .await
                .map(drop)
        })
        .await?;
        Server::each(people.pods, async |number| {
            let (namespace, object) = people.pod(number);
            api.write(&format!("/api/v1/namespaces/{namespace}/pods"), Body::Object, &object).await.map(drop)
        })
        .await?;
        say("workloads and pods");
        for cache in people.caches() {
            let path = format!("/apis/larder.dev/v1alpha1/namespaces/{}/imagecaches", cache.namespace);
            api.write(&path, Body::Object, &cache.object).await?;
        }
        Ok(())
    }

    async fn report(&self, node: usize, added: Added) -> Result<()> {
        let status = self.people.report(node, added)?;
        let path = format!("{}/status", node_cache(node));
        self.api.write(&path, Body::Applied(population::AGENT), &status).await.map(drop)
    }

    /// Gives the ImageCache for all nodes one more image, of which each agent tells twice. Gives the number of these writes.
    async fn edit(&self, caches: &[Cache]) -> Result<usize> {
        let for_all = caches.last().context("there is an ImageCache for all nodes")?;
        self.api.write(&image_cache(for_all), Body::Merge, &Population::edit()).await?;
        for added in [Added::Pulling, Added::Warm] {
            Server::each(self.people.nodes, async |node| self.report(node, added).await).await?;
        }
        Ok(1 + 2 * self.people.nodes)
    }

    /// Waits until each ImageCache says that it selects so many nodes, and that all of them are warm, after its last edit.
    fn await_right(&self, caches: &[Cache], nodes: impl Fn(&Cache) -> usize) -> Result<()> {
        for cache in caches {
            let path = image_cache(cache);
            let mut last = Value::Null;
            let waited = wait_for(&format!("the status of {} is right", cache.name), PATIENCE, || {
                last = self.runtime.block_on(self.api.read(&path))?;
                let (status, nodes) = (&last["status"], nodes(cache));
                let counted = status["nodes"] == nodes && status["warmNodes"] == nodes && status["failed"] == 0;
                let all = status["images"].as_array().is_some_and(|images| {
                    images.len() == last["spec"]["images"].as_array().map_or(0, Vec::len)
                        && images.iter().all(|image| image["warm"] == nodes)
                });
                let current = status["observedGeneration"] == last["metadata"]["generation"];
                Ok((counted && all && current && testbed::has_condition(&last, "Warm")).then_some(()))
            });
            waited.with_context(|| format!("its status is {:#}", last["status"]))?;
        }
        Ok(())
    }

    /// Waits until nobody writes larder's kinds.
    fn await_settled(&self) -> Result<()> {
        let (mut last, mut since) = (None, Instant::now());
        wait_for("nothing is written any more", PATIENCE, || {
            let now = self.runtime.block_on(self.api.writes())?.larder();
            if last != Some(now) {
                (last, since) = (Some(now), Instant::now());
            }
            std::thread::sleep(Duration::from_millis(500));
            Ok((since.elapsed() >= SETTLED).then_some(()))
        })
    }

    fn writes_within(&self, time: Duration) -> Result<requests::Writes> {
        let before = self.runtime.block_on(self.api.writes())?;
        std::thread::sleep(time);
        Ok(self.runtime.block_on(self.api.writes())?.since(&before))
    }
}

/// Kubelets that write their heartbeats until this is dropped.
struct Beating(JoinHandle<Result<()>>);

impl Beating {
    fn require_running(&self) -> Result<()> {
        if self.0.is_finished() {
            bail!("the kubelets have ended, so that nodes were quieter than they are");
        }
        Ok(())
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn beat(api: Server, nodes: usize) -> Result<()> {
    let mut turns = tokio::time::interval(HEARTBEAT / u32::try_from(nodes)?);
    for node in (0..nodes).cycle() {
        turns.tick().await;
        let path = format!("/api/v1/nodes/{}/status", population::node_name(node));
        api.write(&path, Body::Strategic, &Population::heartbeat(&time())).await?;
    }
    Ok(())
}

/// The time of day of the first of January: what matters is that it is another one each time.
fn time() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("2026-01-01T{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn node_cache(node: usize) -> String {
    format!("/apis/larder.dev/v1alpha1/nodecaches/{}", population::node_name(node))
}

fn image_cache(cache: &Cache) -> String {
    format!("/apis/larder.dev/v1alpha1/namespaces/{}/imagecaches/{}", cache.namespace, cache.name)
}

fn table(rows: &[Row], arguments: &Arguments) -> String {
    let Arguments { nodes, pods, .. } = arguments;
    let mut text = format!(
        "`cargo run --release -p bench -- controller --nodes {nodes} --pods {pods}` on {}.\n\n\
         | what | value | must reach | reached |\n|---|---|---|---|\n",
        machine::describe()
    );
    for Row { what, unit, limit, value } in rows {
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        let (goal, reached) = match limit {
            Some(limit) => (format!("≤ {limit}{unit}"), if value <= limit { "yes" } else { "**no**" }),
            None => ("–".to_owned(), "–"),
        };
        let digits = if *value < 1.0 {
            4
        } else if *limit == Some(2.0) {
            3
        } else {
            1
        };
        text.push_str(&format!("| {what} | {value:.digits$}{unit} | {goal} | {reached} |\n"));
    }
    text
}
