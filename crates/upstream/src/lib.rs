//! The client side of a registry: endpoints, authentication, redirects, limits.
//!
//! A [`Directory`] finds the upstream of a registry: a configured one, or any public registry where that is allowed. Each of
//! its endpoints is a [`cache::Source`] that bounds every wait, retries what is worth retrying, honours `Retry-After`, sends
//! credentials to nobody but the upstream's own hosts, and connects to no address that is not public unless the
//! configuration names it.
//!
//! ```
//! use cache::Upstreams;
//! use upstream::{Directory, Metrics, Settings};
//!
//! let directory = Directory::new(Settings::default(), Metrics::unregistered()).unwrap();
//! let hub = directory.find(&"docker.io".parse().unwrap()).unwrap();
//! assert_eq!(hub.sources[0].label(), "registry-1.docker.io");
//! ```
#![forbid(unsafe_code)]

mod address;
mod body;
mod breaker;
mod challenge;
mod dial;
mod directory;
mod endpoint;
mod exchange;
mod failure;
mod front;
mod handshake;
mod header;
mod limit;
mod metrics;
mod origin;
mod pause;
mod quota;
mod realm;
mod redirect;
mod settings;
mod token;
mod trust;

pub use address::{Resolver, is_global};
pub use directory::{Directory, Listing};
pub use endpoint::{EndpointAnswer, ask_endpoints};
pub use front::{Answered, Unanswered, probe, tell, trusting};
pub use metrics::Metrics;
pub use settings::{
    BreakerSettings, Deadlines, Endpoint, Front, Limits, MinimumRate, RetrySettings, Settings, SettingsError,
    TlsChoice, UpstreamSettings,
};
