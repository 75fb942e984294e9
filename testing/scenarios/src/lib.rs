//! Starts the real `larder` binary in front of registries that a test controls, and asks it over raw sockets.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let up = faulty::Upstream::start().await?;
//! let image = up.image("library/a", "latest", &[1 << 20], 1);
//! let larder = scenarios::Larder::in_front_of("up.test", &up).start()?;
//! let answer = larder.get(&format!("/v2/up.test/library/a/blobs/{}", image.layers[0]))?;
//! assert_eq!(answer.status, 200);
//! assert_eq!(answer.digest(), image.layers[0]);
//! assert_eq!(larder.metric("larder_fills_total", &[("result", "kept")]), 1.0);
//! # Ok(()) }
//! ```
//!
//! Everything that is started ends when its value is dropped.

mod authority;
mod client;
mod command;
mod containerd;
mod images;
mod larder;
mod noise;
mod origin;
mod token_service;
mod volume;
mod wait;

pub use authority::Authority;
pub use client::{Answer, Client, Ending, basic};
pub use command::run;
pub use containerd::{Containerd, Release};
pub use images::{Images, image_programs, push_image, push_images};
pub use larder::{Builder, Larder};
pub use noise::noise;
pub use origin::{Guard, Origin, Software, docker_config};
pub use volume::{Volume, ext4_image, need_root, scrub};
pub use wait::{wait_for, wait_for_some};
