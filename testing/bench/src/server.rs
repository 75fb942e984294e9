//! The servers that are measured, each with a folder of its own, in front of the same origin.

use std::fmt;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use programs::Program;

use crate::client::{self, Client};
use crate::process::Process;

/// The version of NORA, which nothing else pins.
const NORA: &str = "1.4.3";

/// What larder's upstream is called.
const REGISTRY: &str = "up.test";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Larder,
    /// The limit for static files.
    Nginx,
    Distribution,
    Nora,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Larder, Kind::Nginx, Kind::Distribution, Kind::Nora];

    /// What fetches from an origin by itself.
    pub(crate) fn is_cache(self) -> bool {
        matches!(self, Kind::Larder | Kind::Distribution | Kind::Nora)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Larder => "larder",
            Kind::Nginx => "nginx",
            Kind::Distribution => "distribution",
            Kind::Nora => "NORA",
        })
    }
}

/// Where the servers' programs are.
pub(crate) struct Programs {
    found: Vec<(Kind, PathBuf)>,
    /// Those that are not measured, and why.
    pub(crate) missing: Vec<(Kind, String)>,
}

impl Programs {
    /// Builds and installs what is not there.
    pub(crate) fn find(larder: Option<PathBuf>, without: &[Kind]) -> Result<Programs> {
        programs::debian(&["nginx", "wrk"])?;
        let larder = match larder {
            Some(path) => path,
            None => build_larder()?,
        };
        let mut found = vec![(Kind::Larder, larder)];
        let mut missing = Vec::new();
        for kind in [Kind::Nginx, Kind::Distribution, Kind::Nora] {
            let path = match kind {
                _ if without.contains(&kind) => Err("left out".to_owned()),
                Kind::Nora => nora().map_err(|error| format!("{error:#}")),
                Kind::Nginx => Ok("/usr/sbin/nginx".into()),
                _ => Ok(programs::ensure(&[Program::Registry])?.get(Program::Registry).to_owned()),
            };
            match path {
                Ok(path) => found.push((kind, path)),
                Err(reason) => missing.push((kind, reason)),
            }
        }
        Ok(Programs { found, missing })
    }

    /// What can be measured.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        self.found.iter().map(|(kind, _)| *kind).collect()
    }

    fn path(&self, kind: Kind) -> Result<&Path> {
        let found = self.found.iter().find(|(other, _)| *other == kind);
        found.map(|(_, path)| path.as_path()).with_context(|| format!("there is no {kind}"))
    }

    /// Each server with its version, as it says it.
    pub(crate) fn versions(&self) -> String {
        let said = |kind, arguments: &[&str]| {
            let output = self.path(kind).ok().and_then(|path| Command::new(path).args(arguments).output().ok())?;
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            text.split_whitespace().last().map(|version| format!("{kind} {}", version.trim_start_matches("nginx/")))
        };
        let versions = [(Kind::Larder, "version"), (Kind::Nginx, "-v"), (Kind::Distribution, "--version")];
        let mut versions: Vec<_> = versions.iter().filter_map(|(kind, argument)| said(*kind, &[argument])).collect();
        if self.path(Kind::Nora).is_ok() {
            versions.push(format!("NORA {NORA}"));
        }
        versions.join(", ")
    }
}

/// The binary to measure: that one, or the release build.
pub(crate) fn larder(named: Option<PathBuf>) -> Result<PathBuf> {
    named.map_or_else(build_larder, |path| Ok(std::path::absolute(path)?))
}

fn build_larder() -> Result<PathBuf> {
    let built = Command::new("nice")
        .args(["-n", "10", env!("CARGO"), "build", "--release", "-p", "larder"])
        .current_dir(crate::workspace())
        .status()
        .context("cannot run nice")?;
    if !built.success() {
        bail!("larder cannot be built");
    }
    Ok(crate::folder().parent().context("the target folder")?.join("release/larder"))
}

/// NORA from crates.io. First with the versions that it was released with; these may be gone.
fn nora() -> Result<PathBuf> {
    let root = programs::cache_dir()?.join(format!("nora-{NORA}"));
    let path = root.join("bin/nora");
    for locked in [true, false] {
        if path.exists() {
            break;
        }
        eprintln!("installing NORA {NORA}{}", if locked { "" } else { " with newer dependencies" });
        let mut install = Command::new("nice");
        install.args(["-n", "10", env!("CARGO"), "install", "nora-registry", "--version", NORA, "--root"]).arg(&root);
        // Elsewhere than the workspace, whose settings are not NORA's.
        install.args(locked.then_some("--locked")).current_dir("/");
        let output = install.output().context("cannot run nice")?;
        if !output.status.success() && !locked {
            let text = String::from_utf8_lossy(&output.stderr);
            let errors: Vec<_> = text.lines().filter(|line| line.starts_with("error")).collect();
            bail!("`cargo install nora-registry --version {NORA}` fails: {}", errors.join("; "));
        }
    }
    Ok(path)
}

/// Something to ask for.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) repository: String,
    pub(crate) part: &'static str,
    pub(crate) reference: String,
}

impl Target {
    pub(crate) fn blob(repository: &str, digest: &str) -> Target {
        Target { repository: repository.to_owned(), part: "blobs", reference: digest.to_owned() }
    }

    pub(crate) fn manifest(repository: &str, reference: &str) -> Target {
        Target { repository: repository.to_owned(), part: "manifests", reference: reference.to_owned() }
    }

    /// Its path at the origin, and wherever names are not changed.
    pub(crate) fn path(&self) -> String {
        format!("/v2/{}/{}/{}", self.repository, self.part, self.reference)
    }
}

/// A server that runs.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    /// From its start until it was ready.
    pub(crate) ready_after: Duration,
    folder: PathBuf,
    origin: SocketAddr,
}

impl Server {
    /// Starts a server in a folder, which is made if need be, and waits until it is ready.
    pub(crate) fn start(programs: &Programs, kind: Kind, folder: &Path, origin: SocketAddr) -> Result<Server> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let (address, admin) = (free_address()?, free_address()?);
        let mut command = Command::new(programs.path(kind)?);
        let (at, path) = match kind {
            Kind::Larder => {
                let config = folder.join("larder.toml");
                let upstream = format!("[[upstream]]\nregistry = \"{REGISTRY}\"\nendpoints = [\"http://{origin}\"]\n");
                fs::write(&config, upstream)?;
                command.args(["registry", "--log", "warn", "--listen", &address.to_string()]);
                command.args(["--metrics", &admin.to_string(), "--config"]).arg(&config);
                command.arg("--store").arg(folder.join("store"));
                (admin, "/readyz")
            }
            Kind::Nginx => {
                let config = folder.join("nginx.conf");
                fs::create_dir_all(folder.join("files"))?;
                fs::write(folder.join("files/ready"), "")?;
                fs::write(&config, nginx_config(folder, address, ""))?;
                command.arg("-p").arg(folder).arg("-c").arg(&config).args(["-g", "daemon off;"]);
                (address, "/ready")
            }
            Kind::Distribution => {
                let config = folder.join("config.yml");
                fs::write(&config, distribution_config(folder, address, &format!("http://{origin}")))?;
                command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
                (address, "/v2/")
            }
            Kind::Nora => {
                command.arg("serve").current_dir(folder);
                command.env("NORA_HOST", address.ip().to_string()).env("NORA_PORT", address.port().to_string());
                command.env("NORA_STORAGE_PATH", folder.join("store"));
                command.env("NORA_DOCKER_PROXIES", format!("http://{origin}"));
                command.env("NORA_REGISTRIES_ENABLE", "docker").env("NORA_RATE_LIMIT_ENABLED", "false");
                command.env("NORA_AUTH_ENABLED", "false").env("NORA_CURATION_MODE", "off").env("RUST_LOG", "error");
                (address, "/ready")
            }
        };
        let mut process = Process::start(&command, &folder.join("log"))?;
        let is_ready = || Client::connect(at).and_then(|mut client| client.get(path, |_| true));
        let ready_after = process
            .wait_until(|| is_ready().is_ok_and(|taken| taken.status == 200))
            .with_context(|| format!("{kind} does not start"))?;
        Ok(Server { kind, address, process, ready_after, folder: folder.to_owned(), origin })
    }

    /// The path of a target at this server.
    pub(crate) fn path(&self, target: &Target) -> String {
        match self.kind {
            Kind::Larder => target.path().replacen("/v2/", &format!("/v2/{REGISTRY}/"), 1),
            _ => target.path(),
        }
    }

    /// Makes a target be there, in the page cache.
    pub(crate) fn warm(&self, target: &Target) -> Result<()> {
        if self.kind == Kind::Nginx {
            let file = self.folder.join("files").join(target.path().trim_start_matches('/'));
            fs::create_dir_all(file.parent().context("files have a folder")?)?;
            let mut file = fs::File::create(file)?;
            let taken = Client::connect(self.origin)?
                .get(&target.path(), |bytes| std::io::Write::write_all(&mut file, bytes).is_ok())?;
            if taken.status != 200 {
                bail!("the origin has no {}", target.path());
            }
        }
        for _ in 0..2 {
            client::get(self.address, &self.path(target)).with_context(|| format!("warming {}", self.kind))?;
        }
        Ok(())
    }
}

/// nginx with the files of the folder's `files`; `more` is put into its server.
pub(crate) fn nginx_config(folder: &Path, address: SocketAddr, more: &str) -> String {
    let root = folder.display();
    format!(
        "user root;\nworker_processes auto;\npid {root}/pid;\nerror_log {root}/error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  keepalive_requests 1000000000;\n  \
         default_type application/octet-stream;\n  server {{ listen {address} backlog=4096; root {root}/files; {more}}}\n}}\n"
    )
}

/// As the image of distribution has it, but for the log of requests.
pub(crate) fn distribution_config(folder: &Path, address: SocketAddr, origin: &str) -> String {
    let root = folder.display();
    format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  cache:\n    \
         blobdescriptor: inmemory\n  filesystem:\n    rootdirectory: {root}/store\nhttp:\n  addr: {address}\nproxy:\n  \
         remoteurl: {origin}\n"
    )
}

/// An address of the loopback interface that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
