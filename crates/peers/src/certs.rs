use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::identity::{Files, Identity, IdentityError, Role};

mod authority;

pub use authority::{Authority, AuthorityError, Certificate, Signed};

/// The longest that a certificate may be good: beyond it dates leave what X.509 can say.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// A certificate to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Whose: the name of its folder, and the certificate's common name. It decides nothing.
    pub name: String,
    /// What its owner may be.
    pub role: Role,
}

/// Which certificates to make, and where.
#[derive(Clone, Debug)]
pub struct Request {
    /// The folder of the authority, `ca.crt` and `ca.key`, in which each leaf gets a folder of its name.
    pub dir: PathBuf,
    /// What to make.
    pub leaves: Vec<Leaf>,
    /// How long leaves are good from now on; not longer than their authority.
    pub validity: Duration,
    /// How long a new authority is good from now on.
    pub ca_validity: Duration,
    /// Whether leaves that are there are replaced. An authority never is.
    pub force: bool,
}

/// Whose authority signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ca {
    /// One made for it.
    New,
    /// The one that was in the folder.
    Existing,
}

/// What was made.
#[derive(Debug)]
pub struct Minted {
    /// Who signed.
    pub ca: Ca,
    /// The authority's certificate.
    pub ca_cert: PathBuf,
    /// The authority's key. Nodes need it not; it belongs in a safe place.
    pub ca_key: PathBuf,
    /// Each leaf with its files, `tls.crt`, `tls.key` and `ca.crt` in the folder of its name, and when it ends.
    pub leaves: Vec<(Leaf, Files, SystemTime)>,
}

/// Why no certificates were made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The name cannot be that of a folder.
    #[error(
        "{0:?} cannot name a certificate: use lower-case letters, digits, '-' and '.', beginning with a letter or digit"
    )]
    Name(String),
    /// Two leaves of one name.
    #[error("{0:?} is asked for twice")]
    Twice(String),
    /// Certificates cannot be good for so long, or for no time at all.
    #[error("certificates can be good for a second up to 100 years")]
    Validity,
    /// A leaf is there, and replacing it was not asked for.
    #[error("{} is there: nothing was made; with force it is replaced", .0.display())]
    Exists(PathBuf),
    /// One half of an authority is there.
    #[error("{} is there, but not {}: put it back, or take both away for a new authority", there.display(), missing.display())]
    HalfAnAuthority {
        /// What is there.
        there: PathBuf,
        /// What is not.
        missing: PathBuf,
    },
    /// The authority in the folder is no longer good.
    #[error("the authority in {} is no longer good: make a new one in another folder, and give nodes both certificates in one ca.crt until all have leaves of the new one", .0.display())]
    AuthorityExpired(PathBuf),
    /// The authority in the folder cannot sign.
    #[error("the authority in {} cannot sign: {reason}", path.display())]
    Authority {
        /// Its certificate or key.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What was made did not pass the checks that nodes make: the authority's key and certificate do not belong together.
    #[error("the authority does not fit what it signed: {0}")]
    Check(#[from] IdentityError),
    /// The cryptography failed.
    #[error("cannot make a certificate: {0}")]
    Crypto(#[source] AuthorityError),
    /// A file could not be read or written.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes certificates for mutual TLS between nodes and registry role: ECDSA on P-256, signed by the authority in the folder,
/// which is made if there is none. Keys are readable by their owner only. All that can be checked is checked before anything is
/// written, and each file is replaced at once; `ca.crt` of a leaf is a copy of the authority's, with all certificates
/// that are in it. `now` is the time of issue.
///
/// Reads and writes files: not for a thread that serves.
pub fn mint(request: &Request, now: SystemTime) -> Result<Minted, MintError> {
    let lengths = Duration::from_secs(1)..=LONGEST;
    if !lengths.contains(&request.validity) || !lengths.contains(&request.ca_validity) {
        return Err(MintError::Validity);
    }
    for (index, leaf) in request.leaves.iter().enumerate() {
        if !good_name(&leaf.name) {
            return Err(MintError::Name(leaf.name.clone()));
        }
        if request.leaves[..index].iter().any(|other| other.name == leaf.name) {
            return Err(MintError::Twice(leaf.name.clone()));
        }
        let files = Files::in_folder(request.dir.join(&leaf.name));
        if let Some(there) = [files.cert, files.key].into_iter().find(|path| path.exists() && !request.force) {
            return Err(MintError::Exists(there));
        }
    }

    let (ca_cert, ca_key) = (request.dir.join("ca.crt"), request.dir.join("ca.key"));
    let (ca, authority) = match (ca_cert.exists(), ca_key.exists()) {
        (true, true) => (Ca::Existing, read(&ca_cert, &ca_key, now)?),
        (false, false) => (Ca::New, Authority::make(request.ca_validity, now).map_err(MintError::Crypto)?),
        (true, false) => return Err(MintError::HalfAnAuthority { there: ca_cert, missing: ca_key }),
        (false, true) => return Err(MintError::HalfAnAuthority { there: ca_key, missing: ca_cert }),
    };

    let until = (now + request.validity).min(authority.certificate().until());
    let sign = |leaf| authority.sign(leaf, now, until).map_err(MintError::Crypto);
    let made = request.leaves.iter().map(sign).collect::<Result<Vec<_>, _>>()?;

    folder(&request.dir)?;
    if ca == Ca::New {
        write(&ca_key, &authority.key_pem(), 0o600)?;
        write(&ca_cert, authority.pem(), 0o644)?;
    }
    let mut leaves = Vec::new();
    for (leaf, Signed { certificate, key }) in request.leaves.iter().zip(made) {
        let at = request.dir.join(&leaf.name);
        folder(&at)?;
        let files = Files::in_folder(at);
        write(&files.ca, authority.pem(), 0o644)?;
        write(&files.key, &key, 0o600)?;
        write(&files.cert, &certificate, 0o644)?;
        Identity::load(files.clone())?;
        leaves.push((leaf.clone(), files, until));
    }
    Ok(Minted { ca, ca_cert, ca_key, leaves })
}

/// The authority in a folder, if it can sign.
fn read(cert: &Path, key: &Path, now: SystemTime) -> Result<Authority, MintError> {
    let unusable = |path: &Path, reason: String| MintError::Authority { path: path.to_owned(), reason };
    let text = |path: &Path| fs::read_to_string(path).map_err(|error| unusable(path, error.to_string()));
    let (pem, key_pem) = (text(cert)?, text(key)?);
    let expired = |certificates: Vec<Certificate>| certificates.first().is_some_and(|first| first.until() <= now);
    if Certificate::all(&pem).is_ok_and(expired) {
        return Err(MintError::AuthorityExpired(cert.to_owned()));
    }
    Authority::parse(&pem, &key_pem).map_err(|error| match error {
        AuthorityError::Certificate(reason) => unusable(cert, reason),
        AuthorityError::Key(reason) => unusable(key, reason),
        AuthorityError::Crypto(_) => MintError::Crypto(error),
    })
}

/// As names of Kubernetes nodes are, and never a path.
fn good_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.starts_with(plain)
        && name.len() <= 253
        && name.chars().all(|c| plain(c) || c == '-' || c == '.')
        && !["ca.crt", "ca.key"].contains(&name)
}

fn folder(path: &Path) -> Result<(), MintError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| MintError::Io { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), MintError> {
    let new = path.with_extension("new");
    let done = || -> io::Result<()> {
        // Left by one that was interrupted; never written to, as its mode may be another.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    done().map_err(|source| MintError::Io { path: path.to_owned(), source })
}
