//! What people are shown of a cluster: which images are where ([`ImageRow`]), how nodes do ([`NodeRow`]), how far an ImageCache is
//! ([`Progress`]) and where an image would come from ([`Why`]). All of it is made of the API server's objects, without asking anybody.
#![forbid(unsafe_code)]

mod images;
mod nodes;
mod progress;
mod table;
mod why;

pub use images::{ImageRow, images};
pub use nodes::{NodeRow, Removed, nodes, removed};
pub use progress::{Progress, name_of};
pub use table::{Table, age, size};
pub use why::{Place, Why, Whys, why};
