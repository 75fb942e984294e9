use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use oci::Image;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::{DigestText, ImageText, ShortText};

/// An image that larder knows.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "larder.dev",
    version = "v1alpha1",
    kind = "CachedImage",
    status = "CachedImageStatus",
    derive = "PartialEq",
    shortname = "ci",
    category = "larder",
    doc = "An image that larder knows: what it is, who uses it and where it is. larder's controller makes, updates and deletes it.",
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", description = "The image."),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.pods", description = "How many pods use it."),
    printcolumn(
        name = "Nodes",
        type_ = "integer",
        json_path = ".status.held.nodes",
        description = "How many nodes have it."
    ),
    printcolumn(
        name = "Registry",
        type_ = "boolean",
        json_path = ".status.held.registry",
        description = "Whether larder's registry has all of it."
    ),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.bytes", description = "Its size."),
    printcolumn(
        name = "Last Used",
        type_ = "date",
        json_path = ".status.lastUsed",
        description = "When a pod last used it."
    ),
    printcolumn(
        name = "Digest",
        type_ = "string",
        json_path = ".status.digest",
        description = "What its tag means now.",
        priority = 1
    ),
    printcolumn(
        name = "Expires",
        type_ = "string",
        json_path = ".status.expires",
        description = "When it goes if nothing uses it.",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "When it became known."
    )
)]
#[x_kube(validation = Rule::new("self.image == oldSelf.image").message("a CachedImage stays about its image").field_path(".image"))]
pub struct CachedImageSpec {
    /// The image. It cannot be changed.
    #[schemars(with = "ImageText")]
    pub image: Image,
}

/// What is known of an image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CachedImageStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// `Available`: the origin has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::conditions::schema")]
    pub conditions: Vec<Condition>,
    /// What the tag means now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DigestText>")]
    pub digest: Option<String>,
    /// The bytes of its manifests and blobs that larder's registry has, each counted once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The platforms that it is for, such as `linux/arm64/v8`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<ShortText>", length(max = 64))]
    pub platforms: Vec<String>,
    /// How many pods use it.
    #[serde(default)]
    pub pods: u32,
    /// How many workloads name it in their templates.
    #[serde(default)]
    pub workloads: u32,
    /// The ImageCaches that want it, as `namespace/name`; the first of them if there are many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<ShortText>", length(max = 32))]
    pub wanted_by: Vec<String>,
    /// When a pod last used it. While pods do, this is written once an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Time>,
    /// Since when nothing names it: no pod, workload or ImageCache, nor the pins of the CachePolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<Time>,
    /// When the origin was last asked what the tag means. While it means the same, this is written once an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checked: Option<Time>,
    /// Until when the answer is believed. Never asked again if there is a digest and no such time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_until: Option<Time>,
    /// Where it is.
    #[serde(default)]
    pub held: Holders,
    /// When larder's registry drops it if nothing names it until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
}

/// Who has an image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Holders {
    /// Larder's registry has all of it, of those platforms that anybody has asked it for.
    #[serde(default)]
    pub registry: bool,
    /// How many nodes have it.
    #[serde(default)]
    pub nodes: u32,
    /// Their names; the first of them if there are many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<ShortText>", length(max = 64))]
    pub node_names: Vec<String>,
}
