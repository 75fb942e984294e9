use std::borrow::Cow;
use std::sync::Arc;

use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::NamespaceResourceScope;
use serde::{Deserialize, Deserializer};

use super::Texts;

/// A pod, of which no more is read than what is kept: there may be hundreds of thousands, and each changes often.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Pod {
    #[serde(deserialize_with = "name_alone")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
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

fn name_alone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    #[derive(Default)]
    struct Name {
        name: Option<String>,
        namespace: Option<String>,
        resource_version: Option<String>,
    }
    let Name { name, namespace, resource_version } = Name::deserialize(deserializer)?;
    Ok(ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() })
}

impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
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
pub fn reduce(pod: Pod, texts: &mut Texts) -> (PodKey, PodImages) {
    let Pod { metadata, spec } = pod;
    let key = PodKey {
        namespace: texts.text(metadata.namespace.as_deref().unwrap_or_default()),
        name: metadata.name.unwrap_or_default().into(),
    };
    let containers = [spec.init_containers, spec.containers, spec.ephemeral_containers];
    let containers = containers.iter().flatten().flatten().filter_map(|one| one.image.as_deref());
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
    let mut images: Vec<Arc<str>> =
        containers.chain(volumes).filter(|image| !image.is_empty()).map(|image| texts.text(image)).collect();
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
        let (key, images) = reduce(pod("a"), &mut texts);
        assert_eq!((&*key.namespace, &*key.name), ("shop", "a"));
        assert_eq!(images.iter().map(|image| &**image).collect::<Vec<_>>(), ["app:1", "debug:1", "init:1", "model:1"]);
        let (_, others) = reduce(pod("b"), &mut texts);
        assert!(Arc::ptr_eq(&images, &others));
        let gone: Pod = serde_json::from_value(json!({"metadata": {"name": "x", "namespace": "y"}})).unwrap();
        assert!(reduce(gone, &mut texts).1.is_empty());
    }
}
