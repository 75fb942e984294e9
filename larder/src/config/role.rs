use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::{Budget, Listener, place};

/// What a long-running larder is for. Roles differ in what they do unless told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One endpoint for many clients.
    Registry,
    /// The mirror of the container runtime on its own machine.
    Node,
    /// What looks after the nodes of a cluster.
    Controller,
}

impl Role {
    pub(super) fn listen(self) -> SocketAddr {
        let port = match self {
            Role::Registry => 5000,
            // A controller has no clients.
            Role::Node | Role::Controller => 7439,
        };
        (Ipv4Addr::LOCALHOST, port).into()
    }

    pub(super) fn metrics(self) -> Listener {
        let port = match self {
            Role::Registry => 5001,
            Role::Node => 7441,
            Role::Controller => 7442,
        };
        Listener::On((Ipv4Addr::LOCALHOST, port).into())
    }

    /// A node's disk belongs to its pods.
    pub(super) fn budget(self) -> Budget {
        match self {
            Role::Registry => Budget::Percent(80),
            Role::Node | Role::Controller => Budget::PercentUpTo(10, 20 << 30),
        }
    }

    pub(super) fn store(self) -> Option<PathBuf> {
        let store = place::default_store()?;
        // Beside each other, since each wants its folder for itself.
        Some(if self == Role::Registry { store } else { store.with_file_name("larder-node").join("store") })
    }
}
