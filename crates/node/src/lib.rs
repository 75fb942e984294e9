//! Points the container runtime of a node at larder's mirror, says why pulls would not come, and takes it all back.
//!
//! Only [`membership`] uses the network: what only a running containerd knows is asked through [`Introspection`], which the caller
//! gives.
//! All paths of the host are seen under a root: `/`, or the mount point of the host's file system in a pod.
//!
//! ```no_run
//! use node::{Settings, detect, examine, install, uninstall};
//! # fn main() -> Result<(), node::Error> {
//! let settings = Settings::new("/");
//! let runtimes = detect(&settings.host_root, None)?;
//! for finding in install(&settings, &runtimes)?.findings { println!("{finding}"); }
//! for finding in examine(&settings, &runtimes) { println!("{finding}"); }
//! uninstall(&settings)?;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod certs_d;
mod containerd;
mod content;
mod crio;
mod disk;
mod error;
mod examine;
mod finding;
mod install;
pub mod membership;
mod runtime;
mod settings;

pub use certs_d::adopt::{AdoptError, adopt, strip};
pub use containerd::config::{ConfigPath, ContainerdConfig, PullPath};
pub use containerd::{Introspection, Version, drop_in};
pub use content::ContentStore;
pub use error::Error;
pub use examine::examine;
pub use finding::{Finding, Severity};
pub use install::{Installed, install, uninstall};
pub use runtime::{Distribution, Runtime, RuntimeKind, detect};
pub use settings::Settings;
