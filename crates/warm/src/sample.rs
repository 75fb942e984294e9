//! Objects as tests write them.

use api::{CachePolicySpec, ImageCache};
use serde_json::{Value, json};

/// An ImageCache called `namespace/name`.
pub fn cache(name: &str, spec: Value, status: Value) -> ImageCache {
    let (namespace, name) = name.split_once('/').expect("a namespace and a name");
    let object = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec, "status": status,
    });
    serde_json::from_value(object).expect("an ImageCache")
}

/// A policy.
pub fn policy(spec: Value) -> CachePolicySpec {
    serde_json::from_value(spec).expect("a policy")
}
