//! larder's processes on the nodes of a cluster, as the host sees them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// A role of larder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// `larder node`
    Node,
    /// `larder registry`
    Registry,
    /// `larder controller`
    Controller,
}

/// A process of larder.
#[derive(Clone, Debug)]
pub struct Process {
    /// What it does.
    pub role: Role,
    /// The name of its node.
    pub node: String,
    /// Its id on the host.
    pub pid: i32,
}

impl Process {
    /// Sends it a signal; one that is gone is no error.
    ///
    /// # Errors
    /// It may not be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid).context("ids are above zero")?;
        match kill_process(pid, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => other.with_context(|| format!("cannot send a signal to {self:?}")),
        }
    }

    /// Its resident memory in bytes, and how many descriptors it has open; `None` if it is gone.
    #[must_use]
    pub fn size(&self) -> Option<(u64, usize)> {
        let root = PathBuf::from(format!("/proc/{}", self.pid));
        let status = fs::read_to_string(root.join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some((kib << 10, fs::read_dir(root.join("fd")).ok()?.count()))
    }
}

/// All of them, of a cluster.
///
/// # Errors
/// The list of processes cannot be read.
pub fn all(cluster: &str) -> Result<Vec<Process>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    Ok(entries.flatten().filter_map(|entry| read(&entry.path(), cluster)).collect())
}

/// Those of a role, on one node or on all.
///
/// # Errors
/// As for [`all`].
pub fn of(cluster: &str, role: Role, node: Option<&str>) -> Result<Vec<Process>> {
    let mut found = all(cluster)?;
    found.retain(|process| process.role == role && node.is_none_or(|node| process.node == node));
    Ok(found)
}

fn read(root: &Path, cluster: &str) -> Option<Process> {
    let pid = root.file_name()?.to_str()?.parse().ok()?;
    let line = fs::read(root.join("cmdline")).ok()?;
    let words: Vec<&str> = line.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok()).collect();
    let role = match (words.first()?.rsplit('/').next()?, *words.get(1)?) {
        ("larder", "node") => Role::Node,
        ("larder", "registry") => Role::Registry,
        ("larder", "controller") => Role::Controller,
        _ => return None,
    };
    // The group that the node's kubelet puts its pods into.
    let groups = fs::read_to_string(root.join("cgroup")).ok()?;
    let mark = format!("larder-testbed.{cluster}.");
    let rest = &groups[groups.find(&mark)? + mark.len()..];
    let node = rest.split(['/', '\n']).next()?.to_owned();
    Some(Process { role, node, pid })
}
