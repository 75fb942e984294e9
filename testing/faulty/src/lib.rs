//! The faulty upstream: an OCI registry whose misbehaviour tests control. Tests pull through larder from it and never from
//! the internet; benchmarks use it as a fast origin.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use faulty::{Ending, Fault, Kind, Rule, Upstream};
//!
//! let up = Upstream::start().await?;
//! let image = up.image("library/a", "latest", &[1 << 20, 5 << 20], 1);
//! up.rule(Rule::on(Kind::Blob).get().reference(&image.layers[1]).times(1).fault(Fault::cut_half(Ending::Reset)));
//! // ... pull `library/a:latest` through larder, with `up.url()` as its endpoint ...
//! assert_eq!(up.blob_gets(&image.layers[1]), 2);
//! let resumed = up.log().into_iter().find(|request| request.range().is_some()).expect("resumes by Range");
//! assert_eq!(resumed.status, 206);
//! # Ok(()) }
//! ```
//!
//! - Content: [`Upstream::image`], [`Upstream::index`], [`Upstream::artifact`], [`Upstream::manifest`], [`Upstream::blob`],
//!   [`Upstream::generated_blob`] (any size, nothing held in memory), [`Upstream::mirror_of`].
//! - Misbehaviour: [`Rule`]s say which requests, [`Fault`]s say what. The first rule that matches decides. Rules see only
//!   requests that pass authorisation, unless [`Rule::before_auth`] is said.
//! - No sleeping: [`Fault::Hold`] keeps a body at a place until [`Upstream::open_gate`]; [`Upstream::wait_for`] waits for the log.
//! - Nobody there: [`Upstream::refuse`], [`Rule::connections`], [`BlackHole`].
//! - Access: [`Upstream::auth`], [`Upstream::account`], [`Upstream::tokens`]; TLS good and bad: [`Tls`].
//! - The binary `faulty` does the same from a file of rules and over HTTP, see [`Setup`].

mod auth;
mod blackhole;
mod content;
mod control;
mod fault;
mod gzip;
mod log;
mod pace;
mod registry;
mod reply;
mod request;
mod rules;
mod serve;
mod source;
mod tls;
mod upstream;
mod wire;

pub use auth::{Auth, TokenField, TokenSettings};
pub use blackhole::BlackHole;
pub use content::{DOCKER_LIST, DOCKER_MANIFEST, Image, OCI_INDEX, OCI_MANIFEST};
pub use control::{AccountSpec, BlobSpec, ImageSpec, Setup};
pub use fault::{Ending, Fault, Place};
pub use log::Request;
pub use request::Kind;
pub use rules::Rule;
pub use source::Source;
pub use tls::{Ca, Tls};
pub use upstream::Upstream;

/// A point so far from now as an HTTP date, for `Retry-After`.
pub fn http_date(from_now: std::time::Duration) -> String {
    httpdate::fmt_http_date(std::time::SystemTime::now() + from_now)
}
