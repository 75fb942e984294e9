//! Selectors as pods and workloads have them, with bounds and rules that the API server checks.

use std::collections::BTreeMap;

use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::{KeyText, ValueText};

/// Holds for requirements on nodes and on other objects alike.
fn sets_have_values() -> Rule {
    Rule::new("self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : true")
        .message("In and NotIn need values")
}

/// As [`sets_have_values`].
fn existence_has_none() -> Rule {
    Rule::new("self.operator in ['Exists', 'DoesNotExist'] ? !has(self.values) || size(self.values) == 0 : true")
        .message("Exists and DoesNotExist take no values")
}

/// Nodes that meet all of its requirements.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelectorTerm {
    /// Requirements on the labels of a node, all of which must hold.
    #[schemars(length(min = 1, max = 16))]
    pub match_expressions: Vec<NodeRequirement>,
}

/// A requirement on the labels of a node.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[x_kube(
    validation = sets_have_values(),
    validation = existence_has_none(),
    validation = Rule::new("self.operator in ['Gt', 'Lt'] ? has(self.values) && size(self.values) == 1 && self.values[0].matches('^-?[0-9]{1,18}$') : true")
        .message("Gt and Lt take one whole number as their value"),
)]
pub struct NodeRequirement {
    /// The label's key.
    #[schemars(with = "KeyText")]
    pub key: String,
    /// How the label relates to the values: `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt` or `Lt`.
    pub operator: NodeOperator,
    /// The values: any number for `In` and `NotIn`, one whole number for `Gt` and `Lt`, none otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<ValueText>", length(max = 64))]
    pub values: Vec<String>,
}

/// How a node's label relates to values.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NodeOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

/// A selector over the labels of objects. An empty one matches all.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels with the values that they must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, ValueText>", extend("maxProperties" = 32, "x-kubernetes-validations" = crate::text::label_keys()))]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements on labels, all of which must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A requirement on the labels of an object.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[x_kube(
    validation = sets_have_values(),
    validation = existence_has_none(),
)]
pub struct LabelRequirement {
    /// The label's key.
    #[schemars(with = "KeyText")]
    pub key: String,
    /// How the label relates to the values: `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: LabelOperator,
    /// The values, for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<ValueText>", length(max = 64))]
    pub values: Vec<String>,
}

/// How an object's label relates to values.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LabelOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// A taint that does not keep a node out.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("self.operator == 'Equal' ? has(self.key) : true")
        .message("without a key every taint is tolerated: say so with operator Exists"),
    validation = Rule::new("self.operator == 'Exists' ? !has(self.value) || self.value == '' : true")
        .message("Exists takes no value"),
)]
pub struct Toleration {
    /// The taint's key. Without it, and with `Exists`, every taint is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<KeyText>")]
    pub key: Option<String>,
    /// `Equal`: the taint has this value; `Exists`: it has any.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// The taint's value, for `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ValueText>")]
    pub value: Option<String>,
    /// The taint's effect, `NoSchedule`, `PreferNoSchedule` or `NoExecute`; any if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

/// How a toleration compares with a taint's value.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TolerationOperator {
    /// The value is the same.
    #[default]
    Equal,
    /// Any value.
    Exists,
}

/// What a taint does to pods.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TaintEffect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}
