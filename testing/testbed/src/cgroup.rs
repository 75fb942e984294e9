//! The control groups under which a node's kubelet puts its pods.

use std::{fs, io, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use crate::wait::wait_for_end;

const ROOT: &str = "/sys/fs/cgroup";
/// Before every name, so that what a killed run has left is known by it.
const PREFIX: &str = "larder-testbed";

/// The path of a node's root group within every hierarchy.
pub(crate) fn path(cluster: &str, node: &str) -> String {
    format!("/{PREFIX}.{cluster}.{node}")
}

/// Makes a node's root group in every hierarchy. Without a root of its own, one kubelet ends the pods of the others.
pub(crate) fn create(cluster: &str, node: &str) -> Result<()> {
    let name = path(cluster, node);
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name.trim_start_matches('/'));
        fs::create_dir_all(&group).with_context(|| format!("cannot make the cgroup {}", group.display()))?;
        // A new cpuset is empty, and nothing can run in an empty one.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read(hierarchy.join(file)) {
                let _ = fs::write(group.join(file), value);
            }
        }
    }
    Ok(())
}

/// Removes the groups of all nodes of a cluster, which needs their processes to be gone.
pub(crate) fn remove(cluster: &str) -> Result<()> {
    remove_all(&format!("{PREFIX}.{cluster}."))
}

/// Removes the groups of one node.
pub(crate) fn remove_node(cluster: &str, node: &str) -> Result<()> {
    remove_all(path(cluster, node).trim_start_matches('/'))
}

fn remove_all(prefix: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let groups = fs::read_dir(&hierarchy).into_iter().flatten().flatten();
        for group in groups.filter(|group| group.file_name().to_string_lossy().starts_with(prefix)) {
            // A group stays busy for a moment after its last process died.
            wait_for_end(
                &format!("{} is empty", group.path().display()),
                Duration::from_secs(10),
                || match remove_tree(&group.path()) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(None),
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
                    _ => Ok(Some(())),
                },
            )?;
        }
    }
    Ok(())
}

/// The files of a group cannot be removed and need not be: only its subgroups first, then the group.
fn remove_tree(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn hierarchies() -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(ROOT).with_context(|| format!("cannot read {ROOT}"))?;
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return Ok(vec![ROOT.into()]);
    }
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").exists()).collect())
}
