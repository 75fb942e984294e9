//! The custom resources of `larder.dev/v1alpha1`: their types, and the schemas that the API server checks them by.
//!
//! System settings ([`Upstream`], [`CachePolicy`]) and user settings ([`ImageCache`]) are different kinds, so that different
//! people may edit them; [`CachedImage`] and [`NodeCache`] say what there is. A file is a kind. What stands in a field is of a
//! type that cannot hold nonsense ([`oci::Image`], [`units::Span`]), and its schema (`text`) refuses the same with a message, so
//! that an object which the API server takes can be read here. One that was stored under other rules may not be:
//! watch `DeserializeGuard<ImageCache>`, lest a single object hide all others.
//!
//! ```
//! use api::{ImageCache, ImageCacheSpec};
//!
//! let spec = ImageCacheSpec { images: vec!["ghcr.io/shop/api:v3".parse().unwrap()], ..ImageCacheSpec::default() };
//! let cache = ImageCache::new("web", spec);
//! assert_eq!(cache.spec.parallelism.per_node, 2);
//! ```
#![forbid(unsafe_code)]
// Each printer column names its type in the one attribute of its kind, which clippy takes for a repetition.
#![allow(clippy::duplicated_attributes)]

mod cache_policy;
mod cached_image;
pub mod conditions;
mod definitions;
mod freshness;
mod image_cache;
pub mod names;
mod node_cache;
mod selection;
mod text;
mod upstream;

pub use cache_policy::{
    Budget, CachePolicy, CachePolicySpec, CachePolicyStatus, Cleanup, CleanupMode, ImageCacheLimits, ImageRule, Images,
    Permission, Retention,
};
pub use cached_image::{CachedImage, CachedImageSpec, CachedImageStatus, Holders};
pub use definitions::{Definition, definitions};
pub use freshness::{Freshness, FreshnessPattern, PolicyFreshness, UpstreamFreshness};
pub use image_cache::{
    ImageCache, ImageCacheSpec, ImageCacheStatus, ImageProgress, OnDelete, Parallelism, PrivateImages, PullFailure,
    PullSecret, WorkloadKind, Workloads,
};
pub use node_cache::{
    IN_STORE, LastCleanup, NODE_IMAGES, NodeBytes, NodeCache, NodeCacheFields, NodeCacheStatus, NodeImage,
    NodeImageState, NodeTurns, Removal, WAITS_FOR_TURN,
};
pub use selection::{
    LabelOperator, LabelRequirement, LabelSelector, NodeOperator, NodeRequirement, NodeSelectorTerm, TaintEffect,
    Toleration, TolerationOperator,
};
pub use upstream::{Credential, Endpoint, EndpointStatus, Limits, Upstream, UpstreamSpec, UpstreamStatus, Withdrawn};
