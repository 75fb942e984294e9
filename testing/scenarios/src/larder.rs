use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::client::{Answer, Client};
use crate::wait::wait_for;

/// How a larder is started.
pub struct Builder {
    role: &'static str,
    config: String,
    upstreams: String,
    store: Option<PathBuf>,
    wrapper: Vec<String>,
    env: Vec<(String, String)>,
    log: String,
}

/// A running larder of its own, with its own folder. Ends when dropped.
pub struct Larder {
    process: Process,
    dir: TempDir,
    store: PathBuf,
    builder: Builder,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Larder {
    /// One upstream under the name `registry`, whose only endpoint is `up`.
    pub fn in_front_of(registry: &str, up: &faulty::Upstream) -> Builder {
        Larder::builder().upstream(registry, &[&up.url()], "")
    }

    /// Nothing is configured.
    pub fn builder() -> Builder {
        Builder {
            role: "registry",
            config: String::new(),
            upstreams: String::new(),
            store: None,
            wrapper: Vec::new(),
            env: Vec::new(),
            log: "debug".into(),
        }
    }

    /// The binary of this workspace, built if its sources have changed; `LARDER_BIN` names another.
    pub fn binary() -> &'static Path {
        static BINARY: OnceLock<PathBuf> = OnceLock::new();
        BINARY.get_or_init(|| {
            if let Some(path) = std::env::var_os("LARDER_BIN") {
                return path.into();
            }
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
                .ancestors()
                .nth(2)
                .expect("testing/scenarios lies in the workspace");
            let built =
                Command::new(env!("CARGO")).args(["build", "-q", "-p", "larder"]).current_dir(workspace).status();
            assert!(built.is_ok_and(|status| status.success()), "larder cannot be built");
            let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
            target.join("debug/larder")
        })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `host:port`, for clients.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// The folder of its store.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// A new connection.
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::connect(self.address)
    }

    /// One request on a new connection.
    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.client()?.ask(method, target, headers)
    }

    /// A GET on a new connection.
    pub fn get(&self, target: &str) -> anyhow::Result<Answer> {
        self.ask("GET", target, &[])
    }

    /// A GET of the port for metrics and health.
    pub fn admin(&self, target: &str) -> anyhow::Result<Answer> {
        Client::connect(self.admin)?.ask("GET", target, &[("Connection", "close")])
    }

    /// The sum of a metric's samples that have all of `labels`; 0 if there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.admin("/metrics").map(|answer| answer.text()).unwrap_or_default();
        let mut sum = 0.0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            if found == name && labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\""))) {
                sum += value.parse::<f64>().unwrap_or(0.0);
            }
        }
        sum
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that its resident memory has been so far, in bytes.
    pub fn resident_at_most(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.0.try_wait(), Ok(None))
    }

    /// Sends a signal, such as `Signal::TERM`.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid() as i32) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Waits for the end of the process, at most 40 s, and gives its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        wait_for("the end of larder", || {
            status = self.process.0.try_wait().ok().flatten();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// Ends it by SIGKILL and starts it anew, on the same store and address.
    pub fn restart(self) -> anyhow::Result<Larder> {
        let Larder { process, dir, store, builder, address, admin } = self;
        drop(process);
        builder.start_in(dir, store, address, admin)
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.process.end();
    }
}

/// Ends the process with its value.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Ends it by SIGKILL.
    pub(crate) fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Builder {
    /// Makes it the mirror of a container runtime: `larder node`.
    pub fn node(mut self) -> Builder {
        self.role = "node";
        // The runtimes of this machine are nobody's to try things with.
        self.env("LARDER_HOSTS", "false")
    }

    /// Adds an upstream with endpoints in order; `more` is further TOML of it.
    pub fn upstream(mut self, registry: &str, endpoints: &[&str], more: &str) -> Builder {
        let _ = write!(self.upstreams, "\n[[upstream]]\nregistry = {registry:?}\nendpoints = {endpoints:?}\n{more}\n");
        self
    }

    /// Adds TOML in front of the upstreams: top-level keys first, then tables.
    pub fn config(mut self, toml: &str) -> Builder {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// Uses a folder for the store that the test made; otherwise each larder has its own.
    pub fn store(mut self, path: &Path) -> Builder {
        self.store = Some(path.to_owned());
        self
    }

    /// Starts the binary by way of another program, such as `strace` with its arguments.
    pub fn wrapped(mut self, words: &[&str]) -> Builder {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the log filter; `debug` otherwise.
    pub fn log(mut self, filter: &str) -> Builder {
        self.log = filter.into();
        self
    }

    /// Starts it, and waits until it is ready.
    pub fn start(self) -> anyhow::Result<Larder> {
        let dir = tempfile::Builder::new().prefix("larder-test-").tempdir()?;
        let store = self.store.clone().unwrap_or_else(|| dir.path().join("store"));
        self.start_in(dir, store, free_address()?, free_address()?)
    }

    fn start_in(self, dir: TempDir, store: PathBuf, address: SocketAddr, admin: SocketAddr) -> anyhow::Result<Larder> {
        let config = dir.path().join("larder.toml");
        fs::write(&config, format!("{}\n{}", self.config, self.upstreams))?;
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.path().join("log"))?;
        let mut words = self.wrapper.iter().map(PathBuf::from).chain([Larder::binary().to_owned()]);
        let mut command = Command::new(words.next().context("there is a program")?);
        command.args(words).arg(self.role).arg("--config").arg(&config).arg("--store").arg(&store);
        command.args(["--listen", &address.to_string(), "--metrics", &admin.to_string(), "--log", &self.log]);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut larder = Larder {
            process: Process(command.spawn().context("starting larder")?),
            dir,
            store,
            builder: self,
            address,
            admin,
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            if larder.admin("/readyz").is_ok_and(|answer| answer.status == 200) {
                return Ok(larder);
            }
            if !larder.is_running() || std::time::Instant::now() > deadline {
                bail!("larder did not become ready:\n{}", larder.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// An address of the loopback interface that was free a moment ago, and that this process has not been given before: whoever was may not have
/// listened there yet.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let address = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(address.port()) {
            return Ok(address);
        }
    }
}
