//! Which images are to be ready on which node, and in which order: what the controller and every node's agent must agree on.
//!
//! Pure logic without I/O: [`selects`] tells whether an ImageCache is for a node, [`Wanted`] which images it keeps ready, [`Standings`]
//! whether it counts at all, [`objections`] what the policy does not grant it; [`Plan`] puts together what one node is to have, and [`Turns`]
//! tell what of that it may pull now where only some nodes may at once.
//!
//! ```
//! use api::{CachePolicySpec, ImageCache, ImageCacheSpec};
//! use warm::{Node, Plan};
//!
//! let spec = ImageCacheSpec {
//!     images: vec!["ghcr.io/shop/api:v3".parse().unwrap()],
//!     node_selector: [("pool".to_owned(), "web".to_owned())].into(),
//!     ..ImageCacheSpec::default()
//! };
//! let web = Node::new("node-1", [("pool", "web")]);
//! let plan = Plan::of(&web, &[ImageCache::new("web", spec)], &CachePolicySpec::default());
//! assert_eq!(plan.wishes[0].image.to_string(), "ghcr.io/shop/api:v3");
//! ```
#![forbid(unsafe_code)]

mod gate;
mod labels;
mod naming;
mod node;
mod objection;
mod plan;
mod rule;
mod selection;
mod standing;
mod turns;
mod wanted;

#[cfg(test)]
mod sample;

pub use gate::{gate_timeout, gates, is_gated};
pub use labels::Labels;
pub use naming::cached_image_name;
pub use node::{Node, Taint};
pub use objection::{Objection, objections};
pub use plan::{Plan, Wanter, Wish};
pub use rule::{covers, keeps, may_cover};
pub use selection::{Unselected, selection, selects, selects_labels};
pub use standing::{Standing, Standings};
pub use turns::Turns;
pub use wanted::{Left, Wanted, images_of_workloads};
