//! Points the container runtime of a node at larder's mirror, says why pulls would not come, and takes it all back.
//!
//! [`membership`] asks the API server, [`detect`] a running containerd through its socket, [`examine_neighbours`] other nodes;
//! nothing else here speaks to others.
//! All paths of the host are seen under a root: `/`, or the mount point of the host's file system in a pod.
//!
//! ```no_run
//! use node::{Settings, detect, examine, install, uninstall};
//! # async fn point() -> Result<(), node::Error> {
//! let settings = Settings::new("/");
//! let runtimes = detect(&settings.host_root).await?;
//! for finding in install(&settings, &runtimes)?.findings { println!("{finding}"); }
//! for finding in examine(&settings, &runtimes) { println!("{finding}"); }
//! uninstall(&settings)?;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod certificates;
mod certs_d;
mod clock;
mod containerd;
mod content;
pub mod cri;
mod crio;
mod disk;
mod error;
mod examine;
mod finding;
mod grpc;
mod install;
pub mod membership;
mod neighbours;
pub mod prefetch;
mod runtime;
mod settings;

pub use certificates::examine_certificates;
pub use certs_d::adopt::{AdoptError, adopt, strip};
pub use clock::{Clock, examine_clocks};
pub use containerd::config::{ConfigPath, ContainerdConfig, PullPath};
pub use containerd::running::{AskError, Running, ask};
pub use containerd::{Version, drop_in};
pub use content::ContentStore;
pub use error::Error;
pub use examine::examine;
pub use finding::{Finding, Severity};
pub use install::{Installed, install, uninstall};
pub use neighbours::examine_neighbours;
pub use runtime::{Distribution, Runtime, RuntimeKind, detect, detect_by_files};
pub use settings::Settings;
