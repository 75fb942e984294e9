use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Texts;

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
    pub fn of(node: &v1::Node, texts: &mut Texts) -> KnownNode {
        let labels = node.metadata.labels.iter().flatten();
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let kept = warm::Node {
            name: texts.text(node.metadata.name.as_deref().unwrap_or_default()),
            labels: labels.map(|(key, value)| (texts.text(key), texts.text(value))).collect(),
            taints: taints.map(warm::Taint::from).collect(),
        };
        let uid = node.metadata.uid.as_deref().filter(|_| kept.is_warming()).map(Box::from);
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let away = conditions.into_iter().any(|one| one.type_ == "Ready" && one.status != "True");
        KnownNode { node: kept, created: node.metadata.creation_timestamp.clone(), uid, away }
    }
}
