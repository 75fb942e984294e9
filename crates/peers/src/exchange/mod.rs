//! The exchange of pieces between nodes.
//!
//! ```text
//! source.rs     a pull of this node: pieces fetched ahead, read in order
//! fetch.rs      one piece: its home in the zone, the cluster's home, whoever has it (fetch/node.rs), the sources beyond the
//!               nodes (fetch/beyond.rs), anybody while those are silent (fetch/anybody.rs)
//! client.rs     a question to a node        wire.rs    what is said      pulse.rs   whether it is still alive
//! probe.rs      whether a node is there at all, and why not
//! server.rs     questions of other nodes
//! meter.rs      how much comes in from all of them
//! gathering.rs  a blob of which some pieces are here, in one sparse file of the store
//! lines.rs      who takes a piece, and to whom the next is sent
//! reading.rs    bytes of a file, without a wait where they are in memory
//! swarm.rs      all gatherings, who holds what, what to forget
//! ```

mod ahead;
mod client;
mod fetch;
mod gathering;
mod lines;
mod meter;
mod metrics;
mod pace;
mod probe;
mod pulse;
mod reading;
mod server;
mod source;
mod swarm;
mod upstreams;
mod wire;

pub use metrics::Metrics;
pub use probe::{Distrust, Heard, Unheard, probe};
pub use server::Exchange;
pub use source::Peers;
pub use swarm::{Settings, Swarm};
pub use upstreams::WithPeers;
