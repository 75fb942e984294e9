//! The folder of a cluster, who owns it, and what to do with folders that nobody owns any more.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::{cgroup, wait::wait_for_end};

/// Logs of failed runs are worth reading for about as long as the work day in which they failed.
const LOGS_KEPT: Duration = Duration::from_hours(24);
/// How long a process that clears away may take to see that a cluster is not its business.
const SWEEP_TIME: Duration = Duration::from_secs(1);
/// What of each log is shown when a run failed.
const TAIL_LINES: usize = 6;
/// One subnet for each cluster; see [`crate::network`].
const SLOTS: std::ops::RangeInclusive<u8> = 1..=60;

/// The folder under which every cluster has its own: `$LARDER_TESTBED_DIR`, else a fixed one under `/tmp`.
#[must_use]
pub fn base() -> PathBuf {
    std::env::var_os("LARDER_TESTBED_DIR").map_or_else(|| "/tmp/larder-testbed".into(), PathBuf::from)
}

/// A cluster's folder. The process that holds it owns the cluster of that name on this machine.
#[derive(Debug)]
pub(crate) struct State {
    name: String,
    path: PathBuf,
    slot: u8,
    keep_logs: AtomicBool,
    finished: AtomicBool,
    _owner: Lock,
    _slot: Lock,
}

impl State {
    /// Takes the name, clears away what an earlier run under any name has left, and makes the folder anew.
    pub(crate) fn create(name: &str) -> Result<Self> {
        check_name(name)?;
        sweep()?;
        let base = base();
        let lock = base.join(format!("{name}.lock"));
        // Another process may hold it for a moment, to look whether anybody does.
        let owner = wait_for_end("the name is free", SWEEP_TIME, || Lock::take(&lock));
        let owner = owner
            .with_context(|| format!("a cluster called {name} is running; `testbed down --name {name}` ends it"))?;
        let path = base.join(name);
        remove_tree(&path)?;
        fs::create_dir_all(path.join("logs")).with_context(|| format!("cannot create {}", path.display()))?;
        let (slot, slot_lock) = free_slot(&base)?;
        Ok(Self {
            name: name.to_owned(),
            path,
            slot,
            keep_logs: AtomicBool::new(true),
            finished: AtomicBool::new(false),
            _owner: owner,
            _slot: slot_lock,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// A number that no other running cluster has.
    pub(crate) fn slot(&self) -> u8 {
        self.slot
    }

    /// From now on the logs go with the rest.
    pub(crate) fn succeeded(&self) {
        self.keep_logs.store(false, Ordering::Relaxed);
    }

    /// From now on the logs stay.
    pub(crate) fn failed(&self) {
        self.keep_logs.store(true, Ordering::Relaxed);
    }

    /// Removes the cgroups and files of the cluster, whose processes must have ended.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.finished.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let keep_logs = self.keep_logs.load(Ordering::Relaxed) || thread::panicking();
        if keep_logs {
            eprintln!("{}\nthe logs are kept in {}", log_tails(&self.logs()), self.logs().display());
        }
        cgroup::remove(&self.name)?;
        clear_folder(&self.path, keep_logs)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            eprintln!("testbed: {error:#}");
        }
        let base = base();
        let _ = fs::remove_file(base.join(format!("{}.lock", self.name)));
        let _ = fs::remove_file(slot_path(&base, self.slot));
        // Which works for the last one only.
        let _ = fs::remove_dir(&base);
    }
}

/// The end of every log in a folder of logs, each under its name.
fn log_tails(logs: &Path) -> String {
    let mut text = String::new();
    for machine in fs::read_dir(logs).into_iter().flatten().flatten() {
        for log in fs::read_dir(machine.path()).into_iter().flatten().flatten() {
            let bytes = fs::read(log.path()).unwrap_or_default();
            let content = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = content.lines().collect();
            text += &format!("--- {} {}\n", machine.file_name().display(), log.file_name().display());
            text += &lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
            text += "\n";
        }
    }
    text
}

/// Whether a process owns the cluster of that name.
pub fn is_running(name: &str) -> Result<bool> {
    let path = base().join(format!("{name}.lock"));
    Ok(path.exists() && Lock::take(&path)?.is_none())
}

/// The names of the clusters that have a folder.
pub fn names() -> Vec<String> {
    let folders = fs::read_dir(base()).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Removes what killed runs have left. Their processes, mounts and links went with them; cgroups and files did not.
///
/// # Errors
///
/// Where something cannot be removed.
pub fn sweep() -> Result<()> {
    let base = base();
    for name in names() {
        let lock = base.join(format!("{name}.lock"));
        let Some(_held) = Lock::take(&lock)? else { continue };
        cgroup::remove(&name)?;
        let path = base.join(&name);
        clear_folder(&path, true)?;
        if age(&path.join("logs")).is_none_or(|age| age > LOGS_KEPT) {
            remove_tree(&path)?;
        }
        let _ = fs::remove_file(&lock);
    }
    // Which works where nothing is left.
    let _ = fs::remove_dir(&base);
    Ok(())
}

/// Removes the logs that a failed run of that name has left. Nothing of a running cluster is touched.
///
/// # Errors
///
/// They cannot be removed.
pub fn remove_logs(name: &str) -> Result<()> {
    check_name(name)?;
    let base = base();
    let lock = base.join(format!("{name}.lock"));
    if base.exists()
        && let Some(_held) = Lock::take(&lock)?
    {
        remove_tree(&base.join(name))?;
        let _ = fs::remove_file(&lock);
        let _ = fs::remove_dir(&base);
    }
    Ok(())
}

fn age(path: &Path) -> Option<Duration> {
    SystemTime::now().duration_since(fs::metadata(path).ok()?.modified().ok()?).ok()
}

fn clear_folder(path: &Path, keep_logs: bool) -> Result<()> {
    if !keep_logs {
        return remove_tree(path);
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_name() != "logs" {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if path.is_dir() { gone(fs::remove_dir_all(path)) } else { gone(fs::remove_file(path)) }
        .with_context(|| format!("cannot remove {}", path.display()))
}

/// Names end up in the names of cgroups and network interfaces.
fn check_name(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 40 || !name.bytes().all(good) {
        bail!("{name:?} is no name for a cluster: lower case letters, digits and dashes, at most 40");
    }
    Ok(())
}

fn free_slot(base: &Path) -> Result<(u8, Lock)> {
    for slot in SLOTS {
        if let Some(lock) = Lock::take(&slot_path(base, slot))? {
            return Ok((slot, lock));
        }
    }
    bail!("{} clusters are running on this machine", SLOTS.len())
}

fn slot_path(base: &Path, slot: u8) -> PathBuf {
    base.join(format!("{slot}.slot"))
}

/// A locked file. The kernel lets go of it when its holder dies.
#[derive(Debug)]
struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Lock {
    fn take(path: &Path) -> Result<Option<Self>> {
        loop {
            let file = match File::options().create(true).append(true).open(path) {
                // The last cluster that ends removes the folder too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let folder = path.parent().context("locks are in a folder")?;
                    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
                    continue;
                }
                opened => opened.with_context(|| format!("cannot open the lock file {}", path.display()))?,
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
            }
            // Its last holder may have removed the file between our open and our lock; then the lock is worth nothing.
            let ours = file.metadata().map(|meta| meta.ino()).ok();
            if fs::metadata(path).map(|meta| meta.ino()).ok() == ours {
                return Ok(Some(Self(file)));
            }
        }
    }
}
