//! The server side: the routes of the OCI distribution API over the engine, with zero-copy bodies.
//!
//! ```text
//! Port (port.rs)            an address that is listened on
//! Server (server.rs)        accepts at one or two addresses, bounds, drains
//!   Host (connection.rs)    one connection: hyper over PlainIo (zero_copy.rs) or TlsIo (tls.rs, after handshake.rs), with the
//!                           deadlines of watch.rs
//!     Client (service.rs)   one request: query.rs, authorization.rs, throttle.rs, range.rs → engine → answer.rs, failure.rs
//!       Body (body.rs)      its bytes, piece by piece from content.rs; counted and logged at its end
//! Admin (admin.rs)          metrics and probes, on their own port
//! ```
#![deny(unsafe_code)]

mod admin;
mod answer;
mod authorization;
mod body;
mod connection;
mod content;
mod drain;
mod failure;
mod handshake;
mod keep;
mod metrics;
mod port;
mod query;
mod range;
mod server;
mod service;
mod settings;
mod throttle;
mod tls;
mod watch;
mod zero_copy;

pub use admin::Admin;
pub use keep::KEEP_PATH;
pub use metrics::Metrics;
pub use port::Port;
pub use server::{Error, Server};
pub use settings::{KeeperChoice, Limits, Mirror, ServeSettings, TlsChoice, TlsFiles};
