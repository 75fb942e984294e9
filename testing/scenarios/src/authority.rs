use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::client::Client;
use crate::command::run;
use crate::larder::Larder;

/// The certificates that `larder certs` makes for a node, `node`, a registry, `registry`, and a controller, `controller`.
pub struct Authority(TempDir);

impl Authority {
    /// Makes an authority and certificates of it.
    ///
    /// # Errors
    /// `larder certs` fails.
    pub fn new() -> anyhow::Result<Authority> {
        let dir = tempfile::Builder::new().prefix("larder-certs-").tempdir()?;
        let mut certs = Command::new(Larder::binary());
        let names = ["node", "--registry", "registry", "--controller", "controller"];
        run(certs.arg("certs").arg("--dir").arg(dir.path()).args(names))?;
        Ok(Authority(dir))
    }

    /// The folder of `node`, `registry` or `controller`.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The authority's own certificate, in PEM.
    pub fn certificate(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.0.path().join("ca.crt"))?)
    }

    /// Connects to a registry of this authority by TLS and shows it what is in `shown`, or nothing. In TLS 1.3 only an
    /// answer tells whether that was believed.
    ///
    /// # Errors
    /// There is no connection, or files cannot be read.
    pub fn connect(
        &self,
        registry: SocketAddr,
        shown: Option<&Path>,
    ) -> anyhow::Result<Client<StreamOwned<ClientConnection, TcpStream>>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate()?.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match shown {
            None => config.with_no_client_auth(),
            Some(folder) => {
                let chain = CertificateDer::pem_file_iter(folder.join("tls.crt"))?.collect::<Result<_, _>>()?;
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(folder.join("tls.key"))?)?
            }
        };
        let session = ClientConnection::new(Arc::new(config), ServerName::try_from("larder-registry")?)?;
        let stream = TcpStream::connect(registry).with_context(|| format!("connecting to {registry}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Client::over(StreamOwned::new(session, stream)))
    }
}
