//! The cluster's `kubectl`, for whatever a test wants of the API server.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    machine::{output_of, text_of},
    wait::wait_for,
};

/// `kubectl` as the administrator of one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    config: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(program: &Path, config: &Path) -> Self {
        Self { program: program.to_owned(), config: config.to_owned() }
    }

    /// The file that leads other clients to the API server, as the administrator.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// A command to be given arguments and run by the caller.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.config);
        command
    }

    /// Runs it and gives what it printed.
    ///
    /// # Errors
    ///
    /// It fails; the error has what it complained about.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        output_of(self.command().args(arguments))
    }

    /// Runs it with `-o json` and gives the answer.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = output_of(self.command().args(arguments).args(["-o", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {arguments:?} gave no JSON"))
    }

    /// Applies objects, as YAML or JSON.
    ///
    /// # Errors
    ///
    /// The API server refuses one of them.
    pub fn apply(&self, objects: &str) -> Result<()> {
        let mut command = self.command();
        command.args(["apply", "--server-side", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run kubectl")?;
        child.stdin.take().context("it was asked for")?.write_all(objects.as_bytes())?;
        let output = child.wait_with_output()?;
        text_of(&command, output).map(drop)
    }

    /// Waits until `count` pods with that label, in that namespace, are ready. What hinders them is in the error.
    ///
    /// # Errors
    ///
    /// They are not ready `within` that time.
    pub fn await_ready_pods(&self, namespace: &str, label: &str, count: usize, within: Duration) -> Result<()> {
        let mut last = Value::Null;
        let waited = wait_for(&format!("{count} pods with {label} are ready"), within, || {
            last = self.json(&["get", "pods", "-n", namespace, "-l", label])?;
            let pods = last["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            Ok((pods.iter().filter(|pod| has_condition(pod, "Ready")).count() == count).then_some(()))
        });
        waited.with_context(|| {
            let events = self.run(&["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"]).unwrap_or_default();
            format!("pods: {}\nevents:\n{events}", summary(&last))
        })
    }
}

/// Whether an object has a condition of that type which is true.
#[must_use]
pub fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn summary(list: &Value) -> String {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let lines = items.iter().map(|item| {
        let status = &item["status"];
        format!("\n{} {} {}", item["metadata"]["name"], status["phase"], status["containerStatuses"])
    });
    lines.collect()
}
