//! The real programs that the tests run: container runtimes, registries, registry clients and Kubernetes itself.
//!
//! Programs written in Go are pinned as tools of the Go modules under `testing/tools` and built on first use into a cache outside
//! the repository; the rest comes from Debian packages. A test asks for what it needs and gets paths:
//!
//! ```no_run
//! use programs::{Program, ensure};
//!
//! # fn main() -> anyhow::Result<()> {
//! let paths = ensure(&[Program::Crane, Program::Registry])?;
//! std::process::Command::new(paths.get(Program::Crane)).arg("version").status()?;
//! # Ok(())
//! # }
//! ```

mod build;
mod catalogue;
mod debian;
mod group;
mod lock;

pub use build::{Paths, cache_dir, ensure, path_of};
pub use catalogue::Program;
pub use debian::debian;
pub use group::Group;
