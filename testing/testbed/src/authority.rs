//! The certificate authority of a cluster: its origins, its API server and everyone who speaks to that have certificates from it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::machine::write;

/// A certificate with its key, in files.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// The two halves of a key pair, in files.
#[derive(Debug, Clone)]
pub(crate) struct SigningKeys {
    pub(crate) private: PathBuf,
    pub(crate) public: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    dir: PathBuf,
}

impl Authority {
    /// Makes one, which keeps its files in `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name = name("testbed authority", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let authority = Self { issuer: Issuer::new(params, key), pem, dir: dir.to_owned() };
        write(&authority.file(), &authority.pem)?;
        Ok(authority)
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// The file with its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join("authority.crt")
    }

    /// For a server with these names and addresses.
    pub(crate) fn server(&self, file: &str, names: &[String]) -> Result<Identity> {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = name(file, None);
        self.issue(file, params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a client that Kubernetes knows as `user` in `group`.
    pub(crate) fn client(&self, file: &str, user: &str, group: &str) -> Result<Identity> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name = name(user, Some(group));
        self.issue(file, params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A key pair for signing tokens.
    pub(crate) fn signing_keys(&self) -> Result<SigningKeys> {
        let keys = SigningKeys {
            private: self.dir.join("service-accounts.key"),
            public: self.dir.join("service-accounts.pub"),
        };
        let pair = KeyPair::generate()?;
        write(&keys.private, &pair.serialize_pem())?;
        write(&keys.public, &pair.public_key_pem())?;
        Ok(keys)
    }

    fn issue(&self, file: &str, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer).with_context(|| format!("a certificate for {file}"))?;
        let identity =
            Identity { certificate: self.dir.join(format!("{file}.crt")), key: self.dir.join(format!("{file}.key")) };
        write(&identity.certificate, &certificate.pem())?;
        write(&identity.key, &key.serialize_pem())?;
        Ok(identity)
    }
}

/// A file by which a client of Kubernetes finds its API server and shows who it is.
pub(crate) fn kubeconfig(path: &Path, server: &str, authority: &Authority, identity: &Identity) -> Result<()> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "testbed",
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
        "clusters": [{"name": "testbed", "cluster": {
            "server": server,
            "certificate-authority-data": base64(authority.pem().as_bytes()),
        }}],
        "users": [{"name": "testbed", "user": {
            "client-certificate-data": base64(read(&identity.certificate)?.as_bytes()),
            "client-key-data": base64(read(&identity.key)?.as_bytes()),
        }}],
    });
    write(path, &serde_json::to_string_pretty(&config)?)
}

fn name(common: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common);
    name
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}
