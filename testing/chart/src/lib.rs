//! What tests of the chart share: what it comes to.

mod rendered;

pub use rendered::{documents, template};
