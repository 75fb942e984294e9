//! Certificates, good and bad.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// What kind of certificate a TLS upstream shows.
#[derive(Clone, Debug, Default)]
enum Certificate {
    #[default]
    Trusted,
    SelfSigned,
    Expired,
    NotYetValid,
    WrongName,
    Given {
        chain: String,
        key: String,
    },
}

/// How an upstream does TLS. Certificates are for `localhost` and `127.0.0.1` and the names added.
#[derive(Clone, Default)]
pub struct Tls {
    certificate: Certificate,
    names: Vec<String>,
    ca: Option<Arc<Ca>>,
}

impl Tls {
    /// Signed by a CA (see [`Upstream::ca_pem`](crate::Upstream::ca_pem)), in date, for the right names.
    pub fn trusted() -> Self {
        Self::default()
    }

    /// Signed by itself; `ca_pem` gives the certificate.
    pub fn self_signed() -> Self {
        Self { certificate: Certificate::SelfSigned, ..Self::default() }
    }

    /// As trusted, but valid in 2019 only.
    pub fn expired() -> Self {
        Self { certificate: Certificate::Expired, ..Self::default() }
    }

    /// As trusted, but valid from 2110 on only.
    pub fn not_yet_valid() -> Self {
        Self { certificate: Certificate::NotYetValid, ..Self::default() }
    }

    /// As trusted, but for `elsewhere.example` only.
    pub fn wrong_name() -> Self {
        Self { certificate: Certificate::WrongName, ..Self::default() }
    }

    /// This chain and key, in PEM.
    pub fn given(chain_pem: &str, key_pem: &str) -> Self {
        let certificate = Certificate::Given { chain: chain_pem.to_owned(), key: key_pem.to_owned() };
        Self { certificate, ..Self::default() }
    }

    /// Adds names (or IP addresses) that the certificate is good for.
    pub fn names(mut self, names: &[&str]) -> Self {
        self.names.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// Signs with this CA instead of one of its own.
    pub fn signed_by(mut self, ca: &Arc<Ca>) -> Self {
        self.ca = Some(ca.clone());
        self
    }

    /// The server's configuration, and the PEM that a client must trust for it to be accepted.
    pub(crate) fn build(&self) -> anyhow::Result<(Arc<ServerConfig>, String)> {
        let (chain, key, trust) = match &self.certificate {
            Certificate::Given { chain, key } => (chain.clone(), key.clone(), chain.clone()),
            Certificate::SelfSigned => {
                let key = KeyPair::generate()?;
                let pem = leaf(&self.sans())?.self_signed(&key)?.pem();
                (pem.clone(), key.serialize_pem(), pem)
            }
            kind => {
                let ca = match &self.ca {
                    Some(ca) => ca.clone(),
                    None => Ca::generate()?,
                };
                let mut params = match kind {
                    Certificate::WrongName => leaf(&["elsewhere.example".to_owned()])?,
                    _ => leaf(&self.sans())?,
                };
                if matches!(kind, Certificate::Expired) {
                    params.not_before = date_time_ymd(2019, 1, 1);
                    params.not_after = date_time_ymd(2019, 12, 31);
                }
                if matches!(kind, Certificate::NotYetValid) {
                    params.not_before = date_time_ymd(2110, 1, 1);
                }
                let key = KeyPair::generate()?;
                (params.signed_by(&key, &ca.issuer)?.pem(), key.serialize_pem(), ca.pem())
            }
        };
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((Arc::new(config), trust))
    }

    fn sans(&self) -> Vec<String> {
        ["localhost", "127.0.0.1"].into_iter().map(str::to_owned).chain(self.names.iter().cloned()).collect()
    }
}

fn leaf(names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "faulty upstream");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    Ok(params)
}

/// A certificate authority that several upstreams can share.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    /// A new one, with a key of its own.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn generate() -> anyhow::Result<Arc<Self>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "faulty test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Arc::new(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? }))
    }

    /// The certificate, for clients to trust.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }
}
