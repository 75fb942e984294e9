//! The nouns of the OCI specifications: digests, names, references, routes, manifests and error codes.
//!
//! Everything here is pure: no I/O, no clock, no allocation beyond what the input asks for. Types carry the rules, so
//! that a [`Digest`], a [`Repository`] or a [`Tag`] cannot hold what is invalid; parsing happens once, at the edge.
//!
//! ```
//! use oci::{Name, Route, Endpoint};
//!
//! let route = Route::parse("/v2/library/nginx/manifests/1.27", Some("docker.io"), None).unwrap();
//! let Route::Repository { name, endpoint: Endpoint::Manifest(reference) } = route else { panic!() };
//! assert_eq!(name, Name::parse("docker.io/nginx").unwrap());
//! assert_eq!(reference.to_string(), "1.27");
//! ```
#![forbid(unsafe_code)]

mod digest;
mod error;
mod image;
mod manifest;
mod media;
mod name;
mod pattern;
mod platform;
mod reference;
mod route;
mod short;

pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use error::{ErrorBody, ErrorCode};
pub use image::{Image, ImageError};
pub use manifest::{Descriptor, Manifest, ManifestError, ManifestKind};
pub use media::{MANIFEST_TYPES, MediaType};
pub use name::{Name, NameError, Registry, Repository};
pub use pattern::Pattern;
pub use platform::Platform;
pub use reference::{Reference, ReferenceError, Tag};
pub use route::{Endpoint, Route, RouteError};

/// The largest manifest that larder reads, stores or serves, in bytes: the limit of containerd's resolver
/// (4 * 1048 * 1048), which is above the 4 MiB that the distribution specification asks registries to support.
pub const MANIFEST_LIMIT: usize = 4_393_216;
