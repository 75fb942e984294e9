use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use programs::Program;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tempfile::TempDir;

use crate::larder::{Process, free_address};
use crate::token_service::TokenService;
use crate::wait::wait_for;

/// The registry program of an [`Origin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    /// Debian's `docker-registry`, version 2.8.
    Debian,
    /// The distribution project's registry, version 3.1.
    Distribution,
}

/// Whom an [`Origin`] lets in. Where it asks at all, [`Origin::USER`] may do everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Everybody.
    Open,
    /// Who shows user and password with each request.
    Basic,
    /// Who brings a token of its token service, which gives everybody tokens to pull repositories that begin with `public/`.
    Token,
}

/// A real registry on a port of its own, with deletion allowed. Ends when dropped.
pub struct Origin {
    process: Process,
    dir: TempDir,
    address: SocketAddr,
    ca: Option<PathBuf>,
    tokens: Option<TokenService>,
}

impl Origin {
    /// The user that a guarded origin knows.
    pub const USER: &'static str = "puller";
    /// The password of [`Origin::USER`].
    pub const PASSWORD: &'static str = "only-for-tests";
    /// User and password with the fewest rounds of bcrypt that there are.
    const PASSWORD_LINE: &'static str = "puller:$2b$04$abcdefghijklmnopqrstuuSOASZ5gFdIXxQU/MI4albXfVKBHc6R2\n";

    /// Starts one over plain HTTP.
    ///
    /// # Errors
    /// The program cannot be had, or does not come up.
    pub fn start(software: Software, guard: Guard) -> anyhow::Result<Origin> {
        Origin::start_with(software, guard, false)
    }

    /// Starts one over TLS, with a certificate for `127.0.0.1` that [`Origin::ca`] vouches for.
    ///
    /// # Errors
    /// As [`Origin::start`].
    pub fn start_tls(software: Software, guard: Guard) -> anyhow::Result<Origin> {
        Origin::start_with(software, guard, true)
    }

    fn start_with(software: Software, guard: Guard, tls: bool) -> anyhow::Result<Origin> {
        let program = match software {
            Software::Debian => {
                programs::debian(&["docker-registry"])?;
                PathBuf::from("/usr/bin/docker-registry")
            }
            Software::Distribution => programs::ensure(&[Program::Registry])?.get(Program::Registry).to_owned(),
        };
        let dir = tempfile::Builder::new().prefix("larder-origin-").tempdir()?;
        let address = free_address()?;
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "warn", "accesslog": { "disabled": false } },
            "storage": {
                "filesystem": { "rootdirectory": dir.path().join("storage") },
                "delete": { "enabled": true },
            },
            "http": { "addr": address.to_string(), "secret": "only-for-tests" },
        });
        let mut ca = None;
        if tls {
            let (certificate, key) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
            let pair = KeyPair::generate()?;
            fs::write(&key, pair.serialize_pem())?;
            fs::write(&certificate, CertificateParams::new(vec!["127.0.0.1".to_owned()])?.self_signed(&pair)?.pem())?;
            config["http"]["tls"] = json!({ "certificate": certificate, "key": key });
            ca = Some(certificate);
        }
        let mut tokens = None;
        match guard {
            Guard::Open => {}
            Guard::Basic => {
                let passwords = dir.path().join("passwords");
                fs::write(&passwords, Origin::PASSWORD_LINE)?;
                config["auth"] = json!({ "htpasswd": { "realm": "origin", "path": passwords } });
            }
            Guard::Token => {
                let service = TokenService::start(Origin::USER, Origin::PASSWORD, "public/")?;
                let trusted = dir.path().join("issuer.pem");
                fs::write(&trusted, service.certificate())?;
                config["auth"] = json!({ "token": {
                    "realm": format!("http://{}/token", service.address()),
                    "service": TokenService::SERVICE,
                    "issuer": TokenService::ISSUER,
                    "rootcertbundle": trusted,
                } });
                tokens = Some(service);
            }
        }
        let path = dir.path().join("config.yml");
        // YAML, of which JSON is a part.
        fs::write(&path, config.to_string())?;
        let log = fs::File::create(dir.path().join("log"))?;
        let child = Command::new(&program)
            .arg("serve")
            .arg(&path)
            // It would look for a collector of traces otherwise.
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut origin = Origin { process: Process(child), dir, address, ca, tokens };
        let mut ended = false;
        wait_for("the origin to listen", || {
            ended = origin.process.0.try_wait().is_ok_and(|status| status.is_some());
            ended || TcpStream::connect(address).is_ok()
        });
        if ended {
            bail!("{} ended at once:\n{}", program.display(), origin.log());
        }
        Ok(origin)
    }

    /// `127.0.0.1:PORT`, as it stands in references to its images.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Its URL, as an upstream's endpoint.
    pub fn url(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate that clients must trust, if it speaks TLS.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// `host:port` of the token service, if it has one.
    pub fn token_host(&self) -> Option<String> {
        self.tokens.as_ref().map(|tokens| tokens.address().to_string())
    }

    /// Tokens that its token service has given out.
    pub fn tokens_issued(&self) -> u64 {
        self.tokens.as_ref().map_or(0, TokenService::issued)
    }

    /// Requests that it has answered, by its access log: lines such as `GET /v2/a/manifests/1 HTTP/1.1" 200`.
    pub fn requests(&self) -> Vec<String> {
        let log = self.log();
        let requests = log.lines().filter_map(|line| line.split_once("] \"").map(|(_, request)| request.to_owned()));
        requests.filter(|request| request.contains(" /v2/")).collect()
    }

    /// All that it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Ends it by SIGKILL; nothing listens at its address from then on.
    pub fn kill(&mut self) {
        self.process.end();
    }
}

/// A folder with a `config.json` that holds the credential of one registry, for `DOCKER_CONFIG`.
///
/// # Errors
/// The folder cannot be written.
pub fn docker_config(host: &str, user: &str, password: &str) -> anyhow::Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("larder-docker-").tempdir()?;
    let auth = STANDARD.encode(format!("{user}:{password}"));
    fs::write(dir.path().join("config.json"), json!({ "auths": { host: { "auth": auth } } }).to_string())?;
    Ok(dir)
}
