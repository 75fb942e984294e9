//! Starts larder on the machines of a testbed's cluster.

mod agent;

pub use agent::{Agent, MIRROR, Registry, binary};
