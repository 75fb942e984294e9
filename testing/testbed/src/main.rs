//! Starts, ends and works with a real Kubernetes cluster on this machine.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use programs::{Program, ensure};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use testbed::{
    Cluster, ClusterSpec, Image, Layer, NodeSpec, Rate, Record, Runtime, is_running, larder, names, remove_logs, sweep,
    wait_for,
};

mod bench;
mod requests;

use requests::{Asked, Joining, Request};

/// The tag of larder's image in a cluster.
const TAG: &str = "1";

/// A real Kubernetes cluster on this machine, to develop and test in.
#[derive(Parser)]
struct Arguments {
    /// The cluster to work with.
    #[arg(long, global = true, default_value = "default", env = "LARDER_TESTBED_NAME")]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a cluster, and end it on Ctrl-C or `down`.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 1)]
        nodes: usize,
        /// How many zones the nodes are spread over; none by default.
        #[arg(long, default_value_t = 0)]
        zones: usize,
        /// How many of the nodes, counted from the last, run containerd 1.7.
        #[arg(long, default_value_t = 0)]
        containerd_17: usize,
        /// Install larder, built from this repository, by its chart.
        #[arg(long)]
        larder: bool,
    },
    /// End a cluster, and clear away what killed ones have left; of this one, the logs too.
    Down,
    /// Show what is running.
    Status,
    /// Print what a shell needs to work with the cluster: `eval "$(testbed env)"` brings kubectl, helm, larder and testbed.
    Env,
    /// Have one more node join.
    Join(Joining),
    /// Destroy a node.
    Leave { node: String },
    /// Run a command on a machine: a node, `control`, `internet` or `switch`.
    Exec {
        machine: String,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Run kubectl.
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Make an image and push it to an origin.
    Push {
        /// Where to, such as `docker.io/library/app:1`.
        reference: String,
        /// The size of each layer in MiB, besides that of busybox.
        #[arg(long = "layer", value_name = "MIB")]
        layers: Vec<u64>,
        /// Fill the layers with text, which compresses well.
        #[arg(long)]
        text: bool,
        /// A platform, such as `linux/arm64`; several make an index.
        #[arg(long = "platform")]
        platforms: Vec<String>,
        /// Another number gives other layers.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Change the link of a machine, or show what has crossed it.
    Link {
        machine: String,
        #[command(subcommand)]
        change: Option<Change>,
    },
    /// Start and end a cluster several times, and print how long it takes and what it uses.
    Bench {
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        #[arg(long, default_value_t = 10)]
        rounds: usize,
    },
}

#[derive(Subcommand)]
enum Change {
    /// Let no more than so many megabits per second through, in each direction.
    Cap { mbit: u64 },
    /// Take the cap away.
    Uncap,
    /// Lose every packet.
    Cut,
    /// Let packets through again.
    Mend,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let name = arguments.name;
    match arguments.action {
        Action::Up { nodes, zones, containerd_17, larder } => up(&name, nodes, zones, containerd_17, larder)?,
        Action::Down => down(&name)?,
        Action::Status => status()?,
        Action::Env => {
            let (kubectl, helm, testbed) =
                (program(Program::Kubectl)?, program(Program::Helm)?, std::env::current_exe()?);
            let larder = larder::binary();
            let programs = [
                ("kubectl", &*kubectl),
                ("helm", &*helm),
                ("larder", larder),
                ("kubectl-larder", larder),
                ("testbed", &*testbed),
            ];
            print!("{}", requests::environment(&name, &Record::read(&name)?, &programs)?);
        }
        Action::Join(joining) => requests::ask(&name, &Request::Join(joining))?,
        Action::Leave { node } => requests::ask(&name, &Request::Leave(node))?,
        Action::Exec { machine, command } => {
            return passed_on(Record::read(&name)?.command(&machine, &command[0])?.args(&command[1..]));
        }
        Action::Kubectl { arguments } => {
            let config = Record::read(&name)?.kubeconfig;
            return passed_on(Command::new(program(Program::Kubectl)?).args(arguments).env("KUBECONFIG", config));
        }
        Action::Push { reference, layers, text, platforms, seed } => {
            let layer = |mib: &u64| if text { Layer::text(mib << 20) } else { Layer::random(mib << 20) };
            let mut image = layers.iter().map(layer).fold(Image::new().seed(seed), Image::layer);
            if !platforms.is_empty() {
                image = image.platforms(platforms);
            }
            let written = Record::read(&name)?.push(&program(Program::Crane)?, &reference, &image)?;
            println!("{reference}@{}", written.digest);
        }
        Action::Link { machine, change } => {
            let link = Record::read(&name)?.link(&machine)?;
            match change {
                Some(Change::Cap { mbit }) => link.cap(Rate::mbit(mbit))?,
                Some(Change::Uncap) => link.uncap()?,
                Some(Change::Cut) => link.cut()?,
                Some(Change::Mend) => link.mend()?,
                None => {
                    let traffic = link.traffic()?;
                    println!("received {} bytes, sent {} bytes", traffic.received, traffic.sent);
                }
            }
        }
        Action::Bench { nodes, rounds } => bench::run(nodes, rounds)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What happens to a cluster while it is up.
enum Event {
    Ended,
    Asked(Asked),
}

impl From<Asked> for Event {
    fn from(asked: Asked) -> Self {
        Self::Asked(asked)
    }
}

fn up(name: &str, nodes: usize, zones: usize, containerd_17: usize, larder: bool) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen to signals")?;
    let handle = signals.handle();
    let (events, happened) = channel();
    let ended = events.clone();
    thread::spawn(move || {
        let _ = signals.forever().next();
        testbed::interrupt();
        // Where nothing came of the cluster nobody waits.
        let _ = ended.send(Event::Ended);
    });
    let node = |number: usize| {
        let node = NodeSpec::new(&format!("node-{number}"));
        let node = if zones == 0 { node } else { node.zone(&format!("zone-{}", (number - 1) % zones + 1)) };
        if number + containerd_17 > nodes { node.runtime(Runtime::Containerd17) } else { node }
    };
    let spec = ClusterSpec::new(name).with_nodes((1..=nodes).map(node)).progress(true);
    let started = Cluster::start(&spec);
    if started.is_err() {
        handle.close();
    }
    let mut cluster = started?;
    if larder {
        eprintln!("installing larder");
        larder::push(&cluster, &[TAG])?;
        larder::release(&cluster, TAG, &[])?;
    }
    println!("export KUBECONFIG={}", cluster.kubectl().config().display());
    println!("kubectl: {}", cluster.program(Program::Kubectl).display());
    println!("logs:    {}", cluster.dir().join("logs").display());
    requests::listen(&cluster, events)?;
    eprintln!("Ctrl-C or `testbed down` ends it");
    while let Ok(Event::Asked(asked)) = happened.recv() {
        asked.answer(&mut cluster);
    }
    eprintln!("ending");
    cluster.end()
}

fn down(name: &str) -> Result<()> {
    if is_running(name)? {
        let record = Record::read(name)?;
        let owner = i32::try_from(record.owner).ok().and_then(Pid::from_raw).context("it has an impossible owner")?;
        kill_process(owner, Signal::TERM).with_context(|| format!("cannot end the process {}", record.owner))?;
        wait_for(&format!("{name} has ended"), Duration::from_secs(60), || Ok((!is_running(name)?).then_some(())))?;
    }
    sweep()?;
    remove_logs(name)
}

fn status() -> Result<()> {
    for name in names() {
        if !is_running(&name)? {
            println!("{name}: not running");
            continue;
        }
        match Record::read(&name) {
            Err(error) => println!("{name}: {error:#}"),
            Ok(record) => {
                println!("{name}: owned by process {}, KUBECONFIG={}", record.owner, record.kubeconfig.display());
                println!("  origins: {}", record.origins().collect::<Vec<_>>().join(", "));
                for machine in &record.machines {
                    println!("  {:15} {:15} first process {}", machine.name, machine.address, machine.init);
                }
            }
        }
    }
    Ok(())
}

fn program(program: Program) -> Result<PathBuf> {
    Ok(ensure(&[program])?.get(program).to_owned())
}

fn passed_on(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    match status.code() {
        Some(code) => Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)),
        None => bail!("{command:?}: {status}"),
    }
}
