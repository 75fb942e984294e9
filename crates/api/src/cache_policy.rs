use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use oci::Image;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::{Size, Span};

use crate::PolicyFreshness;
use crate::text::{ImageText, LongSpanText, NamespacePatternText, PatternText, PositiveSpanText, SizeText};

/// What is cached, how long it is kept, what nodes clean up, and what ImageCaches may ask for.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "larder.dev",
    version = "v1alpha1",
    kind = "CachePolicy",
    plural = "cachepolicies",
    status = "CachePolicyStatus",
    derive = "PartialEq",
    shortname = "cpol",
    category = "larder",
    doc = "What is cached, how long it is kept, what nodes clean up, and what ImageCaches may ask for. There is one for the cluster, called `default`; without it everything has its default, and nodes clean up nothing. Administrators write it.",
    validation = Rule::new("self.metadata.name == 'default'").message("there is one CachePolicy, and its name (metadata.name) is default"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status", description = "Whether it is in force."),
    printcolumn(name = "Freshness", type_ = "string", json_path = ".spec.freshness.default", description = "How long tags are believed."),
    printcolumn(name = "Cleanup", type_ = "string", json_path = ".spec.cleanup.mode", description = "What nodes do with unused images."),
    printcolumn(name = "Unused For", type_ = "string", json_path = ".spec.cleanup.unusedFor", description = "How long an image must be unused to be removed from a node."),
    printcolumn(name = "Images", type_ = "integer", json_path = ".status.images", description = "How many images are known.", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "When it was made.")
)]
#[serde(rename_all = "camelCase")]
pub struct CachePolicySpec {
    /// Which images are cached. What is not cached comes from its origin as if there were no larder.
    #[serde(default)]
    pub images: Images,
    /// How long tags are believed.
    #[serde(default)]
    pub freshness: PolicyFreshness,
    /// How long larder's registry keeps what it has.
    #[serde(default)]
    pub retention: Retention,
    /// What nodes remove of what their container runtime has. Nothing if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<Cleanup>,
    /// What ImageCaches may ask for.
    #[serde(default)]
    pub image_caches: ImageCacheLimits,
}

/// Which images are cached.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// Only images that one of these rules matches are cached; all if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub include: Vec<ImageRule>,
    /// Images that one of these rules matches are not cached, even if they are included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub exclude: Vec<ImageRule>,
}

/// Matches images for which all that it says holds.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("has(self.registry) || has(self.repository) || has(self.namespace)")
        .message("a rule names a registry, a repository or a namespace; one that names nothing would match everything")
)]
#[serde(rename_all = "camelCase")]
pub struct ImageRule {
    /// A pattern over the registry, such as `ghcr.io` or `*.example.com`; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PatternText>")]
    pub registry: Option<String>,
    /// A pattern over `repository:tag`, or over the repository alone if it has no colon, such as `shop/*` or `*:latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PatternText>")]
    pub repository: Option<String>,
    /// A pattern over the namespace of the pods, workloads and ImageCaches that name the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<NamespacePatternText>")]
    pub namespace: Option<String>,
}

/// How long larder's registry keeps what it has.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// The most that the registry's store may hold. Above it goes what was used longest ago, never what is in use or pinned.
    #[serde(default)]
    pub budget: Budget,
    /// What nothing in the cluster has used for so long goes even if there is room. Kept until there is no room if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<LongSpanText>")]
    pub unused_for: Option<Span>,
    /// Images that never go, with all that belongs to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<ImageText>", length(max = 500), extend("x-kubernetes-list-type" = "set"))]
    pub pins: Vec<Image>,
}

/// How much a store may hold. Of two limits the smaller counts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// A share of its filesystem, in hundredths.
    #[serde(default = "most_of_it")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: u32,
    /// A size, such as `200GiB`. Only the share counts if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<SizeText>")]
    pub size: Option<Size>,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { percent: most_of_it(), size: None }
    }
}

fn most_of_it() -> u32 {
    80
}

/// What nodes remove of what their container runtime has. Never an image that is in use, pinned, wanted by an ImageCache, being pulled,
/// or the runtime's own.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("has(self.diskBelow) ? has(self.diskAbove) : true")
        .message("diskBelow says how far to go once the use is above diskAbove: give diskAbove too"),
    validation = Rule::new("has(self.diskAbove) && has(self.diskBelow) ? self.diskBelow < self.diskAbove : true")
        .message("diskBelow must be less than diskAbove"),
)]
#[serde(rename_all = "camelCase")]
pub struct Cleanup {
    /// `Remove` removes images; `DryRun` writes down in NodeCaches what would be removed; `Off` does nothing.
    #[serde(default)]
    pub mode: CleanupMode,
    /// An image goes when no container has used it for so long. Counts from the pull where none ever has.
    #[serde(default = "two_weeks")]
    #[schemars(with = "LongSpanText")]
    pub unused_for: Span,
    /// When more than so many hundredths of the filesystem of images are used, unused images go before their time, those first that were
    /// used longest ago. Keep it below kubelet's `imageGCHighThresholdPercent`, or kubelet removes first. Only time counts if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub disk_above: Option<u32>,
    /// They go until no more than so many hundredths are used. 5 less than `diskAbove` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 98))]
    pub disk_below: Option<u32>,
    /// However full the filesystem is, an image stays for so long after it was pulled or last used.
    #[serde(default = "an_hour")]
    #[schemars(with = "PositiveSpanText")]
    pub minimum_age: Span,
    /// How often nodes look.
    #[serde(default = "quarter_hour")]
    #[schemars(with = "LongSpanText")]
    pub interval: Span,
    /// Images that stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub keep: Vec<ImageRule>,
}

impl Default for Cleanup {
    fn default() -> Cleanup {
        Cleanup {
            mode: CleanupMode::default(),
            unused_for: two_weeks(),
            disk_above: None,
            disk_below: None,
            minimum_age: an_hour(),
            interval: quarter_hour(),
            keep: Vec::new(),
        }
    }
}

fn two_weeks() -> Span {
    Span(Duration::from_secs(14 * 24 * 3600))
}

fn an_hour() -> Span {
    Span(Duration::from_secs(3600))
}

fn quarter_hour() -> Span {
    Span(Duration::from_secs(15 * 60))
}

/// Whether nodes remove images.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CleanupMode {
    /// They do.
    #[default]
    Remove,
    /// They say what they would remove.
    DryRun,
    /// They do not.
    Off,
}

/// What ImageCaches may ask for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImageCacheLimits {
    /// The most images of one ImageCache, those of its workloads included.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1, max = 500))]
    pub images: u32,
    /// The most ImageCaches of one namespace.
    #[serde(default = "hundred")]
    #[schemars(range(min = 0, max = 10000))]
    pub per_namespace: u32,
    /// The most pulls for ImageCaches at once on one node. Pulls for pods do not count, and come first: while there are some, no other begins, but for one at a
    /// time after a minute.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 64))]
    pub pulls_per_node: u32,
    /// The most nodes that pull for ImageCaches at once: the controller gives them their turns. No limit if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5000))]
    pub nodes_at_once: Option<u32>,
    /// Whether ImageCaches may keep new nodes back until they are warm there (`gateNodes`): `Allow` or `Refuse`.
    #[serde(default)]
    pub gate_nodes: Permission,
    /// The longest that a new node is kept back, whatever its ImageCaches say.
    #[serde(default = "half_an_hour")]
    #[schemars(with = "PositiveSpanText")]
    pub gate_timeout: Span,
    /// Whether ImageCaches may have private images pulled into the container runtime (`privateImages: Runtime`), where kubelet may let
    /// every pod of the node use them: `Allow` or `Refuse`.
    #[serde(default)]
    pub private_in_runtime: Permission,
}

impl Default for ImageCacheLimits {
    fn default() -> ImageCacheLimits {
        ImageCacheLimits {
            images: hundred(),
            per_namespace: hundred(),
            pulls_per_node: four(),
            nodes_at_once: None,
            gate_nodes: Permission::default(),
            gate_timeout: half_an_hour(),
            private_in_runtime: Permission::default(),
        }
    }
}

fn hundred() -> u32 {
    100
}

fn four() -> u32 {
    4
}

fn half_an_hour() -> Span {
    Span(Duration::from_secs(30 * 60))
}

/// Whether users may do something.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permission {
    /// They may.
    #[default]
    Allow,
    /// They may not.
    Refuse,
}

/// Whether the policy is in force.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CachePolicyStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// `Ready`: the policy is in force, or why it is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::conditions::schema")]
    pub conditions: Vec<Condition>,
    /// How many images are known, as CachedImages.
    #[serde(default)]
    pub images: u32,
    /// The bytes of all images that larder's registry has. What several share counts in each.
    #[serde(default)]
    pub bytes: u64,
}
