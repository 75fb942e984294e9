use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use super::Texts;
use super::part::{AllLabels, Conditions, Part};

/// A node, of which no more is read than what is kept: most of it is the images that kubelet tells of.
pub type Node = Part<v1::Node, AllLabels, NodeSpec, Conditions>;

/// What keeps pods off a node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeSpec {
    taints: Option<Vec<v1::Taint>>,
}

/// What is kept of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// What decides on its images.
    pub node: warm::Node,
    /// When it was made.
    pub created: Option<Time>,
    /// Its uid, where it is still warming: for the event that says why it is no longer.
    pub uid: Option<Box<str>>,
    /// Kubernetes says that it is not ready: it is down or cannot be heard.
    pub away: bool,
}

impl KnownNode {
    /// Of a node as the API server has it.
    pub fn of(node: &Node, texts: &mut Texts) -> KnownNode {
        let metadata = node.metadata();
        let labels = metadata.labels.iter().flatten();
        let taints = node.spec.taints.iter().flatten();
        let kept = warm::Node {
            name: texts.text(metadata.name.as_deref().unwrap_or_default()),
            labels: labels.map(|(key, value)| (texts.text(key), texts.text(value))).collect(),
            taints: taints.map(warm::Taint::from).collect(),
        };
        let uid = metadata.uid.as_deref().filter(|_| kept.is_warming()).map(Box::from);
        let away = node.status.any("Ready", |status| status != "True");
        KnownNode { node: kept, created: metadata.creation_timestamp.clone(), uid, away }
    }
}
