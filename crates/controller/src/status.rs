use std::collections::HashMap;
use std::sync::Arc;

use api::conditions::{self, Finding, Status};
use api::{ImageCache, ImageCacheStatus, ImageProgress};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use warm::{Left, Standing, Standings, Wanted, objections, selects};

use crate::failures::Failures;
use crate::index::{CacheKey, Index, Report, State};
use crate::tags::Tags;

/// Where the images of an ImageCache are in the lists of nodes, by these lists: nodes that want the same have the same list.
type Places = HashMap<*const Arc<str>, Vec<Option<usize>>>;

impl Index {
    /// The statuses that are not as the API server has them.
    pub fn stale_statuses(&self, tags: &Tags, now: &Time) -> Vec<(CacheKey, ImageCacheStatus)> {
        let standings = self.standings();
        let status = |(key, cache): (&CacheKey, &Arc<ImageCache>)| {
            let status = self.status(key, cache, &standings, tags, now);
            (cache.status.as_ref() != Some(&status)).then(|| (key.clone(), status))
        };
        self.caches().filter_map(status).collect()
    }

    /// What there is to say about an ImageCache.
    fn status(
        &self,
        key: &CacheKey,
        cache: &ImageCache,
        standings: &Standings,
        tags: &Tags,
        now: &Time,
    ) -> ImageCacheStatus {
        let standing = standings.standing(cache);
        let (wanted, no_images) = self.wanted(key, cache);
        let objections = objections(cache, &wanted, standing, self.policy());
        let mut failures = Failures::default();
        for none in &no_images {
            failures.everywhere(&none.text, "InvalidImage", &none.message);
        }
        for (image, left) in &wanted.left_out {
            let (reason, message) = match left {
                Left::Excluded => ("Excluded", "the CachePolicy says that it is not cached"),
                Left::TooMany => ("TooManyImages", "the ImageCache has more images than the CachePolicy allows"),
            };
            failures.everywhere(&image.to_string(), reason, message);
        }
        let wanted = if standing == Standing::Counts { wanted } else { Wanted::default() };
        let old = cache.status.clone().unwrap_or_default();
        for image in &wanted.images {
            if let Some(why) = tags.failure(image) {
                failures.everywhere(&image.to_string(), why.reason, &why.message);
            }
        }
        let mut progress = Progress::new(&wanted, &old, tags);
        if standing == Standing::Counts {
            for known in self.nodes().filter(|known| selects(&cache.spec, &known.node)) {
                progress.count(self.report(&known.node.name), &mut failures);
            }
        }
        let last_refresh = tags.refreshed(key, &wanted.images, &old);
        let mut status = ImageCacheStatus {
            observed_generation: cache.metadata.generation,
            conditions: old.conditions.clone(),
            image_count: count(wanted.images.len()),
            nodes: progress.nodes,
            warm_nodes: progress.warm_nodes,
            failed: failures.pulls(),
            images: progress.images.iter().map(|(_, one)| one.clone()).collect(),
            failures: failures.list(),
            last_refresh,
            last_turns: progress.last_turns(old.last_turns, now),
        };
        let waits = progress.waits.then(|| self.at_once(cache));
        let mut in_the_way: Vec<(&str, String)> =
            objections.iter().map(|objection| (objection.reason(), objection.to_string())).collect();
        in_the_way.extend(self.problems(key, cache).map(|problem| (problem.reason, problem.message.clone())));
        conclude(&mut status, &in_the_way, (standing, waits), &failures, now);
        status
    }

    /// How many nodes pull for an ImageCache at once at most.
    fn at_once(&self, cache: &ImageCache) -> u32 {
        let limits = [cache.spec.parallelism.nodes, self.policy().image_caches.nodes_at_once];
        limits.into_iter().flatten().min().unwrap_or(u32::MAX)
    }
}

/// What is counted over the nodes.
struct Progress {
    images: Vec<(Arc<str>, ImageProgress)>,
    places: Places,
    nodes: u32,
    warm_nodes: u32,
    /// Some node waits for its turn.
    waits: bool,
}

impl Progress {
    /// What is known of the tags counts, and what was known before where nobody has found out since.
    fn new(wanted: &Wanted, old: &ImageCacheStatus, tags: &Tags) -> Progress {
        let known: HashMap<&str, &ImageProgress> = old.images.iter().map(|one| (&*one.image, one)).collect();
        let images = wanted.images.iter().map(|image| {
            let text = image.to_string();
            let known = known.get(text.as_str());
            let digest = tags.digest(image).map(|digest| digest.to_string());
            let digest = digest.or_else(|| known.and_then(|known| known.digest.clone()));
            let private = tags.is_private(image).unwrap_or(known.is_some_and(|known| known.private));
            (text.as_str().into(), ImageProgress { image: text, digest, private, warm: 0, failed: 0 })
        });
        Progress { images: images.collect(), places: Places::new(), nodes: 0, warm_nodes: 0, waits: false }
    }

    /// One more node is selected, which says this.
    fn count(&mut self, report: Option<&Report>, failures: &mut Failures) {
        self.nodes += 1;
        let Some(report) = report else { return };
        let Progress { images, places, .. } = self;
        let list = report.images();
        let places = places
            .entry(list.as_ptr())
            .or_insert_with(|| images.iter().map(|(image, _)| list.binary_search(image).ok()).collect());
        let (mut warm, mut waits) = (0, false);
        for ((image, progress), place) in images.iter_mut().zip(places.iter()) {
            let Some(place) = *place else { continue };
            match report.state(place) {
                State::Warm => {
                    progress.warm += 1;
                    warm += 1;
                }
                State::Coming => {}
                State::Waits => waits = true,
                State::Failed | State::GivenUp => {
                    progress.failed += 1;
                    if let Some(failure) = report.failure(place) {
                        failures.on_node(image, &failure.reason, &failure.message, &report.node);
                    }
                }
            }
        }
        if warm == images.len() {
            self.warm_nodes += 1;
        }
        self.waits |= waits;
    }
}

/// How often nodes that wait for their turn are told that somebody gives turns.
const SAY_TURNS: i64 = 10 * 60;

impl Progress {
    /// When nodes were last told so, this time included.
    fn last_turns(&self, old: Option<Time>, now: &Time) -> Option<Time> {
        let is_due = old.as_ref().is_none_or(|old| now.0.as_second() - old.0.as_second() >= SAY_TURNS);
        if self.waits && is_due { Some(now.clone()) } else { old }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Writes the conditions.
fn conclude(
    status: &mut ImageCacheStatus,
    in_the_way: &[(&str, String)],
    (standing, at_once): (Standing, Option<u32>),
    failures: &Failures,
    now: &Time,
) {
    let generation = status.observed_generation;
    let (ready, message) = match in_the_way {
        [] => ("Accepted", "it is acted on".to_owned()),
        [(gravest, _), ..] => {
            let messages: Vec<&str> = in_the_way.iter().map(|(_, message)| &**message).collect();
            (*gravest, messages.join("; "))
        }
    };
    let (images, nodes, warm) = (status.image_count, status.nodes, status.warm_nodes);
    let (is_warm, why, progress) = match (images, nodes) {
        _ if standing != Standing::Counts => (false, "NotCounted", "nothing of it is done".to_owned()),
        (0, _) => (false, "NoImages", "there is no image to keep ready: no workload is selected".to_owned()),
        (_, 0) => (false, "NoNodes", "no node is selected".to_owned()),
        (_, 1) if warm == 1 => (true, "AllNodesWarm", "the one node has every image".to_owned()),
        _ if warm == nodes => (true, "AllNodesWarm", format!("all {nodes} nodes have every image")),
        _ => {
            let progress = format!("{warm} of {nodes} nodes have every image");
            let turns =
                at_once.map(|at_once| format!("; {at_once} pull at once at most, and others wait for their turn"));
            (false, "Warming", progress + &turns.unwrap_or_default())
        }
    };
    let failing = !failures.is_empty();
    let failing_reason = if failing { "SomeFail" } else { "NothingFails" };
    let findings = [
        (conditions::READY, Status::from(in_the_way.is_empty()), ready, message),
        (conditions::WARM, Status::from(is_warm), why, progress),
        (conditions::FAILING, Status::from(failing), failing_reason, failures.message()),
    ];
    for (kind, status_of, reason, message) in &findings {
        let finding = Finding { kind, status: *status_of, reason, message, generation };
        conditions::set(&mut status.conditions, &finding, now);
    }
}

#[cfg(test)]
mod tests {
    use api::conditions::find;
    use serde_json::json;

    use super::*;
    use crate::sample::{at, key};

    /// The status of the ImageCache that is not as it should be, which then is taken in.
    fn settle(index: &mut Index, name: &str) -> ImageCacheStatus {
        settle_at(index, name, &at(1, 0))
    }

    fn settle_at(index: &mut Index, name: &str, now: &Time) -> ImageCacheStatus {
        for (key, status) in index.stale_statuses(&Tags::default(), now) {
            let mut cache = (**index.cache(&key).unwrap()).clone();
            // As it comes back from the API server.
            cache.status = Some(serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap());
            index.apply_cache(key, cache);
        }
        assert!(index.stale_statuses(&Tags::default(), &at(2, 0)).is_empty(), "what was written is not written again");
        index.cache(&key(name)).unwrap().status.clone().unwrap()
    }

    fn condition<'a>(status: &'a ImageCacheStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
        let found = find(&status.conditions, kind).unwrap();
        assert_eq!(found.observed_generation, Some(3));
        (&found.status, &found.reason, &found.message)
    }

    fn names(status: &ImageCacheStatus) -> Vec<&str> {
        status.images.iter().map(|one| &*one.image).collect()
    }

    #[test]
    fn how_far_it_is_is_counted_over_the_selected_nodes() {
        let mut index = Index::default();
        index.wants("shop/web", json!({"images": ["docker.io/a:1", "quay.io/b:1"], "nodeSelector": {"pool": "web"}}));
        for name in ["n1", "n2", "n3"] {
            index.node(name, json!({"pool": "web"}), json!([]));
        }
        index.node("other", json!({"pool": "db"}), json!([]));
        let (a, b) = ("docker.io/library/a:1", "quay.io/b:1");
        index.tells("n1", true, &[(a, "Warm"), (b, "Warm"), ("quay.io/more:1", "Warm")]);
        index.tells("n2", true, &[(a, "Warm"), (b, "Pulling")]);
        index.tells("other", true, &[(a, "Warm"), (b, "Warm")]);
        index.tells("gone", true, &[(a, "Warm"), (b, "Warm")]);
        let status = settle(&mut index, "shop/web");
        assert_eq!((status.image_count, status.nodes, status.warm_nodes, status.failed), (2, 3, 1, 0));
        assert_eq!(status.images.iter().map(|one| (&*one.image, one.warm)).collect::<Vec<_>>(), [(a, 2), (b, 1)]);
        assert_eq!(status.observed_generation, Some(3));
        assert_eq!(condition(&status, "Ready"), ("True", "Accepted", "it is acted on"));
        assert_eq!(condition(&status, "Warm"), ("False", "Warming", "1 of 3 nodes have every image"));
        assert_eq!(condition(&status, "Failing").0, "False");

        for name in ["n2", "n3"] {
            index.tells(name, true, &[(a, "Warm"), (b, "Warm")]);
        }
        let warm = settle_at(&mut index, "shop/web", &at(1, 30));
        assert_eq!(condition(&warm, "Warm"), ("True", "AllNodesWarm", "all 3 nodes have every image"));
        assert_eq!(find(&warm.conditions, "Warm").unwrap().last_transition_time, at(1, 30));
        assert_eq!(find(&warm.conditions, "Ready").unwrap().last_transition_time, at(1, 0));

        // A node joins, and one leaves.
        index.node("n4", json!({"pool": "web"}), json!([]));
        index.delete_node("n1");
        let status = settle(&mut index, "shop/web");
        assert_eq!((status.nodes, status.warm_nodes), (3, 2));
        index.node("n2", json!({"pool": "db"}), json!([]));
        assert_eq!(settle(&mut index, "shop/web").nodes, 2);
        index.delete_report("n3");
        assert_eq!(settle(&mut index, "shop/web").warm_nodes, 0);
    }

    #[test]
    fn without_nodes_or_images_nothing_is_warm() {
        let mut index = Index::default();
        index.wants("shop/web", json!({"images": ["quay.io/a:1"]}));
        assert_eq!(condition(&settle(&mut index, "shop/web"), "Warm").1, "NoNodes");
        index.node("n1", json!({}), json!([]));
        index.wants("shop/none", json!({"workloads": {"selector": {}}}));
        assert_eq!(condition(&settle(&mut index, "shop/none"), "Warm").1, "NoImages");
    }

    #[test]
    fn images_of_workloads_are_known_before_their_pods() {
        let mut index = Index::default();
        index.wants("shop/web", json!({"images": ["quay.io/a:1"], "workloads": {"selector": {"matchLabels": {"app": "web"}}, "kinds": ["Deployment"]}}));
        index.deployment("shop/z", json!({"app": "web"}), &["nginx", "quay.io/a:1"]);
        index.deployment("shop/b", json!({"app": "web"}), &["ghcr.io/b:2"]);
        index.deployment("shop/c", json!({"app": "db"}), &["ghcr.io/c:1"]);
        index.deployment("other/d", json!({"app": "web"}), &["ghcr.io/d:1"]);
        let all = ["quay.io/a:1", "ghcr.io/b:2", "docker.io/library/nginx:latest"];
        assert_eq!(names(&settle(&mut index, "shop/web")), all);
        // A rollout changes the image, and a workload goes.
        index.deployment("shop/b", json!({"app": "web"}), &["ghcr.io/b:3"]);
        index.no_deployment("shop/z");
        assert_eq!(names(&settle(&mut index, "shop/web")), ["quay.io/a:1", "ghcr.io/b:3"]);
        index.wants("shop/jobs", json!({"workloads": {"selector": {}, "kinds": ["Job"]}}));
        assert!(names(&settle(&mut index, "shop/jobs")).is_empty());
    }

    #[test]
    fn what_is_no_image_is_a_failure() {
        let mut index = Index::default();
        index.wants("shop/web", json!({"workloads": {"selector": {}}}));
        index.deployment("shop/a", json!({}), &["$(IMAGE)", "quay.io/a:1"]);
        let status = settle(&mut index, "shop/web");
        assert_eq!((names(&status), status.failed), (vec!["quay.io/a:1"], 0));
        let failure = &status.failures[0];
        assert_eq!((&*failure.image, &*failure.reason, failure.nodes), ("$(IMAGE)", "InvalidImage", 0));
        assert!(failure.message.contains("Deployment a names"), "{}", failure.message);
        assert_eq!(condition(&status, "Failing").0, "True");
    }

    #[test]
    fn failures_of_nodes_are_put_together() {
        let mut index = Index::default();
        index.wants("shop/web", json!({"images": ["quay.io/a:1", "quay.io/b:1"]}));
        for name in ["n1", "n2", "n3"] {
            index.node(name, json!({}), json!([]));
        }
        index.tells("n1", true, &[("quay.io/a:1", "Failed"), ("quay.io/b:1", "Failed")]);
        index.tells("n2", true, &[("quay.io/a:1", "Failed"), ("quay.io/b:1", "Warm")]);
        index.tells("n3", true, &[("quay.io/x:1", "Failed")]);
        let status = settle(&mut index, "shop/web");
        assert_eq!((status.failed, status.images[0].failed, status.images[1].failed), (3, 2, 1));
        let listed: Vec<_> = status.failures.iter().map(|one| (&*one.image, one.nodes, &*one.node)).collect();
        assert_eq!(listed, [("quay.io/a:1", 2, "n1"), ("quay.io/b:1", 1, "n1")]);
        let (holds, _, message) = condition(&status, "Failing");
        assert_eq!((holds, message), ("True", "quay.io/a:1 on 2 nodes, such as n1: no such tag (1 more failures)"));
        // It is mended.
        for name in ["n1", "n2"] {
            index.tells(name, true, &[("quay.io/a:1", "Warm"), ("quay.io/b:1", "Warm")]);
        }
        let status = settle(&mut index, "shop/web");
        assert_eq!((status.failed, status.failures.len(), condition(&status, "Failing").0), (0, 0, "False"));
    }

    #[test]
    fn the_policy_limits_what_is_done_and_the_status_says_so() {
        let mut index = Index::default();
        index.node("n1", json!({}), json!([]));
        index.wants("shop/a", json!({"images": ["quay.io/a:1", "quay.io/b:1", "ghcr.io/c:1"], "gateNodes": true}));
        index.wants("shop/b", json!({"images": ["quay.io/a:1"]}));
        index.rules(json!({
            "imageCaches": {"images": 1, "perNamespace": 1, "gateNodes": "Refuse"},
            "images": {"exclude": [{"registry": "ghcr.io"}]},
        }));
        let status = settle(&mut index, "shop/a");
        assert_eq!(names(&status), ["quay.io/a:1"]);
        let (holds, reason, message) = condition(&status, "Ready");
        assert_eq!((holds, reason), ("False", "TooManyImages"));
        assert!(
            message.contains("allows 1") && message.contains("ghcr.io/c:1") && message.contains("gateNodes"),
            "{message}"
        );
        let reasons: Vec<_> = status.failures.iter().map(|one| (&*one.image, &*one.reason)).collect();
        assert_eq!(reasons, [("ghcr.io/c:1", "Excluded"), ("quay.io/b:1", "TooManyImages")]);
        let status = settle(&mut index, "shop/b");
        assert_eq!((condition(&status, "Ready").1, condition(&status, "Warm").1), ("TooManyImageCaches", "NotCounted"));
        assert_eq!((status.nodes, status.image_count), (0, 0));
        // The policy goes, and all is well.
        index.set_policy(None);
        assert_eq!(condition(&settle(&mut index, "shop/b"), "Ready").0, "True");
        assert_eq!(names(&settle(&mut index, "shop/a")).len(), 3);
    }

    #[test]
    fn what_tags_mean_stays_in_the_status() {
        let mut index = Index::default();
        index.wants("shop/web", json!({"images": ["quay.io/a:1"]}));
        settle(&mut index, "shop/web");
        let digest = format!("sha256:{}", "a".repeat(64));
        let mut cache = (**index.cache(&key("shop/web")).unwrap()).clone();
        let status = cache.status.as_mut().unwrap();
        status.images[0].digest = Some(digest.clone());
        status.last_refresh = Some(at(0, 5));
        cache.spec.images.push("quay.io/b:1".parse().unwrap());
        index.apply_cache(key("shop/web"), cache);
        let status = settle(&mut index, "shop/web");
        assert_eq!((status.images[0].digest.as_ref(), status.images[1].digest.as_ref()), (Some(&digest), None));
        assert_eq!(status.last_refresh, Some(at(0, 5)));
    }

    #[test]
    fn what_changes_nothing_is_no_change() {
        let mut index = Index::default();
        index.node("n1", json!({"a": "b"}), json!([]));
        index.tells("n1", true, &[("quay.io/a:1", "Warm")]);
        assert!(index.take_change());
        index.node("n1", json!({"a": "b"}), json!([]));
        index.tells("n1", true, &[("quay.io/a:1", "Warm"), ("quay.io/present:1", "Present")]);
        assert!(!index.take_change());
        index.tells("n1", false, &[("quay.io/a:1", "Warm")]);
        assert!(index.take_change() && !index.take_change());
    }
}
