//! Origin registries under their real names, in a machine that plays the internet.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use programs::{Paths, Program};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    authority::{Authority, Identity, base64},
    image::{Image, Written},
    machine::{Machine, output_of, write},
    network::origin_address,
    process::{Launch, Process},
    wait::wait_for,
};

/// The user that may pull from and push to private origins.
pub const PRIVATE_USER: &str = "puller";
/// The password of [`PRIVATE_USER`].
pub const PRIVATE_PASSWORD: &str = "only-for-tests";
/// The line of that user in the origin's password file, hashed with the fewest rounds that there are.
const PRIVATE_LINE: &str = "puller:$2b$04$abcdefghijklmnopqrstuuSOASZ5gFdIXxQU/MI4albXfVKBHc6R2\n";

/// Where every origin listens.
const PORT: u16 = 443;

/// A registry that the cluster shall find in its internet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginSpec {
    pub(crate) host: String,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Public,
    Private,
    ByTest,
}

impl OriginSpec {
    /// One that everybody may pull from and push to, such as `ghcr.io`.
    #[must_use]
    pub fn public(host: &str) -> Self {
        Self { host: host.to_owned(), kind: Kind::Public }
    }

    /// One that asks for [`PRIVATE_USER`] and [`PRIVATE_PASSWORD`].
    #[must_use]
    pub fn private(host: &str) -> Self {
        Self { host: host.to_owned(), kind: Kind::Private }
    }

    /// A name, an address and a certificate, for a server that the test runs there itself with [`Machine::in_network`].
    #[must_use]
    pub fn served_by_test(host: &str) -> Self {
        Self { host: host.to_owned(), kind: Kind::ByTest }
    }

    /// Every name under which clients look for it.
    pub(crate) fn names(&self) -> Vec<String> {
        let more: &[&str] = if self.host == "docker.io" { &["registry-1.docker.io", "index.docker.io"] } else { &[] };
        std::iter::once(self.host.as_str()).chain(more.iter().copied()).map(str::to_owned).collect()
    }
}

/// What the machines of a cluster know of names: the lines of `/etc/hosts`.
pub(crate) fn hosts(origins: &[OriginSpec]) -> Result<String> {
    let mut text = "127.0.0.1 localhost\n".to_owned();
    for (number, origin) in origins.iter().enumerate() {
        text += &format!("{} {}\n", origin_address(number)?, origin.names().join(" "));
    }
    Ok(text)
}

/// A request that an origin has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD` and so on.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// The `User-Agent` of the client.
    pub agent: String,
    /// The address of the client.
    pub client: String,
    /// When it was answered, to the second, such as `25/Nov/2026:03:59:01 +0000`.
    pub time: String,
}

impl Request {
    /// Whether it took a blob, or a part of one.
    #[must_use]
    pub fn is_blob_get(&self) -> bool {
        self.method == "GET" && self.path.contains("/blobs/")
    }
}

/// A registry in the internet of a cluster.
#[derive(Debug)]
pub struct Origin {
    spec: OriginSpec,
    address: Ipv4Addr,
    process: Option<Arc<Process>>,
    identity: Identity,
    machine: Arc<Machine>,
    crane: PathBuf,
    dir: PathBuf,
    pushes: AtomicU32,
}

impl Origin {
    /// Starts it in the machine that plays the internet.
    pub(crate) fn start(
        spec: &OriginSpec,
        number: usize,
        machine: &Arc<Machine>,
        authority: &Authority,
        programs: &Paths,
        dir: &Path,
    ) -> Result<Self> {
        let address = origin_address(number)?;
        let identity = authority.server(&format!("origin-{}", spec.host), &spec.names())?;
        let dir = dir.join(&spec.host);
        machine.run(&["ip", "address", "add", &format!("{address}/32"), "dev", "lo"])?;
        let mut origin = Self {
            spec: spec.clone(),
            address,
            process: None,
            identity,
            machine: Arc::clone(machine),
            crane: programs.get(Program::Crane).to_owned(),
            dir,
            pushes: AtomicU32::new(0),
        };
        if spec.kind != Kind::ByTest {
            let config = origin.write_config()?;
            // It would send traces to a collector otherwise, and complain that there is none.
            let launch = Launch::new(programs.get(Program::Registry)).env("OTEL_TRACES_EXPORTER", "none");
            let launch = launch.args(["serve".to_owned(), config.display().to_string()]);
            origin.process = Some(machine.spawn(&spec.host, launch)?);
        }
        Ok(origin)
    }

    /// Writes the configuration of the registry program: YAML, of which JSON is a part.
    fn write_config(&self) -> Result<PathBuf> {
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": false}},
            "storage": {
                "filesystem": {"rootdirectory": self.dir.join("storage")},
                "delete": {"enabled": true},
            },
            "http": {
                "addr": format!("{}:{PORT}", self.address),
                "secret": "testbed",
                "tls": {"certificate": self.identity.certificate, "key": self.identity.key},
            },
        });
        if self.spec.kind == Kind::Private {
            let passwords = self.dir.join("passwords");
            write(&passwords, PRIVATE_LINE)?;
            config["auth"] = json!({"htpasswd": {"realm": self.spec.host, "path": passwords}});
        }
        let path = self.dir.join("config.yml");
        write(&path, &config.to_string())?;
        Ok(path)
    }

    /// Waits until it answers.
    pub(crate) fn await_ready(&self) -> Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        wait_for(&format!("{} listens", self.spec.host), Duration::from_secs(30), || {
            process.require_running()?;
            Ok(self.machine.in_network(|| TcpStream::connect((self.address, PORT)))?.ok())
        })?;
        Ok(())
    }

    /// The registry host that references to its images begin with.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.spec.host
    }

    pub(crate) fn spec(&self) -> &OriginSpec {
        &self.spec
    }

    /// Where it listens, at port 443.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The certificate that it shows, or that a server of the test is to show, and its key: files in PEM.
    #[must_use]
    pub fn certificate(&self) -> (&Path, &Path) {
        (&self.identity.certificate, &self.identity.key)
    }

    /// The program that serves it, to be killed, stopped and started again.
    ///
    /// # Errors
    ///
    /// The test serves it itself.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_deref().with_context(|| format!("{} is served by the test", self.spec.host))
    }

    /// Makes an image and pushes it as `repository:tag`.
    ///
    /// # Errors
    ///
    /// It cannot be made, or the origin refuses it.
    pub fn push(&self, name: &str, image: &Image) -> Result<Written> {
        let number = self.pushes.fetch_add(1, Ordering::Relaxed);
        let layout = self.dir.join(format!("layout-{number}"));
        push(self.machine.command(&self.crane), &layout, &self.spec, name, image)
    }

    /// Pushes the image of an OCI archive as `repository:tag`.
    ///
    /// # Errors
    ///
    /// It is no such archive, or the origin refuses it.
    pub fn push_archive(&self, name: &str, archive: &Path) -> Result<()> {
        let number = self.pushes.fetch_add(1, Ordering::Relaxed);
        let layout = self.dir.join(format!("layout-{number}"));
        fs::create_dir_all(&layout)?;
        output_of(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&layout))?;
        push_layout(self.machine.command(&self.crane), &layout, &self.spec, name)
    }

    /// The content of an image pull secret (`.dockerconfigjson`) that it accepts.
    #[must_use]
    pub fn docker_config(&self) -> String {
        docker_config(&self.spec.host)
    }

    /// Every request that it has answered so far, pushes included, oldest first.
    ///
    /// # Errors
    ///
    /// Its log cannot be read, or the test serves it itself.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let path = self.process()?.log();
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).lines().filter_map(parse_request).collect())
    }
}

/// Makes an image in `layout` and pushes it with `crane`, which must run where the origin's names are known.
pub(crate) fn push(crane: Command, layout: &Path, origin: &OriginSpec, name: &str, image: &Image) -> Result<Written> {
    let written = image.write(layout).with_context(|| format!("cannot make {name}"))?;
    push_layout(crane, layout, origin, name)?;
    Ok(written)
}

/// Pushes the image in `layout`, which is gone then.
fn push_layout(mut crane: Command, layout: &Path, origin: &OriginSpec, name: &str) -> Result<()> {
    let config = layout.join("docker");
    write(
        &config.join("config.json"),
        if origin.kind == Kind::Private { docker_config(&origin.host) } else { "{}".to_owned() }.as_str(),
    )?;
    crane.arg("push").arg(layout).arg(format!("{}/{name}", origin.host)).env("DOCKER_CONFIG", &config);
    output_of(&mut crane)?;
    fs::remove_dir_all(layout)?;
    Ok(())
}

fn docker_config(host: &str) -> String {
    let auth = base64(format!("{PRIVATE_USER}:{PRIVATE_PASSWORD}").as_bytes());
    json!({"auths": {host: {"auth": auth}}}).to_string()
}

/// Reads a line of an access log in the "combined" form.
fn parse_request(line: &str) -> Option<Request> {
    let mut quoted = line.split('"');
    let who = quoted.next()?;
    let client = who.split(' ').next()?.to_owned();
    let time = who.split(['[', ']']).nth(1)?.to_owned();
    let mut request = quoted.next()?.split(' ');
    let mut answer = quoted.next()?.split_whitespace();
    let _referrer = quoted.next()?;
    let agent = quoted.nth(1)?.to_owned();
    let request = Request {
        method: request.next()?.to_owned(),
        path: request.next()?.to_owned(),
        status: answer.next()?.parse().ok()?,
        bytes: answer.next()?.parse().ok()?,
        agent,
        client,
        time,
    };
    request.path.starts_with("/v2").then_some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_log_lines_are_understood() {
        let line = r#"10.213.1.11 - - [25/Nov/2026:03:59:01 +0000] "GET /v2/library/app/blobs/sha256:ab HTTP/1.1" 200 1234 "" "containerd/2.4.2""#;
        let request = parse_request(line).unwrap();
        assert_eq!((request.method.as_str(), request.status, request.bytes), ("GET", 200, 1234));
        assert_eq!((request.client.as_str(), request.agent.as_str()), ("10.213.1.11", "containerd/2.4.2"));
        assert_eq!(request.time, "25/Nov/2026:03:59:01 +0000");
        assert!(request.is_blob_get());
        assert_eq!(parse_request(r#"time="2026" level=warning msg="No HTTP secret""#), None);
    }
}
