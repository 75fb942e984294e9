use std::sync::Arc;

use k8s_openapi::api::core::v1;
use serde::Deserialize;

use super::Texts;
use super::part::{Nothing, Part};

/// A pod, of which no more is read than what is kept: there may be hundreds of thousands, and each changes often.
pub type Pod = Part<v1::Pod, Nothing, PodSpec>;

/// What of a pod, or of a template of pods, names images.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    init_containers: Option<Vec<Container>>,
    containers: Option<Vec<Container>>,
    ephemeral_containers: Option<Vec<Container>>,
    volumes: Option<Vec<Volume>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Container {
    image: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Volume {
    image: Option<ImageVolume>,
}

#[derive(Clone, Debug, Deserialize)]
struct ImageVolume {
    reference: Option<String>,
}

impl PodSpec {
    /// The images as they are written there, in their order.
    pub(super) fn images(&self) -> impl Iterator<Item = &str> {
        let containers = [&self.init_containers, &self.containers, &self.ephemeral_containers];
        let containers = containers.into_iter().flatten().flatten().filter_map(|one| one.image.as_deref());
        let volumes = self.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
        containers.chain(volumes).filter(|image| !image.is_empty())
    }
}

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Box<str>,
}

/// The images of a pod as they are written there, each once and sorted: those of all its containers, and those that it mounts. Pods that are made
/// from one template have one list.
pub type PodImages = Arc<[Arc<str>]>;

/// What is kept of a pod.
pub fn reduce(pod: &Pod, texts: &mut Texts) -> (PodKey, PodImages) {
    let metadata = pod.metadata();
    let key = PodKey {
        namespace: texts.text(metadata.namespace.as_deref().unwrap_or_default()),
        name: metadata.name.as_deref().unwrap_or_default().into(),
    };
    let mut images: Vec<Arc<str>> = pod.spec.images().map(|image| texts.text(image)).collect();
    images.sort();
    images.dedup();
    (key, texts.list(images))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_images_of_a_pod_are_kept_and_shared() {
        let pod = |name: &str| -> Pod {
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": "shop", "name": name, "labels": {"a": "b"}, "managedFields": [{"fieldsV1": {"f:x": {}}}]},
                "spec": {
                    "initContainers": [{"name": "i", "image": "init:1", "env": []}],
                    "containers": [{"name": "c", "image": "app:1"}, {"name": "d", "image": "app:1"}, {"name": "e"}],
                    "ephemeralContainers": [{"name": "x", "image": "debug:1"}],
                    "volumes": [{"name": "v", "image": {"reference": "model:1"}}, {"name": "w", "emptyDir": {}}],
                },
                "status": {"phase": "Running"},
            }))
            .unwrap()
        };
        let mut texts = Texts::default();
        let (key, images) = reduce(&pod("a"), &mut texts);
        assert_eq!((&*key.namespace, &*key.name), ("shop", "a"));
        assert_eq!(images.iter().map(|image| &**image).collect::<Vec<_>>(), ["app:1", "debug:1", "init:1", "model:1"]);
        let (_, others) = reduce(&pod("b"), &mut texts);
        assert!(Arc::ptr_eq(&images, &others));
        let gone: Pod = serde_json::from_value(json!({"metadata": {"name": "x", "namespace": "y"}})).unwrap();
        assert!(reduce(&gone, &mut texts).1.is_empty());
    }
}
