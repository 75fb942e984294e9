use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use api::conditions::{self, Finding, READY};
use api::{LastCleanup, NodeCache, NodeCacheFields, NodeCacheStatus, NodeImageState};
use apiserver::{Need, NodeEvent, Session, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::sync::watch;

use super::bulletin::Bulletin;
use super::cluster::KnownNode;
use super::metrics::Metrics;
use super::report::Report;

/// Who has set the fields of a NodeCache.
const MANAGER: &str = "larder-node";
/// The pause after the first write that failed; it doubles,
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Writes a node's NodeCache.
pub struct Publisher {
    session: Session,
    metrics: Metrics,
    /// What the agent's own store has, in bytes.
    store: Box<dyn Fn() -> u64 + Send + Sync>,
    bulletin: Bulletin,
    /// The UID of the node whose NodeCache is known to be there.
    made_for: Option<String>,
    conditions: Vec<Condition>,
    /// What is written and is not ours to change: it was there before this process.
    last: Option<NodeCacheStatus>,
    /// The last cleanup that is told of: of an earlier process, until there is another.
    cleaned: Option<LastCleanup>,
    /// The private images that the runtime has and an event has told of, by an earlier process or this one.
    exposed: BTreeSet<String>,
    /// What was last said of what is in the way.
    told: Option<String>,
}

impl Publisher {
    /// `store` tells how much the agent's own store has, in bytes.
    pub fn new(session: Session, metrics: Metrics, store: impl Fn() -> u64 + Send + Sync + 'static) -> Publisher {
        Publisher {
            session,
            metrics,
            store: Box::new(store),
            bulletin: Bulletin::default(),
            made_for: None,
            conditions: Vec::new(),
            last: None,
            cleaned: None,
            exposed: BTreeSet::new(),
            told: None,
        }
    }

    /// Writes what `reports` tell as long as it is polled, when there is something new and not more often than once in a second. While
    /// the API server cannot be reached it goes on trying, after pauses that grow to a minute. Dropped, a write may have been made or not.
    pub async fn publish(
        mut self,
        mut nodes: watch::Receiver<Option<KnownNode>>,
        mut reports: watch::Receiver<Option<Report>>,
    ) -> Infallible {
        let mut failures = 0;
        loop {
            let node = nodes.borrow_and_update().clone();
            let report = reports.borrow_and_update().clone();
            let due = match (&node, &report) {
                (Some(node), Some(report)) => {
                    if self.made_for.as_ref().is_some_and(|uid| *uid != node.uid) {
                        // The NodeCache went with the node of before.
                        self.made_for = None;
                        self.bulletin.forget();
                    }
                    self.bulletin.due(report, Instant::now())
                }
                _ => None,
            };
            let (Some(due), Some(node), Some(report)) = (due, node, report) else {
                either(&mut nodes, &mut reports).await;
                continue;
            };
            if due > Instant::now() {
                tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    () = either(&mut nodes, &mut reports) => {}
                }
                continue;
            }
            match self.write(&node, &report).await {
                Ok(()) => {
                    failures = 0;
                    self.bulletin.said(&report, Instant::now());
                    if self.told.take().is_some() {
                        tracing::info!("the NodeCache of this node is written again");
                    }
                }
                Err(why) => {
                    if self.told.as_ref() != Some(&why) {
                        tracing::warn!(
                            why,
                            "the NodeCache of this node cannot be written; images are made ready all the same"
                        );
                        self.told = Some(why);
                    }
                    tokio::time::sleep(pause(failures)).await;
                    failures += 1;
                }
            }
        }
    }

    async fn write(&mut self, node: &KnownNode, report: &Report) -> Result<(), String> {
        let client = self.session.client().await.map_err(|error| error.to_string())?;
        let caches: Api<NodeCache> = Api::all(client);
        let name = &*node.node.name;
        if self.made_for.is_none() {
            self.make(&caches, name, &node.uid).await?;
            self.made_for = Some(node.uid.clone());
        }
        let status = self.status(report);
        if self.last.take().is_some_and(|last| last == status) {
            return Ok(());
        }
        let cache = NodeCache { status: Some(status), ..NodeCache::new(name, NodeCacheFields {}) };
        let written = caches.patch_status(name, &apply(), &Patch::Apply(&cache)).await.map(drop);
        self.metrics.wrote(written.is_ok());
        written.map_err(|error| {
            // It may have been deleted; if so, the next try makes it.
            self.made_for = None;
            self.failed(error, "patch", true)
        })?;
        self.tell_of_cleanup(node, report.status.last_cleanup.as_ref()).await;
        self.tell_of_private(node, exposed(&report.status)).await;
        Ok(())
    }

    /// An event when private images have come into the runtime.
    async fn tell_of_private(&mut self, node: &KnownNode, now: BTreeSet<String>) {
        let before = std::mem::replace(&mut self.exposed, now);
        let new: Vec<&str> = self.exposed.difference(&before).map(String::as_str).collect();
        if !new.is_empty() {
            self.tell(node, "PrivateImagesInRuntime", true, &message_of_private(&new)).await;
        }
    }

    /// An event for each cleanup that removed something.
    async fn tell_of_cleanup(&mut self, node: &KnownNode, cleanup: Option<&LastCleanup>) {
        let Some(cleanup) = cleanup.filter(|cleanup| self.cleaned.as_ref() != Some(cleanup)) else { return };
        self.cleaned = Some(cleanup.clone());
        if !cleanup.dry_run {
            self.tell(node, "ImagesRemoved", false, &message_of(cleanup)).await;
        }
    }

    /// Writes an event of the node.
    async fn tell(&self, node: &KnownNode, reason: &str, warning: bool, message: &str) {
        let (name, uid) = (&*node.node.name, &*node.uid);
        let event = NodeEvent { node: name, uid, warning, reason, message, component: MANAGER };
        if let Err(why) = event.write(&self.session).await {
            tracing::warn!(reason, why, "an event of this node could not be written");
        }
    }

    /// Makes the NodeCache, unless it is there for that very node.
    async fn make(&mut self, caches: &Api<NodeCache>, name: &str, uid: &str) -> Result<(), String> {
        let found = caches.get_opt(name).await.map_err(|error| self.failed(error, "get", false))?;
        if let Some(status) = found.as_ref().and_then(|cache| cache.status.clone()) {
            self.conditions.clone_from(&status.conditions);
            if self.cleaned.is_none() {
                self.cleaned.clone_from(&status.last_cleanup);
            }
            self.exposed.extend(exposed(&status));
            // Turns are the controller's.
            self.last = Some(NodeCacheStatus { turns: None, ..status });
        }
        let owned = |cache: &NodeCache| cache.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid);
        if found.as_ref().is_some_and(owned) {
            return Ok(());
        }
        let mut cache = NodeCache::new(name, NodeCacheFields {});
        cache.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }]);
        let made = caches.patch(name, &apply(), &Patch::Apply(&cache)).await.map(drop);
        self.metrics.wrote(made.is_ok());
        made.map_err(|error| self.failed(error, "create, patch", false))
    }

    fn status(&mut self, report: &Report) -> NodeCacheStatus {
        let message =
            report.blind.as_ref().map(|why| format!("the container runtime does not tell what it has: {why}"));
        let ready = Finding {
            kind: READY,
            status: report.blind.is_none().into(),
            reason: if report.blind.is_none() { "Following" } else { "RuntimeUnavailable" },
            message: message.as_deref().unwrap_or("what ImageCaches want is kept ready"),
            generation: None,
        };
        conditions::set(&mut self.conditions, &ready, &Time(Timestamp::now()));
        let mut status = report.status.clone();
        status.conditions.clone_from(&self.conditions);
        status.bytes.store = (self.store)();
        if status.last_cleanup.is_none() {
            status.last_cleanup = self.cleaned.clone().filter(|cleanup| !cleanup.dry_run);
        }
        status
    }

    fn failed(&self, error: kube::Error, verbs: &str, status: bool) -> String {
        self.session.failed(&error);
        let need = Need::of::<NodeCache>(verbs, None);
        reason(&error, &if status { need.part("status") } else { need })
    }
}

/// Waits until one of them tells something new.
async fn either(nodes: &mut watch::Receiver<Option<KnownNode>>, reports: &mut watch::Receiver<Option<Report>>) {
    tokio::select! {
        Ok(()) = nodes.changed() => {}
        Ok(()) = reports.changed() => {}
        // Whoever told them has ended, and this ends with it.
        else => std::future::pending().await,
    }
}

/// The images that need a credential and are in the runtime all the same, because ImageCaches say so.
fn exposed(status: &NodeCacheStatus) -> BTreeSet<String> {
    let wanted = status.images.iter().take(status.wanted as usize);
    let there = wanted.filter(|one| one.private && one.state == NodeImageState::Warm && one.reason.is_none());
    there.map(|one| one.image.clone()).collect()
}

/// What it means that they are there, for people.
fn message_of_private(images: &[&str]) -> String {
    format!(
        "kubelet may let every pod of this node use {}, with or without a pull secret: an ImageCache with privateImages: Runtime had \
         larder pull what needs a credential. With privateImages: Store it goes to pods with a pull secret of their own",
        some(images.iter().copied(), images.len())
    )
}

/// What went, for people.
fn message_of(cleanup: &LastCleanup) -> String {
    let (removed, mib) = (cleanup.removed, cleanup.freed_bytes.div_ceil(1 << 20));
    let names = some(cleanup.images.iter().map(|one| one.image.as_str()), removed as usize);
    format!("removed {removed} images of {mib} MiB that nothing used: {names}")
}

/// The first names of so many.
fn some<'a>(names: impl Iterator<Item = &'a str>, all: usize) -> String {
    let named: Vec<&str> = names.take(10).collect();
    let list = named.join(", ");
    match all.saturating_sub(named.len()) {
        0 => list,
        more => format!("{list} and {more} more"),
    }
}

fn apply() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE)
}
