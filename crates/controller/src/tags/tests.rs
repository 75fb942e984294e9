use serde_json::{Value, json};

use super::*;
use crate::sample::{at, key};

const A: &str = "quay.io/a:1";

/// Tags with a clock, and the ImageCaches that want them.
struct Cluster {
    index: Index,
    tags: Tags,
    begun: Instant,
    /// Seconds since.
    now: u64,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster { index: Index::default(), tags: Tags::default(), begun: Instant::now(), now: 0 }
    }

    fn at(&self) -> Instant {
        self.begun + Duration::from_secs(self.now)
    }

    fn time(&self) -> Time {
        at(0, 0).0.checked_add(k8s_openapi::jiff::SignedDuration::from_secs(self.now as i64)).map(Time).unwrap()
    }

    fn due(&mut self) -> Vec<String> {
        let (time, at) = (self.time(), self.at());
        self.tags.due(&self.index, &time, at).0.iter().map(ToString::to_string).collect()
    }

    fn pass(&mut self, seconds: u64) -> Vec<String> {
        self.now += seconds;
        self.due()
    }

    fn answer(&mut self, image: &str, answer: Result<&str, Unresolved>) {
        let time = self.time();
        let answer = answer.map(|text| Resolved { digest: Digest::sha256(text.as_bytes()), private: false });
        self.tags.answered(&image.parse().unwrap(), answer, &time);
    }

    /// Writes the statuses that are not as they should be; says whose.
    fn write(&mut self) -> Vec<String> {
        let time = self.time();
        let stale = self.index.stale_statuses(&self.tags, &time);
        for (key, status) in &stale {
            let mut cache = (**self.index.cache(key).unwrap()).clone();
            cache.status = Some(serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap());
            self.index.apply_cache(key.clone(), cache);
        }
        assert!(self.index.stale_statuses(&self.tags, &time).is_empty(), "what was written is not written again");
        stale.into_iter().map(|(key, _)| key.to_string()).collect()
    }

    fn status(&self, name: &str) -> ImageCacheStatus {
        self.index.cache(&key(name)).unwrap().status.clone().unwrap()
    }

    fn annotate(&mut self, name: &str, value: Option<&str>) {
        let mut cache = (**self.index.cache(&key(name)).unwrap()).clone();
        let annotation = value.map(|value| (REFRESH_ANNOTATION.to_owned(), value.to_owned()));
        cache.metadata.annotations = Some(annotation.into_iter().collect());
        self.index.apply_cache(key(name), cache);
    }

    fn granted(&self) -> Vec<String> {
        self.tags.granted(&self.index).iter().map(ToString::to_string).collect()
    }
}

fn outage() -> Unresolved {
    let message = "it is down".to_owned();
    Unresolved { reason: "RegistryUnavailable", message, private: false, definite: false, pause: Duration::ZERO }
}

fn secret() -> Unresolved {
    Unresolved { reason: "CredentialNeeded", private: true, definite: true, ..outage() }
}

fn wants(images: Value) -> Value {
    json!({ "images": images })
}

#[test]
fn a_tag_is_asked_for_once_for_all_and_again_when_it_is_no_longer_fresh() {
    let mut cluster = Cluster::new();
    let digest = format!("quay.io/a@{}", Digest::sha256(b"x"));
    cluster.index.wants("shop/one", wants(json!([A, digest])));
    cluster.index.wants("shop/two", wants(json!([A])));
    assert_eq!(cluster.due(), [A]);
    assert!(cluster.pass(500).is_empty(), "it is being asked for");
    cluster.answer(A, Ok("old"));
    assert_eq!(cluster.due(), [A], "it took longer than it is fresh");
    cluster.answer(A, Ok("old"));
    assert!(cluster.pass(299).is_empty());
    assert_eq!(cluster.pass(1), [A]);
    let old = Digest::sha256(b"old").to_string();
    assert_eq!(cluster.write(), ["shop/one", "shop/two"]);
    for name in ["shop/one", "shop/two"] {
        assert_eq!(cluster.status(name).images[0].digest.as_ref(), Some(&old));
    }
    assert_eq!(cluster.status("shop/one").images[1].digest, None, "a digest needs no asking");
}

#[test]
fn who_wants_it_most_often_decides_and_what_is_immutable_is_asked_for_once() {
    let mut cluster = Cluster::new();
    let (b, c) = ("quay.io/b:1", "quay.io/c:1");
    cluster.index.rules(json!({"freshness": {"default": "10s", "patterns": [{"match": "b:*", "for": "immutable"}]}}));
    cluster.index.wants("shop/one", json!({"images": [A, c], "refreshInterval": "10m"}));
    cluster.index.wants("shop/two", json!({"images": [A], "refreshInterval": "2m"}));
    cluster.index.wants("shop/three", wants(json!([b, "quay.io/d:1"])));
    for image in cluster.due() {
        cluster.answer(&image, Ok("old"));
    }
    assert_eq!(cluster.pass(60), ["quay.io/d:1"], "no more often than once a minute");
    assert_eq!(cluster.pass(60), [A]);
    cluster.answer(A, Ok("old"));
    assert_eq!(cluster.pass(480), [A, c]);
    assert!(cluster.pass(100_000).is_empty(), "the immutable one is never asked for again");
}

#[test]
fn what_an_upstream_says_of_freshness_comes_before_the_policy() {
    let mut cluster = Cluster::new();
    cluster.index.rules(json!({"freshness": {"default": "10m", "patterns": [{"match": "b:*", "for": "immutable"}]}}));
    cluster.index.wants("shop/web", wants(json!([A, "quay.io/b:1", "ghcr.io/b:1", "ghcr.io/c:1", "docker.io/d/e:1"])));
    cluster.index.upstream("quay", json!({"registry": "quay.io", "freshness": {"default": "2m"}}));
    let pattern = json!([{"match": "c:*", "for": "3m"}]);
    cluster.index.upstream("ghcr", json!({"registry": "ghcr.io", "freshness": {"patterns": pattern}}));
    // It is younger, by its name.
    cluster.index.upstream("quay-2", json!({"registry": "quay.io", "freshness": {"default": "1m"}}));
    for image in cluster.due() {
        cluster.answer(&image, Ok("old"));
    }
    assert!(cluster.pass(119).is_empty());
    assert_eq!(cluster.pass(1), [A, "quay.io/b:1"], "beside an own default, patterns of the policy do not count");
    assert_eq!(cluster.pass(60), ["ghcr.io/c:1"]);
    assert_eq!(cluster.pass(420), ["docker.io/d/e:1"]);
}

#[test]
fn while_nothing_moves_little_is_written() {
    let mut cluster = Cluster::new();
    cluster.index.wants("shop/web", wants(json!([A])));
    cluster.due();
    cluster.answer(A, Ok("old"));
    cluster.write();
    assert_eq!(cluster.status("shop/web").last_refresh, Some(at(0, 0)));
    for _ in 0..11 {
        assert_eq!(cluster.pass(300), [A]);
        cluster.answer(A, Ok("old"));
        assert!(cluster.write().is_empty());
    }
    assert_eq!(cluster.pass(300), [A]);
    cluster.answer(A, Ok("old"));
    assert_eq!(cluster.write(), ["shop/web"], "once an hour");
    assert_eq!(cluster.status("shop/web").last_refresh, Some(cluster.time()));
    assert_eq!(cluster.pass(300), [A]);
    cluster.answer(A, Ok("new"));
    assert_eq!(cluster.write(), ["shop/web"]);
    let status = cluster.status("shop/web");
    assert_eq!(status.images[0].digest, Some(Digest::sha256(b"new").to_string()));
    assert_eq!(status.last_refresh, Some(cluster.time()));
}

#[test]
fn an_annotation_has_its_tags_asked_for_at_once_and_goes_when_the_status_says_so() {
    let mut cluster = Cluster::new();
    let b = "quay.io/b:1";
    cluster.index.wants("shop/web", wants(json!([A, b])));
    cluster.index.wants("shop/other", wants(json!(["quay.io/c:1"])));
    for image in cluster.due() {
        cluster.answer(&image, Ok("old"));
    }
    cluster.write();
    cluster.now += 10;
    cluster.annotate("shop/web", Some("later"));
    assert!(cluster.due().is_empty());
    cluster.annotate("shop/web", Some("now"));
    assert_eq!(cluster.due(), [A, b]);
    cluster.now += 1;
    cluster.answer(A, Ok("new"));
    cluster.write();
    assert!(cluster.granted().is_empty(), "one has not been answered");
    cluster.now += 1;
    cluster.answer(b, Err(outage()));
    assert!(cluster.granted().is_empty(), "nobody can read it yet");
    assert_eq!(cluster.write(), ["shop/web"]);
    assert_eq!(cluster.status("shop/web").last_refresh, Some(at(0, 12)));
    assert_eq!(cluster.granted(), ["shop/web"]);
    let now = cluster.at();
    cluster.tags.cleared(&key("shop/web"), now);
    assert!(cluster.granted().is_empty() && cluster.pass(5).is_empty(), "it is on its way");
    cluster.annotate("shop/web", None);
    assert!(cluster.due().is_empty());
    // Once more.
    cluster.annotate("shop/web", Some("now"));
    assert_eq!(cluster.pass(1), [A, b]);
}

#[test]
fn a_question_from_before_the_annotation_does_not_count() {
    let mut cluster = Cluster::new();
    cluster.index.wants("shop/web", wants(json!([A])));
    assert_eq!(cluster.due(), [A]);
    cluster.now += 1;
    cluster.annotate("shop/web", Some("now"));
    assert!(cluster.due().is_empty());
    cluster.answer(A, Ok("old"));
    cluster.write();
    assert!(cluster.granted().is_empty());
    assert_eq!(cluster.due(), [A]);
}

#[test]
fn what_failed_is_tried_again_after_pauses_and_told_when_it_lasts() {
    let mut cluster = Cluster::new();
    cluster.index.wants("shop/web", wants(json!([A])));
    cluster.due();
    cluster.answer(A, Ok("old"));
    cluster.write();
    assert_eq!(cluster.pass(300), [A]);
    for pause in [30, 60, 120] {
        cluster.answer(A, Err(outage()));
        let failures = cluster.status("shop/web").failures;
        assert!(failures.is_empty(), "{failures:?}");
        assert!(cluster.pass(pause - 1).is_empty());
        assert_eq!(cluster.pass(1), [A]);
    }
    cluster.write();
    let status = cluster.status("shop/web");
    assert_eq!((&*status.failures[0].reason, status.failures[0].nodes), ("RegistryUnavailable", 0));
    assert_eq!(status.images[0].digest, Some(Digest::sha256(b"old").to_string()), "what was known stays");
    cluster.answer(A, Err(Unresolved { pause: Duration::from_secs(3000), ..outage() }));
    assert!(cluster.pass(2999).is_empty(), "the registry wants a pause");
    assert_eq!(cluster.pass(1), [A]);
    cluster.answer(A, Ok("old"));
    cluster.write();
    assert!(cluster.status("shop/web").failures.is_empty());
}

#[test]
fn what_needs_a_credential_is_said_at_once() {
    let mut cluster = Cluster::new();
    cluster.index.wants("shop/web", wants(json!([A])));
    cluster.due();
    cluster.answer(A, Err(secret()));
    cluster.write();
    let status = cluster.status("shop/web");
    assert_eq!((status.images[0].private, &*status.failures[0].reason), (true, "CredentialNeeded"));
    assert!(cluster.pass(299).is_empty());
    assert_eq!(cluster.pass(1), [A]);
    cluster.answer(A, Err(outage()));
    cluster.write();
    assert!(cluster.status("shop/web").images[0].private, "an outage tells nothing about it");
    cluster.pass(300);
    cluster.answer(A, Ok("old"));
    cluster.write();
    assert!(!cluster.status("shop/web").images[0].private);
}

#[test]
fn who_leads_next_goes_on_where_the_last_one_was() {
    let mut cluster = Cluster::new();
    cluster.index.wants("shop/web", wants(json!([A])));
    cluster.due();
    cluster.answer(A, Ok("old"));
    cluster.write();
    cluster.now += 100;
    cluster.tags = Tags::default();
    assert!(cluster.due().is_empty());
    assert!(cluster.write().is_empty());
    assert_eq!(cluster.pass(200), [A]);
    // What nothing wants is forgotten.
    cluster.answer(A, Ok("old"));
    cluster.index.delete_cache(&key("shop/web"));
    assert!(cluster.due().is_empty() && cluster.tags.known.is_empty());
}

#[test]
fn what_needs_a_credential_is_asked_for_again_when_there_may_be_one() {
    let mut cluster = Cluster::new();
    cluster.index.wants("shop/web", wants(json!([A])));
    assert_eq!(cluster.due(), [A]);
    cluster.answer(A, Err(secret()));
    assert!(cluster.pass(60).is_empty(), "it is a no");
    cluster.tags.try_private_anew();
    assert_eq!(cluster.due(), [A]);
    // Said while it is being asked for, it counts for the next question.
    cluster.tags.try_private_anew();
    assert!(cluster.due().is_empty());
    cluster.answer(A, Err(secret()));
    assert_eq!(cluster.due(), [A]);
    cluster.answer(A, Ok("new"));
    cluster.tags.try_private_anew();
    assert!(cluster.due().is_empty(), "what is known is as fresh as before");
}
