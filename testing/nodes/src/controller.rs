use std::sync::Arc;

use anyhow::Result;
use testbed::larder::binary;
use testbed::{Cluster, Launch, Machine, Process};

use crate::account::{act_as, make_service_account};

/// Makes the account of controllers, with these rights: those of [`controller_rights`](crate::controller_rights), or fewer.
///
/// # Errors
/// The API server refuses them.
pub fn make_controller_account(cluster: &Cluster, rights: &str) -> Result<()> {
    make_service_account(cluster, "larder-controller")?;
    cluster.kubectl().apply(rights)
}

/// `larder controller` on a machine.
pub struct Controller {
    process: Arc<Process>,
}

impl Controller {
    /// Where it shows how it is, if a registry or an agent on its machine does not take the usual address.
    pub const ALONE: &str = "127.0.0.1:7441";
    /// The same beside a registry or an agent.
    pub const BESIDE: &str = "127.0.0.1:7442";

    /// Starts it under a name as its account, which is there already, with these lines of its section of the configuration, and waits for nothing.
    ///
    /// # Errors
    /// There is no such account, or the process does not start.
    pub fn start(
        cluster: &Cluster,
        machine: &Machine,
        (name, metrics): (&str, &str),
        lines: &str,
    ) -> Result<Controller> {
        let kubeconfig = format!("/etc/larder/{name}.kubeconfig");
        act_as(cluster, machine, "larder-controller", &kubeconfig)?;
        Controller::launch(machine, (name, metrics), &kubeconfig, lines)
    }

    /// As [`Controller::start`], as whoever a kubeconfig of the machine says.
    ///
    /// # Errors
    /// The process does not start.
    pub fn launch(
        machine: &Machine,
        (name, metrics): (&str, &str),
        kubeconfig: &str,
        lines: &str,
    ) -> Result<Controller> {
        let config = format!("/etc/larder/{name}.toml");
        machine.write(&config, &format!("metrics = {metrics:?}\n[controller]\nidentity = {name:?}\n{lines}"))?;
        let launch = Launch::new(binary()).args(["controller", "--config", &config]);
        let launch = launch.args(["--log", "info,controller=debug,apiserver=debug"]);
        Ok(Controller { process: machine.spawn(name, launch.env("KUBECONFIG", kubeconfig))? })
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// All that it has logged.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.process.log())?)
    }
}
