use std::time::{Duration, SystemTime};

use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Leaf;
use crate::identity::{Role, key_fits, signed_by, validity};

/// Certificates are good from this long before they are made, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(3600);

/// The longest line of PEM (RFC 7468, section 2), in characters.
const PEM_LINE: usize = 64;

/// X.509 has no room for more characters in a common name.
const COMMON_NAME: usize = 64;

/// Why there is no authority, or nothing that it signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its certificate is of no use.
    #[error("the certificate is of no use: {0}")]
    Certificate(String),
    /// Its key is of no use, or belongs to another certificate.
    #[error("the key is of no use: {0}")]
    Key(String),
    /// The cryptography failed.
    #[error("{0}")]
    Crypto(#[from] rcgen::Error),
}

/// A certificate with its dates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    since: SystemTime,
    until: SystemTime,
}

impl Certificate {
    /// All that are in a text in PEM, at least one; why there are none, otherwise, in words.
    pub fn all(pem: &str) -> Result<Vec<Certificate>, String> {
        let ders = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let certificates = ders.map_err(|error| error.to_string())?.into_iter().map(|der| {
            let (since, until) = validity(&der)?;
            Ok(Certificate { der, since, until })
        });
        let certificates = certificates.collect::<Result<Vec<_>, String>>()?;
        if certificates.is_empty() { Err("it holds no certificate in PEM".to_owned()) } else { Ok(certificates) }
    }

    /// When it was made, if it was made here.
    pub fn issued(&self) -> SystemTime {
        self.since + BACKDATED
    }

    /// When it ends.
    pub fn until(&self) -> SystemTime {
        self.until
    }

    /// The roles that it names. Says nothing of who signed it.
    pub fn roles(&self) -> Vec<Role> {
        Role::named_in(&self.der)
    }

    /// Whether `authority` signed it, whatever the time is.
    pub fn signed_by(&self, authority: &Certificate) -> bool {
        signed_by(&self.der, &authority.der, self.since.max(authority.since)).is_ok()
    }

    /// Whether a private key, in PEM, is that of this certificate.
    pub fn fits(&self, key_pem: &str) -> bool {
        PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).is_ok_and(|key| key_fits(&self.der, key))
    }

    /// It in PEM.
    pub fn pem(&self) -> String {
        let encoded = base64::engine::general_purpose::STANDARD.encode(&self.der);
        let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
            pem.push_str(line);
            pem.push('\n');
            rest = after;
        }
        pem + "-----END CERTIFICATE-----\n"
    }
}

/// What an authority made for a leaf, both in PEM.
pub struct Signed {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// Who signs the certificates of nodes and registries: a key and its certificate, of ECDSA on P-256.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// All certificates that came with it; the first is the one that signs.
    pem: String,
    certificate: Certificate,
}

impl Authority {
    /// A new one, good for so long from `now` on.
    ///
    /// # Errors
    /// The cryptography fails.
    pub fn make(validity: Duration, now: SystemTime) -> Result<Authority, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = dated(now, now + validity);
        let tag: String = params.key_identifier(&key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        // Each authority has a name of its own, so that they can be told apart where one takes over from another.
        params.distinguished_name = called(&format!("larder authority {tag}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        let certificate = first(&pem)?;
        Ok(Authority { issuer: Issuer::new(params, key), pem, certificate })
    }

    /// One that was made before. Whether it is still good is for the caller to ask.
    ///
    /// # Errors
    /// One of both is of no use, or they do not belong together.
    pub fn parse(pem: &str, key_pem: &str) -> Result<Authority, AuthorityError> {
        let key = KeyPair::from_pem(key_pem).map_err(|error| AuthorityError::Key(error.to_string()))?;
        let certificate = first(pem)?;
        let issuer = Issuer::from_ca_cert_der(&certificate.der, key)
            .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
        let authority = Authority { issuer, pem: pem.to_owned(), certificate };
        // The key belongs to the certificate if what it signs verifies.
        let trial = Leaf { name: "trial".to_owned(), role: Role::Node };
        let Certificate { der, since, until } = &authority.certificate;
        let signed = first(&authority.sign(&trial, *since, *until)?.certificate)?;
        signed_by(&signed.der, der, *since).map_err(AuthorityError::Key)?;
        Ok(authority)
    }

    /// The certificate that stands for what it signs.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its certificate, with all that came with it, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its private key, in PEM: a secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Makes a certificate, good from `now` on, and its key.
    ///
    /// # Errors
    /// The cryptography fails.
    pub fn sign(&self, leaf: &Leaf, now: SystemTime, until: SystemTime) -> Result<Signed, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = dated(now, until);
        params.distinguished_name = called(leaf.name.get(..COMMON_NAME).unwrap_or(&leaf.name));
        params.subject_alt_names = CertificateParams::new([leaf.role.dns_name().to_owned()])?.subject_alt_names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Signed { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn first(pem: &str) -> Result<Certificate, AuthorityError> {
    let mut all = Certificate::all(pem).map_err(AuthorityError::Certificate)?;
    Ok(all.swap_remove(0))
}

fn dated(now: SystemTime, until: SystemTime) -> CertificateParams {
    let date =
        |time: SystemTime| date_time_ymd(1970, 1, 1) + time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut params = CertificateParams::default();
    params.not_before = date(now.checked_sub(BACKDATED).unwrap_or(SystemTime::UNIX_EPOCH));
    params.not_after = date(until);
    params
}

fn called(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::OrganizationName, "larder");
    distinguished.push(DnType::CommonName, name);
    distinguished
}
