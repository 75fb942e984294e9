//! The exchange of pieces between nodes.
//!
//! ```text
//! source.rs     a pull of this node: pieces fetched ahead, read in order
//! fetch.rs      one piece: its home in the zone, the cluster's home, whoever has it (fetch/node.rs), the sources beyond the
//!               nodes (fetch/beyond.rs), anybody while those are silent (fetch/anybody.rs)
//! client.rs     a question to a node        wire.rs    what is said      pulse.rs   whether it is still alive
//! giving.rs     what is answered to questions of other nodes
//! ground.rs     how questions get to other nodes: by sockets.rs and server.rs or, in a simulation, by a network that is counted
//! probe.rs      whether a node is there at all, and why not
//! meter.rs      how much comes in from all of them
//! gathering.rs  a blob of which some pieces are here, in one sparse file of the store
//! lines.rs      who takes a piece, and to whom the next is sent
//! reading.rs    bytes of a file, without a wait where they are in memory
//! swarm.rs      all gatherings, who holds what, what to forget
//! ```

mod ahead;
mod client;
mod clock;
mod fetch;
mod gathering;
mod giving;
mod ground;
mod lines;
mod meter;
mod metrics;
mod pace;
mod probe;
mod pulse;
mod reading;
mod server;
mod sockets;
mod source;
mod swarm;
mod upstreams;
mod wire;

pub use giving::{Giving, Part, Stretch};
pub use ground::{Answer, Arriving, Disk, Ground, Lost};
pub use metrics::Metrics;
pub use probe::{Distrust, Heard, Unheard, probe};
pub use server::Exchange;
pub use source::Peers;
pub use swarm::{Settings, Swarm};
pub use upstreams::WithPeers;
pub use wire::{FRAME, Frame, No, Query};
