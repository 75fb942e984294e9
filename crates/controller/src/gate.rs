use std::sync::Arc;
use std::time::Duration;

use api::names::WARMING_TAINT;
use api::{ImageCache, ImageCacheSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use warm::{Standing, gate_timeout, gates, selects};

use crate::index::{Index, KnownNode, Report, State};

/// A node that is to lose the taint [`WARMING_TAINT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its name.
    pub node: Arc<str>,
    /// Its uid.
    pub uid: String,
    /// Why.
    pub why: Why,
    /// What to change in it, as JSON Patch: only where the taint still is where it was seen.
    pub patch: Value,
}

/// Why a node loses the taint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has the images of all ImageCaches that it waits for, so many.
    Warm(usize),
    /// It has waited for so long.
    Timeout {
        /// How long it waits at most.
        after: Duration,
        /// What was not ready.
        missing: String,
    },
}

impl Index {
    /// The nodes that are to lose the taint now, and when to look again if nothing else happens.
    pub fn releases(&self, now: &Time) -> (Vec<Release>, Option<Duration>) {
        let standings = self.standings();
        let gating: Vec<_> = self
            .caches()
            .filter(|(_, cache)| gates(&cache.spec, self.policy()))
            .filter(|(_, cache)| standings.standing(cache) == Standing::Counts)
            .map(|(key, cache)| (key, cache, self.wanted(key, cache).0))
            .collect();
        let (mut releases, mut next) = (Vec::new(), None::<Duration>);
        for known in self.nodes().filter(|known| known.node.is_warming()) {
            let waits: Vec<(&ImageCache, &warm::Wanted, String)> = gating
                .iter()
                .filter(|(_, cache, _)| selects(&cache.spec, &known.node))
                .map(|(key, cache, wanted)| (&***cache, wanted, key.to_string()))
                .collect();
            let why = match self.missing(known, &waits) {
                None => Why::Warm(waits.len()),
                Some(missing) => {
                    let specs = waits.iter().map(|(cache, ..)| -> &ImageCacheSpec { &cache.spec });
                    let after = gate_timeout(specs, self.policy());
                    let left = after.saturating_sub(age(known, now));
                    if !left.is_zero() {
                        next = Some(next.map_or(left, |next| next.min(left)));
                        continue;
                    }
                    Why::Timeout { after, missing }
                }
            };
            releases.push(Release {
                node: known.node.name.clone(),
                uid: known.uid.as_deref().unwrap_or_default().to_owned(),
                why,
                patch: patch(known),
            });
        }
        (releases, next)
    }

    /// What keeps a node from taking pods, if something does.
    fn missing(&self, known: &KnownNode, waits: &[(&ImageCache, &warm::Wanted, String)]) -> Option<String> {
        // One of an earlier node of that name tells nothing about this one.
        let of_this = |report: &&Report| report.owner.is_none() || report.owner == known.uid;
        let Some(report) = self.report(&known.node.name).filter(of_this) else {
            return Some("its agent has not told anything yet".to_owned());
        };
        if !report.ready {
            return Some("its agent is not ready".to_owned());
        }
        for (_, wanted, name) in waits {
            let cold = |image: &&oci::Image| report.state_of(&image.to_string()) != Some(State::Warm);
            let cold: Vec<_> = wanted.images.iter().filter(cold).collect();
            if let Some(first) = cold.first() {
                return Some(format!("{} images of the ImageCache {name} are not ready, such as {first}", cold.len()));
            }
        }
        None
    }
}

fn age(known: &KnownNode, now: &Time) -> Duration {
    let Some(created) = &known.created else { return Duration::ZERO };
    Duration::from_secs(u64::try_from(now.0.as_second() - created.0.as_second()).unwrap_or(0))
}

/// Takes the taint away, from the last place it has to the first, so that the places before stay what they are.
fn patch(known: &KnownNode) -> Value {
    let places = known.node.taints.iter().enumerate().rev().filter(|(_, taint)| &*taint.key == WARMING_TAINT);
    let steps = places.flat_map(|(place, _)| {
        [
            json!({"op": "test", "path": format!("/spec/taints/{place}/key"), "value": WARMING_TAINT}),
            json!({"op": "remove", "path": format!("/spec/taints/{place}")}),
        ]
    });
    Value::Array(steps.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::at;

    const IMAGE: &str = "quay.io/a:1";

    fn warming() -> Value {
        json!([{"key": "other", "effect": "NoSchedule"}, {"key": WARMING_TAINT, "effect": "NoSchedule"}])
    }

    fn index(gate: Value) -> Index {
        let mut index = Index::default();
        index.node("n1", json!({"pool": "web"}), warming());
        index.wants("shop/web", gate);
        index
    }

    fn gating() -> Value {
        json!({"images": [IMAGE], "gateNodes": true, "gateTimeout": "5m", "tolerations": [{"operator": "Exists"}]})
    }

    #[test]
    fn a_node_is_released_when_it_is_warm_and_its_agent_ready() {
        let mut index = index(gating());
        let waits = |index: &Index| index.releases(&at(1, 0)).0.is_empty();
        assert!(waits(&index), "nobody has told anything");
        index.tells("n1", true, &[(IMAGE, "Pulling")]);
        assert!(waits(&index));
        index.tells("n1", false, &[(IMAGE, "Warm")]);
        assert!(waits(&index), "its agent is not ready");
        index.tells("n1", true, &[(IMAGE, "Warm")]);
        let (releases, next) = index.releases(&at(1, 0));
        let expected = json!([
            {"op": "test", "path": "/spec/taints/1/key", "value": WARMING_TAINT},
            {"op": "remove", "path": "/spec/taints/1"},
        ]);
        let release = &releases[0];
        assert_eq!(
            (&*release.node, &*release.uid, &release.why, &release.patch),
            ("n1", "uid-of-n1", &Why::Warm(1), &expected)
        );
        assert_eq!((releases.len(), next), (1, None));
        index.node("n1", json!({}), json!([]));
        assert!(waits(&index), "it has no such taint");
    }

    #[test]
    fn what_an_earlier_node_of_that_name_told_does_not_count() {
        let mut index = index(gating());
        let mut told = |owner: &str| {
            index.tells("n1", true, &[(IMAGE, "Warm")]);
            let mut report = index.report("n1").unwrap().clone();
            report.owner = Some(owner.into());
            index.apply_report(report);
            index.releases(&at(1, 0)).0.len()
        };
        assert_eq!(told("uid-of-another"), 0);
        assert_eq!(told("uid-of-n1"), 1);
    }

    #[test]
    fn every_gating_image_cache_must_be_warm() {
        let mut index = index(gating());
        index.wants(
            "shop/more",
            json!({"images": ["quay.io/b:1"], "gateNodes": true, "tolerations": [{"operator": "Exists"}]}),
        );
        index.wants("shop/calm", json!({"images": ["quay.io/c:1"]}));
        index.wants("shop/db", json!({"images": ["quay.io/d:1"], "gateNodes": true, "nodeSelector": {"pool": "db"}}));
        index.tells("n1", true, &[(IMAGE, "Warm"), ("quay.io/b:1", "Failed"), ("quay.io/c:1", "Pulling")]);
        assert!(index.releases(&at(1, 0)).0.is_empty());
        index.tells("n1", true, &[(IMAGE, "Warm"), ("quay.io/b:1", "Warm"), ("quay.io/c:1", "Pulling")]);
        assert_eq!(index.releases(&at(1, 0)).0[0].why, Why::Warm(2));
    }

    #[test]
    fn without_a_gating_image_cache_the_agent_alone_counts() {
        let mut index = index(json!({"images": [IMAGE], "tolerations": [{"operator": "Exists"}]}));
        assert!(index.releases(&at(1, 0)).0.is_empty());
        index.tells("n1", true, &[(IMAGE, "Wanted")]);
        assert_eq!(index.releases(&at(1, 0)).0[0].why, Why::Warm(0));
    }

    #[test]
    fn the_policy_may_refuse_gates() {
        let mut index = index(gating());
        index.rules(json!({"imageCaches": {"gateNodes": "Refuse"}}));
        index.tells("n1", true, &[]);
        assert_eq!(index.releases(&at(1, 0)).0[0].why, Why::Warm(0));
    }

    #[test]
    fn after_the_timeout_a_node_is_released_in_any_case() {
        let mut index = index(gating());
        index.tells("n1", true, &[(IMAGE, "Pulling")]);
        let (releases, next) = index.releases(&at(4, 0));
        assert_eq!((releases.len(), next), (0, Some(Duration::from_secs(60))));
        let Why::Timeout { after, missing } = &index.releases(&at(5, 0)).0[0].why else {
            panic!("it waited long enough")
        };
        assert_eq!(*after, Duration::from_secs(300));
        assert!(missing.contains("shop/web") && missing.contains(IMAGE), "{missing}");

        index.rules(json!({"imageCaches": {"gateTimeout": "2m"}}));
        assert!(index.releases(&at(1, 59)).0.is_empty());
        assert_eq!(index.releases(&at(2, 0)).0.len(), 1);
        // A node whose agent never comes waits as long as the policy says.
        index.delete_report("n1");
        let Why::Timeout { missing, .. } = &index.releases(&at(2, 0)).0[0].why else { panic!("it waited long enough") };
        assert!(missing.contains("agent"), "{missing}");
    }

    #[test]
    fn all_taints_of_that_key_go_and_the_others_stay() {
        let mut index = Index::default();
        let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect});
        let taints =
            json!([taint(WARMING_TAINT, "NoSchedule"), taint("x", "NoSchedule"), taint(WARMING_TAINT, "NoExecute")]);
        index.node("n1", json!({}), taints);
        index.tells("n1", true, &[]);
        let patch = index.releases(&at(0, 1)).0.remove(0).patch;
        let paths: Vec<_> = patch.as_array().unwrap().iter().map(|step| step["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["/spec/taints/2/key", "/spec/taints/2", "/spec/taints/0/key", "/spec/taints/0"]);
    }
}
