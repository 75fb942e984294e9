//! Starts larder on the machines of a testbed's cluster.

mod agent;
mod peering;

pub use agent::{Agent, MIRROR, Registry, await_ready, binary, metric};
pub use peering::{certify, member, peering};
