use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nodes::{Agent, KUBECONFIG, await_ready, metric};
use serde_json::{Value, json};
use testbed::{Cluster, Launch, Machine, Process, wait_for};
use tokio::runtime::Runtime;

use super::kubelets::Kubelets;
use super::population::{self, Added, Cache, Population};
use super::requests::{Body, Server, Writes};
use super::{PATIENCE, Row, image_cache, node_cache};
use crate::{machine, process};

/// How long is looked at what it does while nothing happens.
const QUIET: Duration = Duration::from_secs(60);

/// It has settled when it has written nothing for so long. It writes a CachedImage every ten seconds at most.
const SETTLED: Duration = Duration::from_secs(15);

const LIMIT: Option<f64> = Some(60.0);

/// Where it is measured.
pub(super) struct Lab<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) runtime: &'a Runtime,
    pub(super) api: Server,
    pub(super) people: Population,
    pub(super) larder: &'a Path,
}

/// What has been measured so far.
struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, what: &str, unit: &'static str, limit: Option<f64>, value: f64) {
        eprintln!("{what}: {value:.3} {unit}");
        self.0.push(Row { what: what.to_owned(), unit, limit, value });
    }

    fn mib(&mut self, what: &str, limit: Option<f64>, bytes: f64) {
        self.add(what, "MiB", limit, bytes / f64::from(1 << 20));
    }
}

/// What was written until a moment, by all and by those who count themselves.
struct Written {
    all: Writes,
    controller: Vec<(&'static str, f64)>,
    agent: f64,
}

impl Written {
    fn of_controller(&self, before: &Written) -> f64 {
        let sum = |written: &Written| written.controller.iter().map(|(_, count)| count).sum::<f64>();
        sum(self) - sum(before)
    }

    /// By kind, for people.
    fn kinds(&self, before: &Written) -> String {
        let both = self.controller.iter().zip(&before.controller);
        both.map(|((kind, now), (_, then))| format!("{kind} {}", now - then)).collect::<Vec<_>>().join(", ")
    }
}

impl Lab<'_> {
    pub(super) fn measure(&self) -> Result<Vec<Row>> {
        let began = Instant::now();
        self.runtime.block_on(self.people.make(&self.api))?;
        eprintln!("the cluster is there after {:.0} s", began.elapsed().as_secs_f64());
        let kubelets = Kubelets::start(self.runtime, &self.api, self.people.nodes);
        let agent = self.start_agent()?;
        // Others than the controller write leases too.
        let leases = self.writes_within(QUIET / 2)?.of("leases") * 2.0;

        let mut rows = Rows(Vec::new());
        let started = Instant::now();
        let controller = self.start_controller()?;
        let pid = u32::try_from(controller.pid()?)?;
        self.beginning(&mut rows, started, pid)?;
        self.idling(&mut rows, pid, leases)?;
        self.editing(&mut rows, &agent, pid)?;
        self.labelling(&mut rows, &agent)?;
        rows.mib("resident memory, most of all the time", LIMIT, process::most_resident(pid));
        kubelets.require_running()?;
        controller.terminate()?;
        Ok(rows.0)
    }

    /// From the start until there is nothing to do.
    fn beginning(&self, rows: &mut Rows, started: Instant, pid: u32) -> Result<()> {
        await_ready(self.internet())?;
        rows.add("start until it is ready", "s", None, started.elapsed().as_secs_f64());
        self.await_right(&self.people.caches())?;
        rows.add("start until all ImageCaches have the right status", "s", None, started.elapsed().as_secs_f64());
        self.await_settled()?;
        rows.add("start until it writes nothing more", "s", None, (started.elapsed() - SETTLED).as_secs_f64());
        rows.mib("resident memory, most while it starts", LIMIT, process::most_resident(pid));
        Ok(())
    }

    fn idling(&self, rows: &mut Rows, pid: u32, leases: f64) -> Result<()> {
        let (ticks, quiet) = (process::ticks(pid), Instant::now());
        let written = self.writes_within(QUIET)?;
        let busy = self.seconds(pid, ticks) / quiet.elapsed().as_secs_f64();
        rows.mib("resident memory, idle", LIMIT, process::resident(pid));
        rows.mib("of it its own", None, process::resident_own(pid));
        rows.mib("of it pages of the program's file", None, process::resident_of_files(pid));
        rows.add("processor, idle", "cores", Some(0.01), busy);
        rows.add("writes in a minute, idle, without the Lease", "", None, written.larder());
        rows.add("renewals of the Lease in a minute", "", None, written.of("leases") - leases);
        Ok(())
    }

    /// An ImageCache that is for all nodes is given one more image.
    fn editing(&self, rows: &mut Rows, agent: &Agent<'_>, pid: u32) -> Result<()> {
        let (before, ticks) = (self.written(agent)?, process::ticks(pid));
        let caches = self.people.caches();
        let for_all = caches.last().context("there is an ImageCache for all nodes")?;
        let edited = Instant::now();
        self.runtime.block_on(self.api.write(&image_cache(for_all), Body::Merge, &Population::edit()))?;
        self.await_named(&population::edited_image())?;
        let named = edited.elapsed().as_secs_f64();
        rows.add("an edit until the NodeCache of a real agent names the image", "s", Some(1.0), named);
        for added in [Added::Pulling, Added::Warm] {
            let report = async |node| self.people.report_to(&self.api, node, added).await;
            self.runtime.block_on(Server::each(self.people.nodes, report))?;
        }
        let told = Instant::now();
        self.await_right(&caches)?;
        rows.add("last word of an agent until the status is right", "s", None, told.elapsed().as_secs_f64());
        self.await_settled()?;
        let after = self.written(agent)?;
        eprintln!("{:?} in {:.0} s", after.all.since(&before.all), edited.elapsed().as_secs_f64());
        eprintln!("of them by the controller: {}", after.kinds(&before));
        let (by_agent, own) = (after.agent - before.agent, after.of_controller(&before));
        rows.add("writes of a real agent for an edit", "", None, by_agent);
        rows.add("writes of the controller for an edit, all kinds", "", None, own);
        let each = by_agent + own / self.people.nodes as f64;
        rows.add("both for each node", "", Some(2.0), each);
        rows.add("processor time of the controller for an edit", "s", None, self.seconds(pid, ticks));
        Ok(())
    }

    /// A node comes to be one of those that an ImageCache selects.
    fn labelling(&self, rows: &mut Rows, agent: &Agent<'_>) -> Result<()> {
        let before = self.written(agent)?;
        let (key, value) = population::LATE;
        let path = format!("/api/v1/nodes/{}", population::REAL);
        let labelled = Instant::now();
        let label = json!({"metadata": {"labels": {key: value}}});
        self.runtime.block_on(self.api.write(&path, Body::Merge, &label))?;
        self.await_named(&population::late_image())?;
        let named = labelled.elapsed().as_secs_f64();
        rows.add("a new label of a node until its NodeCache names the image", "s", Some(1.0), named);
        self.await_right(&[self.people.late(1)])?;
        self.await_settled()?;
        let after = self.written(agent)?;
        eprintln!("by the controller: {}", after.kinds(&before));
        rows.add("writes of the agent for it", "", Some(2.0), after.agent - before.agent);
        rows.add("writes of the controller for it, all kinds", "", None, after.of_controller(&before));
        Ok(())
    }

    fn start_controller(&self) -> Result<Arc<Process>> {
        let launch = Launch::new(self.larder).args(["controller", "--log", "info", "--metrics", "127.0.0.1:7441"]);
        // As the chart starts it.
        let launch = launch.env("KUBECONFIG", KUBECONFIG).env("MIMALLOC_PURGE_DELAY", "0");
        self.internet().spawn("larder-controller", launch)
    }

    /// Starts the one agent, and waits until all is ready there that it is to have.
    fn start_agent(&self) -> Result<Agent<'_>> {
        let node = self.cluster.nodes().first().context("there is a real node")?;
        let launch = Launch::new(self.larder).args(["node", "--log", "info"]).env("KUBECONFIG", KUBECONFIG);
        let config = format!("[node.cluster]\nname = {:?}\nkeep_free = \"0%\"\n", node.name());
        let agent = Agent::launch(node, &config, launch)?;
        let path = node_cache(population::REAL);
        let mut last = Value::Null;
        let waited = wait_for("all is ready on the real node", PATIENCE, || {
            last = self.runtime.block_on(self.api.read(&path)).unwrap_or_default();
            let status = &last["status"];
            Ok((status["wanted"] == population::FOR_ALL && status["warm"] == status["wanted"]).then_some(()))
        });
        waited.with_context(|| format!("its NodeCache is {last:#}"))?;
        Ok(agent)
    }

    fn internet(&self) -> &Machine {
        self.cluster.internet()
    }

    fn seconds(&self, pid: u32, since: f64) -> f64 {
        (process::ticks(pid) - since) * machine::TICK_MS / 1000.0
    }

    fn written(&self, agent: &Agent<'_>) -> Result<Written> {
        let kinds = ["ImageCache", "CachedImage", "NodeCache", "Upstream"];
        let of =
            |kind| anyhow::Ok((kind, metric(self.internet(), "larder_controller_writes_total", &[("kind", kind)])?));
        let controller = kinds.into_iter().map(of).collect::<Result<_>>()?;
        let agent = agent.metric("larder_prefetch_status_writes_total", &[])?;
        Ok(Written { all: self.runtime.block_on(self.api.writes())?, controller, agent })
    }

    /// Waits until the real agent tells of an image that it is to have.
    fn await_named(&self, image: &str) -> Result<()> {
        let path = node_cache(population::REAL);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let cache = self.runtime.block_on(self.api.read(&path))?;
            let mut images = cache["status"]["images"].as_array().into_iter().flatten();
            if images.any(|one| one["image"] == image && one["state"] != "Present") {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "{} does not tell of {image}: {cache:#}", population::REAL);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until each ImageCache says that it selects as many nodes as it should, and that all of them are warm, after its last edit.
    fn await_right(&self, caches: &[Cache]) -> Result<()> {
        for cache in caches {
            let path = image_cache(cache);
            let mut last = Value::Null;
            let waited = wait_for(&format!("the status of {} is right", cache.name), PATIENCE, || {
                last = self.runtime.block_on(self.api.read(&path))?;
                let (status, nodes) = (&last["status"], cache.nodes);
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

    fn writes_within(&self, time: Duration) -> Result<Writes> {
        let before = self.runtime.block_on(self.api.writes())?;
        std::thread::sleep(time);
        Ok(self.runtime.block_on(self.api.writes())?.since(&before))
    }
}
