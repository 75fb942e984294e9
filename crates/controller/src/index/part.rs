use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// An object of the kind `K`, of which no more is read than what is kept: of its labels `L`, of its spec `S` and of its status `T`. There may be
/// very many of them, and most of what they say is never asked for.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "L: Deserialize<'de> + Default + Into<Option<BTreeMap<String, String>>>, \
                 S: Deserialize<'de> + Default, T: Deserialize<'de> + Default")]
pub struct Part<K, L, S, T = Nothing> {
    #[serde(deserialize_with = "few::<L, _>")]
    metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: S,
    #[serde(default)]
    pub(super) status: T,
    #[serde(skip)]
    kind: PhantomData<fn() -> (K, L)>,
}

/// Nothing is read, whatever is there.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Nothing {}

impl From<Nothing> for Option<BTreeMap<String, String>> {
    fn from(Nothing {}: Nothing) -> Self {
        None
    }
}

/// The status of an object of Kubernetes itself, of which its conditions are read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Conditions {
    conditions: Option<Vec<Condition>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Conditions {
    /// Whether there is one of this type with a status of which that holds.
    pub(super) fn any(&self, kind: &str, holds: impl Fn(&str) -> bool) -> bool {
        self.conditions.iter().flatten().any(|one| one.r#type == kind && holds(&one.status))
    }
}

/// All labels are read.
pub type AllLabels = Option<BTreeMap<String, String>>;

impl<K, L, S, T> Part<K, L, S, T> {
    /// Its metadata: its names, its versions, when it was made, whose it is, and its labels where they are read.
    pub(super) fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

fn few<'de, L, D>(deserializer: D) -> Result<ObjectMeta, D::Error>
where
    L: Deserialize<'de> + Default + Into<Option<BTreeMap<String, String>>>,
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", bound = "L: Deserialize<'de> + Default")]
    struct Few<L> {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        creation_timestamp: Option<Time>,
        owner_references: Option<Vec<OwnerReference>>,
        #[serde(default)]
        labels: L,
    }
    let few = Few::<L>::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: few.name,
        namespace: few.namespace,
        uid: few.uid,
        resource_version: few.resource_version,
        creation_timestamp: few.creation_timestamp,
        owner_references: few.owner_references,
        labels: few.labels.into(),
        ..ObjectMeta::default()
    })
}

impl<K: Resource<DynamicType = ()>, L, S, T> Resource for Part<K, L, S, T> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    use super::*;

    #[derive(Clone, Debug, Default, Deserialize)]
    struct Spec {
        provider: Option<String>,
    }

    #[test]
    fn no_more_is_read_than_what_is_asked_for() {
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": "a", "uid": "u", "resourceVersion": "7", "labels": {"pool": "web"}, "annotations": {"x": "y"},
                "managedFields": [{"fieldsV1": {"f:x": {}}}],
            },
            "spec": {"provider": "p", "more": [1]}, "status": {"images": [{"names": ["n"]}]},
        });
        let node: Part<Node, AllLabels, Spec> = serde_json::from_value(object.clone()).unwrap();
        assert_eq!((node.metadata().name.as_deref(), node.spec.provider.as_deref()), (Some("a"), Some("p")));
        assert_eq!(node.meta().resource_version.as_deref(), Some("7"));
        assert_eq!(node.meta().labels.as_ref().map(BTreeMap::len), Some(1));
        assert!(node.meta().annotations.is_none() && node.meta().managed_fields.is_none());
        let node: Part<Node, Nothing, Nothing> = serde_json::from_value(object).unwrap();
        assert!(node.meta().labels.is_none() && node.meta().uid.as_deref() == Some("u"));
        assert_eq!(Part::<Node, Nothing, Nothing>::url_path(&(), None), Node::url_path(&(), None));
        // Of what is deleted, and in bookmarks, there may be little.
        let bare: Part<Node, AllLabels, Spec> = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert!(bare.spec.provider.is_none());
    }
}
