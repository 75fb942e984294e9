//! Whatever somebody writes into a custom resource, nothing that reads it panics, and what is written of it is small enough for the API server. K-13

use api::{CachePolicy, ImageCache, ImageCacheStatus, Upstream};
use controller::{CacheKey, Index, Tags};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DeserializeGuard;
use proptest::prelude::*;
use resources::{LARGE, specs};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use warm::{Node, Plan};

/// The most that a status may have of each, as the schema says.
const IMAGES: usize = 500;
const FAILURES: usize = 64;
const MESSAGE: usize = 32768;

fn object(kind: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": kind, "spec": spec,
        "metadata": {"name": "default", "namespace": "default", "generation": 1},
    })
}

/// As the controller and agents read it: what cannot be read is no object, and is left alone.
fn read<K: kube::Resource + DeserializeOwned>(object: &Value) -> Option<K> {
    let guarded: DeserializeGuard<K> = serde_json::from_value(object.clone()).expect("it has metadata");
    guarded.0.ok()
}

fn now() -> Time {
    serde_json::from_value(json!("2026-01-01T12:00:00Z")).expect("a time")
}

/// What the controller writes of an ImageCache among others under a policy, and what an agent makes of it.
fn heed(cache: ImageCache, policy: Option<CachePolicy>) -> ImageCacheStatus {
    let (policy, key) = (policy.map(|policy| policy.spec), CacheKey::of(&cache.metadata));
    let mut index = Index::default();
    index.set_policy(policy.clone());
    index.apply_cache(key.clone(), cache.clone());
    let tags = Tags::default();
    let mut stale = index.stale_statuses(&tags, &now());
    let (_, status) = stale.pop().expect("it has no status yet");
    index.releases(&now());
    index.provisions();
    // It comes back, and is not written again.
    let text = serde_json::to_value(&status).expect("a status is JSON");
    let written = ImageCache { status: serde_json::from_value(text).expect("what is written is read"), ..cache };
    index.apply_cache(key, written.clone());
    assert!(index.stale_statuses(&tags, &now()).is_empty(), "it would be written for ever");

    let node = Node::new("node-1", [("pool", "web"), ("a", "1")]);
    let plan = Plan::of(&node, &[written], &policy.unwrap_or_default());
    plan.next(&Default::default(), None, |_| true);
    status
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn an_image_cache_does_no_harm(
        spec in specs("ImageCache").expect("it is defined"), policy in specs("CachePolicy").expect("it is defined"),
    ) {
        let policy = read::<CachePolicy>(&object("CachePolicy", policy));
        let Some(cache) = read::<ImageCache>(&object("ImageCache", spec)) else { return Ok(()) };
        let status = heed(cache, policy);
        // Longer lists than the schema takes are refused before anybody reads them.
        prop_assert!(status.images.len() <= IMAGES + 1 && status.failures.len() <= FAILURES);
        prop_assert!(status.conditions.iter().all(|condition| condition.message.chars().count() <= MESSAGE));
        prop_assert!(status.conditions.iter().all(|condition| !condition.reason.is_empty()));
    }

    #[test]
    fn an_upstream_is_read_or_left_alone(spec in specs("Upstream").expect("it is defined")) {
        if let Some(upstream) = read::<Upstream>(&object("Upstream", spec)) {
            let again = serde_json::to_value(&upstream).expect("it is JSON");
            prop_assert_eq!(read::<Upstream>(&again).expect("what is written is read").spec, upstream.spec);
        }
    }
}

#[test]
fn some_of_what_is_tried_can_be_read_and_some_cannot() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let specs = specs("ImageCache").unwrap();
    let mut readable = 0;
    for _ in 0..200 {
        let spec = specs.new_tree(&mut runner).unwrap().current();
        readable += usize::from(read::<ImageCache>(&object("ImageCache", spec)).is_some());
    }
    assert!((40..160).contains(&readable), "{readable} of 200");
}

#[test]
fn as_large_as_any_object_it_does_no_harm() {
    let images: Vec<String> =
        (0..LARGE / 100).map(|number| format!("quay.io/{}:{number:0>30}", "a".repeat(60))).collect();
    let cache = read::<ImageCache>(&object("ImageCache", json!({ "images": images }))).unwrap();
    let status = heed(cache, None);
    assert_eq!((status.images.len(), status.failures.len()), (100, FAILURES));
    let text = serde_json::to_string(&status).unwrap();
    assert!(text.len() < 256 << 10, "{} bytes of status", text.len());
    // Unknown fields are none of it.
    let unknown = json!({"images": ["quay.io/a:1"], "unknown": "a".repeat(LARGE)});
    assert!(read::<ImageCache>(&object("ImageCache", unknown)).is_some());
}
