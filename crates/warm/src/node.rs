use std::sync::Arc;

use api::TaintEffect;
use api::names::WARMING_TAINT;
use k8s_openapi::api::core::v1;

use crate::Labels;

/// What of a node decides on its images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its taints, in their order.
    pub taints: Box<[Taint]>,
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: Arc<str>,
    /// Its value, or nothing.
    pub value: Arc<str>,
    /// What it does to pods. Whatever is not known here is none of ours.
    pub effect: Option<TaintEffect>,
}

impl Node {
    /// A node without taints.
    pub fn new<'a>(name: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Node {
        Node { name: name.into(), labels: labels.into_iter().collect(), taints: Box::default() }
    }

    /// Whether it has the taint of nodes that are not to take pods until they are warm.
    pub fn is_warming(&self) -> bool {
        self.taints.iter().any(|taint| &*taint.key == WARMING_TAINT)
    }
}

impl From<&v1::Node> for Node {
    fn from(node: &v1::Node) -> Node {
        let labels = node.metadata.labels.iter().flatten();
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        Node {
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            labels: labels.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            taints: taints.map(Taint::from).collect(),
        }
    }
}

impl From<&v1::Taint> for Taint {
    fn from(taint: &v1::Taint) -> Taint {
        Taint {
            key: taint.key.as_str().into(),
            value: taint.value.as_deref().unwrap_or_default().into(),
            effect: effect(&taint.effect),
        }
    }
}

fn effect(text: &str) -> Option<TaintEffect> {
    match text {
        "NoSchedule" => Some(TaintEffect::NoSchedule),
        "PreferNoSchedule" => Some(TaintEffect::PreferNoSchedule),
        "NoExecute" => Some(TaintEffect::NoExecute),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_matters_is_taken_from_a_node() {
        let node: v1::Node = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "a", "labels": {"pool": "web"}},
            "spec": {"taints": [
                {"key": WARMING_TAINT, "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"},
                {"key": "x", "value": "y", "effect": "NoSuchEffect"},
            ]},
        }))
        .unwrap();
        let read = Node::from(&node);
        assert_eq!((&*read.name, read.labels.get("pool"), read.is_warming()), ("a", Some("web"), true));
        let expected = Taint { key: "x".into(), value: "y".into(), effect: None };
        assert_eq!((read.taints.len(), &read.taints[1]), (2, &expected));
        assert!(!Node::from(&v1::Node::default()).is_warming());
    }
}
