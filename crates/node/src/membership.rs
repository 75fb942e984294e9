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

mod line;
mod listing;
mod seen;
mod service;

use std::convert::Infallible;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use http::StatusCode;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, watcher};

use crate::error::innermost;
use line::Refused;
use listing::Listing;

pub use line::ApiServer;
pub use seen::{Lost, Seen};
pub use service::{NoService, PeerService};

/// After so long without the API server, credentials and certificates are read anew: those at hand may have run out.
const RENEWED_AFTER: Duration = Duration::from_secs(600);

/// All may be listed anew after so long without the growing pauses of what goes wrong.
const RELISTED_AFTER: Duration = Duration::from_secs(60);

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
    // The pauses of kube's own adapter start anew with each attempt to list, and so never grow.
    let mut pauses = DefaultBackoff::default();
    loop {
        let client = match line::connect(server, &seen).await {
            Ok(client) => client,
            Err(error) => {
                report(service, &seen, &error.to_string(), true);
                rest(&mut pauses).await;
                continue;
            }
        };
        let slices: Api<EndpointSlice> = Api::namespaced(client, &service.namespace);
        // From the API server's memory, and not from etcd: every node of the cluster asks for the same.
        let config =
            watcher::Config { page_size: None, ..watcher::Config::default().labels(&label(service)).any_semantic() };
        let connected = SystemTime::now();
        let mut events = pin!(watcher(slices, config));
        let mut relisted = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if listing.take(event) {
                        seen.listed();
                    }
                }
                // The API server has forgotten what came since, and all is listed anew: usual after it was started anew.
                Err(watcher::Error::WatchError(status))
                    if status.code == StatusCode::GONE.as_u16() && !just_now(relisted) =>
                {
                    tracing::debug!(%service, "listing all nodes anew");
                    relisted = Some(Instant::now());
                    pauses.reset();
                    rest(&mut pauses).await;
                }
                Err(error) => {
                    let refused = Refused::in_causes(&error);
                    let why = refused.map_or_else(|| innermost(&error), |refused| refused.with_remedy(service));
                    report(service, &seen, &why, refused.is_some());
                    rest(&mut pauses).await;
                    if outdated(&error, &seen, connected) {
                        break;
                    }
                }
            }
        }
    }
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
    let listed = async {
        let client = line::connect(server, &Arc::default()).await.map_err(|error| error.to_string())?;
        let slices: Api<EndpointSlice> = Api::namespaced(client, &service.namespace);
        let found = slices.list(&ListParams::default().labels(&label(service)).match_any()).await;
        let found = found.map_err(|error| match Refused::in_causes(&error) {
            Some(refused) => refused.with_remedy(service),
            None => innermost(&error),
        })?;
        listing::members_of(found.items).map_err(str::to_owned)
    };
    match tokio::time::timeout(limit, listed).await {
        Ok(listed) => listed.map_err(unlisted),
        Err(_) => Err(unlisted("the API server does not answer".to_owned())),
    }
}

fn label(service: &PeerService) -> String {
    format!("kubernetes.io/service-name={}", service.name)
}

async fn rest(pauses: &mut DefaultBackoff) {
    tokio::time::sleep(pauses.next().unwrap_or(RENEWED_AFTER)).await;
}

/// Whether all was listed anew a moment ago, so that doing it again at once could go on and on.
fn just_now(relisted: Option<Instant>) -> bool {
    relisted.is_some_and(|last| last.elapsed() < RELISTED_AFTER)
}

/// Whether the way to the API server should be set up anew.
fn outdated(error: &(dyn Error + 'static), seen: &Seen, connected: SystemTime) -> bool {
    if Refused::in_causes(error).is_some_and(|refused| refused.status == StatusCode::UNAUTHORIZED) {
        return true;
    }
    let long = |since: SystemTime| since.elapsed().is_ok_and(|time| time >= RENEWED_AFTER);
    long(connected) && seen.lost().is_some_and(|lost| long(lost.since))
}

/// Takes note of what is wrong, and says so once however often it goes wrong in this way.
fn report(service: &PeerService, seen: &Seen, why: &str, grave: bool) {
    if seen.lose(why, grave) {
        tracing::warn!(%service, why, "cannot follow the list of nodes; the last one stays");
    } else {
        tracing::debug!(%service, why, "could not follow the list of nodes");
    }
}
