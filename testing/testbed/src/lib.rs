//! A real Kubernetes cluster on one machine, to develop and test in.
//!
//! etcd, the API server, the scheduler and the controller manager run on one *machine*, origin registries on another, and every node
//! with its containerd and kubelet on a machine of its own. A machine is a set of Linux namespaces: it has its own network, processes
//! and files in the usual places. Links between them can be capped, cut and measured; every process can be killed, stopped and started again.
//!
//! ```no_run
//! use testbed::{ClusterSpec, Image, Layer, with_cluster};
//!
//! # fn main() -> anyhow::Result<()> {
//! with_cluster(&ClusterSpec::new("example").nodes(3), |cluster| {
//!     cluster.origin("docker.io")?.push("library/app:1", &Image::new().layer(Layer::random(8 << 20)))?;
//!     cluster.node("node-2")?.crictl(&["pull", "docker.io/library/app:1"])?;
//!     Ok(())
//! })
//! # }
//! ```

mod authority;
mod cgroup;
mod cluster;
mod control;
mod helm;
mod image;
mod kubectl;
pub mod larder;
mod machine;
mod narrow;
mod network;
mod node;
mod origin;
mod process;
mod record;
mod spec;
mod state;
mod tar;
mod wait;

pub use cluster::{Cluster, Other, with_cluster};
pub use control::Control;
pub use helm::Helm;
pub use image::{Blob, Image, Layer, Written};
pub use kubectl::{Kubectl, has_condition};
pub use machine::Machine;
pub use narrow::Narrow;
pub use network::{Link, Rate, Traffic};
pub use node::{CONTAINERD_SOCKET, Node};
pub use origin::{Origin, OriginSpec, PRIVATE_PASSWORD, PRIVATE_USER, Request};
pub use process::{Launch, Process};
pub use record::{MachineRecord, Record};
pub use spec::{ClusterSpec, NodeSpec, Runtime};
pub use state::{base, is_running, names, remove_logs, sweep};
pub use wait::{interrupt, wait_for, wait_until_ok};
