use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cache::{Blob, Store, Upstreams};
use moka::sync::Cache;
use oci::{Digest, Name};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Client;
use super::clock::now;
use super::fetch::{Errand, Fetch};
use super::gathering::{Flow, Gathering, Piece};
use super::ground::{Disk, Ground};
use super::meter::Meter;
use super::metrics::Metrics;
use super::pace::Pace;
use super::sockets::Sockets;
use crate::health::{Health, Reason};
use crate::identity::Identity;
use crate::members::{Members, NodeId};

/// How often what nobody uses any more is looked for.
const TIDY_EVERY: Duration = Duration::from_secs(10);
/// Through how many nodes of one zone a piece should go at most, one after the other.
const LINE: usize = 32;
/// How many lines of nodes begin at a piece's home at most.
const LINES: usize = 6;
/// How many blobs' holders are remembered.
const HELD: u64 = 4096;
/// How many holders of one blob are remembered.
const HOLDERS: usize = 8;
/// Who asked for a blob so long ago has it by now, or gave up.
const SETTLED: Duration = Duration::from_secs(3);
/// How long a home does not try again what the origin does not give to everybody.
const PRIVATE: Duration = Duration::from_secs(60);

/// How pieces are exchanged.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many pieces of one blob are fetched at a time.
    pub parallel: usize,
    /// How many pieces of a blob are fetched ahead of who reads it.
    pub ahead: u64,
    /// How many pieces are fetched at a time, of all blobs together, which share them evenly; each has one at least.
    pub parallel_all: usize,
    /// Bytes per second to all other nodes together.
    pub upload: Option<u64>,
    /// Bytes per second from all other nodes together.
    pub download: Option<u64>,
    /// How long pieces are kept that this node has as their home only, or of a pull that was given up.
    pub keep: Duration,
    /// How many bytes of the store such pieces may take.
    pub keep_bytes: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            parallel: 8,
            ahead: 64,
            parallel_all: 16,
            upload: None,
            download: None,
            keep: Duration::from_secs(120),
            keep_bytes: u64::MAX,
        }
    }
}

/// To how many nodes one piece is given at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fanout {
    /// By its home.
    pub home: usize,
    /// By those who take it there.
    pub others: usize,
}

/// A node that has a blob, or had it not long ago.
#[derive(Clone)]
struct Holder {
    id: NodeId,
    since: Instant,
    /// It has given a piece.
    proven: bool,
}

/// This node's part in the exchange of pieces: what it gathers, for itself or as a home, and whom it asks.
pub struct Swarm {
    pub(super) settings: Settings,
    pub(super) members: Arc<Members>,
    pub(super) health: Arc<Health>,
    pub(super) client: Client,
    pub(super) disk: Disk,
    pub(super) store: Arc<dyn Store>,
    pub(super) upstreams: Arc<dyn Upstreams>,
    pub(super) metrics: Metrics,
    pub(super) upload: Option<Pace>,
    pub(super) download: Option<Pace>,
    gatherings: Mutex<HashMap<Digest, Arc<Gathering>>>,
    holders: Cache<Digest, Vec<Holder>>,
    private: Cache<(Name, Digest), ()>,
    pub(super) meter: Arc<Meter>,
    /// Own pulls in progress.
    pub(super) pulls: AtomicUsize,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Swarm {
    /// A node that takes part, and shows others `identity`. `upstreams` are the sources beyond the nodes; what it gathers
    /// goes into `store`.
    pub fn new(
        settings: Settings,
        members: Arc<Members>,
        health: Arc<Health>,
        identity: Arc<Identity>,
        store: Arc<dyn Store>,
        upstreams: Arc<dyn Upstreams>,
        metrics: Metrics,
    ) -> Arc<Swarm> {
        let ground = Arc::new(Sockets::new(members.me().id.clone(), identity));
        Swarm::on(ground, settings, members, health, store, upstreams, metrics)
    }

    /// A node on other ground than this machine's network.
    pub fn on(
        ground: Arc<dyn Ground>,
        settings: Settings,
        members: Arc<Members>,
        health: Arc<Health>,
        store: Arc<dyn Store>,
        upstreams: Arc<dyn Upstreams>,
        metrics: Metrics,
    ) -> Arc<Swarm> {
        let meter = Arc::new(Meter::new(now()));
        Arc::new(Swarm {
            disk: ground.disk(),
            client: Client::new(ground, meter.clone()),
            meter,
            pulls: AtomicUsize::new(0),
            upload: settings.upload.map(Pace::new),
            download: settings.download.map(Pace::new),
            settings,
            members,
            health,
            store,
            upstreams,
            metrics,
            gatherings: Mutex::default(),
            holders: Cache::new(HELD),
            private: Cache::builder().max_capacity(HELD).time_to_live(PRIVATE).build(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        })
    }

    /// Drops what nobody uses, and follows the members, until the swarm is shut down.
    pub async fn tidy(&self) {
        let mut members = self.members.subscribe();
        loop {
            self.metrics.members(self.others());
            self.metrics.gathered(self.gatherings().len());
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(TIDY_EVERY) => self.drop_idle(now()),
                _ = members.changed() => {
                    let placement = self.members.placement();
                    self.client.keep(|id| placement.get(id).is_some());
                }
            }
        }
    }

    /// Ends all transfers.
    pub async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.gatherings().clear();
    }

    /// The nodes that are members, without this one.
    fn others(&self) -> usize {
        self.members.placement().members().iter().filter(|member| !self.members.is_me(member)).count()
    }

    fn drop_idle(&self, now: Instant) {
        let mut gatherings = self.gatherings();
        let mut gone = Vec::new();
        gatherings.retain(|_, gathering| {
            let idle = gathering.is_idle(now, self.settings.keep);
            if idle {
                gone.push(gathering.clone());
            }
            !idle
        });
        let mut idle: Vec<_> = gatherings.values().filter(|one| one.is_idle(now, Duration::ZERO)).cloned().collect();
        idle.sort_by_key(|gathering| gathering.used());
        let mut kept: u64 = idle.iter().map(|gathering| gathering.bytes()).sum();
        for gathering in idle {
            if kept <= self.settings.keep_bytes {
                break;
            }
            kept -= gathering.bytes();
            gatherings.remove(&gathering.digest);
            gone.push(gathering);
        }
        drop(gatherings);
        if !gone.is_empty() {
            // Files are deleted with the last of them.
            tokio::task::spawn_blocking(move || drop(gone));
        }
    }

    /// What there is of a blob, or is going to be.
    pub(super) fn gathering(&self, digest: &Digest) -> Arc<Gathering> {
        self.gatherings().entry(*digest).or_insert_with(|| Arc::new(Gathering::new(*digest))).clone()
    }

    /// What there is of a blob, if there is anything.
    pub(super) fn gathered(&self, digest: &Digest) -> Option<Arc<Gathering>> {
        self.gatherings().get(digest).cloned()
    }

    /// Forgets a gathering: from now on a new one begins.
    pub(super) fn forget(&self, gathering: &Arc<Gathering>) {
        let mut gatherings = self.gatherings();
        if gatherings.get(&gathering.digest).is_some_and(|known| Arc::ptr_eq(known, gathering)) {
            gatherings.remove(&gathering.digest);
        }
    }

    /// A piece: there, coming, or coming from now on.
    pub(super) fn ensure(self: &Arc<Self>, gathering: &Arc<Gathering>, piece: u64, errand: &Errand) -> Piece {
        gathering.piece_or(piece, || {
            let (sender, receiver) = watch::channel(Flow { got: 0, depth: None, level: 3, end: None });
            let fetch = Fetch::new(self.clone(), gathering.clone(), piece, errand.clone(), sender);
            let cancel = self.cancel.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => {}
                    () = fetch.run() => {}
                }
            });
            receiver
        })
    }

    /// The blob, if all of it is in the store.
    pub(super) async fn stored(&self, digest: &Digest) -> Option<Blob> {
        self.store.open(digest).await.ok().flatten()
    }

    /// Whether the origin was found not to give a blob to everybody.
    pub(super) fn is_private(&self, name: &Name, digest: &Digest) -> bool {
        self.private.contains_key(&(name.clone(), *digest))
    }

    pub(super) fn note_private(&self, name: &Name, digest: &Digest) {
        self.private.insert((name.clone(), *digest), ());
    }

    /// Remembers that a node has, or will have, a blob.
    pub(super) fn note_holder(&self, digest: &Digest, id: &NodeId, proven: bool) {
        let mut holders = self.holders.get(digest).unwrap_or_default();
        match holders.iter_mut().find(|holder| holder.id == *id) {
            Some(holder) if holder.proven || !proven => return,
            Some(holder) => holder.proven = true,
            None => {
                if holders.len() == HOLDERS {
                    holders.remove(0);
                }
                holders.push(Holder { id: id.clone(), since: now(), proven });
            }
        }
        self.holders.insert(*digest, holders);
    }

    /// Forgets that a node has a blob.
    pub(super) fn no_holder(&self, digest: &Digest, id: &NodeId) {
        let mut holders = self.holders.get(digest).unwrap_or_default();
        holders.retain(|holder| holder.id != *id);
        self.holders.insert(*digest, holders);
    }

    /// Two nodes that should have a blob by now.
    pub(super) fn settled_holders(&self, digest: &Digest, but: Option<&NodeId>) -> Vec<NodeId> {
        let holders = self.holders.get(digest).unwrap_or_default();
        let settled = |holder: &&Holder| holder.proven || now() - holder.since > SETTLED;
        holders.iter().filter(settled).map(|holder| &holder.id).filter(|id| Some(*id) != but).take(2).cloned().collect()
    }

    /// Takes note of a node that is passed over from now on.
    pub(super) fn pass_over(&self, id: &NodeId, reason: Reason, why: &dyn std::fmt::Display) {
        match reason {
            Reason::Lying => tracing::warn!(node = %id, %why, "a node is shunned"),
            _ => tracing::debug!(node = %id, reason = reason.as_str(), %why, "passing over a node"),
        }
        self.metrics.passed_over(reason);
        self.health.failed(id, reason, now());
    }

    /// To how many nodes of one zone a piece is given at a time before askers are sent to others who get it.
    ///
    /// Nodes that want a blob at once share full links. Where each piece goes through all of them in one line, all give the
    /// same, and no link is full of what others wait for. In a larger zone there are several lines, and at last they branch.
    pub(super) fn fanout(&self) -> Fanout {
        let nodes = self.members.placement().zone(&self.members.zone()).len();
        let lines = nodes.div_ceil(LINE).max(1);
        Fanout { home: lines.min(LINES), others: if lines <= LINES { 1 } else { 2 } }
    }

    /// The zone of a node; one that is not listed counts as near.
    pub(super) fn zone_of(&self, id: &NodeId) -> Arc<str> {
        self.members.placement().get(id).map_or_else(|| self.members.zone(), |member| member.zone.clone())
    }

    /// How many pieces of one blob are fetched at a time.
    pub(super) fn parallel(&self) -> usize {
        let share = self.settings.parallel_all / self.pulls.load(Ordering::Relaxed).max(1);
        share.min(self.settings.parallel).max(1)
    }

    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    fn gatherings(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Gathering>>> {
        self.gatherings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Swarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swarm").field("me", self.members.me()).finish_non_exhaustive()
    }
}
