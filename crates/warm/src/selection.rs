use std::sync::Arc;

use api::names::WARMING_TAINT;
use api::{
    ImageCacheSpec, LabelOperator, LabelSelector, NodeOperator, NodeRequirement, TaintEffect, Toleration,
    TolerationOperator,
};

use crate::{Labels, Node, Taint};

/// Taints that Kubernetes itself gives to nodes that are cordoned or in trouble, and that a DaemonSet's pods always tolerate.
///
/// For the same reason as there, they leave no node out here. A node that is drained for an hour comes back with its images; one that was
/// not reached for a minute does not lose its pins, nor its images to `onDelete`; and a node that has just joined is not ready until its
/// network is, which is the very time to prefetch in.
const OF_KUBERNETES: [&str; 7] = [
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/network-unavailable",
];

/// Why an ImageCache is not for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unselected {
    /// The node has not the labels of `nodeSelector`: it lacks this one, or has it with another value.
    Label(String),
    /// It meets none of `nodeSelectorTerms`.
    Terms,
    /// It has a taint of this key that is not tolerated.
    Taint(Arc<str>),
}

/// Whether an ImageCache is for a node.
pub fn selects(spec: &ImageCacheSpec, node: &Node) -> bool {
    selection(spec, node).is_ok()
}

/// The same with the reason.
///
/// # Errors
/// It is not for that node.
pub fn selection(spec: &ImageCacheSpec, node: &Node) -> Result<(), Unselected> {
    let other = spec.node_selector.iter().find(|(key, value)| node.labels.get(key) != Some(value));
    if let Some((key, _)) = other {
        return Err(Unselected::Label(key.clone()));
    }
    let mut terms = spec.node_selector_terms.iter();
    // As for pods, a term that requires nothing is met by nothing.
    let met = |requirements: &[NodeRequirement]| {
        !requirements.is_empty() && requirements.iter().all(|one| meets(&node.labels, one))
    };
    if !spec.node_selector_terms.is_empty() && !terms.any(|term| met(&term.match_expressions)) {
        return Err(Unselected::Terms);
    }
    match node.taints.iter().find(|taint| keeps_out(taint) && !spec.tolerations.iter().any(|one| tolerates(one, taint)))
    {
        Some(taint) => Err(Unselected::Taint(taint.key.clone())),
        None => Ok(()),
    }
}

fn keeps_out(taint: &Taint) -> bool {
    let hard = matches!(taint.effect, Some(TaintEffect::NoSchedule | TaintEffect::NoExecute));
    hard && &*taint.key != WARMING_TAINT && !OF_KUBERNETES.contains(&&*taint.key)
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    // An empty key and value are the same as none.
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = || toleration.value.as_deref().unwrap_or_default();
    let same_key = key == &*taint.key || (key.is_empty() && toleration.operator == TolerationOperator::Exists);
    let same_value = toleration.operator == TolerationOperator::Exists || value() == &*taint.value;
    same_key && same_value && toleration.effect.is_none_or(|effect| Some(effect) == taint.effect)
}

fn meets(labels: &Labels, requirement: &NodeRequirement) -> bool {
    let value = labels.get(&requirement.key);
    let listed = |value: &str| requirement.values.iter().any(|one| one == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let limit = || requirement.values.first().and_then(|value| number(value));
    let compared = || value.and_then(number).zip(limit());
    match requirement.operator {
        NodeOperator::In => value.is_some_and(listed),
        NodeOperator::NotIn => !value.is_some_and(listed),
        NodeOperator::Exists => value.is_some(),
        NodeOperator::DoesNotExist => value.is_none(),
        NodeOperator::Gt => compared().is_some_and(|(value, limit)| value > limit),
        NodeOperator::Lt => compared().is_some_and(|(value, limit)| value < limit),
    }
}

/// Whether a selector selects an object with these labels. An empty one selects all.
pub fn selects_labels(selector: &LabelSelector, labels: &Labels) -> bool {
    let same = selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
    same && selector.match_expressions.iter().all(|requirement| {
        let value = labels.get(&requirement.key);
        let listed = |value: &str| requirement.values.iter().any(|one| one == value);
        match requirement.operator {
            LabelOperator::In => value.is_some_and(listed),
            LabelOperator::NotIn => !value.is_some_and(listed),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    })
}

#[cfg(test)]
mod tests {
    use api::{LabelRequirement, NodeSelectorTerm};
    use serde_json::{Value, json};

    use super::*;

    fn node(labels: &[(&str, &str)], taints: &[(&str, &str, TaintEffect)]) -> Node {
        let taint = |(key, value, effect): &(&str, &str, TaintEffect)| Taint {
            key: (*key).into(),
            value: (*value).into(),
            effect: Some(*effect),
        };
        Node { taints: taints.iter().map(taint).collect(), ..Node::new("a", labels.iter().copied()) }
    }

    fn spec(json: Value) -> ImageCacheSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn without_a_selector_all_nodes_are_meant() {
        assert!(selects(&ImageCacheSpec::default(), &node(&[], &[])));
    }

    #[test]
    fn each_label_of_the_node_selector_must_be_there() {
        let spec = spec(json!({"nodeSelector": {"pool": "web", "disk": ""}}));
        assert!(selects(&spec, &node(&[("pool", "web"), ("disk", ""), ("more", "x")], &[])));
        assert_eq!(selection(&spec, &node(&[("disk", "")], &[])), Err(Unselected::Label("pool".into())));
        assert_eq!(
            selection(&spec, &node(&[("pool", "db"), ("disk", "")], &[])),
            Err(Unselected::Label("pool".into()))
        );
        assert_eq!(selection(&spec, &node(&[("pool", "web")], &[])), Err(Unselected::Label("disk".into())));
    }

    #[test]
    fn requirements_compare_labels_as_node_affinity_does() {
        let labels = [("zone", "a"), ("cores", "16"), ("name", "x"), ("negative", "-3")];
        for (key, operator, values, expected) in [
            ("zone", "In", &["a", "b"][..], true),
            ("zone", "In", &["b"], false),
            ("none", "In", &["a", ""], false),
            ("zone", "NotIn", &["b"], true),
            ("zone", "NotIn", &["a"], false),
            ("none", "NotIn", &["a"], true),
            ("zone", "Exists", &[], true),
            ("none", "Exists", &[], false),
            ("zone", "DoesNotExist", &[], false),
            ("none", "DoesNotExist", &[], true),
            ("cores", "Gt", &["15"], true),
            ("cores", "Gt", &["16"], false),
            ("cores", "Lt", &["17"], true),
            ("cores", "Lt", &["16"], false),
            ("cores", "Lt", &["9"], false),
            ("negative", "Lt", &["0"], true),
            ("name", "Gt", &["1"], false),
            ("name", "Lt", &["1"], false),
            ("none", "Lt", &["1"], false),
            ("cores", "Gt", &[], false),
        ] {
            let requirement = json!({"key": key, "operator": operator, "values": values});
            let requirement: NodeRequirement = serde_json::from_value(requirement).unwrap();
            let labels: Labels = labels.into_iter().collect();
            assert_eq!(meets(&labels, &requirement), expected, "{key} {operator} {values:?}");
        }
    }

    #[test]
    fn one_term_is_enough_and_all_of_its_requirements_are_needed() {
        let is = |key: &str, value: &str| json!({"key": key, "operator": "In", "values": [value]});
        let spec = spec(json!({
            "nodeSelector": {"os": "linux"},
            "nodeSelectorTerms": [
                {"matchExpressions": [is("zone", "a"), is("pool", "web")]},
                {"matchExpressions": [is("zone", "b")]},
            ],
        }));
        assert!(selects(&spec, &node(&[("os", "linux"), ("zone", "b")], &[])));
        assert!(selects(&spec, &node(&[("os", "linux"), ("zone", "a"), ("pool", "web")], &[])));
        assert_eq!(selection(&spec, &node(&[("os", "linux"), ("zone", "a")], &[])), Err(Unselected::Terms));
        assert_eq!(selection(&spec, &node(&[("zone", "b")], &[])), Err(Unselected::Label("os".into())));
    }

    #[test]
    fn an_empty_term_meets_no_node() {
        let empty = NodeSelectorTerm { match_expressions: Vec::new() };
        let spec = ImageCacheSpec { node_selector_terms: vec![empty], ..ImageCacheSpec::default() };
        assert_eq!(selection(&spec, &node(&[], &[])), Err(Unselected::Terms));
    }

    #[test]
    fn a_hard_taint_keeps_out_who_does_not_tolerate_it() {
        use TaintEffect::{NoExecute, NoSchedule, PreferNoSchedule};
        let gpu = |effect| node(&[], &[("gpu", "big", effect)]);
        for (tolerations, effect, expected) in [
            (json!([]), NoSchedule, false),
            (json!([]), NoExecute, false),
            (json!([]), PreferNoSchedule, true),
            (json!([{"key": "gpu", "value": "big"}]), NoSchedule, true),
            (json!([{"key": "gpu", "value": "small"}]), NoSchedule, false),
            (json!([{"key": "gpu"}]), NoSchedule, false),
            (json!([{"key": "gpu", "operator": "Exists"}]), NoExecute, true),
            (json!([{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}]), NoExecute, true),
            (json!([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]), NoExecute, false),
            (json!([{"key": "cpu", "operator": "Exists"}]), NoSchedule, false),
            (json!([{"operator": "Exists"}]), NoSchedule, true),
            (json!([{"operator": "Exists", "effect": "NoExecute"}]), NoSchedule, false),
            (json!([{"key": "cpu", "operator": "Exists"}, {"key": "gpu", "value": "big"}]), NoSchedule, true),
        ] {
            let spec = spec(json!({ "tolerations": tolerations }));
            assert_eq!(selects(&spec, &gpu(effect)), expected, "{tolerations} {effect:?}");
        }
        let two = node(&[], &[("gpu", "", NoSchedule), ("own", "", NoSchedule)]);
        let one = spec(json!({"tolerations": [{"key": "gpu"}]}));
        assert_eq!(selection(&one, &two), Err(Unselected::Taint("own".into())));
    }

    #[test]
    fn neither_the_warming_taint_nor_those_of_kubernetes_keep_anybody_out() {
        for key in OF_KUBERNETES.into_iter().chain([WARMING_TAINT]) {
            for effect in [TaintEffect::NoSchedule, TaintEffect::NoExecute] {
                assert!(selects(&ImageCacheSpec::default(), &node(&[], &[(key, "", effect)])), "{key}");
            }
        }
        let others = ["node.kubernetes.io/out-of-service", "node.cloudprovider.kubernetes.io/uninitialized"];
        for key in others {
            let tainted = node(&[], &[(key, "", TaintEffect::NoSchedule)]);
            assert_eq!(selection(&ImageCacheSpec::default(), &tainted), Err(Unselected::Taint(key.into())));
        }
    }

    #[test]
    fn workloads_are_selected_by_their_labels() {
        let labels: Labels = [("app", "shop"), ("tier", "web")].into_iter().collect();
        let selector = |json: Value| serde_json::from_value::<LabelSelector>(json).unwrap();
        for (json, expected) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "shop"}}), true),
            (json!({"matchLabels": {"app": "shop", "tier": "db"}}), false),
            (json!({"matchLabels": {"other": "x"}}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["web", "db"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]}), false),
            (json!({"matchExpressions": [{"key": "other", "operator": "NotIn", "values": ["web"]}]}), true),
            (json!({"matchExpressions": [{"key": "other", "operator": "DoesNotExist"}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}), false),
            (
                json!({"matchLabels": {"app": "shop"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
                true,
            ),
            (json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}), false),
        ] {
            assert_eq!(selects_labels(&selector(json.clone()), &labels), expected, "{json}");
        }
        let exists = LabelRequirement { key: "app".into(), operator: LabelOperator::Exists, values: Vec::new() };
        let selector = LabelSelector { match_expressions: vec![exists], ..LabelSelector::default() };
        assert!(!selects_labels(&selector, &Labels::default()));
    }
}
