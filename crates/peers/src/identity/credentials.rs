use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::verifier::{OfRole, OfRoles};
use super::{Contents, Expiry, Files, IdentityError, Role, certificates};

/// What one reading of the files gave, all of it checked.
pub(super) struct Credentials {
    own: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    pub expiry: Expiry,
    clients: [OnceLock<Arc<ClientConfig>>; Role::ALL.len()],
    servers: Mutex<HashMap<Vec<Role>, Arc<ServerConfig>>>,
}

impl Credentials {
    pub fn new(files: &Files, contents: &Contents) -> Result<Credentials, IdentityError> {
        let unusable = |path: &Path, reason: String| IdentityError::Unusable { path: path.to_owned(), reason };
        let unbelievable = |reason: String| IdentityError::Unbelievable { path: files.cert.clone(), reason };

        let mut roots = RootCertStore::empty();
        let mut authority = SystemTime::UNIX_EPOCH;
        for certificate in certificates(&files.ca, &contents.ca)? {
            authority = authority.max(validity(&certificate).map_err(|reason| unusable(&files.ca, reason))?.1);
            roots.add(certificate).map_err(|error| unusable(&files.ca, error.to_string()))?;
        }

        let chain = certificates(&files.cert, &contents.cert)?;
        let (mut from, mut until) = (SystemTime::UNIX_EPOCH, None::<SystemTime>);
        for certificate in &chain {
            let (start, end) = validity(certificate).map_err(|reason| unusable(&files.cert, reason))?;
            from = from.max(start);
            until = Some(until.map_or(end, |until| until.min(end)));
        }
        let until = until.unwrap_or(from);

        if Role::named_in(&chain[0]).is_empty() {
            let names = Role::ALL.map(Role::dns_name).join(" nor ");
            return Err(unbelievable(format!("it names neither {names} as a DNS name")));
        }
        // At a moment when the certificate itself is good, whether that is now or not.
        let moment = SystemTime::now().clamp(from, until.max(from));
        believe(&chain, &roots, moment).map_err(|error| unbelievable(error.to_string()))?;

        let key =
            PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| unusable(&files.key, error.to_string()))?;
        let own =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|error| unusable(&files.key, error.to_string()))?;
        let expiry = Expiry { begins: from, certificate: until, authority };
        Ok(Credentials {
            own: Arc::new(own),
            roots: Arc::new(roots),
            expiry,
            clients: Default::default(),
            servers: Mutex::default(),
        })
    }

    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.own.cert[0]
    }

    pub fn client(&self, role: Role) -> Arc<ClientConfig> {
        let make = || {
            let inner = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider())
                .build()
                .expect("there are authorities, and no revocation lists that could be wrong");
            let mut config = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&TLS13])
                .expect("the provider has cipher suites of TLS 1.3")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(OfRole::new(inner, role)))
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.own.clone())));
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            config.resumption = Resumption::disabled();
            // Nodes are reached by address, and one port has one certificate.
            config.enable_sni = false;
            Arc::new(config)
        };
        self.clients[role as usize].get_or_init(make).clone()
    }

    pub fn server(&self, roles: &[Role]) -> Arc<ServerConfig> {
        let mut roles = roles.to_vec();
        roles.sort();
        roles.dedup();
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let make = |roles: &Vec<Role>| {
            let inner = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider())
                .build()
                .expect("there are authorities, and no revocation lists that could be wrong");
            let mut config = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&TLS13])
                .expect("the provider has cipher suites of TLS 1.3")
                .with_client_cert_verifier(Arc::new(OfRoles::new(inner, roles.clone())))
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.own.clone())));
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Arc::new(config)
        };
        servers.entry(roles).or_insert_with_key(make).clone()
    }
}

/// Whether a chain leads to one of the authorities and may be shown by both sides of a connection.
fn believe(chain: &[CertificateDer<'_>], roots: &RootCertStore, moment: SystemTime) -> Result<(), rustls::Error> {
    let moment = UnixTime::since_unix_epoch(moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let leaf = ParsedCertificate::try_from(&chain[0])?;
    let algorithms = provider().signature_verification_algorithms.all;
    rustls::client::verify_server_cert_signed_by_trust_anchor(&leaf, roots, &chain[1..], moment, algorithms)?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?
        .verify_client_cert(&chain[0], &chain[1..], moment)
        .map(drop)
}

/// Whether an authority's certificate stands for what signed `leaf`; why not, in words.
pub(crate) fn signed_by(
    leaf: &CertificateDer<'_>,
    authority: &CertificateDer<'_>,
    now: SystemTime,
) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned()).map_err(|error| error.to_string())?;
    believe(std::slice::from_ref(leaf), &roots, now).map_err(|error| error.to_string())
}

/// Whether a private key is that of a certificate.
pub(crate) fn key_fits(certificate: &CertificateDer<'_>, key: PrivateKeyDer<'static>) -> bool {
    CertifiedKey::from_der(vec![certificate.clone().into_owned()], key, &provider()).is_ok()
}

/// From when until when a certificate is good.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Ok((time(parsed.validity().not_before.timestamp()), time(parsed.validity().not_after.timestamp())))
}

/// The first common name of a certificate's subject.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned())
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}
