use std::collections::BTreeMap;

use api::{CachePolicySpec, CachedImage, ImageCache, NodeCache, NodeImageState};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use warm::Wanted;

/// An image, over all nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRow {
    /// The image as runtimes name it.
    pub image: String,
    /// How many pods use it, where that is known.
    pub pods: Option<u32>,
    /// How many workloads name it, where that is known.
    pub workloads: Option<u32>,
    /// Whether larder's registry has all of it, where that is known.
    pub registry: Option<bool>,
    /// How many nodes have it.
    pub nodes: u32,
    /// On how many it is wanted and ready.
    pub warm: u32,
    /// On how many it is wanted and comes, or waits for its turn.
    pub coming: u32,
    /// On how many it is wanted and cannot be made ready.
    pub failed: u32,
    /// Its size in bytes, as runtimes count it; the largest where they differ. What larder's registry has of it where no node has it.
    pub bytes: Option<u64>,
    /// When a container last used it on any node, where nodes look, or a pod in the cluster.
    pub last_used: Option<Time>,
    /// The digests that nodes have of it: more than one while a tag moves.
    pub digests: Vec<String>,
    /// The ImageCaches that want it, as `namespace/name`.
    pub wanted_by: Vec<String>,
    /// Why it fails, by node.
    pub failures: BTreeMap<String, String>,
}

/// All images that nodes have, ImageCaches want or CachedImages tell of, by their names.
pub fn images(
    nodes: &[NodeCache],
    caches: &[ImageCache],
    known: &[CachedImage],
    policy: &CachePolicySpec,
) -> Vec<ImageRow> {
    let mut rows: BTreeMap<String, ImageRow> = BTreeMap::new();
    for cache in caches {
        for image in Wanted::of_status(cache, policy).images {
            row(&mut rows, &image.to_string()).wanted_by.push(name_of(cache));
        }
    }
    for node in nodes {
        let status = node.status.as_ref();
        for image in status.into_iter().flat_map(|status| &status.images) {
            let row = row(&mut rows, &image.image);
            match image.state {
                NodeImageState::Present => row.nodes += 1,
                NodeImageState::Warm => {
                    row.nodes += 1;
                    row.warm += 1;
                }
                NodeImageState::Wanted | NodeImageState::Pulling => row.coming += 1,
                NodeImageState::Failed => {
                    row.failed += 1;
                    let why = image.reason.clone().unwrap_or_default();
                    row.failures.insert(node.metadata.name.clone().unwrap_or_default(), why);
                }
            }
            row.bytes = row.bytes.max(image.bytes);
            row.last_used = row.last_used.take().max(image.last_used.clone());
            if let Some(digest) = &image.digest
                && !row.digests.contains(digest)
            {
                row.digests.push(digest.clone());
            }
        }
    }
    for image in known {
        let row = row(&mut rows, &image.spec.image.to_string());
        let Some(status) = &image.status else { continue };
        (row.pods, row.workloads) = (Some(status.pods), Some(status.workloads));
        row.registry = Some(status.held.registry);
        row.bytes = row.bytes.or(status.bytes);
        row.last_used = row.last_used.take().max(status.last_used.clone());
    }
    rows.into_values().collect()
}

fn row<'a>(rows: &'a mut BTreeMap<String, ImageRow>, image: &str) -> &'a mut ImageRow {
    rows.entry(image.to_owned()).or_insert_with(|| ImageRow { image: image.to_owned(), ..ImageRow::default() })
}

pub(crate) fn name_of(cache: &ImageCache) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", text(&cache.metadata.namespace), text(&cache.metadata.name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, images: serde_json::Value) -> NodeCache {
        let object = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache",
            "metadata": {"name": name}, "status": {"images": images},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_nodes_say_is_put_together() {
        let nodes = [
            node(
                "a",
                json!([
                    {"image": "quay.io/a:1", "state": "Warm", "bytes": 5, "digest": "sha256:1", "lastUsed": "2026-01-01T00:00:00Z"},
                    {"image": "quay.io/b:1", "state": "Present", "bytes": 7},
                ]),
            ),
            node(
                "b",
                json!([
                    {"image": "quay.io/a:1", "state": "Failed", "reason": "ImageNotFound"},
                    {"image": "quay.io/b:1", "state": "Present", "lastUsed": "2026-01-02T00:00:00Z"},
                ]),
            ),
            node("c", json!([{"image": "quay.io/a:1", "state": "Pulling"}])),
        ];
        let cache = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache", "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"images": ["quay.io/a:1", "quay.io/nowhere:1"]},
        });
        let known = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "CachedImage", "metadata": {"name": "x"},
            "spec": {"image": "quay.io/b:1"},
            "status": {"pods": 3, "workloads": 1, "bytes": 9, "held": {"registry": true}, "lastUsed": "2026-01-03T00:00:00Z"},
        });
        let known = [serde_json::from_value(known).unwrap()];
        let rows = images(&nodes, &[serde_json::from_value(cache).unwrap()], &known, &CachePolicySpec::default());
        let names: Vec<_> = rows.iter().map(|row| (&*row.image, row.nodes, row.warm, row.coming, row.failed)).collect();
        assert_eq!(
            names,
            [("quay.io/a:1", 1, 1, 1, 1), ("quay.io/b:1", 2, 0, 0, 0), ("quay.io/nowhere:1", 0, 0, 0, 0)]
        );
        assert_eq!((rows[0].bytes, &*rows[0].wanted_by), (Some(5), &["shop/web".to_owned()][..]));
        assert_eq!(rows[0].failures["b"], "ImageNotFound");
        assert_eq!(rows[1].last_used.as_ref().unwrap().0.to_string(), "2026-01-03T00:00:00Z");
        assert_eq!((rows[1].pods, rows[1].registry, rows[1].bytes), (Some(3), Some(true), Some(7)));
        assert_eq!((rows[0].pods, rows[0].registry), (None, None));
    }
}
