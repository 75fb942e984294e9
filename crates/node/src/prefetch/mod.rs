//! Images that ImageCaches want on this node: pulled, kept and told of. No pod and no job is made for it.
//!
//! [`Keeper`] decides, and does nothing itself: from what is wanted (`warm::Plan`), what the runtime has and what became of pulls it says
//! what to pull, pin and remove, and what to tell ([`Report`]). [`keep`] does it, [`follow_plan`] knows what is wanted,
//! [`Publisher`] writes the NodeCache when [`Bulletin`] says so.

mod bulletin;
mod cleanup;
mod cluster;
mod effort;
mod failure;
mod giving_way;
mod keeper;
mod metrics;
mod publisher;
mod queue;
mod release;
mod report;
#[cfg(test)]
mod tests;
mod tidying;
mod worker;

pub use bulletin::Bulletin;
pub use cleanup::{Removable, Why};
pub use cluster::{KnownNode, follow_plan};
pub use failure::{Failure, Reason};
pub use keeper::{Abilities, Disk, Held, Keeper, Pull, Pulled, Way};
pub use metrics::Metrics;
pub use publisher::Publisher;
pub use queue::Heard;
pub use release::{ReleaseError, release};
pub use report::Report;
pub use tidying::Tidying;
pub use worker::{Settings, keep};
