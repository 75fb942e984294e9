use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::secret;
use super::section::Section;

/// TLS towards clients.
pub struct Tls {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Reads `[tls]`.
pub fn read(mut section: Section<'_>, warnings: &mut Vec<String>) -> Option<Tls> {
    let certificate: Option<PathBuf> = section.value("cert");
    let key: Option<PathBuf> = section.value("key");
    let mut tls = None;
    match (&certificate, &key) {
        (Some(certificate), Some(key)) => match Tls::check(certificate, key, warnings) {
            Ok(read) => tls = Some(read),
            Err(error) => section.problem("cert", error),
        },
        _ if section.has("cert") && section.has("key") => {}
        (None, _) => section.problem("cert", "is missing: TLS needs a certificate chain and its key, both PEM files"),
        (_, None) => section.problem("key", "is missing: TLS needs a certificate chain and its key, both PEM files"),
    }
    section.finish();
    tls
}

impl Tls {
    /// Sees that a certificate chain and a private key can be read and belong together.
    pub fn check(certificate: &Path, key: &Path, warnings: &mut Vec<String>) -> Result<Tls, String> {
        let at = |path: &Path, what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        let chain = std::fs::read(certificate).map_err(|error| at(certificate, &error))?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
            .collect::<Result<_, _>>()
            .map_err(|error| at(certificate, &error))?;
        if chain.is_empty() {
            return Err(at(certificate, &"holds no certificate in PEM"));
        }
        let secret = secret::read(key, warnings)?;
        let private = PrivateKeyDer::from_pem_slice(&secret).map_err(|_| at(key, &"holds no private key in PEM"))?;
        rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| at(certificate, &format_args!("cannot be used with {}: {error}", key.display())))?;
        Ok(Tls { certificate: certificate.to_owned(), key: key.to_owned() })
    }
}
