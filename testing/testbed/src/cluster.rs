//! A running cluster.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use programs::{Group, Paths, Program, debian, ensure};

use crate::{
    authority::Authority,
    control::{self, Control},
    kubectl::{Kubectl, has_condition},
    machine::{Machine, MachineSpec},
    narrow::Narrow,
    network::{Link, Rate, Subnet, Switch, ip},
    node::{self, Node},
    origin::{Origin, hosts},
    record::Record,
    spec::{ClusterSpec, NodeSpec},
    state::State,
    wait::wait_for,
};

const PATIENCE: Duration = Duration::from_secs(90);

/// A running cluster. It ends, and leaves nothing behind, when this value is dropped.
///
/// Fields are dropped in their order, and the folder must go last.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    control: Control,
    origins: Vec<Origin>,
    internet: Arc<Machine>,
    internet_link: Link,
    others: Vec<Other>,
    base: Base,
}

/// A machine that is no node of Kubernetes: nothing runs on it but what a test starts.
#[derive(Debug)]
pub struct Other {
    machine: Machine,
    link: Link,
}

impl Other {
    /// The machine.
    #[must_use]
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its link.
    #[must_use]
    pub const fn link(&self) -> &Link {
        &self.link
    }
}

/// What is there before any machine is, and as long as one is.
#[derive(Debug)]
struct Base {
    switch: Switch,
    setting: Setting,
    next_node: usize,
    state: State,
}

/// What all machines have in common.
#[derive(Debug)]
struct Setting {
    subnet: Subnet,
    programs: Paths,
    authority: Authority,
    kubectl: Kubectl,
    server: String,
    hosts: String,
    pause: PathBuf,
    path: String,
}

impl Cluster {
    /// Builds the programs that are missing, starts the cluster and waits until every node is ready.
    ///
    /// # Errors
    ///
    /// This is not root, a program is missing, or something did not start. What had started is ended again, and the logs are kept.
    pub fn start(spec: &ClusterSpec) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("a cluster needs namespaces, mounts and cgroups: run this as root");
        }
        let programs = ensure_programs(spec)?;
        let state = State::create(&spec.name)?;
        let progress = Progress { started: Instant::now(), shown: spec.progress };
        let cluster = Self::start_in(spec, programs, state, &progress)?;
        cluster.base.state.succeeded();
        progress.say("ready");
        Ok(cluster)
    }

    fn start_in(spec: &ClusterSpec, programs: Paths, state: State, progress: &Progress) -> Result<Self> {
        let dir = state.path().to_owned();
        let subnet = Subnet(state.slot());
        let authority = Authority::new(&dir.join("certificates"))?;
        let server = format!("https://{}", subnet.control());
        let setting = Setting {
            kubectl: control::administrator(&dir, &server, &authority, &programs)?,
            hosts: hosts(&spec.origins)?,
            pause: node::write_pause_archive(&dir.join("pause"))?,
            path: std::env::var("PATH").unwrap_or_default(),
            subnet,
            programs,
            authority,
            server,
        };
        let switch = machine(&state, &setting, "switch", subnet.switch(), &[], None, &setting.path)?;
        let switch = Switch::new(switch, subnet)?;
        let mut base = Base { switch, setting, next_node: 0, state };

        progress.say("starting the control plane, the internet and the container runtimes");
        let addresses: Vec<_> = (0..spec.nodes.len()).map(|number| subnet.node(number)).collect::<Result<_>>()?;
        base.next_node = addresses.len();
        let (control, internet, nodes) = thread::scope(|scope| {
            let control = scope.spawn(|| base.start_control());
            let internet = scope.spawn(|| base.start_internet(spec));
            let nodes: Vec<_> = spec.nodes.iter().zip(addresses).collect();
            let base = &base;
            let nodes: Vec<_> =
                nodes.into_iter().map(|(node, address)| scope.spawn(move || base.start_node(node, address))).collect();
            let nodes: Vec<_> = nodes.into_iter().map(joined).collect();
            (joined(control), joined(internet), nodes)
        });
        let (internet, internet_link, origins) = internet?;
        let nodes = nodes.into_iter().collect::<Result<Vec<_>>>()?;
        let cluster = Self { nodes, control: control?, origins, internet, internet_link, others: Vec::new(), base };

        progress.say("starting the kubelets and the service proxies");
        for node in &cluster.nodes {
            node.join(&cluster.base.setting.server, &cluster.base.setting.authority)?;
        }
        cluster.await_ready()?;
        cluster.record()?;
        Ok(cluster)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.base.state.name()
    }

    /// The folder with its files and logs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.base.state.path()
    }

    /// `kubectl` as its administrator.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.base.setting.kubectl
    }

    /// The URL of its API server, which this host reaches too.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.base.setting.server
    }

    /// The file with the authority that signed the certificates of its origins and its API server.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.base.setting.authority.file()
    }

    /// The path of a program that it runs or that its [`ClusterSpec::programs`] name.
    #[must_use]
    pub fn program(&self, program: Program) -> &Path {
        self.base.setting.programs.get(program)
    }

    /// The control plane.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The machine on which the origins run.
    #[must_use]
    pub fn internet(&self) -> &Machine {
        &self.internet
    }

    /// The link through which every byte from and to the origins goes.
    #[must_use]
    pub fn internet_link(&self) -> &Link {
        &self.internet_link
    }

    /// Its nodes, in the order in which they were added.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of that name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("no node is called {name}"))
    }

    /// The origin with that registry host.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn origin(&self, host: &str) -> Result<&Origin> {
        self.origins.iter().find(|origin| origin.host() == host).with_context(|| format!("no origin is {host}"))
    }

    /// All its origins.
    #[must_use]
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// Adds a node and waits until it is ready.
    ///
    /// # Errors
    ///
    /// The name is taken, or it does not become ready.
    pub fn add_node(&mut self, spec: &NodeSpec) -> Result<&Node> {
        if self.node(&spec.name).is_ok() {
            bail!("a node is called {} already", spec.name);
        }
        let address = self.base.setting.subnet.node(self.base.next_node)?;
        let more = ensure(&spec.runtime.programs())?;
        self.base.setting.programs.extend(more);
        self.base.next_node += 1;
        let node = self.base.start_node(spec, address)?;
        node.join(&self.base.setting.server, &self.base.setting.authority)?;
        self.nodes.push(node);
        self.await_ready()?;
        self.record()?;
        self.node(&spec.name)
    }

    /// Adds a machine that is no node.
    ///
    /// # Errors
    ///
    /// The name is taken or too long, or it does not start.
    pub fn add_machine(&mut self, name: &str) -> Result<()> {
        let address = self.base.setting.subnet.node(self.base.next_node)?;
        self.base.next_node += 1;
        let machine = self.base.machine(name, address, &[], None, &self.base.setting.path)?;
        let link = self.base.switch.plug(&machine, Some(self.base.setting.subnet.internet()))?;
        self.others.push(Other { machine, link });
        self.record()
    }

    /// The machines that [`Self::add_machine`] added, in that order.
    #[must_use]
    pub fn others(&self) -> &[Other] {
        &self.others
    }

    /// Has all that machines of one group send to those of the other share one rate, in each direction, whatever their links
    /// allow; for as long as what this returns is kept.
    ///
    /// # Errors
    ///
    /// A machine's paths have been narrowed before, or it is gone.
    pub fn narrow(&self, one: &[&Machine], other: &[&Machine], rate: Rate) -> Result<[Narrow; 2]> {
        let switch = self.base.switch.machine();
        Ok([Narrow::new(switch, one, other, rate)?, Narrow::new(switch, other, one, rate)?])
    }

    /// Takes a node away as if it were destroyed, and its object too.
    ///
    /// # Errors
    ///
    /// There is no such node, or something of it is left.
    pub fn remove_node(&mut self, name: &str) -> Result<()> {
        let at = self.nodes.iter().position(|node| node.name() == name);
        let node = self.nodes.remove(at.with_context(|| format!("no node is called {name}"))?);
        node.end()?;
        self.kubectl().run(&["delete", "node", name])?;
        self.record()
    }

    /// Waits until every node is ready, and until pods can be made.
    ///
    /// # Errors
    ///
    /// They are not within a minute and a half.
    pub fn await_ready(&self) -> Result<()> {
        wait_for("every node is ready", PATIENCE, || {
            for node in &self.nodes {
                node.kubelet()?.require_running()?;
            }
            let list = self.kubectl().json(&["get", "nodes"])?;
            let objects = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ready = |name: &str| {
                objects.iter().any(|object| object["metadata"]["name"] == name && has_condition(object, "Ready"))
            };
            Ok(self.nodes.iter().all(|node| ready(node.name())).then_some(()))
        })?;
        wait_for("the default service account is there", PATIENCE, || {
            Ok(self.kubectl().run(&["get", "serviceaccount", "default"]).ok())
        })?;
        Ok(())
    }

    /// Ends it, and waits until nothing of it is left. Dropping it does the same, but cannot say what went wrong.
    ///
    /// # Errors
    ///
    /// Something is left.
    pub fn end(self) -> Result<()> {
        self.end_machines()?;
        self.base.state.finish()
    }

    /// Keeps the logs when it ends, since something went wrong.
    pub fn failed(&self) {
        self.base.state.failed();
    }

    fn end_machines(&self) -> Result<()> {
        let others = self.others.iter().map(Other::machine);
        let machines =
            self.nodes.iter().map(Node::machine).chain([self.control.machine(), &*self.internet]).chain(others);
        thread::scope(|scope| {
            for machine in machines {
                scope.spawn(|| machine.end());
            }
        });
        self.base.switch.end()
    }

    fn record(&self) -> Result<()> {
        let machines = [self.base.switch.machine(), self.control.machine(), &*self.internet];
        let machines = machines.into_iter().chain(self.nodes.iter().map(Node::machine));
        let machines = machines.chain(self.others.iter().map(Other::machine));
        Record::new(self.name(), self.kubectl().config(), machines, &self.origins).write(self.dir())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.end_machines() {
            eprintln!("testbed: {error:#}");
        }
    }
}

impl Base {
    fn start_control(&self) -> Result<Control> {
        let setting = &self.setting;
        let machine = self.machine("control", setting.subnet.control(), &[], None, &setting.path)?;
        let link = self.switch.plug(&machine, Some(setting.subnet.internet()))?;
        let setup = control::Setup {
            dir: &self.state.path().join("control"),
            programs: &setting.programs,
            authority: &setting.authority,
            signing_keys: setting.authority.signing_keys()?,
            kubectl: &setting.kubectl,
        };
        Control::start(machine, link, &setup)
    }

    fn start_internet(&self, spec: &ClusterSpec) -> Result<(Arc<Machine>, Link, Vec<Origin>)> {
        let setting = &self.setting;
        let machine = Arc::new(self.machine("internet", setting.subnet.internet(), &[], None, &setting.path)?);
        let link = self.switch.plug(&machine, None)?;
        // What is sent to an address that nobody has is answered at once, as a router on the way would.
        machine.run(&["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])?;
        ip(Path::new(&format!("/proc/{}/ns/net", machine.init())), "route add unreachable default\n")?;
        let dir = self.state.path().join("internet");
        let start =
            |(number, origin)| Origin::start(origin, number, &machine, &setting.authority, &setting.programs, &dir);
        let origins: Vec<_> = spec.origins.iter().enumerate().map(start).collect::<Result<_>>()?;
        origins.iter().try_for_each(Origin::await_ready)?;
        Ok((machine, link, origins))
    }

    fn start_node(&self, spec: &NodeSpec, address: std::net::Ipv4Addr) -> Result<Node> {
        let setting = &self.setting;
        let [_, shim] = spec.runtime.programs();
        let shims = setting.programs.get(shim).parent().context("programs have folders")?;
        let path = format!("{}:{}", shims.display(), setting.path);
        let etc = node::etc_files(spec, address, &setting.programs)?;
        let machine = self.machine(&spec.name, address, &etc, spec.disk, &path)?;
        let link = self.switch.plug(&machine, Some(setting.subnet.internet()))?;
        Node::start(spec, self.state.name(), machine, link, &setting.programs, &setting.pause)
    }

    fn machine(
        &self,
        name: &str,
        address: std::net::Ipv4Addr,
        etc: &[(&str, String)],
        disk: Option<u64>,
        path: &str,
    ) -> Result<Machine> {
        machine(&self.state, &self.setting, name, address, etc, disk, path)
    }
}

fn machine(
    state: &State,
    setting: &Setting,
    name: &str,
    address: std::net::Ipv4Addr,
    etc: &[(&str, String)],
    disk: Option<u64>,
    path: &str,
) -> Result<Machine> {
    Machine::start(&MachineSpec {
        name,
        dir: &state.path().join("machines").join(name),
        logs: &state.logs().join(name),
        address,
        hosts: &setting.hosts,
        trust: setting.authority.pem(),
        etc,
        disk,
        path,
    })
}

fn ensure_programs(spec: &ClusterSpec) -> Result<Paths> {
    debian(Group::Cluster.packages())?;
    let runtimes = spec.nodes.iter().flat_map(|node| node.runtime.programs());
    let all = Group::Cluster.programs().iter().copied().chain(runtimes);
    ensure(&all.chain(spec.programs.iter().copied()).collect::<Vec<_>>())
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a part of the start panicked"))?
}

struct Progress {
    started: Instant,
    shown: bool,
}

impl Progress {
    fn say(&self, what: &str) {
        if self.shown {
            eprintln!("{:5.1} s  {what}", self.started.elapsed().as_secs_f32());
        }
    }
}

/// Starts a cluster, gives it to `test`, and ends it. Where the test fails, the end of every log is shown and the logs are kept.
///
/// # Errors
///
/// The cluster does not start or does not end cleanly, or the test gives an error.
pub fn with_cluster(spec: &ClusterSpec, test: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let mut cluster = Cluster::start(spec)?;
    let result = test(&mut cluster);
    if result.is_err() {
        cluster.failed();
    }
    let ended = cluster.end();
    result.and(ended)
}
