use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use oci::Image;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::Span;

use crate::text::{
    DigestText, ImageText, LongSpanText, MessageText, NameText, PositiveSpanText, ShortText, StatusImageText, ValueText,
};
use crate::{LabelSelector, NodeSelectorTerm, Toleration};

/// Images that are kept ready on nodes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "larder.dev",
    version = "v1alpha1",
    kind = "ImageCache",
    namespaced,
    status = "ImageCacheStatus",
    derive = "PartialEq",
    shortname = "ic",
    category = "larder",
    doc = "Images that are kept ready on nodes: pulled to every node that it selects, now and when one joins, kept there, and refreshed when their tags move. Users write it in their namespace.",
    printcolumn(
        name = "Images",
        type_ = "integer",
        json_path = ".status.imageCount",
        description = "How many images are wanted."
    ),
    printcolumn(
        name = "Nodes",
        type_ = "integer",
        json_path = ".status.nodes",
        description = "How many nodes are selected."
    ),
    printcolumn(
        name = "Warm",
        type_ = "integer",
        json_path = ".status.warmNodes",
        description = "On how many of them every image is ready."
    ),
    printcolumn(
        name = "Failing",
        type_ = "integer",
        json_path = ".status.failed",
        description = "How many pulls failed and are not mended yet."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        description = "Whether it is acted on."
    ),
    printcolumn(
        name = "Gate",
        type_ = "boolean",
        json_path = ".spec.gateNodes",
        description = "Whether new nodes wait for it.",
        priority = 1
    ),
    printcolumn(
        name = "Priority",
        type_ = "integer",
        json_path = ".spec.priority",
        description = "Which ImageCache is served first.",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Warm')].message",
        description = "How far it is.",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "When it was made."
    )
)]
#[x_kube(
    validation = Rule::new("(has(self.images) && size(self.images) > 0) || has(self.workloads)")
        .message("name images, workloads or both: there is nothing to keep ready")
)]
#[serde(rename_all = "camelCase")]
pub struct ImageCacheSpec {
    /// Images with their registry and a tag or digest, such as `docker.io/library/nginx:1.27`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<ImageText>", length(max = 500), extend("x-kubernetes-list-type" = "set"))]
    pub images: Vec<Image>,
    /// Workloads of this namespace whose images are kept ready too, before their pods exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<Workloads>,
    /// Labels that a node must have. With `nodeSelectorTerms`, both must hold. All nodes if neither is given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, ValueText>", extend("maxProperties" = 32, "x-kubernetes-validations" = crate::text::label_keys()))]
    pub node_selector: BTreeMap<String, String>,
    /// Terms of which a node must meet one, as in a pod's required node affinity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
    /// Nodes with a taint `NoSchedule` or `NoExecute` are left out unless it is tolerated, as for a pod. `larder.dev/warming` always is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// How often the digests of the tags are asked for. By the freshness of each tag if not given; the annotation
    /// `larder.dev/refresh: now` does it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<LongSpanText>")]
    pub refresh_interval: Option<Span>,
    /// Secrets of this namespace for private images, as pods name them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub image_pull_secrets: Vec<PullSecret>,
    /// Where images go that need a credential. `Store`: into larder's store, from which only pods with a pull secret of their own get
    /// them. `Runtime`: into the container runtime too, where kubelet may let every pod of the node use them.
    #[serde(default)]
    pub private_images: PrivateImages,
    /// How much is pulled at once.
    #[serde(default)]
    pub parallelism: Parallelism,
    /// Images of ImageCaches with a higher priority are pulled first.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// How often a pull that failed is tried again on a node, with pauses that double from ten seconds to five minutes. What was given up is
    /// tried anew when the ImageCache changes or is refreshed.
    #[serde(default = "five")]
    #[schemars(range(min = 0, max = 100))]
    pub retries: u32,
    /// Nodes that register with the taint `larder.dev/warming` keep it until all images are ready there.
    #[serde(default)]
    pub gate_nodes: bool,
    /// After so long a new node loses the taint in any case.
    #[serde(default = "ten_minutes")]
    #[schemars(with = "PositiveSpanText")]
    pub gate_timeout: Span,
    /// What becomes of the images when the ImageCache is deleted or does not want them any more. `Keep`: they stay until a cleanup.
    /// `Remove`: they are removed from nodes if nothing else uses or wants them.
    #[serde(default)]
    pub on_delete: OnDelete,
}

impl Default for ImageCacheSpec {
    fn default() -> ImageCacheSpec {
        ImageCacheSpec {
            images: Vec::new(),
            workloads: None,
            node_selector: BTreeMap::new(),
            node_selector_terms: Vec::new(),
            tolerations: Vec::new(),
            refresh_interval: None,
            image_pull_secrets: Vec::new(),
            private_images: PrivateImages::default(),
            parallelism: Parallelism::default(),
            priority: 0,
            retries: five(),
            gate_nodes: false,
            gate_timeout: ten_minutes(),
            on_delete: OnDelete::default(),
        }
    }
}

fn five() -> u32 {
    5
}

fn ten_minutes() -> Span {
    Span(Duration::from_secs(10 * 60))
}

/// Workloads of the namespace whose images are kept ready.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Workloads {
    /// Which workloads, by their own labels. An empty selector means all.
    pub selector: LabelSelector,
    /// Which kinds of workloads.
    #[serde(default = "WorkloadKind::all")]
    #[schemars(length(min = 1, max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub kinds: Vec<WorkloadKind>,
}

/// A kind of workload.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
}

impl WorkloadKind {
    /// Every kind.
    pub fn all() -> Vec<WorkloadKind> {
        use WorkloadKind::{CronJob, DaemonSet, Deployment, Job, StatefulSet};
        vec![Deployment, StatefulSet, DaemonSet, Job, CronJob]
    }
}

/// A Secret of the namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct PullSecret {
    /// Its name. Its type is `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`.
    #[schemars(with = "NameText")]
    pub name: String,
}

/// Where images go that need a credential.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrivateImages {
    /// Into larder's store.
    #[default]
    Store,
    /// Into the container runtime.
    Runtime,
}

/// How much is pulled at once. The CachePolicy may allow less.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Parallelism {
    /// Images at once on each node.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 64))]
    pub per_node: u32,
    /// The most nodes that pull for it at once: the controller gives them their turns. No limit if not given, and none for what another
    /// ImageCache wants too that has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5000))]
    pub nodes: Option<u32>,
}

impl Default for Parallelism {
    fn default() -> Parallelism {
        Parallelism { per_node: two(), nodes: None }
    }
}

fn two() -> u32 {
    2
}

/// What becomes of images that an ImageCache does not want any more.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDelete {
    /// They stay.
    #[default]
    Keep,
    /// They are removed from nodes.
    Remove,
}

/// How far it is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImageCacheStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// `Ready`: it is acted on. `Warm`: every image is ready on every node that is selected. `Failing`: some cannot be made ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::conditions::schema")]
    pub conditions: Vec<Condition>,
    /// How many images are wanted, those of workloads included.
    #[serde(default)]
    pub image_count: u32,
    /// How many nodes are selected.
    #[serde(default)]
    pub nodes: u32,
    /// On how many of them every image is ready.
    #[serde(default)]
    pub warm_nodes: u32,
    /// How many pulls failed and are not mended yet, over all nodes.
    #[serde(default)]
    pub failed: u32,
    /// The images that are wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["image"]))]
    pub images: Vec<ImageProgress>,
    /// Failures, one for each reason and image; the rest are only counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub failures: Vec<PullFailure>,
    /// When the digests of the tags were last asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refresh: Option<Time>,
    /// When the controller last said that it gives nodes their turns to pull, while some wait for theirs: every ten minutes. Nodes that have
    /// not heard it say so for half an hour to an hour go on without a turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_turns: Option<Time>,
}

/// How far an image is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImageProgress {
    /// The image, as it is pulled.
    #[schemars(with = "StatusImageText")]
    pub image: String,
    /// What its tag means now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DigestText>")]
    pub digest: Option<String>,
    /// On how many nodes it is ready.
    #[serde(default)]
    pub warm: u32,
    /// On how many it failed.
    #[serde(default)]
    pub failed: u32,
    /// It needs a credential.
    #[serde(default)]
    pub private: bool,
}

/// Why an image is not ready somewhere.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PullFailure {
    /// The image.
    #[schemars(with = "StatusImageText")]
    pub image: String,
    /// Why, in one word for programs.
    #[schemars(with = "ShortText")]
    pub reason: String,
    /// Why, for people. Never holds a credential.
    #[schemars(with = "MessageText")]
    pub message: String,
    /// How many nodes say so.
    #[serde(default)]
    pub nodes: u32,
    /// One of these nodes.
    #[schemars(with = "ShortText")]
    pub node: String,
    /// When it was last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<Time>,
}
