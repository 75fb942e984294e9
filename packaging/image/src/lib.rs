//! Makes larder's container image without a container engine: an [`Image`] is what the binary needs and nothing else, and
//! [`Image::archive`] writes it as an OCI image layout in a tar, which every engine and most tools of registries take.
//!
//! Equal inputs give equal bytes: no file has a time, an owner or an order of the machine that it was made on.

mod archive;
mod layer;
mod root;

pub use archive::{Image, Written};
pub use root::{Program, Root};
