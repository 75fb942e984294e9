//! What larder is told: by flags and environment first, then by a TOML file, then by defaults that need neither.
//!
//! Everything that can be wrong is found here, with the line that says it: after [`Config::load`] no file that the
//! configuration names is unread and no text unparsed.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci::{Name, Reference};

use crate::cli::{ControllerArgs, NodeArgs, PlaceArgs, RegistryArgs};
use crate::failure::Failure;
use crate::logging::{self, Format};

mod access;
mod certificates;
mod cluster;
mod controller;
mod deadlines;
mod file;
mod freshness;
mod limits;
mod node;
mod peers;
mod pin;
mod place;
mod registry;
mod role;
mod secret;
mod section;
mod summary;
mod tls;
mod units;
mod upstream;

pub use access::Access;
pub use certificates::Certificates;
pub use cluster::{Cluster, Share};
pub use controller::Controller;
pub use node::Node;
pub use peers::{MemberList, Peering};
pub use registry::{ForNodes, Registry};
pub use role::Role;
pub use tls::Tls;
pub use units::{Address, Budget, Listener, Size, Span};
pub use upstream::Upstream;

pub use secret::{Lack, from_docker};
use section::Problems;

/// The file that is read where none is named.
const DEFAULT_FILE: &str = "/etc/larder/larder.toml";

/// All that a long-running larder is told.
pub struct Config {
    /// What it is for.
    pub role: Role,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Where clients connect to.
    pub listen: SocketAddr,
    /// Where metrics and health are.
    pub metrics: Listener,
    /// How long requests in progress may take once the server is told to end.
    pub grace: Duration,
    /// TLS towards clients.
    pub tls: Option<Tls>,
    /// What is logged, as a filter.
    pub log: String,
    /// How it is written.
    pub log_format: Format,
    /// Where things are kept.
    pub store: Store,
    /// What clients may use up.
    pub limits: serve::Limits,
    /// Whose names a name without a registry is.
    pub unqualified: Option<oci::Registry>,
    /// Public registries need not be listed.
    pub unlisted: bool,
    /// Registries that are left alone.
    pub exclude: Vec<oci::Registry>,
    /// Images that stay in the store whatever its budget.
    pub pins: Vec<(Name, Reference)>,
    /// How the content of upstreams that are not listed is kept.
    pub rules: cache::Rules,
    /// How long what is known about access is good.
    pub access: Access,
    /// What only a registry is told.
    pub registry: Registry,
    /// What only a node is told.
    pub node: Node,
    /// What only a controller is told.
    pub controller: Controller,
    /// How long upstreams may take.
    pub deadlines: ::upstream::Deadlines,
    /// The listed upstreams.
    pub upstreams: Vec<Upstream>,
    /// Certificates that nobody believes any more.
    pub expired: Vec<String>,
    /// What is allowed and yet probably not meant.
    pub warnings: Vec<String>,
}

/// Where things are kept, and how.
pub struct Store {
    /// The folder.
    pub path: PathBuf,
    /// How much it may hold.
    pub budget: Budget,
    /// Memory for manifests and small blobs, in bytes; the engine's own choice if none.
    pub memory: Option<Size>,
    /// How fast blobs are checked again at rest, in bytes per second; the engine's own choice if none.
    pub scrub: Option<Size>,
}

impl Config {
    /// Reads what the flags say and the file that they name, or the usual one.
    pub fn load(role: Role, flags: &RegistryArgs) -> Result<Config, Failure> {
        Config::load_with(role, Certificates::Needed, flags)
    }

    fn load_with(role: Role, certificates: Certificates, flags: &RegistryArgs) -> Result<Config, Failure> {
        let file = read_file(flags.place.config.as_deref())?;
        let mut config = match &file {
            Some((path, text)) => file::read(role, certificates, &path.display().to_string(), text),
            None => file::read(role, certificates, "", ""),
        }
        .map_err(|problems: Problems| Failure::Usage(problems.to_string()))?;
        config.file = file.map(|(path, _)| path);
        config.apply(flags)?;
        match flags.cluster {
            None => {}
            Some(false) => config.registry.cluster = None,
            Some(true) => drop(config.registry.cluster.get_or_insert_default()),
        }
        config.finish()
    }

    /// The same for a node.
    pub fn load_node(flags: &NodeArgs, certificates: Certificates) -> Result<Config, Failure> {
        let mut config = Config::load_with(Role::Node, certificates, &flags.common())?;
        if let Some(registry) = &flags.registry {
            config.node.registry = Some(registry.clone());
        }
        if let (Some(Address(listen)), Some(peers)) = (flags.peers, &mut config.node.peers) {
            peers.listen = listen;
        }
        if let Some(hosts) = flags.hosts {
            config.node.hosts = hosts;
        }
        match flags.cluster {
            None => {}
            Some(false) => config.node.cluster = None,
            Some(true) if config.node.cluster.is_some() => {}
            Some(true) => {
                let usual = Cluster::usual().map_err(|error| Failure::Usage(format!("node.cluster.name: {error}")))?;
                config.node.cluster = Some(usual);
            }
        }
        if let Some(root) = &flags.host_root {
            config.node.host_root =
                std::path::absolute(root).map_err(|error| Failure::Usage(format!("--host-root: {error}")))?;
        }
        config.check_node(certificates)?;
        Ok(config)
    }

    /// The same for a controller.
    pub fn load_controller(flags: &ControllerArgs) -> Result<Config, Failure> {
        let mut config = Config::load_with(Role::Controller, Certificates::Needed, &flags.common())?;
        if let Some(namespace) = &flags.namespace {
            if !controller::is_name(namespace) {
                let what = "is no name of a namespace: write lower-case letters, digits and -";
                return Err(Failure::Usage(format!("--namespace: {namespace:?} {what}")));
            }
            config.controller.namespace.clone_from(namespace);
        }
        if let Some(certificates) = &flags.certificates {
            if !controller::is_name(certificates) {
                let what = "cannot begin the names of Secrets: write lower-case letters, digits and -";
                return Err(Failure::Usage(format!("--certificates: {certificates:?} {what}")));
            }
            config.controller.certificates = Some(certificates.clone());
        }
        let front = config.front(None).map_err(Failure::Usage)?;
        let alone = ::upstream::Settings { front, ..::upstream::Settings::default() };
        ::upstream::Directory::new(alone, ::upstream::Metrics::unregistered())
            .map_err(|error| Failure::Usage(format!("controller.registry: {error}")))?;
        Ok(config)
    }

    /// Looks at what a node is told about its registry.
    fn check_node(&mut self, certificates: Certificates) -> Result<(), Failure> {
        if !self.listen.ip().is_loopback() {
            self.warnings.push(format!(
                "whoever reaches {} can have this node fetch images, and runtimes send it the passwords of pods",
                self.listen
            ));
        }
        match (&self.node.registry, &self.node.registry_certificates) {
            (None, Some(_)) => self.warnings.push("node.registry_certificates is of no use without a registry".into()),
            (Some(url), Some(_)) if url.starts_with("http://") => {
                let reason = "it must begin with https://, since node.registry_certificates is given";
                return Err(Failure::Usage(format!("node.registry: {reason}")));
            }
            _ => {}
        }
        let front = match certificates {
            Certificates::Needed => self.front(None).map_err(Failure::Usage)?,
            Certificates::Examined => {
                self.node.registry.clone().map(|url| ::upstream::Front { url, tls: None, renew: false })
            }
        };
        let alone = ::upstream::Settings { front, ..::upstream::Settings::default() };
        ::upstream::Directory::new(alone, ::upstream::Metrics::unregistered())
            .map(drop)
            .map_err(|error| Failure::Usage(format!("node.registry: {error}")))
    }

    /// How a node or a controller reaches its registry; `known` is how it speaks to one that it has certificates for.
    ///
    /// # Errors
    /// A file is no longer what it was when the configuration was read.
    pub fn front(&self, known: Option<::upstream::TlsChoice>) -> Result<Option<::upstream::Front>, String> {
        let (section, registry, ca) = match self.role {
            Role::Node => ("node", &self.node.registry, &self.node.registry_ca),
            Role::Controller => ("controller", &self.controller.registry, &self.controller.registry_ca),
            Role::Registry => return Ok(None),
        };
        let Some(url) = registry.clone() else { return Ok(None) };
        let tls = match ca {
            None => known,
            Some(path) => {
                let pem = std::fs::read_to_string(path)
                    .map_err(|error| format!("{section}.registry_ca: {}: cannot be read: {error}", path.display()))?;
                let tls = ::upstream::trusting(&pem)
                    .map_err(|error| format!("{section}.registry_ca: {}: {error}", path.display()))?;
                Some(tls)
            }
        };
        // Only a controller asks because something may be new.
        Ok(Some(::upstream::Front { url, tls, renew: self.role == Role::Controller }))
    }

    /// The folder of the store alone, for commands that need nothing else.
    pub fn store_path(args: &PlaceArgs) -> Result<PathBuf, Failure> {
        match &args.store {
            Some(path) => Ok(path.clone()),
            None => {
                let place = PlaceArgs { config: args.config.clone(), store: None };
                Ok(Config::load(Role::Registry, &RegistryArgs { place, ..RegistryArgs::default() })?.store.path)
            }
        }
    }

    fn apply(&mut self, flags: &RegistryArgs) -> Result<(), Failure> {
        if let Some(path) = &flags.place.store {
            self.store.path.clone_from(path);
        }
        if let Some(Address(listen)) = flags.listen {
            self.listen = listen;
        }
        if let Some(metrics) = flags.metrics {
            self.metrics = metrics;
        }
        if let Some(budget) = flags.budget {
            self.store.budget = budget;
        }
        if let Some(log) = &flags.log {
            logging::filter(log).map_err(|error| Failure::Usage(format!("--log: {error}")))?;
            self.log.clone_from(log);
        }
        if let Some(format) = flags.log_format {
            self.log_format = format;
        }
        match (&flags.tls_cert, &flags.tls_key) {
            (None, None) => {}
            (Some(certificate), Some(key)) => {
                let tls = Tls::check(certificate, key, &mut self.warnings);
                self.tls = Some(tls.map_err(|error| Failure::Usage(format!("--tls-cert: {error}")))?);
            }
            _ => return Err(Failure::Usage("--tls-cert and --tls-key belong together: give both or none".into())),
        }
        Ok(())
    }

    /// Looks at what only the whole can tell.
    fn finish(mut self) -> Result<Config, Failure> {
        if self.store.path.as_os_str().is_empty() && self.role != Role::Controller {
            self.store.path = self.role.store().ok_or_else(|| {
                Failure::Usage(
                    "where should the store be? Neither XDG_DATA_HOME nor HOME is set; say --store DIR".into(),
                )
            })?;
        }
        if self.role == Role::Controller {
            // It serves no clients and keeps nothing.
            return Ok(self);
        }
        if self.metrics == Listener::On(self.listen) && self.listen.port() != 0 {
            return Err(Failure::Usage(format!("clients and metrics cannot both use {}; change one", self.listen)));
        }
        if let Some(ForNodes { listen, .. }) = self.registry.nodes.as_ref().filter(|_| self.role == Role::Registry)
            && listen.port() != 0
            && (*listen == self.listen || self.metrics == Listener::On(*listen))
        {
            return Err(Failure::Usage(format!("registry.nodes.listen: {listen} is used for something else already")));
        }
        if let Budget::Bytes(bytes) = self.store.budget {
            self.warnings.extend(Budget::warning(bytes));
        }
        if !self.listen.ip().is_loopback() {
            let shared: Vec<&str> = self.upstreams.iter().filter(|one| one.shared()).map(Upstream::name).collect();
            if !shared.is_empty() {
                let shared = shared.join(", ");
                self.warnings.push(format!(
                    "whoever reaches {} may pull what the credential for {shared} gives, private images included",
                    self.listen
                ));
            }
        }
        Ok(self)
    }

    /// What the engine's directory of upstreams needs. `known` is how a node speaks to a registry that it has certificates
    /// for.
    ///
    /// # Errors
    /// A file is no longer what it was when the configuration was read.
    pub fn upstream_settings(&self, known: Option<::upstream::TlsChoice>) -> anyhow::Result<::upstream::Settings> {
        let excluded = self.exclude.iter().map(|registry| ::upstream::UpstreamSettings {
            excluded: true,
            ..::upstream::UpstreamSettings::new(registry.clone())
        });
        Ok(::upstream::Settings {
            open: self.unlisted,
            upstreams: self.upstreams.iter().map(|one| one.settings.clone()).chain(excluded).collect(),
            rules: self.rules.clone(),
            front: self.front(known).map_err(anyhow::Error::msg)?,
            deadlines: self.deadlines,
            ..::upstream::Settings::default()
        })
    }
}

/// The configuration file and its text, if there is one.
fn read_file(named: Option<&Path>) -> Result<Option<(PathBuf, String)>, Failure> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some((path.to_owned(), text))),
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => Ok(None),
        Err(error) => Err(Failure::Usage(format!("{}: cannot be read: {error}", path.display()))),
    }
}
