//! Starts larder on the machines of a testbed's cluster.

mod account;
mod agent;
mod between;
mod controller;
mod objects;
mod peering;
mod puller;

pub use account::{
    KUBECONFIG, act_as, controller_rights, give_account, install_definitions, make_account, registry_rights,
};
pub use agent::{Agent, MIRROR, Registry, await_ready, is_ready, metric};
pub use between::{Between, Death, Fate, Mode};
pub use controller::{Controller, make_controller_account};
pub use objects::{make_node, taints, tell};
pub use peering::{certify, certify_roles, give_certificate, member, peering};
pub use puller::{Puller, Way};
pub use testbed::larder::binary;
