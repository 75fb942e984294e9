use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{Need, Session, reason};
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// So long a Lease is good after it was renewed.
const GOOD_FOR: Duration = Duration::from_secs(15);

/// Who holds it lets go of everything when it could not renew it for so long: well before others may take it.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);

/// How often it is renewed or, by the others, looked at.
const RENEWED_EVERY: Duration = Duration::from_secs(3);

/// Which Lease, and who we are to it.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are. No two may be the same.
    pub identity: String,
}

/// Whether we are the one of several replicas that writes, as a Lease of the API server tells.
///
/// Whether another one's Lease has run out is told by how long it has stayed as it is by our own clock, and not by the times in it: clocks
/// of machines differ. Every change of it says which version it is about, so that of two who take it at once one fails.
pub struct Lease {
    settings: LeaseSettings,
    session: Arc<Session>,
    leading: watch::Sender<bool>,
    /// What was last seen, and since when it has been so.
    seen: Option<(String, Instant)>,
    /// When we last renewed it.
    renewed: Option<Instant>,
}

/// A step on the way failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Way(#[from] apiserver::NoWay),
    #[error("{0}")]
    Request(#[from] kube::Error),
}

impl Lease {
    /// Nobody yet.
    pub fn new(settings: LeaseSettings, session: Arc<Session>) -> Lease {
        Lease { settings, session, leading: watch::Sender::new(false), seen: None, renewed: None }
    }

    /// Whether we lead, now and as it changes.
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.leading.subscribe()
    }

    /// Takes the Lease when it is free and keeps it, until `stop`; then lets it go, so that another takes over at once.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut told = None;
        while !stop.is_cancelled() {
            let limit = GIVEN_UP_AFTER.saturating_sub(RENEWED_EVERY);
            let tried = tokio::time::timeout(limit, self.step()).await;
            let holds = match tried {
                Ok(Ok(holds)) => {
                    told = None;
                    holds
                }
                Ok(Err(error)) => {
                    self.say(&error, &mut told);
                    self.still()
                }
                Err(_) => self.still(),
            };
            self.lead(holds);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(RENEWED_EVERY) => {}
            }
        }
        let held = *self.leading.borrow();
        self.lead(false);
        if held {
            // Whoever comes next waits for it to run out otherwise.
            let _ = tokio::time::timeout(RENEWED_EVERY, self.let_go()).await;
        }
    }

    /// Whether what we hold is still ours although it could not be renewed this time.
    fn still(&self) -> bool {
        *self.leading.borrow() && self.renewed.is_some_and(|renewed| renewed.elapsed() + RENEWED_EVERY < GIVEN_UP_AFTER)
    }

    fn lead(&mut self, holds: bool) {
        let identity = &self.settings.identity;
        self.leading.send_if_modified(|leading| {
            let changes = *leading != holds;
            *leading = holds;
            match (changes, holds) {
                (true, true) => tracing::info!(identity, "leading: this replica writes"),
                (true, false) => tracing::info!(identity, "not leading any more"),
                (false, _) => {}
            }
            changes
        });
    }

    fn say(&self, error: &Failed, told: &mut Option<String>) {
        let why = match error {
            Failed::Request(error) => {
                self.session.failed(error);
                // Another one was faster: nothing is wrong.
                if matches!(error, kube::Error::Api(status) if status.code == 409) {
                    return;
                }
                reason(error, &Need::of::<Object>("get, create, update", Some(&self.settings.namespace)))
            }
            Failed::Way(error) => error.to_string(),
        };
        if told.as_ref() != Some(&why) {
            tracing::warn!(why, lease = %self.settings.name, "cannot ask who leads; nothing is written until that is known");
            *told = Some(why);
        }
    }

    /// Takes or renews the Lease if that is right. Says whether it is ours.
    async fn step(&mut self) -> Result<bool, Failed> {
        let leases: Api<Object> = Api::namespaced(self.session.client().await?, &self.settings.namespace);
        let begun = Instant::now();
        let Some(mut lease) = leases.get_opt(&self.settings.name).await? else {
            let meta = ObjectMeta { name: Some(self.settings.name.clone()), ..ObjectMeta::default() };
            let lease = Object { metadata: meta, spec: Some(self.held(0)) };
            leases.create(&PostParams::default(), &lease).await?;
            self.renewed = Some(begun);
            return Ok(true);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, begun));
        }
        let changes = spec.lease_transitions.unwrap_or(0);
        if holder == self.settings.identity {
            let mut held = self.held(changes);
            held.acquire_time = spec.acquire_time;
            lease.spec = Some(held);
        } else {
            let good_for = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
            let good_for = good_for.map_or(GOOD_FOR, Duration::from_secs);
            let free = holder.is_empty() || self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() >= good_for);
            if !free {
                return Ok(false);
            }
            lease.spec = Some(self.held(changes + 1));
        }
        leases.replace(&self.settings.name, &PostParams::default(), &lease).await?;
        self.renewed = Some(begun);
        Ok(true)
    }

    fn held(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.settings.identity.clone()),
            lease_duration_seconds: i32::try_from(GOOD_FOR.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    async fn let_go(&self) -> Result<(), Failed> {
        let leases: Api<Object> = Api::namespaced(self.session.client().await?, &self.settings.namespace);
        let mut lease = leases.get(&self.settings.name).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.settings.identity) {
            spec.holder_identity = None;
            leases.replace(&self.settings.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}
