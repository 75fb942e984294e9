//! The servers' processes, and what /proc tells of them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A process with its descendants. Ends when dropped, and with this process.
pub(crate) struct Process {
    child: Child,
    log: std::path::PathBuf,
    started: Instant,
}

impl Process {
    /// Starts a command, whose output goes to `log`.
    pub(crate) fn start(command: &Command, log: &Path) -> Result<Process> {
        // setpriv becomes the program, so that the process is the one to look at.
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
        wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = command.get_current_dir() {
            wrapped.current_dir(folder);
        }
        let output = fs::File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let started = Instant::now();
        let child = wrapped
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Process { child, log: log.to_owned(), started })
    }

    /// Waits until `ready`, at most 60 s, and gives the time since the start.
    pub(crate) fn wait_until(&mut self, ready: impl Fn() -> bool) -> Result<Duration> {
        loop {
            if ready() {
                return Ok(self.started.elapsed());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || self.started.elapsed() > Duration::from_secs(60) {
                bail!("not ready: {}", fs::read_to_string(&self.log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Processor time so far, in ticks, of all its processes.
    pub(crate) fn ticks(&self) -> f64 {
        self.all().into_iter().map(ticks).sum()
    }

    /// Resident memory in bytes, of all its processes.
    pub(crate) fn resident(&self) -> f64 {
        self.all().into_iter().map(resident).sum()
    }

    /// The process and its descendants.
    fn all(&self) -> Vec<u32> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse::<u32>().ok()) {
                parents.push((pid, parent));
            }
        }
        let mut found = vec![self.child.id()];
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        found
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx's master takes its workers along on TERM only.
        for signal in ["-TERM", "-KILL"] {
            let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).stderr(Stdio::null()).status();
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// The fields of /proc/PID/stat after the name: state, parent, ...
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// Processor time of one process so far, in ticks.
pub(crate) fn ticks(pid: u32) -> f64 {
    sum(pid, 11..13)
}

/// Processor time in ticks, that of ended children included.
pub(crate) fn ticks_with_children(pid: u32) -> f64 {
    sum(pid, 11..15)
}

fn sum(pid: u32, fields: std::ops::Range<usize>) -> f64 {
    let stat = stat(pid).unwrap_or_default();
    stat.get(fields).into_iter().flatten().filter_map(|field| field.parse::<f64>().ok()).sum()
}

/// Resident memory of one process in bytes.
pub(crate) fn resident(pid: u32) -> f64 {
    memory(pid, "VmRSS:")
}

/// Of that, what is its own: nothing that is also in a file.
pub(crate) fn resident_own(pid: u32) -> f64 {
    memory(pid, "RssAnon:")
}

/// Of that, pages of files, such as the program's own: the kernel can take them back, and reads them again when they are needed.
pub(crate) fn resident_of_files(pid: u32) -> f64 {
    memory(pid, "RssFile:")
}

/// The most memory in bytes that has been resident of one process at a time.
pub(crate) fn most_resident(pid: u32) -> f64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, field: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}
