//! Upstreams of a cluster, put to use while larder runs.
//!
//! [`Following`] follows the objects, and for a registry the Secrets that they name. `listed.rs` is what is known of them and what
//! becomes of each, `settings.rs` what one says as settings, `secrets.rs` the credentials, `pull_secrets.rs` those that ImageCaches name, `tell.rs` writes whether it is in use. `probe.rs` asks their endpoints whether they
//! are there, for the controller.

mod follow;
mod listed;
mod probe;
mod pull_secrets;
mod secrets;
mod settings;
mod tell;

pub use follow::Following;
pub use probe::Endpoints;
pub use pull_secrets::read as read_pull_secrets;
