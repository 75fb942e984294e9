//! The nodes that share pieces, as the EndpointSlices of a headless Service tell.
//!
//! [`follow`] watches them for as long as it is polled, and keeps [`peers::Members`] and [`peers::Health`] as they say:
//!
//! ```no_run
//! use std::sync::Arc;
//! use node::membership::{ApiServer, PeerService, Seen, follow};
//! # async fn wire(members: Arc<peers::Members>, health: Arc<peers::Health>) -> Result<(), Box<dyn std::error::Error>> {
//! let service: PeerService = "larder/larder-peers".parse()?;
//! let seen = Arc::new(Seen::default());
//! let task = tokio::spawn({
//!     let seen = seen.clone();
//!     async move { follow(&service, &ApiServer::Environment, members, health, seen).await }
//! });
//! if let Some(lost) = seen.lost() { println!("nothing is heard of other nodes: {}", lost.why); }
//! task.abort();
//! # Ok(()) }
//! ```
//!
//! Whoever runs larder must be allowed to `list` and `watch` `endpointslices` of `discovery.k8s.io` in the Service's namespace.
//! Without an API server the last list stays, however long it takes.

mod listing;
mod service;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use apiserver::Watch;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use listing::{Listing, Reduced};

pub use apiserver::{ApiServer, Lost, Seen};
pub use service::{NoService, PeerService};

/// Follows the EndpointSlices of a Service until dropped, which may be at any time: what was taken in by then stays.
///
/// A list counts only when it is complete, so nodes do not vanish for the moment in which all is listed anew. An API
/// server that cannot be reached or refuses is tried again after pauses that grow to between thirty seconds and a minute;
/// `seen` tells since when, and the log once, with what to do about it.
pub async fn follow(
    service: &PeerService,
    server: &ApiServer,
    members: Arc<peers::Members>,
    health: Arc<peers::Health>,
    seen: Arc<Seen>,
) -> Infallible {
    let mut listing = Listing::new(service, members, health);
    apiserver::follow(server, &watch(service), &seen, Reduced::from, |news| listing.take(news)).await
}

/// The nodes of a Service are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot list the nodes of the Service {service}: {why}")]
pub struct Unlisted {
    service: PeerService,
    /// Why, with what to do about it where that is known.
    why: String,
}

/// The nodes that a Service has at this moment, asked once. Cancellation safe.
///
/// # Errors
/// The API server is not reached, refuses, takes longer than `limit`, or has nodes that nobody can connect to.
pub async fn list(service: &PeerService, server: &ApiServer, limit: Duration) -> Result<Vec<peers::Member>, Unlisted> {
    let unlisted = |why: String| Unlisted { service: service.clone(), why };
    let slices = apiserver::list(server, &watch(service), limit).await.map_err(unlisted)?;
    listing::members_of(slices).map_err(|why| unlisted(why.to_owned()))
}

fn watch(service: &PeerService) -> Watch<EndpointSlice> {
    Watch::within("the list of nodes", &service.namespace)
        .labels(&format!("kubernetes.io/service-name={}", service.name))
}
