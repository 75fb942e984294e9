use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use oci::{Algorithm, Digest, Hasher};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

mod credentials;
mod verifier;

use credentials::Credentials;
pub(crate) use credentials::{key_fits, signed_by, validity};
use verifier::names_role;

/// What a certificate says its owner is: a DNS name among its subject alternative names, the same for all nodes. Host
/// names and addresses are of no account: nodes come and go and change addresses, and whoever may sign for one may
/// sign for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// An agent on a node: `larder-node`.
    Node,
    /// The registry role: `larder-registry`.
    Registry,
    /// The controller, who tells the registry what is in use: `larder-controller`.
    Controller,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 3] = [Role::Node, Role::Registry, Role::Controller];

    /// The DNS name that stands for the role in a certificate.
    pub fn dns_name(self) -> &'static str {
        match self {
            Role::Node => "larder-node",
            Role::Registry => "larder-registry",
            Role::Controller => "larder-controller",
        }
    }

    /// The roles that a certificate names. Believe them only of one that was verified, such as that of a peer once the
    /// handshake is over.
    pub fn named_in(certificate: &CertificateDer<'_>) -> Vec<Role> {
        Role::ALL.into_iter().filter(|role| names_role(certificate, *role).is_ok()).collect()
    }

    fn server_name(self) -> ServerName<'static> {
        ServerName::try_from(self.dns_name()).expect("the names of roles are DNS names")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dns_name())
    }
}

/// Where certificates are, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The own certificate, with intermediate ones after it if there are any.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities whose certificates are believed: several while one takes over from another.
    pub ca: PathBuf,
}

impl Files {
    /// `tls.crt`, `tls.key` and `ca.crt` in a folder: the names of a Kubernetes Secret's keys and of what
    /// [`mint`](crate::mint) makes.
    pub fn in_folder(folder: impl AsRef<Path>) -> Files {
        let folder = folder.as_ref();
        Files { cert: folder.join("tls.crt"), key: folder.join("tls.key"), ca: folder.join("ca.crt") }
    }
}

/// What is wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is not there or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{} is of no use: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate is not one that others would believe.
    #[error("nobody would believe the certificate in {}: {reason}", path.display())]
    Unbelievable {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// From when and until when certificates are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The beginning of the own certificate, or of an intermediate one of it if that comes later.
    pub begins: SystemTime,
    /// The end of the own certificate, or of an intermediate one of it if that comes earlier.
    pub certificate: SystemTime,
    /// The end of the authority that lasts longest.
    pub authority: SystemTime,
}

/// Mutual TLS between nodes and the registry role: TLS 1.3 only, the own certificate from files, others believed if they
/// show one that an authority of ours signed and that names the role.
///
/// Configurations are taken for each connection ([`server`](Identity::server), [`client`](Identity::client)), so that new
/// files are used from the next connection on; those that are open stay. Sessions are not resumed: each connection proves
/// anew who is there.
///
/// In TLS 1.3 the client has finished its handshake before the server has looked at its certificate: a client that is not
/// believed sees its first read fail.
pub struct Identity {
    files: Files,
    now: RwLock<Arc<Credentials>>,
    seen: Mutex<Seen>,
}

/// What reloading knows of the files.
struct Seen {
    /// Of what they held when they were last read.
    digest: Option<Digest>,
    /// What was wrong with them then.
    complaint: Option<String>,
}

impl Identity {
    /// Reads the files: the key must fit the certificate, which must name a role and be signed by one of the authorities.
    /// That it has expired, or is not good yet, is no error here: others will refuse it, and [`expiry`](Identity::expiry)
    /// tells.
    pub fn load(files: Files) -> Result<Identity, IdentityError> {
        let contents = Contents::read(&files)?;
        let now = Credentials::new(&files, &contents)?;
        let seen = Mutex::new(Seen { digest: Some(contents.digest()), complaint: None });
        Ok(Identity { files, now: RwLock::new(Arc::new(now)), seen })
    }

    /// The configuration for taking the next connection: whoever shows a certificate for one of `roles` is let in.
    pub fn server(&self, roles: &[Role]) -> Arc<ServerConfig> {
        self.credentials().server(roles)
    }

    /// The configuration for the next connection to somebody who must be `role`. What server name is given with the
    /// connection has no effect: an address does.
    pub fn client(&self, role: Role) -> Arc<ClientConfig> {
        self.credentials().client(role)
    }

    /// The roles that the own certificate names.
    pub fn roles(&self) -> Vec<Role> {
        Role::named_in(self.credentials().leaf())
    }

    /// What the own certificate is called: its common name, if it has one. It decides nothing.
    pub fn name(&self) -> Option<String> {
        credentials::common_name(self.credentials().leaf())
    }

    /// From when and until when the certificates in use are good.
    pub fn expiry(&self) -> Expiry {
        self.credentials().expiry
    }

    /// Takes the files anew if what they hold has changed, and tells whether it did. What is of no use is not taken: the
    /// certificates from before stay in use, and each call says again what is wrong until it is put right. Files that are
    /// replaced one by one are of no use for a moment.
    ///
    /// The files are read and compared rather than their times, which miss a change within one tick of the clock. Not for
    /// a thread that serves.
    pub fn reload(&self) -> Result<bool, IdentityError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = Contents::read(&self.files).and_then(|contents| {
            let digest = contents.digest();
            if seen.digest == Some(digest) && seen.complaint.is_none() {
                return Ok(None);
            }
            Ok(Some((digest, Credentials::new(&self.files, &contents)?)))
        });
        match outcome {
            Ok(None) => Ok(false),
            Ok(Some((digest, credentials))) => {
                // Files that were of no use for a while may be as they were before.
                let new = seen.digest != Some(digest);
                *seen = Seen { digest: Some(digest), complaint: None };
                if new {
                    *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
                }
                Ok(new)
            }
            Err(error) => {
                seen.complaint = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// Reloads every so often, for ever, and logs what it finds: each mistake once, not each time, and that the certificate
    /// has expired. Cancellation safe.
    pub async fn keep_fresh(self: Arc<Identity>, every: Duration) {
        let mut complaint = None;
        let mut expired = None;
        loop {
            tokio::time::sleep(every).await;
            let identity = self.clone();
            match tokio::task::spawn_blocking(move || identity.reload()).await {
                Ok(Ok(false)) => {
                    if complaint.take().is_some() {
                        tracing::info!(cert = %self.files.cert.display(), "the certificates are as they were again");
                    }
                }
                Ok(Ok(true)) => {
                    complaint = None;
                    tracing::info!(cert = %self.files.cert.display(), "took new certificates");
                }
                Ok(Err(error)) => {
                    let text = error.to_string();
                    if complaint.as_ref() != Some(&text) {
                        tracing::warn!(error = %text, "the certificates have changed and are of no use; those from before stay in use");
                        complaint = Some(text);
                    }
                }
                // The runtime is ending.
                Err(_) => return,
            }
            let Expiry { certificate, authority, .. } = self.expiry();
            let end = certificate.min(authority);
            if end <= SystemTime::now() && expired.replace(end) != Some(end) {
                tracing::error!(cert = %self.files.cert.display(), "the certificate or its authority has expired: nobody believes it any more");
            }
        }
    }

    /// What is wrong with the files as they were read last, if anything is.
    pub fn complaint(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).complaint.clone()
    }

    fn credentials(&self) -> Arc<Credentials> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What the files hold.
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Contents {
    fn read(files: &Files) -> Result<Contents, IdentityError> {
        Ok(Contents { cert: read(&files.cert)?, key: read(&files.key)?, ca: read(&files.ca)? })
    }

    fn digest(&self) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for part in [&self.cert, &self.key, &self.ca] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finish()
    }
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let unusable = |reason: String| IdentityError::Unusable { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() { Err(unusable("it holds no certificate in PEM".to_owned())) } else { Ok(certificates) }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| IdentityError::Unreadable { path: path.to_owned(), source })
}
