//! The way to the API server, and following its objects for ever.
//!
//! [`follow`] lists the objects of a kind, then watches them for as long as it is polled. A list counts only when it is complete.
//! When the API server is gone, refuses, or has no such kind yet, it goes on trying; [`Seen`] tells since when nothing is heard, and the
//! log once for each reason, with what to do about it.
//!
//! ```no_run
//! use std::sync::Arc;
//! use apiserver::{ApiServer, News, Seen, Watch, follow};
//! use k8s_openapi::api::core::v1::ConfigMap;
//! # async fn watch() {
//! let watch: Watch<ConfigMap> = Watch::within("the settings", "larder");
//! let seen = Arc::new(Seen::default());
//! let name = |map: ConfigMap| map.metadata.name.unwrap_or_default();
//! let following = follow(&ApiServer::Environment, &watch, &seen, name, |news| match news {
//!     News::All(names) => println!("there are {names:?}"),
//!     News::Changed(name) => println!("{name} is new or has changed"),
//!     News::Gone(name) => println!("{name} is gone"),
//! });
//! match following.await {}
//! # }
//! ```
//!
//! Of a kind whose stored objects may not fit its type any more, follow [`kube::core::DeserializeGuard`] of it, lest one of them hide
//! all others. [`Session`] has a client for single requests.
#![forbid(unsafe_code)]

mod cause;
mod event;
mod follow;
mod line;
mod need;
mod seen;
mod session;
mod watch;

pub use cause::innermost;
pub use event::NodeEvent;
pub use follow::{News, follow};
pub use line::{ApiServer, NoWay};
pub use need::{Need, reason, refusal};
pub use seen::{Lost, Seen};
pub use session::Session;
pub use watch::{Watch, list};
