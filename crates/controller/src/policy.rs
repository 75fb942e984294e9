use std::sync::Arc;
use std::time::{Duration, Instant};

use api::conditions::{self, Finding, READY, Status};
use api::{CachePolicy, CachePolicyStatus, names};
use apiserver::Session;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use serde_json::json;

use crate::apply::apply_status;
use crate::index::Index;
use crate::metrics::Metrics;

/// Between two writes of which the second brings only figures, and more of it for each node: every node's agent hears of each write.
const REST_OF_FIGURES: Duration = Duration::from_secs(60);
const REST_PER_NODE: Duration = Duration::from_millis(100);

/// How long after it failed a write is tried again, and how long what was written may take to come back by the watch.
const RETRY: Duration = Duration::from_secs(5);
const ECHO: Duration = Duration::from_secs(10);

/// What the status of the CachePolicy says of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many are known.
    pub images: usize,
    /// The bytes of those that the larder registry has; nothing while it has not said so.
    pub bytes: Option<u64>,
}

impl Index {
    /// What the status of the CachePolicy is to be, if there is one. `untold` is why the larder registry has not heard for long what it is to keep.
    pub fn policy_status(&self, figures: Figures, untold: Option<&str>, now: &Time) -> Option<CachePolicyStatus> {
        let object = self.policy_object()?;
        let mut status = object.status.clone();
        status.observed_generation = object.generation;
        status.images = u32::try_from(figures.images).unwrap_or(u32::MAX);
        status.bytes = figures.bytes.unwrap_or(status.bytes);
        let (holds, reason, message) = match (&object.unreadable, untold) {
            (Some(why), _) => {
                (false, "Unreadable", format!("it cannot be read, and what it said before counts: {why}"))
            }
            (None, Some(why)) => (
                false,
                "RegistryNotTold",
                format!("the larder registry does not hear of it, and does what it was told last: {why}"),
            ),
            (None, None) => (true, "InForce", "it is in force".to_owned()),
        };
        let (status_of_it, generation) = (Status::from(holds), object.generation);
        let finding = Finding { kind: READY, status: status_of_it, reason, message: &message, generation };
        conditions::set(&mut status.conditions, &finding, now);
        Some(status)
    }
}

/// Writes the status of the CachePolicy when it says something else.
pub(crate) struct PolicyWriter {
    session: Arc<Session>,
    metrics: Metrics,
    /// What was written last, and when.
    written: Option<(CachePolicyStatus, Instant)>,
    not_before: Option<Instant>,
    told: Option<String>,
}

impl PolicyWriter {
    pub fn new(session: Arc<Session>, metrics: Metrics) -> PolicyWriter {
        PolicyWriter { session, metrics, written: None, not_before: None, told: None }
    }

    /// Forgets what was written: another replica may have written since.
    pub fn forget(&mut self) {
        (self.written, self.not_before) = (None, None);
    }

    /// Writes it, if it is another one than `old` and its time has come, where there are so many nodes. Says whether something is left to be written.
    pub async fn write(&mut self, status: &CachePolicyStatus, old: &CachePolicyStatus, nodes: usize) -> bool {
        if status == old {
            return false;
        }
        let now = Instant::now();
        if self.not_before.is_some_and(|then| now < then) {
            return true;
        }
        if let Some((written, when)) = &self.written {
            if written == status && now < *when + ECHO {
                return true;
            }
            let rest = REST_OF_FIGURES + REST_PER_NODE * u32::try_from(nodes).unwrap_or(u32::MAX);
            if says_the_same(written, status) && now < *when + rest {
                // They are looked at again in any case.
                return false;
            }
        }
        let object = (names::POLICY, Api::<CachePolicy>::all);
        let written = apply_status(&self.session, &self.metrics, "CachePolicy", object, json!(status)).await;
        match written {
            Ok(()) => {
                (self.told, self.not_before) = (None, None);
                self.written = Some((status.clone(), Instant::now()));
                false
            }
            Err(why) => {
                if self.told.as_ref() != Some(&why) {
                    tracing::warn!(why, "cannot write the status of the CachePolicy; trying again");
                    self.told = Some(why);
                }
                self.not_before = Some(Instant::now() + RETRY);
                true
            }
        }
    }
}

/// Whether nothing but figures is different.
fn says_the_same(one: &CachePolicyStatus, other: &CachePolicyStatus) -> bool {
    (one.observed_generation, &one.conditions) == (other.observed_generation, &other.conditions)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sample::at;

    fn index(policy: Value) -> Index {
        let mut index = Index::default();
        index.apply_policy(serde_json::from_value(policy).unwrap());
        index
    }

    fn policy(generation: i64) -> Value {
        json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "CachePolicy",
            "metadata": {"name": "default", "generation": generation}, "spec": {},
        })
    }

    const FIGURES: Figures = Figures { images: 3, bytes: Some(70) };

    fn ready(status: &CachePolicyStatus) -> (&str, &str, Option<i64>) {
        let condition = &status.conditions[0];
        (&condition.status, &condition.reason, condition.observed_generation)
    }

    #[test]
    fn it_says_that_the_policy_is_in_force_and_how_much_there_is() {
        let status = index(policy(4)).policy_status(FIGURES, None, &at(0, 0)).unwrap();
        assert_eq!((status.observed_generation, status.images, status.bytes), (Some(4), 3, 70));
        assert_eq!(ready(&status), ("True", "InForce", Some(4)));
        assert_eq!(Index::default().policy_status(FIGURES, None, &at(0, 0)), None, "there is no policy");
    }

    #[test]
    fn what_is_written_is_not_to_be_written_again() {
        let written = index(policy(4)).policy_status(FIGURES, None, &at(0, 0)).unwrap();
        let mut object = policy(4);
        object["status"] = serde_json::to_value(&written).unwrap();
        let mut index = index(object);
        assert_eq!(index.policy_status(FIGURES, None, &at(0, 9)), Some(written.clone()));
        // The registry has not said anything since this replica leads: what it said stays.
        let silent = index.policy_status(Figures { bytes: None, ..FIGURES }, None, &at(0, 9)).unwrap();
        assert_eq!(silent, written);
        index.delete_policy();
        assert_eq!(index.policy_status(FIGURES, None, &at(0, 9)), None);
    }

    #[test]
    fn what_keeps_it_from_being_in_force_is_said() {
        let mut index = index(policy(4));
        let untold = index.policy_status(FIGURES, Some("nobody answers"), &at(0, 0)).unwrap();
        assert_eq!(ready(&untold), ("False", "RegistryNotTold", Some(4)));
        assert!(untold.conditions[0].message.ends_with("nobody answers"));

        let broken = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "CachePolicy",
            "metadata": {"name": "default", "generation": 5}, "spec": {"retention": "all of it"},
        });
        let guard: kube::core::DeserializeGuard<CachePolicy> = serde_json::from_value(broken).unwrap();
        index.set_policy_object(Some(crate::index::KnownPolicy::of_unreadable(&guard.0.unwrap_err())));
        let unreadable = index.policy_status(FIGURES, None, &at(0, 0)).unwrap();
        assert_eq!(ready(&unreadable), ("False", "Unreadable", Some(5)));
    }

    #[test]
    fn figures_alone_can_wait() {
        let index = index(policy(4));
        let status = |figures| index.policy_status(figures, None, &at(0, 0)).unwrap();
        let untold = index.policy_status(FIGURES, Some("nobody answers"), &at(0, 0)).unwrap();
        assert!(says_the_same(&status(FIGURES), &status(Figures { images: 4, bytes: Some(71) })));
        assert!(!says_the_same(&status(FIGURES), &untold));
    }
}
