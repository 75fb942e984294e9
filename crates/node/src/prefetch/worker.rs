use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use api::CleanupMode;
use cache::Pass;
use oci::{Image, Platform, Reference};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use warm::Plan;

use super::cleanup::{Removable, Why};
use super::failure::{Failure, Reason};
use super::keeper::{Abilities, Disk, Held, Keeper, Pull, Pulled, Way};
use super::metrics::Metrics;
use super::queue::Heard;
use super::report::Report;
use super::tidying::Tidying;
use crate::cri::{Cri, CriError, Mark, Marks, Remembered};
use crate::runtime::{Runtime, RuntimeKind, detect};
use crate::settings::under;

/// How often is looked at what the runtime has where nothing happens: others remove images too.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The same while it does not answer.
const LOOK_FOR: Duration = Duration::from_secs(5);
/// How long after the start, or after the policy changed, a cleanup looks at the earliest: what has just been seen for the first time needs to be
/// remembered first.
const CLEAN_FIRST: Duration = Duration::from_secs(60);
/// How long after something could not be pinned or removed it is tried again.
const TIDY_AGAIN: Duration = Duration::from_secs(60);

/// How a node keeps images.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The root of the host's file system, as this process sees it.
    pub host_root: PathBuf,
    /// What is left free of the filesystem of images, in hundredths.
    pub keep_free: u8,
    /// The mirror's URL, as the runtime has it in its hosts.toml.
    pub mirror_url: String,
    /// There is a larder registry behind it.
    pub registry: bool,
    /// The node's name.
    pub node: String,
}

/// A pull, how long it took, and what came of it.
type Ended = (Pull, Duration, Result<Pulled, Failure>);

/// Keeps what `plans` say as long as it is polled, as far as `turns` let it, and tells in `reports` how far it is. Dropped, pulls on their way end; the
/// runtime keeps what came of them. While `plans` say nothing, nothing is done.
pub async fn keep(
    settings: Settings,
    engine: Arc<cache::Engine>,
    metrics: Metrics,
    mut plans: watch::Receiver<Option<Plan>>,
    mut turns: watch::Receiver<Heard>,
    reports: watch::Sender<Option<Report>>,
) -> Infallible {
    let Found { cri, marks, content } = find_runtime(&settings.host_root).await;
    let mut worker = Worker {
        // CRI-O shows a credential to the image's own registry only, and it is of no use there.
        keeper: Keeper::new(Abilities { pins: marks.pin(), passes: marks.pin(), registry: settings.registry })
            .on(&settings.node),
        cri,
        marks,
        engine,
        metrics,
        settings,
        pulls: JoinSet::new(),
        ends: HashMap::new(),
        tidying: JoinSet::new(),
        tidy_after: Instant::now(),
        cleaning: JoinSet::new(),
        clean_after: Instant::now() + CLEAN_FIRST,
        content,
        folder: None,
    };
    let mut pods = worker.engine.pulls().changes();
    plans.mark_changed();
    turns.mark_changed();
    loop {
        let now = Instant::now();
        let pause = if worker.keeper.is_blind() { LOOK_FOR } else { LOOK_EVERY };
        let mut wake = worker.keeper.wakes(now).map_or(now + pause, |then| then.min(now + pause));
        if worker.keeper.cleanup().is_some() && worker.clean_after > now {
            wake = wake.min(worker.clean_after);
        }
        tokio::select! {
            // Whoever makes the plans is gone only when all of this ends.
            Ok(()) = plans.changed() => {
                let plan = plans.borrow_and_update().clone();
                if let Some(plan) = plan {
                    worker.want(plan);
                }
            }
            Ok(()) = turns.changed() => worker.keeper.hear(turns.borrow_and_update().clone(), Instant::now()),
            // The engine outlives this.
            Ok(()) = pods.changed(), if worker.keeper.gives_way() => {}
            Some(ended) = worker.pulls.join_next() => worker.ended(ended),
            Some(tidied) = worker.tidying.join_next() => worker.tidied(tidied),
            Some(cleaned) = worker.cleaning.join_next() => worker.cleaned(cleaned),
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        while let Some(ended) = worker.pulls.try_join_next() {
            worker.ended(ended);
        }
        worker.look().await;
        worker.clean().await;
        worker.act();
        if let Some(report) = worker.keeper.report() {
            worker.metrics.show(&report.status);
            reports.send_if_modified(|last| {
                let news = last.as_ref() != Some(&report);
                if news {
                    *last = Some(report);
                }
                news
            });
        }
    }
}

/// A runtime.
struct Found {
    cri: Cri,
    marks: Marks,
    /// The folder of its content, where it has one, as this process sees it.
    content: Option<PathBuf>,
}

/// Waits for a runtime: containerd where there are several, as it can pin.
async fn find_runtime(host_root: &Path) -> Found {
    let mut told = String::new();
    loop {
        let why = match detect(host_root).await {
            Ok(runtimes) => match runtimes.first().map(|runtime| open(host_root, runtime)) {
                Some(Ok(found)) => return found,
                Some(Err(error)) => error.to_string(),
                None => "no container runtime was found".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        if why != told {
            tracing::warn!(why, "no images can be made ready; waiting for a runtime");
            told = why;
        }
        tokio::time::sleep(LOOK_FOR).await;
    }
}

fn open(host_root: &Path, runtime: &Runtime) -> Result<Found, CriError> {
    let socket = under(host_root, &runtime.socket);
    let (marks, content) = match &runtime.kind {
        RuntimeKind::Containerd(config) => (Marks::of_containerd(&socket)?, Some(under(host_root, &config.content()))),
        RuntimeKind::Crio => {
            tracing::info!("CRI-O lets nobody pin images: kubelet may remove what is ready, and it is pulled again");
            (Marks::in_memory(), None)
        }
    };
    Ok(Found { cri: Cri::at(&socket)?, marks, content })
}

struct Worker {
    keeper: Keeper,
    cri: Cri,
    marks: Marks,
    engine: Arc<cache::Engine>,
    metrics: Metrics,
    settings: Settings,
    /// As many as the plan allows at most.
    pulls: JoinSet<Ended>,
    ends: HashMap<Image, AbortHandle>,
    /// One at most, so that it holds up no pull. Says whether all went well.
    tidying: JoinSet<bool>,
    tidy_after: Instant,
    /// One at most. Gives what it has removed.
    cleaning: JoinSet<Vec<Removable>>,
    clean_after: Instant,
    /// The folder of its content, where it has one, as this process sees it.
    content: Option<PathBuf>,
    /// A folder whose filesystem images are on, as this process sees it.
    folder: Option<PathBuf>,
}

impl Worker {
    fn want(&mut self, plan: Plan) {
        let before = self.keeper.cleanup();
        for image in self.keeper.want(plan) {
            if let Some(pull) = self.ends.remove(&image) {
                tracing::info!(%image, "no longer pulled: nothing wants it any more");
                pull.abort();
            }
        }
        if let Some((interval, _)) = self.keeper.cleanup().filter(|now| before.as_ref() != Some(now)) {
            self.clean_after = Instant::now() + interval.min(CLEAN_FIRST);
        }
    }

    fn ended(&mut self, ended: Result<Ended, JoinError>) {
        let (Pull { image, way, .. }, took, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => return,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let seconds = took.as_secs_f64();
        self.keeper.pulled(&image, way, outcome.clone(), Instant::now());
        let (attempt, again) = self.keeper.tried(&image);
        match outcome {
            Ok(pulled) => {
                self.metrics.pulled(took);
                let what = match pulled {
                    Pulled::Runtime { private: false } => "pulled for ImageCaches",
                    Pulled::Runtime { private: true } => {
                        "pulled for ImageCaches, with a credential: kubelet may let every pod of this node use it"
                    }
                    Pulled::Store(_) => {
                        "in larder's store for ImageCaches, for pods with a pull secret that the registry accepts"
                    }
                };
                tracing::info!(%image, seconds, attempt, "{what}");
            }
            // Larder's store takes it.
            Err(Failure { reason: Reason::CredentialNeeded, .. }) if self.keeper.is_due(&image, Instant::now()) => {}
            Err(Failure { reason, message }) => {
                self.metrics.failed(reason);
                let again = again.map(|then| then.saturating_duration_since(Instant::now()).as_secs());
                let reason = reason.as_str();
                tracing::warn!(%image, seconds, attempt, reason, again, "could not be pulled for ImageCaches: {message}");
            }
        }
        if !self.keeper.is_pulling(&image) {
            self.ends.remove(&image);
        }
    }

    fn tidied(&mut self, tidied: Result<bool, JoinError>) {
        match tidied {
            Ok(true) => {}
            Ok(false) => self.tidy_after = Instant::now() + TIDY_AGAIN,
            Err(error) if error.is_cancelled() => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn cleaned(&mut self, cleaned: Result<Vec<Removable>, JoinError>) {
        match cleaned {
            Ok(removed) => self.keeper.cleaned(&removed, false, SystemTime::now()),
            Err(error) if error.is_cancelled() => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Looks at what the runtime has.
    async fn look(&mut self) {
        match self.held().await {
            Ok(held) => {
                let disk = self.disk().await;
                if self.keeper.is_blind() {
                    tracing::info!(images = held.len(), "the container runtime tells what it has");
                }
                self.keeper.see(held, disk, Instant::now());
                for (image, whole) in self.keeper.stored() {
                    if !self.engine.has_whole(&image.name, &whole).await {
                        tracing::info!(%image, "larder's store does not have it any more");
                        self.keeper.lost(&image, Instant::now());
                    }
                }
            }
            Err(error) => {
                if !self.keeper.is_blind() {
                    tracing::warn!(%error, "nothing is made ready until the container runtime answers");
                }
                self.keeper.lose_sight(error.to_string());
            }
        }
    }

    async fn held(&self) -> Result<Vec<Held>, CriError> {
        let images = self.cri.images().await?;
        let marks = self.marks.all(&images).await?;
        // Only what may be removed needs to be known to be used.
        let may_go = marks.values().any(|remembered| remembered.mark == Some(Mark::Remove));
        let used = match may_go || self.keeper.cleanup().is_some() {
            true => self.cri.used().await?,
            false => Default::default(),
        };
        let held = images.into_iter().map(|image| {
            let Remembered { mark, last_use, private } = marks.get(&image.id).copied().unwrap_or_default();
            Held { mark, used: image.is_among(&used), last_use, private, image }
        });
        Ok(held.collect())
    }

    /// How full the filesystem of images is; nothing is known of one that cannot be seen from here.
    async fn disk(&mut self) -> Disk {
        if self.folder.is_none() {
            let folder = self.cri.image_folder().await.ok().flatten();
            let folder = folder.map(|folder| under(&self.settings.host_root, &folder));
            // In a pod nothing is seen of the runtime's folders but its content, which has the same root as its images.
            self.folder = [folder, self.content.clone()].into_iter().flatten().find(|folder| folder.is_dir());
        }
        let Some((capacity, available)) = room(self.folder.clone()).await else { return Disk::default() };
        Disk { capacity, available, margin: capacity / 100 * u64::from(self.settings.keep_free) }
    }

    /// Remembers when images were of use, and begins a cleanup whose time has come.
    async fn clean(&mut self) {
        for (id, last_use) in self.keeper.uses(SystemTime::now()) {
            if let Err(error) = self.marks.use_at(&id, last_use).await {
                tracing::debug!(id, %error, "when an image was last used could not be remembered");
            }
        }
        let Some((interval, mode)) = self.keeper.cleanup() else { return };
        if self.clean_after > Instant::now() || !self.keeper.may_clean() || !self.cleaning.is_empty() {
            return;
        }
        self.clean_after = Instant::now() + interval;
        let todo = self.keeper.removable(SystemTime::now());
        if mode == CleanupMode::DryRun {
            self.keeper.cleaned(&todo, true, SystemTime::now());
        } else if !todo.is_empty() {
            let (cri, metrics) = (self.cri.clone(), self.metrics.clone());
            self.cleaning.spawn(clean(cri, metrics, todo, self.folder.clone(), self.keeper.enough()));
        }
    }

    /// Begins what is to be done.
    fn act(&mut self) {
        let now = Instant::now();
        self.keeper.give_way(self.engine.pulls().of_pods(now), now);
        for pull in self.keeper.pulls(now) {
            let (cri, engine) = (self.cri.clone(), self.engine.clone());
            let mirror = self.settings.mirror_url.clone();
            let image = pull.image.clone();
            if self.keeper.is_unbidden(&image) {
                tracing::warn!(%image, "pulled without a turn: nobody was heard of for long who gives nodes their turns");
            }
            let end = self.pulls.spawn(async move {
                let begun = Instant::now();
                let outcome = bring(&cri, &engine, &mirror, &pull).await;
                (pull, begun.elapsed(), outcome)
            });
            self.ends.insert(image, end);
        }
        if self.tidying.is_empty() && self.tidy_after <= now {
            let todo = self.keeper.tidying();
            if !todo.is_empty() {
                self.tidying.spawn(tidy(self.cri.clone(), self.marks.clone(), self.metrics.clone(), todo));
            }
        }
    }
}

/// Pulls an image. Dropped, the runtime's pull ends, and what larder's store had begun to get comes nevertheless.
async fn bring(cri: &Cri, engine: &cache::Engine, mirror: &str, pull: &Pull) -> Result<Pulled, Failure> {
    let Pull { image, digest, way } = pull;
    if let (Some(digest), Reference::Tag(tag)) = (digest, &image.reference) {
        engine.expect(&image.name, tag, digest).await;
    }
    let by_runtime = async |pass: Option<&Pass>| {
        let _ours = engine.pulls().for_image_caches(&image.name);
        let pulled = cri.pull(image, pass.map(|pass| (pass, mirror))).await;
        pulled
            .map(|_| Pulled::Runtime { private: pass.is_some_and(Pass::was_used) })
            .map_err(|error| Failure::of(&error))
    };
    match way {
        Way::Public => by_runtime(None).await,
        Way::Pass => by_runtime(Some(&engine.pass(&image.name))).await,
        Way::Store => match engine.get_whole(&image.name, &image.reference, &Platform::here()).await {
            Ok(whole) => Ok(Pulled::Store(whole)),
            Err(error) => Err(Failure::of_store(&error)),
        },
    }
}

/// Does one after the other; says whether all went well.
async fn tidy(cri: Cri, marks: Marks, metrics: Metrics, todo: Vec<Tidying>) -> bool {
    let mut well = true;
    for one in todo {
        match one {
            Tidying::Mark { id, mark, private, pinned } => {
                if let Err(error) = marks.set(&id, mark, private, pinned).await {
                    tracing::warn!(id, pinned, %error, "an image could not be pinned or unpinned");
                    well = false;
                }
            }
            Tidying::Remove { id, name, bytes } => match remove(&cri, &id, true).await {
                Ok(true) => {
                    metrics.removed(bytes);
                    tracing::info!(image = name, bytes, "removed: no ImageCache wants it any more");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(image = name, %error, "could not be removed");
                    well = false;
                }
            },
        }
    }
    well
}

/// The size of the filesystem of a folder and what is free on it, in bytes.
async fn room(folder: Option<PathBuf>) -> Option<(u64, u64)> {
    let folder = folder?;
    let found = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&folder)).await.ok()?.ok()?;
    Some((found.f_blocks.saturating_mul(found.f_frsize), found.f_bavail.saturating_mul(found.f_frsize)))
}

/// Removes one after the other, those for the disk's sake until there is enough room on it; gives those that went.
async fn clean(
    cri: Cri,
    metrics: Metrics,
    todo: Vec<Removable>,
    folder: Option<PathBuf>,
    enough: u64,
) -> Vec<Removable> {
    let mut removed = Vec::new();
    for one in todo {
        if one.why == Why::DiskFull && room(folder.clone()).await.is_none_or(|(_, free)| free >= enough) {
            continue;
        }
        let (image, bytes, reason) = (&one.name, one.bytes, one.why.as_str());
        match remove(&cri, &one.id, false).await {
            Ok(true) => {
                metrics.cleaned(one.why, bytes);
                tracing::info!(image, bytes, reason, "removed: nothing has used it");
                removed.push(one);
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(image, reason, %error, "could not be removed"),
        }
    }
    removed
}

/// Removes an image, unless a container has come to use it or, where that counts, somebody has pinned it; says whether it did.
async fn remove(cri: &Cri, id: &str, even_pinned: bool) -> Result<bool, CriError> {
    match cri.image(id).await? {
        Some(image) if (even_pinned || !image.pinned) && !image.is_among(&cri.used().await?) => {
            cri.remove(id).await.map(|()| true)
        }
        _ => Ok(false),
    }
}
