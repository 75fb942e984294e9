use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde::Serialize;

use crate::config::{Address, Budget, Config, Listener, Role};
use crate::failure::Failure;
use crate::logging::Format;
use crate::people::{CleanArgs, ImagesArgs, NodesArgs, WarmArgs, WhyArgs};
use crate::{certs, controller, doctor, node, people, scrub, serving};

/// Keeps container images close to the nodes that run them.
#[derive(Parser)]
#[command(name = "larder", version, max_term_width = 100, disable_help_subcommand = true)]
struct Larder {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve every registry from one endpoint, and keep what was pulled
    ///
    /// Needs no configuration. Pull HOST:5000/docker.io/library/alpine:3.20 instead of docker.io/library/alpine:3.20, or
    /// point a container runtime's mirror setting at it.
    Registry(RegistryArgs),
    /// Be the mirror that this machine's container runtime pulls everything through
    ///
    /// The runtime goes on to the origin by itself whenever larder cannot help.
    Node(NodeArgs),
    /// Look after the nodes of a cluster: say how far ImageCaches are, and let warm nodes take pods
    ///
    /// Of several replicas one leads. Pulls go on without it.
    Controller(ControllerArgs),
    /// Say why pulls of this machine would not go through larder, and what to do about it
    ///
    /// Exits with 1 if there is something to be done.
    Doctor(DoctorArgs),
    /// Make the certificates by which nodes and registries know each other
    ///
    /// Makes an authority in DIR if there is none, and a folder for each name.
    Certs(CertsArgs),
    /// Check every blob of a store against its digest
    ///
    /// Puts aside what is damaged, so that it is fetched again. May run beside a running server. Exits with 1 if
    /// something was damaged.
    Scrub(ScrubArgs),
    /// Have images kept ready on the nodes of a cluster
    ///
    /// Makes an ImageCache, or adds the images to one that is there.
    Warm(WarmArgs),
    /// List the images of a cluster, and on how many nodes they are
    Images(ImagesArgs),
    /// List the nodes of a cluster, or show what one of them has
    Nodes(NodesArgs),
    /// Say where an image would come from on the nodes of a cluster, and why
    Why(WhyArgs),
    /// Show what cleanups removed from the nodes of a cluster, or would remove
    Clean(CleanArgs),
    /// Print a script by which a shell completes commands
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Print the version
    Version,
}

/// What `larder registry` takes; everything that is left out comes from the configuration file, or has a default.
#[derive(Args, Default)]
pub struct RegistryArgs {
    #[command(flatten)]
    pub place: PlaceArgs,

    /// Where clients connect to [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDR", env = "LARDER_LISTEN", hide_env_values = true)]
    pub listen: Option<Address>,

    /// Where /metrics, /healthz and /readyz are, or off [default: 127.0.0.1:5001]
    #[arg(long, value_name = "ADDR", env = "LARDER_METRICS", hide_env_values = true)]
    pub metrics: Option<Listener>,

    /// How much the store may hold: a size (20GiB) or a share of its filesystem [default: 80%]
    #[arg(long, value_name = "SIZE|PERCENT", env = "LARDER_BUDGET", hide_env_values = true)]
    pub budget: Option<Budget>,

    /// The certificate chain to serve TLS with, as PEM [default: plain HTTP]
    #[arg(long, value_name = "FILE", env = "LARDER_TLS_CERT", hide_env_values = true)]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key, as PEM
    #[arg(long, value_name = "FILE", env = "LARDER_TLS_KEY", hide_env_values = true)]
    pub tls_key: Option<PathBuf>,

    /// Whether to heed the cluster's Upstreams [default: if there is a table registry.cluster]
    #[arg(long, value_name = "BOOL", env = "LARDER_REGISTRY_CLUSTER", hide_env_values = true)]
    pub cluster: Option<bool>,

    /// What to log, such as warn or info,upstream=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "LARDER_LOG", hide_env_values = true)]
    pub log: Option<String>,

    /// How to write the log [default: text]
    #[arg(long, value_name = "FORMAT", env = "LARDER_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<Format>,

    /// Check the configuration and the files it names, say what would be done, and exit with 0 or 2
    #[arg(long)]
    pub check: bool,
}

/// What `larder node` takes; everything that is left out comes from the configuration file, or has a default.
#[derive(Args, Default)]
pub struct NodeArgs {
    /// The configuration file [default: /etc/larder/larder.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "LARDER_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,

    /// The folder of the store [default: /var/lib/larder-node/store]
    #[arg(long, value_name = "DIR", env = "LARDER_STORE", hide_env_values = true)]
    pub store: Option<PathBuf>,

    /// Where the container runtime connects to [default: 127.0.0.1:7439]
    #[arg(long, value_name = "ADDR", env = "LARDER_LISTEN", hide_env_values = true)]
    pub listen: Option<Address>,

    /// Where /metrics, /healthz and /readyz are, or off [default: 127.0.0.1:7441]
    #[arg(long, value_name = "ADDR", env = "LARDER_METRICS", hide_env_values = true)]
    pub metrics: Option<Listener>,

    /// How much the store may hold: a size or a share of its filesystem [default: 10%, at most 20GiB]
    #[arg(long, value_name = "SIZE|PERCENT", env = "LARDER_BUDGET", hide_env_values = true)]
    pub budget: Option<Budget>,

    /// The larder registry to ask before the origins [default: none]
    #[arg(long, value_name = "URL", env = "LARDER_REGISTRY", hide_env_values = true)]
    pub registry: Option<String>,

    /// Where other nodes connect to, where there are any [default: 0.0.0.0:7440]
    #[arg(long, value_name = "ADDR", env = "LARDER_PEERS", hide_env_values = true)]
    pub peers: Option<Address>,

    /// Whether to point the runtimes of this machine at larder [default: true]
    #[arg(long, value_name = "BOOL", env = "LARDER_HOSTS", hide_env_values = true)]
    pub hosts: Option<bool>,

    /// Whether to keep ready what the cluster's ImageCaches want, and heed its Upstreams [default: if there is a table node.cluster]
    #[arg(long, value_name = "BOOL", env = "LARDER_NODE_CLUSTER", hide_env_values = true)]
    pub cluster: Option<bool>,

    /// The root of the machine's file system, where a container has it mounted [default: /]
    #[arg(long, value_name = "DIR", env = "LARDER_HOST_ROOT", hide_env_values = true)]
    pub host_root: Option<PathBuf>,

    /// What to log, such as warn or info,upstream=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "LARDER_LOG", hide_env_values = true)]
    pub log: Option<String>,

    /// How to write the log [default: text]
    #[arg(long, value_name = "FORMAT", env = "LARDER_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<Format>,

    /// Check the configuration and the files it names, say what would be done, and exit with 0 or 2
    #[arg(long, conflicts_with = "uninstall")]
    pub check: bool,

    /// Restore what was changed for the runtimes of this machine, and exit
    #[arg(long)]
    pub uninstall: bool,
}

impl NodeArgs {
    /// What a registry would be told by the same flags.
    pub fn common(&self) -> RegistryArgs {
        RegistryArgs {
            place: PlaceArgs { config: self.config.clone(), store: self.store.clone() },
            listen: self.listen,
            metrics: self.metrics,
            budget: self.budget,
            log: self.log.clone(),
            log_format: self.log_format,
            ..RegistryArgs::default()
        }
    }
}

/// What `larder controller` takes; everything that is left out comes from the configuration file, or has a default.
#[derive(Args, Default)]
pub struct ControllerArgs {
    /// The configuration file [default: /etc/larder/larder.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "LARDER_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,

    /// Where /metrics, /healthz and /readyz are, or off [default: 127.0.0.1:7442]
    #[arg(long, value_name = "ADDR", env = "LARDER_METRICS", hide_env_values = true)]
    pub metrics: Option<Listener>,

    /// The namespace of larder, where the Lease is [default: that of this pod, else larder]
    #[arg(long, value_name = "NAME", env = "LARDER_NAMESPACE", hide_env_values = true)]
    pub namespace: Option<String>,

    /// Make and renew the certificates of nodes, registry and controller, in the Secrets NAME-authority, -nodes, -registry and -controller
    #[arg(long, value_name = "NAME", env = "LARDER_CERTIFICATES", hide_env_values = true)]
    pub certificates: Option<String>,

    /// What to log, such as warn or info,upstream=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "LARDER_LOG", hide_env_values = true)]
    pub log: Option<String>,

    /// How to write the log [default: text]
    #[arg(long, value_name = "FORMAT", env = "LARDER_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<Format>,

    /// Check the configuration and the files it names, say what would be done, and exit with 0 or 2
    #[arg(long)]
    pub check: bool,
}

impl ControllerArgs {
    /// What a registry would be told by the same flags.
    pub fn common(&self) -> RegistryArgs {
        RegistryArgs {
            place: PlaceArgs { config: self.config.clone(), store: None },
            metrics: self.metrics,
            log: self.log.clone(),
            log_format: self.log_format,
            ..RegistryArgs::default()
        }
    }
}

/// Where the configuration and the store are.
#[derive(Args, Default)]
pub struct PlaceArgs {
    /// The configuration file [default: /etc/larder/larder.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "LARDER_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,

    /// The folder of the store [default: /var/lib/larder, or larder in the user's data folder]
    #[arg(long, value_name = "DIR", env = "LARDER_STORE", hide_env_values = true)]
    pub store: Option<PathBuf>,
}

#[derive(Args)]
pub struct ScrubArgs {
    #[command(flatten)]
    pub place: PlaceArgs,

    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

#[derive(Args)]
pub struct CertsArgs {
    /// The folder of the authority, in which each name gets a folder
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,

    /// The nodes
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,

    /// A larder registry that nodes speak to
    #[arg(long, value_name = "NAME")]
    pub registry: Vec<String>,

    /// A larder controller that tells a registry what is in use
    #[arg(long, value_name = "NAME")]
    pub controller: Vec<String>,

    /// How many days the certificates are good
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    pub days: u32,

    /// How many days a new authority is good
    #[arg(long, value_name = "DAYS", default_value_t = 3650)]
    pub ca_days: u32,

    /// Replace certificates that are there; the authority never is
    #[arg(long)]
    pub force: bool,

    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

#[derive(Args)]
pub struct DoctorArgs {
    /// The configuration file of the node [default: /etc/larder/larder.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "LARDER_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,

    /// Where the container runtime connects to [default: 127.0.0.1:7439]
    #[arg(long, value_name = "ADDR", env = "LARDER_LISTEN", hide_env_values = true)]
    pub listen: Option<Address>,

    /// The larder registry that the node asks before the origins [default: none]
    #[arg(long, value_name = "URL", env = "LARDER_REGISTRY", hide_env_values = true)]
    pub registry: Option<String>,

    /// Where other nodes connect to, where there are any [default: 0.0.0.0:7440]
    #[arg(long, value_name = "ADDR", env = "LARDER_PEERS", hide_env_values = true)]
    pub peers: Option<Address>,

    /// The root of the machine's file system, where a container has it mounted [default: /]
    #[arg(long, value_name = "DIR", env = "LARDER_HOST_ROOT", hide_env_values = true)]
    pub host_root: Option<PathBuf>,

    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

impl DoctorArgs {
    /// What a node would be told by the same flags.
    pub fn node(&self) -> NodeArgs {
        NodeArgs {
            config: self.config.clone(),
            listen: self.listen,
            registry: self.registry.clone(),
            peers: self.peers,
            host_root: self.host_root.clone(),
            ..NodeArgs::default()
        }
    }
}

/// How a command prints its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// The same as JSON.
    Yaml,
}

impl Output {
    /// Prints a result, which `table` has for people.
    pub fn print(self, result: &impl Serialize, table: impl FnOnce() -> String) -> anyhow::Result<()> {
        say(&match self {
            Output::Table => table(),
            Output::Json => serde_json::to_string_pretty(result)? + "\n",
            Output::Yaml => serde_saphyr::to_string(result)?,
        })
    }
}

/// Prints a result. Who has stopped reading wants no more of it.
pub fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot print the result"),
        _ => Ok(()),
    }
}

/// The command line, and by what name it was called: as a plugin of kubectl, its name is `kubectl larder`.
fn command() -> (clap::Command, &'static str) {
    let called = std::env::args_os().next().map(PathBuf::from);
    match called.as_deref().and_then(|path| path.file_stem()).is_some_and(|name| name == "kubectl-larder") {
        true => (Larder::command().bin_name("kubectl larder").display_name("kubectl larder"), "kubectl-larder"),
        false => (Larder::command(), "larder"),
    }
}

/// Reads the command line and does what it says.
pub fn run() -> ExitCode {
    let (command, name) = command();
    let matches = command.get_matches();
    let larder = Larder::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let done = match larder.command {
        Command::Registry(args) => serving::run(|| Config::load(Role::Registry, &args), args.check),
        Command::Node(args) => node::run(&args),
        Command::Controller(args) => controller::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Certs(args) => certs::run(&args),
        Command::Scrub(args) => scrub::run(&args),
        Command::Warm(args) => people::warm(&args),
        Command::Images(args) => people::images(&args),
        Command::Nodes(args) => people::nodes(&args),
        Command::Why(args) => people::why(&args),
        Command::Clean(args) => people::clean(&args),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Larder::command(), name, &mut script);
            say(&String::from_utf8_lossy(&script)).map(|()| ExitCode::SUCCESS).map_err(Failure::from)
        }
        Command::Version => {
            println!("larder {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|failure: Failure| {
        eprintln!("{failure}");
        failure.code()
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Larder::command().debug_assert();
    }
}
