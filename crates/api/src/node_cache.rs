use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::{DigestText, MessageText, ShortText, StatusImageText};

/// Nothing: there is nothing to say to a node's agent but by the other kinds.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "larder.dev",
    version = "v1alpha1",
    kind = "NodeCache",
    no_spec,
    status = "NodeCacheStatus",
    derive = "PartialEq",
    derive = "Default",
    shortname = "nc",
    category = "larder",
    doc = "What a node has of images. It has the node's name; the node's agent makes and updates it.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        description = "Whether the agent does its work."
    ),
    printcolumn(
        name = "Present",
        type_ = "integer",
        json_path = ".status.present",
        description = "How many images the runtime has."
    ),
    printcolumn(
        name = "Wanted",
        type_ = "integer",
        json_path = ".status.wanted",
        description = "How many images ImageCaches want here."
    ),
    printcolumn(
        name = "Warm",
        type_ = "integer",
        json_path = ".status.warm",
        description = "How many of them are ready."
    ),
    printcolumn(
        name = "Failed",
        type_ = "integer",
        json_path = ".status.failed",
        description = "How many of them cannot be made ready."
    ),
    printcolumn(
        name = "Bytes",
        type_ = "integer",
        json_path = ".status.bytes.images",
        description = "The bytes of images that the runtime has."
    ),
    printcolumn(
        name = "Store",
        type_ = "integer",
        json_path = ".status.bytes.store",
        description = "The bytes in the agent's own store.",
        priority = 1
    ),
    printcolumn(
        name = "Cleanup",
        type_ = "date",
        json_path = ".status.lastCleanup.time",
        description = "When images were last removed.",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "When it was made."
    )
)]
pub struct NodeCacheFields {}

/// What a node has.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCacheStatus {
    /// `Ready`: the agent does its work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::conditions::schema")]
    pub conditions: Vec<Condition>,
    /// How many images the container runtime has.
    #[serde(default)]
    pub present: u32,
    /// How many images ImageCaches want here.
    #[serde(default)]
    pub wanted: u32,
    /// How many of the wanted ones are ready.
    #[serde(default)]
    pub warm: u32,
    /// How many of the wanted ones cannot be made ready.
    #[serde(default)]
    pub failed: u32,
    /// The images that are wanted, then those that are present, largest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["image"]))]
    pub images: Vec<NodeImage>,
    /// How many images the list leaves out because it is full.
    #[serde(default)]
    pub left_out: u32,
    /// What it takes of the disk.
    #[serde(default)]
    pub bytes: NodeBytes,
    /// The last cleanup that removed something, or would have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_cleanup: Option<LastCleanup>,
    /// What of that which only some nodes may pull at once this node may pull. The controller writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<NodeTurns>,
}

/// The `reason` of an image that waits for the node's turn: as many other nodes are pulling as may at once.
pub const WAITS_FOR_TURN: &str = "WaitsForTurn";

/// The reason of a private image that is ready in the agent's own store, and not in the runtime.
pub const IN_STORE: &str = "InStore";

/// What it is a node's turn to pull.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeTurns {
    /// It is one of the nodes that may pull for ImageCaches at all, where the CachePolicy limits these (`nodesAtOnce`).
    #[serde(default)]
    pub cluster: bool,
    /// The ImageCaches with a limit (`parallelism.nodes`) for which it is one of the nodes that may pull, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<StatusImageText>", length(max = 10000), extend("x-kubernetes-list-type" = "atomic"))]
    pub image_caches: Vec<String>,
}

/// The most images in [`NodeCacheStatus::images`].
pub const NODE_IMAGES: usize = 1024;

/// An image on a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeImage {
    /// The image as the runtime names it; its digest if it has no name.
    #[schemars(with = "StatusImageText")]
    pub image: String,
    /// The digest of its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DigestText>")]
    pub digest: Option<String>,
    /// `Present`: the runtime has it. `Warm`: wanted and ready. `Wanted`: its turn has not come. `Pulling`: it is coming. `Failed`: it
    /// cannot be made ready.
    pub state: NodeImageState,
    /// The runtime may not remove it by itself.
    #[serde(default)]
    pub pinned: bool,
    /// It needs a credential, as far as larder has come to know. In the runtime all the same, kubelet may let every pod of the node use it.
    #[serde(default)]
    pub private: bool,
    /// Its size as the runtime counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When a container last used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Time>,
    /// Why it failed, in one word for programs. `InStore`: it is ready, in larder's store only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ShortText>")]
    pub reason: Option<String>,
    /// The same for people. Never holds a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MessageText>")]
    pub message: Option<String>,
    /// How often it was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// It failed, and is not tried again before the ImageCache changes or is refreshed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
}

/// How an image is on a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeImageState {
    /// The runtime has it, and no ImageCache wants it.
    Present,
    /// Wanted and ready.
    Warm,
    /// Its turn has not come.
    Wanted,
    /// It is coming.
    Pulling,
    /// It cannot be made ready.
    Failed,
}

/// What images take of a node's disk.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeBytes {
    /// What the container runtime has.
    #[serde(default)]
    pub images: u64,
    /// What the agent's own store has.
    #[serde(default)]
    pub store: u64,
    /// The size of the filesystem that images are on.
    #[serde(default)]
    pub capacity: u64,
    /// What is free on it.
    #[serde(default)]
    pub available: u64,
}

/// What a cleanup did.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastCleanup {
    /// When.
    pub time: Time,
    /// Nothing was removed: this is what would have been.
    #[serde(default)]
    pub dry_run: bool,
    /// How many images.
    #[serde(default)]
    pub removed: u32,
    /// The bytes that became free.
    #[serde(default)]
    pub freed_bytes: u64,
    /// Which images; the largest if there were many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub images: Vec<Removal>,
}

/// An image that was removed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    /// The image.
    #[schemars(with = "StatusImageText")]
    pub image: String,
    /// Its bytes.
    #[serde(default)]
    pub bytes: u64,
    /// Why, in one word for programs.
    #[schemars(with = "ShortText")]
    pub reason: String,
}
