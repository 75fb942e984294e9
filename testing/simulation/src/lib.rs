//! How nodes share what they pull, at sizes that no machine has.
//!
//! [`run`] has the exchange of `crates/peers` itself decide for each of up to 10,000 nodes: who is home to what, who is asked, who
//! gives to whom, who is passed over. Only what is below [`peers::Ground`] is another: links that are counted
//! ([`Scenario`] says which) in place of sockets, no bytes in place of files, and the clock of a paused tokio runtime.
//!
//! ```text
//! scenario.rs   what is simulated           network.rs   links, and the messages on them
//! cluster.rs    the nodes and what they do  stream.rs    an answer's body on its way
//! figures.rs    what comes of it            ground.rs    what a node stands on
//! table.rs      figures as a table, plot.rs as a picture          origin.rs, store.rs   what is beside the nodes
//! ```
#![forbid(unsafe_code)]

mod cluster;
mod figures;
mod ground;
mod network;
mod origin;
mod plot;
mod scenario;
mod store;
mod stream;
mod table;

pub use cluster::run;
pub use figures::{Figures, Spread};
pub use plot::plot;
pub use scenario::{Churn, Scenario, Stale, Uneven};
pub use table::table;
