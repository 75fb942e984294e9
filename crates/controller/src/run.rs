use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Session};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::discovery::{Discovery, Facts, Keeper};
use crate::follow::Followed;
use crate::gatekeeper::Gatekeeper;
use crate::lease::{Lease, LeaseSettings};
use crate::metrics::{Kind, Metrics};
use crate::prober::{Attendance, Prober};
use crate::provision::{Provider, provide};
use crate::refresh::{Refresher, Resolver};
use crate::usher::Usher;
use crate::writer::Writer;

/// Changes that come within so long are answered together.
const GATHER: Duration = Duration::from_millis(100);

/// Between two looks at everything at least: where thousands of nodes change, one look serves many changes.
const REST: Duration = Duration::from_secs(1);

/// All is looked at anew after so long, whatever happens.
const LOOK: Duration = Duration::from_secs(60);

/// What a controller is told.
#[derive(Clone)]
pub struct Settings {
    /// The API server.
    pub server: ApiServer,
    /// By which of several replicas one leads.
    pub lease: LeaseSettings,
    /// The certificates that whoever leads looks after, if any.
    pub certificates: Option<certificates::Settings>,
    /// By whom tags are asked for.
    pub resolver: Arc<dyn Resolver>,
    /// Who gets what nodes want for ImageCaches.
    pub provider: Arc<dyn Provider>,
    /// Who keeps what is in use.
    pub keeper: Arc<dyn Keeper>,
    /// By whom endpoints are asked whether they are there.
    pub prober: Arc<dyn Prober>,
}

/// The controller.
pub struct Controller {
    settings: Settings,
    followed: Arc<Followed>,
    session: Arc<Session>,
    facts: Arc<Facts>,
    metrics: Metrics,
}

impl Controller {
    /// Does nothing yet.
    pub fn new(settings: Settings, metrics: Metrics) -> Arc<Controller> {
        let session = Arc::new(Session::new(settings.server.clone()));
        Arc::new(Controller { settings, followed: Followed::new(), session, facts: Arc::default(), metrics })
    }

    /// Whether all that matters has been heard of, or why not. One that does not lead is ready too: it can take over.
    ///
    /// # Errors
    /// Something has never been listed in full.
    pub fn ready(&self) -> Result<(), String> {
        let missing = self.followed.never_heard_of();
        if missing.is_empty() { Ok(()) } else { Err(missing.join("\n")) }
    }

    /// Follows and, while it leads, writes, until `stop`; then lets go of the Lease.
    pub async fn run(&self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        self.followed.start(&self.settings.server, &mut tasks);
        let lease = Lease::new(self.settings.lease.clone(), self.session.clone());
        let leading = lease.leading();
        let end_lease = CancellationToken::new();
        let holding = tokio::spawn(lease.run(end_lease.clone()));
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work(leading) => {}
        }
        // Only now: what was being written has been given up, and another may write.
        end_lease.cancel();
        if let Err(error) = holding.await {
            tracing::warn!(%error, "the lease was not let go");
        }
        tasks.shutdown().await;
    }

    async fn work(&self, mut leading: watch::Receiver<bool>) {
        let mut writer = Writer::new(self.session.clone(), self.metrics.clone());
        let mut gatekeeper = Gatekeeper::new(self.session.clone(), self.metrics.clone());
        let mut usher = Usher::new(self.session.clone(), self.metrics.clone());
        let resolver = self.settings.resolver.clone();
        let mut refresher = Refresher::new(resolver, self.session.clone(), self.metrics.clone());
        let (followed, facts, keeper) = (self.followed.clone(), self.facts.clone(), self.settings.keeper.clone());
        let mut discovery = Discovery::new(followed, facts, keeper, self.session.clone(), self.metrics.clone());
        let (prober, metrics) = (self.settings.prober.clone(), self.metrics.clone());
        let mut attendance = Attendance::new(self.followed.clone(), prober, self.session.clone(), metrics);
        loop {
            self.metrics.leading.set(0);
            if leading.wait_for(|leading| *leading).await.is_err() {
                return;
            }
            self.metrics.leading.set(1);
            writer.forget();
            usher.rota.forget(Instant::now());
            refresher.forget().await;
            tokio::select! {
                () = self.lead(&mut writer, &mut gatekeeper, &mut usher, &mut refresher) => {}
                () = discovery.lead() => {}
                () = attendance.lead() => {}
                () = provide(&self.followed, &*self.settings.provider, &self.metrics) => {}
                () = self.certify() => {}
                // A write in progress is dropped, as another may lead by the time that it would be taken.
                _ = leading.wait_for(|leading| !*leading) => {}
            }
        }
    }

    async fn lead(&self, writer: &mut Writer, keeper: &mut Gatekeeper, usher: &mut Usher, refresher: &mut Refresher) {
        loop {
            let looked = Instant::now();
            let next = match self.followed.is_heard_of() {
                true => {
                    let turned = self.turn(usher).await;
                    self.step(writer, keeper, refresher).await.min(turned)
                }
                false => looked + LOOK,
            };
            tokio::select! {
                () = self.followed.changes.notified() => {
                    let soon = (Instant::now() + GATHER).max(looked + REST);
                    tokio::time::sleep_until(soon.into()).await;
                }
                () = refresher.hear(now) => tokio::time::sleep_until((looked + REST).into()).await,
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    /// Gives nodes their turns until there is nothing to give or take at the moment, and says when to look again.
    async fn turn(&self, usher: &mut Usher) -> Instant {
        let now = Instant::now();
        if let Some(then) = usher.rests(now) {
            return then;
        }
        // One after the other, so that what is taken from one can be given to another at once.
        for _ in 0..2 {
            let (changes, next) = usher.rota.changes(&self.followed.index(), Instant::now());
            if changes.is_empty() {
                return next.unwrap_or(now + LOOK);
            }
            usher.write(changes).await;
            if let Some(then) = usher.rests(Instant::now()) {
                return then;
            }
        }
        now + REST
    }

    /// Looks after the certificates for ever.
    async fn certify(&self) {
        match &self.settings.certificates {
            Some(settings) => match certificates::keep(self.session.clone(), settings.clone()).await {},
            None => std::future::pending().await,
        }
    }

    /// Writes what is to be written now, and says when to look again if nothing happens.
    async fn step(&self, writer: &mut Writer, keeper: &mut Gatekeeper, refresher: &mut Refresher) -> Instant {
        let now = now();
        let (statuses, releases, wait, granted, next_tag) = {
            let mut index = self.followed.index();
            index.take_change();
            let kinds = ["Node", "NodeCache", "ImageCache", "workload", "Pod", "CachedImage"];
            for (kind, size) in kinds.into_iter().zip(index.sizes()) {
                self.metrics.objects.get_or_create(&Kind { kind }).set(i64::try_from(size).unwrap_or(i64::MAX));
            }
            let (releases, wait) = index.releases(&now);
            if index.take_provided() {
                refresher.tags.try_private_anew();
            }
            let (due, next_tag) = refresher.tags.due(&index, &now, Instant::now());
            refresher.ask(due);
            self.facts.set(refresher.tags.facts());
            let granted = refresher.tags.granted(&index);
            (index.stale_statuses(&refresher.tags, &now), releases, wait, granted, next_tag)
        };
        let looked = Instant::now();
        let released = keeper.release(releases).await;
        let written = writer.write(statuses).await;
        let cleared = refresher.clear(granted).await;
        let others = [released, written, cleared, next_tag, wait.map(|wait| looked + wait)];
        others.into_iter().flatten().fold(looked + LOOK, Instant::min)
    }
}

/// The time, in whole seconds as statuses have it.
pub(crate) fn now() -> Time {
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default())
}
