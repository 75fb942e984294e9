use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use api::Upstream;
use api::conditions::{self, Finding, READY};
use apiserver::{ApiServer, Need, Session, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rand::Rng;
use serde_json::json;
use tokio::sync::watch;

use super::listed::Verdict;

/// The name under which a registry writes to objects.
const FIELD_MANAGER: &str = "larder-registry";

/// Changes within this time are told together; several registries, who find the same, hardly ever write at once.
const GATHER: std::ops::Range<u64> = 100..1000;

/// How long what was written may take to come back by the watch.
const ECHO: Duration = Duration::from_secs(10);

/// How long after it failed a write is tried again at first, and at last.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_AT_MOST: Duration = Duration::from_secs(60);

/// How long a write may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Says in the status of each Upstream whether it is in use: the condition `Ready`, which nobody else writes.
pub struct Teller {
    session: Session,
    verdicts: watch::Receiver<Vec<Verdict>>,
    written: HashMap<String, (Condition, Instant)>,
    failures: u32,
    told: Option<String>,
}

impl Teller {
    pub fn new(server: ApiServer, verdicts: watch::Receiver<Vec<Verdict>>) -> Teller {
        Teller { session: Session::new(server), verdicts, written: HashMap::new(), failures: 0, told: None }
    }

    /// Tells for ever.
    pub async fn tell(&mut self) -> Infallible {
        loop {
            let next = self.write_all().await;
            tokio::select! {
                changed = self.verdicts.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                () = tokio::time::sleep(next) => {}
            }
            let gather = rand::rng().random_range(GATHER);
            tokio::time::sleep(Duration::from_millis(gather)).await;
        }
    }

    /// Writes what the API server does not say yet, and says when to look again if nothing happens.
    async fn write_all(&mut self) -> Duration {
        let verdicts = self.verdicts.borrow_and_update().clone();
        self.written.retain(|name, _| verdicts.iter().any(|verdict| verdict.name == *name));
        let now = Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
        let mut next = RETRY_AT_MOST;
        for verdict in verdicts {
            let Some(ready) = wanted(&verdict, &now) else { continue };
            if let Some((written, when)) = self.written.get(&verdict.name)
                && same(written, &ready)
                && when.elapsed() < ECHO
            {
                next = next.min(ECHO);
                continue;
            }
            let applied = tokio::time::timeout(LIMIT, self.apply(&verdict, &ready)).await;
            match applied.unwrap_or_else(|_| Err("the API server does not answer".to_owned())) {
                Ok(()) => {
                    (self.failures, self.told) = (0, None);
                    self.written.insert(verdict.name, (ready, Instant::now()));
                }
                Err(why) => {
                    if self.told.as_ref() != Some(&why) {
                        tracing::warn!(
                            upstream = verdict.name,
                            why,
                            "cannot write the status of an Upstream; trying again"
                        );
                        self.told = Some(why);
                    }
                    // The others would fail alike.
                    let rest = RETRY.saturating_mul(1 << self.failures.min(5)).min(RETRY_AT_MOST);
                    self.failures = self.failures.saturating_add(1);
                    return rest;
                }
            }
        }
        next
    }

    async fn apply(&self, verdict: &Verdict, ready: &Condition) -> Result<(), String> {
        let client = self.session.client().await.map_err(|error| error.to_string())?;
        let patch = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "Upstream",
            "metadata": {"name": verdict.name},
            "status": {"observedGeneration": verdict.generation, "conditions": [ready]},
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match Api::<Upstream>::all(client).patch_status(&verdict.name, &params, &Patch::Apply(&patch)).await {
            Ok(_) => Ok(()),
            // It was deleted meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => {
                self.session.failed(&error);
                Err(reason(&error, &Need::of::<Upstream>("patch", None).part("status")))
            }
        }
    }
}

/// The condition that the status is to have, unless it has it.
fn wanted(verdict: &Verdict, now: &Time) -> Option<Condition> {
    let message = verdict.state.to_string();
    let finding = Finding {
        kind: READY,
        status: verdict.state.status(),
        reason: verdict.state.reason(),
        message: &message,
        generation: verdict.generation,
    };
    let mut all = verdict.conditions.clone();
    conditions::set(&mut all, &finding, now).then(|| conditions::find(&all, READY).cloned()).flatten()
}

/// Whether two conditions say the same, whenever they were written.
fn same(one: &Condition, other: &Condition) -> bool {
    let said =
        |condition: &Condition| Condition { last_transition_time: Time(Timestamp::default()), ..condition.clone() };
    said(one) == said(other)
}
