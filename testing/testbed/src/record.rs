//! What other processes need to know of a running cluster, in a file in its folder.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    image::{Image, Written},
    machine::{Machine, enter},
    network::Link,
    origin::{self, Origin, OriginSpec},
    state,
};

const FILE: &str = "cluster.json";

/// A running cluster as another process sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// The process that ends it when it gets `SIGTERM`.
    pub owner: u32,
    /// The file that leads `kubectl` to it.
    pub kubeconfig: PathBuf,
    /// The switch, the control plane, the internet and the nodes.
    pub machines: Vec<MachineRecord>,
    origins: Vec<OriginSpec>,
}

/// A machine of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Its host name.
    pub name: String,
    /// The id of its first process.
    pub init: i32,
    /// Its address in the cluster's network.
    pub address: Ipv4Addr,
}

impl Record {
    pub(crate) fn new<'a>(
        name: &str,
        kubeconfig: &Path,
        machines: impl Iterator<Item = &'a Machine>,
        origins: &[Origin],
    ) -> Self {
        let machine = |machine: &Machine| MachineRecord {
            name: machine.name().to_owned(),
            init: machine.init(),
            address: machine.address(),
        };
        Self {
            name: name.to_owned(),
            owner: std::process::id(),
            kubeconfig: kubeconfig.to_owned(),
            machines: machines.map(machine).collect(),
            origins: origins.iter().map(|origin| origin.spec().clone()).collect(),
        }
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let unfinished = dir.join("cluster.json.new");
        fs::write(&unfinished, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads that of the cluster of that name.
    ///
    /// # Errors
    ///
    /// No cluster of that name is running.
    pub fn read(name: &str) -> Result<Self> {
        let path = state::base().join(name).join(FILE);
        if !state::is_running(name)? {
            bail!("no cluster called {name} is running; `testbed up` starts one");
        }
        let bytes = fs::read(&path).with_context(|| format!("{name} is still starting: no {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("cannot understand {}", path.display()))
    }

    /// The machine of that name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn machine(&self, name: &str) -> Result<&MachineRecord> {
        let names: Vec<_> = self.machines.iter().map(|machine| machine.name.as_str()).collect();
        let found = self.machines.iter().find(|machine| machine.name == name);
        found.with_context(|| format!("no machine is called {name}; there are {}", names.join(", ")))
    }

    /// A command that runs in that machine.
    ///
    /// # Errors
    ///
    /// There is no such machine.
    pub fn command(&self, machine: &str, program: &str) -> Result<Command> {
        let words = enter(self.machine(machine)?.init);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program).current_dir("/");
        Ok(command)
    }

    /// The link to that machine.
    ///
    /// # Errors
    ///
    /// There is no such machine.
    pub fn link(&self, machine: &str) -> Result<Link> {
        Ok(Link::of(self.machine("switch")?.init, self.machine(machine)?.init, machine))
    }

    /// The hosts of its origins.
    pub fn origins(&self) -> impl Iterator<Item = &str> {
        self.origins.iter().map(|origin| origin.host.as_str())
    }

    /// Makes an image and pushes it. `reference` is `host/repository:tag` of one of the origins.
    ///
    /// # Errors
    ///
    /// No origin has that host, or it refuses the image.
    pub fn push(&self, crane: &Path, reference: &str, image: &Image) -> Result<Written> {
        let (host, name) = reference.split_once('/').context("a reference is host/repository:tag")?;
        let origin = self.origins.iter().find(|origin| origin.host == host);
        let origin = origin.with_context(|| format!("no origin is called {host}"))?;
        let crane = self.command("internet", &crane.display().to_string())?;
        let layout = state::base().join(&self.name).join(format!("push-{}", std::process::id()));
        origin::push(crane, &layout, origin, name, image)
    }
}
