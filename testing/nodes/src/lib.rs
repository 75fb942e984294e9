//! Starts larder on the machines of a testbed's cluster.

mod account;
mod agent;
mod peering;

pub use account::{KUBECONFIG, give_account, install_definitions, make_account};
pub use agent::{Agent, MIRROR, Registry, await_ready, binary, metric};
pub use peering::{certify, member, peering};
