use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::settings::TlsChoice;

/// Whose certificates are good for a host.
#[derive(Clone, Default)]
pub(crate) enum Trust {
    /// Those of the system's authorities.
    #[default]
    System,
    /// Those of these authorities too.
    With(Arc<Authorities>),
    /// All, unchecked.
    Anybody,
    /// Whatever this says for each connection.
    Chosen(TlsChoice),
}

/// Authorities besides the system's, and the TLS configuration that follows, made on first use.
pub(crate) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    config: OnceLock<Arc<ClientConfig>>,
}

impl Authorities {
    /// Reads PEM texts; at least one usable certificate must be in each.
    pub(crate) fn read<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Arc<Authorities>, String> {
        let mut certificates = Vec::new();
        for text in texts {
            let before = certificates.len();
            for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                let certificate = certificate.map_err(|error| error.to_string())?;
                RootCertStore::empty().add(certificate.clone()).map_err(|error| error.to_string())?;
                certificates.push(certificate);
            }
            if certificates.len() == before {
                return Err("it holds no certificate in PEM".to_owned());
            }
        }
        Ok(Arc::new(Authorities { certificates, config: OnceLock::new() }))
    }
}

impl Trust {
    /// The TLS configuration. Reads the system's certificates from disk the first time.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        static SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        static ANYBODY: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        match self {
            Trust::Chosen(choice) => choice(),
            Trust::System => SYSTEM.get_or_init(|| with_roots(system_roots().clone())).clone(),
            Trust::With(authorities) => authorities
                .config
                .get_or_init(|| {
                    let mut roots = RootCertStore::clone(system_roots());
                    for certificate in &authorities.certificates {
                        roots.add(certificate.clone()).expect("it was added to a store before");
                    }
                    with_roots(Arc::new(roots))
                })
                .clone(),
            Trust::Anybody => ANYBODY
                .get_or_init(|| {
                    let verifier = Arc::new(NoVerification(provider()));
                    finish(builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
                })
                .clone(),
        }
    }
}

fn system_roots() -> &'static Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!(errors = ?found.errors, "the system has no certificates of authorities: no https upstream can be checked");
        }
        tracing::debug!(added, ignored, "read the system's certificates of authorities");
        Arc::new(roots)
    })
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    // The safe default is TLS 1.2 and 1.3.
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites of TLS 1.2 and 1.3")
}

fn with_roots(roots: Arc<RootCertStore>) -> Arc<ClientConfig> {
    finish(builder().with_root_certificates(roots).with_no_client_auth())
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Takes any certificate, because the configuration says so; the handshake itself is still checked.
struct NoVerification(Arc<CryptoProvider>);

impl fmt::Debug for NoVerification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoVerification")
    }
}

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
