//! The same pulls through distribution: one cache for all nodes, on a machine with a link like theirs.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use testbed::{Launch, Other, Written, wait_for};

use super::{Lab, Pull, bare, path, size, take};
use crate::server::distribution_config;

/// The machine that it runs on.
pub(super) const MACHINE: &str = "mirror";
const PORT: u16 = 5000;
/// What it is a mirror of, under the name that the testbed's origin answers to.
const ORIGIN: &str = "https://registry-1.docker.io";

/// distribution as the only mirror of the nodes.
pub(super) struct Mirror {
    program: PathBuf,
}

impl Mirror {
    pub(super) fn new(program: &Path) -> Mirror {
        Mirror { program: program.to_owned() }
    }

    /// The first nodes pull through it, cold.
    pub(super) fn pull(&self, lab: &mut Lab<'_>, nodes: usize, image: &Written, ideal: f64) -> Result<Pull> {
        lab.run += 1;
        let other = find(lab)?;
        let machine = other.machine();
        let folder = format!("/var/lib/larder/distribution-{}", lab.run);
        let config = format!("{folder}/config.yml");
        let listens = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        machine.write(&config, &distribution_config(Path::new(&folder), listens, ORIGIN))?;
        let launch = Launch::new(&self.program).args(["serve", &config]).env("OTEL_TRACES_EXPORTER", "none");
        let process = machine.spawn("distribution", launch)?;
        let address = machine.address();
        wait_for("distribution listens", Duration::from_secs(60), || {
            process.require_running()?;
            Ok(machine.in_network(|| TcpStream::connect((address, PORT)))?.ok())
        })?;
        let before = lab.before(nodes)?;
        let sent = other.link().traffic()?.sent;
        let paths: Vec<String> = image.layers.iter().map(|layer| bare(&path("one", &layer.digest))).collect();
        let took = lab.all(nodes, |_| paths.iter().try_for_each(|path| take(address, PORT, path, None).map(drop)))?;
        let mut pull = lab.pull("distribution", nodes, image, Some(ideal), before, &took)?;
        // It sends, and no node does.
        pull.upload = (other.link().traffic()?.sent - sent) as f64 / size(image) as f64;
        process.kill()?;
        machine.run(&["rm", "-rf", &folder])?;
        Ok(pull)
    }
}

fn find<'a>(lab: &Lab<'a>) -> Result<&'a Other> {
    let mut others = lab.cluster.others().iter();
    others.find(|other| other.machine().name() == MACHINE).context("there is no machine for the mirror")
}
