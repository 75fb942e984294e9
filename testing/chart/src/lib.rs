//! What tests of the chart share: what it comes to.

mod manifests;
mod rendered;

pub use manifests::manifests;
pub use rendered::{documents, template};
