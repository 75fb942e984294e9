//! A machine: a set of namespaces with an own network, host name, processes and view of `/etc`, `/run` and `/var`.
//!
//! Everything in a machine lives exactly as long as its first process, and that process reads from a pipe that only the testbed
//! holds open. So a machine cannot outlive the testbed, even where that is killed: the kernel ends its processes,
//! and its mounts and network interfaces go with them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    net::Ipv4Addr,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::process::{Launch, Process, only_child};

/// The file in which programs written in Go, in Rust and in C all look for the authorities they trust.
pub(crate) const TRUST_STORE: &str = "etc/ssl/certs/ca-certificates.crt";

/// What the first process of a machine does. It reaps whatever is left to it, since a shell waits for any child.
const INIT: &str = r#"
mount --make-rshared /
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$DIR/etc,workdir=$DIR/etc.work" /etc
mount -t overlay overlay -o "lowerdir=/var,upperdir=$DIR/var,workdir=$DIR/var.work" /var
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /var/lib/containerd /var/lib/kubelet /var/lib/larder
for name in containerd kubelet larder; do
    mkdir -p "$DIR/$name"
    mount --bind "$DIR/$name" "/var/lib/$name"
done
if [ -n "$DISK" ]; then
    mount -t tmpfs -o "size=$DISK,mode=700" tmpfs /var/lib/containerd
fi
hostname "$NAME"
ip link set lo up
echo ready
cat >/dev/null
exit 0
"#;

/// What a machine is made with.
pub(crate) struct MachineSpec<'a> {
    /// Its host name.
    pub(crate) name: &'a str,
    /// Where its files are kept.
    pub(crate) dir: &'a Path,
    /// Where the logs of its processes go.
    pub(crate) logs: &'a Path,
    /// Its address in the cluster's network.
    pub(crate) address: Ipv4Addr,
    /// Names that it knows.
    pub(crate) hosts: &'a str,
    /// The authorities that it trusts.
    pub(crate) trust: &'a str,
    /// Files that are there from the start, by their path below `/etc`.
    pub(crate) etc: &'a [(&'a str, String)],
    /// The size in bytes of a filesystem of its own for containerd; none for the disk of this machine.
    pub(crate) disk: Option<u64>,
    /// What its processes find in their `PATH`.
    pub(crate) path: &'a str,
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    name: String,
    address: Ipv4Addr,
    logs: PathBuf,
    search_path: String,
    outer: Mutex<Child>,
    /// Never written to; the machine ends when it is closed.
    _lifeline: Option<ChildStdin>,
    init: Pid,
    processes: Mutex<Vec<Arc<Process>>>,
}

impl Machine {
    pub(crate) fn start(spec: &MachineSpec<'_>) -> Result<Self> {
        Self::try_start(spec).with_context(|| format!("cannot start the machine {}", spec.name))
    }

    fn try_start(spec: &MachineSpec<'_>) -> Result<Self> {
        let etc = spec.dir.join("etc");
        for folder in ["etc", "etc.work", "var", "var.work"] {
            fs::create_dir_all(spec.dir.join(folder))?;
        }
        let files =
            [("hosts", spec.hosts.to_owned()), ("resolv.conf", String::new()), ("hostname", spec.name.to_owned())];
        for (path, text) in files.iter().chain(spec.etc) {
            write(&etc.join(path), text)?;
        }
        write(&spec.dir.join(TRUST_STORE), spec.trust)?;
        fs::create_dir_all(spec.logs)?;

        let mut outer = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--propagation", "private", "sh", "-euc", INIT])
            .env("NAME", spec.name)
            .env("DIR", spec.dir)
            .env("DISK", spec.disk.map(|bytes| bytes.to_string()).unwrap_or_default())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot run unshare")?;
        let lifeline = outer.stdin.take();
        let mut line = String::new();
        if let Some(output) = outer.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let init = only_child(outer.id());
        let (Some(init), "ready") = (init, line.trim()) else {
            drop(lifeline);
            let mut complaint = String::new();
            if let Some(mut errors) = outer.stderr.take() {
                errors.read_to_string(&mut complaint)?;
            }
            bail!("{}: {}", outer.wait()?, complaint.trim());
        };
        Ok(Self {
            name: spec.name.to_owned(),
            address: spec.address,
            logs: spec.logs.to_owned(),
            search_path: spec.path.to_owned(),
            outer: Mutex::new(outer),
            _lifeline: lifeline,
            init,
            processes: Mutex::new(Vec::new()),
        })
    }

    /// Its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address in the network of the cluster.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The id of its first process, as seen by this process.
    #[must_use]
    pub fn init(&self) -> i32 {
        self.init.as_raw_nonzero().get()
    }

    /// Where a path of the machine is found from outside. Files can be read and written, and sockets connected to.
    #[must_use]
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        PathBuf::from(format!("/proc/{}/root", self.init())).join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// Writes a file of the machine, with the folders that lead to it.
    ///
    /// # Errors
    ///
    /// As for any file.
    pub fn write(&self, inside: impl AsRef<Path>, text: &str) -> Result<()> {
        write(&self.path(inside), text)
    }

    /// A command that runs in the machine. Ending it is up to the caller; it ends with the machine at the latest.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let enter = self.enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).arg(program).current_dir("/").env("PATH", &self.search_path);
        command
    }

    /// Runs a command in the machine to its end and gives what it printed.
    ///
    /// # Errors
    ///
    /// It cannot be run or fails; the error has what it wrote to standard error.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let [program, arguments @ ..] = words else { bail!("there is no command in it") };
        output_of(self.command(program).args(arguments)).with_context(|| format!("on {}", self.name))
    }

    /// Does something of this process as if it ran on the machine, as far as the network is concerned: what it listens on and connects
    /// to is the machine's, also for threads that it starts. Files and processes stay those of this host.
    ///
    /// # Errors
    ///
    /// The machine is gone, or `act` panicked.
    pub fn in_network<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = format!("/proc/{}/ns/net", self.init());
        let namespace = File::open(&namespace).with_context(|| format!("cannot open {namespace}"))?;
        // A thread of its own, since a namespace once entered is not left.
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                anyhow::Ok(act())
            });
            thread.join().map_err(|_| anyhow!("what was to be done on {} panicked", self.name))?
        })
    }

    /// Starts a long-running process in the machine. Its output goes to a log of that name.
    ///
    /// # Errors
    ///
    /// The name is taken by a process that runs, or it cannot be started.
    pub fn spawn(&self, name: &str, launch: Launch) -> Result<Arc<Process>> {
        if self.process(name).is_ok_and(|process| process.is_running()) {
            bail!("{} has a process called {name} already", self.name);
        }
        let launch = launch.env("PATH", &self.search_path);
        let log = self.logs.join(format!("{name}.log"));
        let process = Arc::new(Process::start(name, self.enter(), launch, log)?);
        let mut processes = self.lock_processes();
        processes.retain(|other| other.name() != name);
        processes.push(Arc::clone(&process));
        Ok(process)
    }

    /// The process of that name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn process(&self, name: &str) -> Result<Arc<Process>> {
        let found = self.lock_processes().iter().find(|process| process.name() == name).cloned();
        found.with_context(|| format!("{} has no process called {name}", self.name))
    }

    /// Every process that was started by name.
    #[must_use]
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.lock_processes().clone()
    }

    /// Ends it: every process in it dies at once, as in a power cut.
    pub(crate) fn end(&self) {
        let mut outer = self.outer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Once it has been waited for, its id may be that of another process.
        if matches!(outer.try_wait(), Ok(None)) {
            let _ = kill_process(self.init, Signal::KILL);
        }
        // The first process is gone only once all others of its namespace are.
        let _ = outer.wait();
        drop(outer);
        self.lock_processes().clear();
    }

    fn enter(&self) -> Vec<String> {
        enter(self.init())
    }

    fn lock_processes(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Process>>> {
        self.processes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// The words before a command line that make it run in the machine with that first process.
pub(crate) fn enter(init: i32) -> Vec<String> {
    let target = init.to_string();
    ["nsenter", "--target", &target, "--net", "--mount", "--uts", "--ipc", "--pid", "--"].map(str::to_owned).into()
}

/// Runs a command to its end and gives what it printed.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    text_of(command, output)
}

pub(crate) fn text_of(command: &Command, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
