use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Role;

/// Whether a certificate names a role. Says nothing of who signed it.
pub(super) fn names_role(certificate: &CertificateDer<'_>, role: Role) -> Result<(), Error> {
    verify_server_name(&ParsedCertificate::try_from(certificate)?, &role.server_name())
}

/// Believes a server that is of one role, whatever its address: everything but the name is the usual check.
#[derive(Debug)]
pub(super) struct OfRole {
    inner: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl OfRole {
    pub fn new(inner: Arc<WebPkiServerVerifier>, role: Role) -> OfRole {
        OfRole { inner, name: role.server_name() }
    }
}

impl ServerCertVerifier for OfRole {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _address: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.inner.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Believes a client that is of one of some roles: the usual check, and the name.
#[derive(Debug)]
pub(super) struct OfRoles {
    inner: Arc<dyn ClientCertVerifier>,
    roles: Vec<Role>,
}

impl OfRoles {
    pub fn new(inner: Arc<dyn ClientCertVerifier>, roles: Vec<Role>) -> OfRoles {
        OfRoles { inner, roles }
    }
}

impl ClientCertVerifier for OfRoles {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: a client has one certificate, and shows it also where its authority is new to the server.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let mut error = None;
        for role in &self.roles {
            match names_role(end_entity, *role) {
                Ok(()) => return Ok(verified),
                // Says what it names instead.
                Err(other) => error = error.or(Some(other)),
            }
        }
        Err(error.unwrap_or(CertificateError::NotValidForName.into()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
