//! A process inside a machine, which tests can kill, stop, continue and start again.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{wait_for, wait_for_end};

/// How long the kernel may take to start or to end a process on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// What of a log is worth showing when a process failed.
const TAIL_LINES: usize = 15;

/// A program with its arguments, to be started in a machine.
#[derive(Debug, Clone)]
pub struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

impl Launch {
    /// A program, by its path or a name that is searched in `PATH`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }
}

/// A long-running process in a machine. It ends with its machine at the latest.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    enter: Vec<String>,
    launch: Launch,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    /// `nsenter`, which waits for the program because that is in another process namespace.
    outer: Child,
    /// The program itself, by its id outside of the namespace.
    pid: Pid,
}

impl Process {
    /// Starts it. `enter` is the command line that leads into the machine; output is appended to `log`.
    pub(crate) fn start(name: &str, enter: Vec<String>, launch: Launch, log: PathBuf) -> Result<Self> {
        let process = Self { name: name.to_owned(), log, enter, launch, running: Mutex::new(None) };
        process.start_again()?;
        Ok(process)
    }

    /// The name by which its machine knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that has all it ever printed.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process id, as seen by this process.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn pid(&self) -> Result<i32> {
        self.with_running(|running| Ok(running.pid.as_raw_nonzero().get()))
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.with_running(|running| {
            kill_process(running.pid, signal).with_context(|| format!("cannot send a signal to {}", self.name))
        })
    }

    /// Freezes it with `SIGSTOP`: its connections stay open and nothing answers on them.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Self::stop`].
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn go_on(&self) -> Result<()> {
        self.with_running(|running| {
            // nsenter stops itself when its child stops.
            let outer = Pid::from_child(&running.outer);
            kill_process(outer, Signal::CONT)
                .and_then(|()| kill_process(running.pid, Signal::CONT))
                .with_context(|| format!("cannot continue {}", self.name))
        })
    }

    /// Kills it with `SIGKILL` and waits until it is gone.
    ///
    /// # Errors
    ///
    /// It had ended already, or does not end.
    pub fn kill(&self) -> Result<()> {
        self.with_running(|running| {
            kill_process(running.pid, Signal::KILL).with_context(|| format!("cannot kill {}", self.name))?;
            // Where the program was stopped, nsenter is as well, and would not notice that it is gone.
            let _ = kill_process(Pid::from_child(&running.outer), Signal::CONT);
            Ok(())
        })?;
        self.await_end()
    }

    /// Asks it to end with `SIGTERM` and waits until it has.
    ///
    /// # Errors
    ///
    /// It had ended already, or does not end.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.await_end()
    }

    /// Starts it again, with the same arguments and the same log. It must have ended.
    ///
    /// # Errors
    ///
    /// It still runs, or cannot be started.
    pub fn start_again(&self) -> Result<()> {
        if self.is_running() {
            bail!("{} is running", self.name);
        }
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let outer = Command::new(&self.enter[0])
            .args(&self.enter[1..])
            .arg(&self.launch.program)
            .args(&self.launch.arguments)
            .envs(self.launch.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C in the terminal is for the testbed, which then ends everything in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let mut outer = Reaped(Some(outer));
        let pid = wait_for(&format!("{} has started", self.name), PATIENCE, || {
            let child = outer.0.as_mut().context("taken below only")?;
            if let Some(pid) = only_child(child.id()) {
                return Ok(Some(pid));
            }
            match child.try_wait()? {
                Some(status) => bail!("{} ended at once, {status}:\n{}", self.name, self.log_tail()),
                None => Ok(None),
            }
        })?;
        let outer = outer.0.take().context("taken here only")?;
        *self.lock() = Some(Running { outer, pid });
        Ok(())
    }

    /// Whether it runs (or is stopped by a signal).
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.lock().as_mut().is_some_and(|running| matches!(running.outer.try_wait(), Ok(None)))
    }

    /// An error that shows the end of its log, if it has ended.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn require_running(&self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        bail!("{} has ended; the end of {}:\n{}", self.name, self.log.display(), self.log_tail())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid()?);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS in it")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmRSS has no value")?.parse()?;
        Ok(kib << 10)
    }

    fn await_end(&self) -> Result<()> {
        wait_for_end(&format!("{} has ended", self.name), PATIENCE, || Ok((!self.is_running()).then_some(())))
    }

    fn with_running<T>(&self, act: impl FnOnce(&Running) -> Result<T>) -> Result<T> {
        self.require_running()?;
        let running = self.lock();
        act(running.as_ref().context("it ran a moment ago")?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.go_on();
            let _ = self.kill();
            let _ = self.await_end();
        }
    }
}

/// A child that is killed and waited for unless it is taken out.
struct Reaped(Option<Child>);

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The child of a process that has no more than one.
pub(crate) fn only_child(of: u32) -> Option<Pid> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
    Pid::from_raw(text.split_whitespace().next()?.parse().ok()?)
}
