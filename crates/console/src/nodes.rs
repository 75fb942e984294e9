use api::{LastCleanup, NodeCache, WAITS_FOR_TURN};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

/// How a node does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// Its name.
    pub node: String,
    /// Whether its agent does its work; `Unknown` before it has said so.
    pub ready: String,
    /// Why it does not.
    pub message: Option<String>,
    /// How many images its runtime has.
    pub present: u32,
    /// How many ImageCaches want there.
    pub wanted: u32,
    /// How many of these are ready.
    pub warm: u32,
    /// How many of these cannot be made ready.
    pub failed: u32,
    /// How many of these wait for the node's turn, as only some nodes pull at once.
    pub waiting: u32,
    /// The bytes of the images that its runtime has.
    pub bytes: u64,
    /// The bytes in its agent's own store.
    pub store: u64,
    /// What is free of the filesystem of images, in hundredths, if that is known.
    pub free: Option<u64>,
    /// When images were last removed, or would have been.
    pub last_cleanup: Option<Time>,
}

/// All nodes that have an agent, by their names.
pub fn nodes(caches: &[NodeCache]) -> Vec<NodeRow> {
    let mut rows: Vec<NodeRow> = caches.iter().map(row).collect();
    rows.sort_by(|one, other| one.node.cmp(&other.node));
    rows
}

fn row(cache: &NodeCache) -> NodeRow {
    let status = cache.status.clone().unwrap_or_default();
    let waits = status.images.iter().filter(|image| image.reason.as_deref() == Some(WAITS_FOR_TURN));
    let waiting = u32::try_from(waits.count()).unwrap_or(u32::MAX);
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    NodeRow {
        node: cache.metadata.name.clone().unwrap_or_default(),
        ready: ready.map_or_else(|| "Unknown".to_owned(), |ready| ready.status.clone()),
        message: ready.filter(|ready| ready.status != "True").map(|ready| ready.message.clone()),
        present: status.present,
        wanted: status.wanted,
        warm: status.warm,
        failed: status.failed,
        waiting,
        bytes: status.bytes.images,
        store: status.bytes.store,
        free: (status.bytes.available * 100).checked_div(status.bytes.capacity),
        last_cleanup: status.last_cleanup.map(|cleanup| cleanup.time),
    }
}

/// What the last cleanup of a node removed, or would have.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// The node.
    pub node: String,
    /// What it did; nothing if it has not removed anything, nor would have.
    pub cleanup: Option<LastCleanup>,
}

/// What cleanups did, by node.
pub fn removed(caches: &[NodeCache]) -> Vec<Removed> {
    let one = |cache: &NodeCache| Removed {
        node: cache.metadata.name.clone().unwrap_or_default(),
        cleanup: cache.status.as_ref().and_then(|status| status.last_cleanup.clone()),
    };
    let mut all: Vec<Removed> = caches.iter().map(one).collect();
    all.sort_by(|one, other| one.node.cmp(&other.node));
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_that_has_said_nothing_is_unknown() {
        let object = |name: &str, status: serde_json::Value| -> NodeCache {
            let object = json!({"apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": name}, "status": status});
            serde_json::from_value(object).unwrap()
        };
        let condition = json!({"type": "Ready", "status": "False", "reason": "RuntimeUnavailable", "message": "it is away", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let told =
            json!({"conditions": [condition], "present": 3, "bytes": {"images": 7, "capacity": 200, "available": 50}});
        let rows = nodes(&[object("b", told), object("a", json!({}))]);
        assert_eq!((&*rows[0].node, &*rows[0].ready, rows[0].free), ("a", "Unknown", None));
        assert_eq!(
            (&*rows[1].ready, rows[1].message.as_deref(), rows[1].free),
            ("False", Some("it is away"), Some(25))
        );
    }
}
