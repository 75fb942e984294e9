//! What `larder controller` does: it sums up in the status of each ImageCache what the NodeCaches say, writes the images of
//! workloads there before their pods exist, asks what tags mean by now and writes that there, keeps a CachedImage of each image that something names, tells the larder registry
//! which of them are in use, asks the endpoints of Upstreams whether they are there, says of the CachePolicy whether it is in force, takes the taint `larder.dev/warming` from nodes that are warm, and gives nodes
//! their turns where only some may pull at once.
//!
//! [`Index`] is a plain struct that is fed with what the API server tells and asked what to write; `run` puts it between watches
//! and writes. Of several replicas the one that holds the Lease writes; the others follow, so as to take over at once.
#![forbid(unsafe_code)]

mod apply;
mod discovery;
mod failures;
mod follow;
mod gate;
mod gatekeeper;
mod images;
mod index;
mod lease;
mod metrics;
#[cfg(test)]
mod overlap;
mod policy;
mod prober;
mod provision;
mod recorder;
mod refresh;
mod rota;
mod run;
#[cfg(test)]
mod sample;
mod status;
mod tags;
mod upstreams;
mod uses;
mod usher;
mod writer;

pub use certificates::Settings as Certificates;
pub use discovery::Keeper;
pub use images::{Holding, Told, ToldImage};
pub use index::{CacheKey, Index};
pub use lease::{Lease, LeaseSettings};
pub use metrics::Metrics;
pub use prober::Prober;
pub use provision::{Provider, Provision, SecretKey, SecretProblem};
pub use refresh::{Resolved, Resolver};
pub use run::{Controller, Settings};
pub use tags::{Tags, Unresolved};
pub use upstreams::{Answered, Answers};

/// The name under which the controller writes to objects.
pub const FIELD_MANAGER: &str = "larder-controller";
