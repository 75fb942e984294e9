//! An index as tests feed it.

use api::{ImageCache, WorkloadKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::index::{
    CacheKey, Deployment, Index, KnownNode, Node, NodeCache, Pod, PodKey, Report, WorkloadKey, cache_reduced,
    pod_reduced, upstream_reduced, workload_reduced,
};

/// A moment of the day that all tests are on.
pub(crate) fn at(minute: i64, second: i64) -> Time {
    serde_json::from_value(json!(format!("2026-01-01T12:{minute:02}:{second:02}Z"))).expect("a time")
}

/// Which ImageCache, as `namespace/name`.
pub(crate) fn key(name: &str) -> CacheKey {
    let (namespace, name) = name.split_once('/').expect("a namespace and a name");
    CacheKey { namespace: namespace.into(), name: name.into() }
}

impl Index {
    pub(crate) fn node(&mut self, name: &str, labels: Value, taints: Value) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "uid": format!("uid-of-{name}"), "labels": labels, "creationTimestamp": at(0, 0)},
            "spec": {"taints": taints},
        }))
        .expect("a node");
        let known = KnownNode::of(&node, self.texts());
        self.apply_node(known);
    }

    /// Images and their states.
    pub(crate) fn tells(&mut self, node: &str, ready: bool, images: &[(&str, &str)]) {
        let image = |(image, state): &(&str, &str)| match *state {
            "Failed" => json!({"image": image, "state": "Failed", "reason": "NotFound", "message": "no such tag"}),
            "GivenUp" => {
                json!({"image": image, "state": "Failed", "reason": "NotFound", "message": "no", "givenUp": true})
            }
            "Waits" => json!({"image": image, "state": "Wanted", "reason": api::WAITS_FOR_TURN}),
            state => json!({"image": image, "state": state}),
        };
        let condition = json!({
            "type": "Ready", "status": if ready { "True" } else { "False" }, "reason": "x", "message": "",
            "lastTransitionTime": at(0, 0),
        });
        let cache: NodeCache = serde_json::from_value(json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": node},
            "status": {"conditions": [condition], "images": images.iter().map(image).collect::<Vec<_>>()},
        }))
        .expect("a NodeCache");
        let report = Report::of(&cache, self.texts());
        self.apply_report(report);
    }

    pub(crate) fn wants(&mut self, name: &str, spec: Value) {
        let key = key(name);
        let cache: ImageCache = serde_json::from_value(json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache",
            "metadata": {"namespace": key.namespace, "name": key.name, "generation": 3}, "spec": spec,
        }))
        .expect("an ImageCache");
        self.apply_cache(key, cache_reduced(cache));
    }

    pub(crate) fn deployment(&mut self, name: &str, labels: Value, images: &[&str]) {
        let CacheKey { namespace, name } = key(name);
        let containers: Vec<_> = images.iter().map(|image| json!({"name": "c", "image": image})).collect();
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {"selector": {}, "template": {"spec": {"containers": containers}}},
        }))
        .expect("a Deployment");
        let (key, workload) = workload_reduced(&deployment, self.texts());
        self.apply_workload(key, workload);
    }

    /// A node that has these images with these digests.
    pub(crate) fn tells_digests(&mut self, node: &str, images: &[(&str, &str)]) {
        let image = |(image, digest): &(&str, &str)| json!({"image": image, "digest": digest, "state": "Present"});
        let cache: NodeCache = serde_json::from_value(json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": node},
            "status": {"images": images.iter().map(image).collect::<Vec<_>>()},
        }))
        .expect("a NodeCache");
        let report = Report::of(&cache, self.texts());
        self.apply_report(report);
    }

    pub(crate) fn pod(&mut self, name: &str, images: &[&str]) {
        let CacheKey { namespace, name } = key(name);
        let containers: Vec<_> = images.iter().map(|image| json!({"name": "c", "image": image})).collect();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name}, "spec": {"containers": containers},
        }))
        .expect("a pod");
        let (key, images) = pod_reduced(&pod, self.texts());
        self.apply_pod(key, images);
    }

    pub(crate) fn no_pod(&mut self, name: &str) {
        let CacheKey { namespace, name } = key(name);
        self.delete_pod(&PodKey { namespace: namespace.into(), name: name.into() });
    }

    pub(crate) fn no_deployment(&mut self, name: &str) {
        let CacheKey { namespace, name } = key(name);
        self.apply_workload(WorkloadKey { kind: WorkloadKind::Deployment, namespace, name }, None);
    }

    pub(crate) fn upstream(&mut self, name: &str, spec: Value) {
        let upstream = serde_json::from_value(json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "Upstream", "metadata": {"name": name, "generation": 4}, "spec": spec,
        }));
        let (name, upstream) = upstream_reduced(upstream.expect("an Upstream"));
        self.apply_upstream(name, Some(upstream));
    }

    pub(crate) fn rules(&mut self, spec: Value) {
        self.set_policy(Some(serde_json::from_value(spec).expect("a policy")));
    }
}
