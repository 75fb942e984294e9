use std::path::PathBuf;

use super::section::Section;

/// Where a pod's own namespace stands.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// What only a controller is told.
#[derive(Clone)]
pub struct Controller {
    /// The namespace of the Lease: larder's own.
    pub namespace: String,
    /// The name of the Lease by which one of several replicas leads.
    pub lease: String,
    /// Who this replica is; made up from the machine's name and chance if nobody says.
    pub identity: Option<String>,
    /// With what the names of the Secrets begin in which it keeps certificates of nodes and registry; it makes none if nobody says.
    pub certificates: Option<String>,
    /// The larder registry that is asked what tags mean before the origins.
    pub registry: Option<String>,
    /// Authorities (PEM) that vouch for it besides the system's.
    pub registry_ca: Option<PathBuf>,
    /// The folder of `tls.crt`, `tls.key` and `ca.crt` by which it is reached as nodes reach it. The files may come later: who makes them
    /// may be this controller.
    pub registry_certificates: Option<PathBuf>,
}

impl Default for Controller {
    fn default() -> Controller {
        Controller {
            namespace: own_namespace(),
            lease: "larder-controller".into(),
            identity: None,
            certificates: None,
            registry: None,
            registry_ca: None,
            registry_certificates: None,
        }
    }
}

impl Controller {
    /// Reads `[controller]`.
    pub fn read(mut section: Section<'_>) -> Controller {
        let default = Controller::default();
        let mut name = |key: &'static str| {
            let name: Option<String> = section.value(key);
            if name.as_deref().is_some_and(|name| !is_name(name)) {
                section.problem(key, "is the name of an object: lower-case letters, digits and -");
            }
            name
        };
        let (namespace, lease, certificates) = (name("namespace"), name("lease"), name("certificates"));
        let identity: Option<String> = section.value("identity");
        if identity.as_deref() == Some("") {
            section.problem("identity", "must say something, and for each replica something else");
        }
        let registry: Option<String> = section.value("registry");
        let registry_ca: Option<PathBuf> = section.value("registry_ca");
        let registry_certificates: Option<PathBuf> = section.value("registry_certificates");
        if registry_certificates.is_some() {
            if registry_ca.is_some() {
                let what = "is of no use beside registry_ca: a registry is known by the one or by the other";
                section.problem("registry_certificates", what);
            }
            if registry.as_deref().is_some_and(|url| url.starts_with("http://")) {
                section.problem("registry", "must begin with https://, since registry_certificates is given");
            }
        }
        section.finish();
        Controller {
            namespace: namespace.unwrap_or(default.namespace),
            lease: lease.unwrap_or(default.lease),
            identity,
            certificates,
            registry,
            registry_ca,
            registry_certificates,
        }
    }
}

/// The namespace of the pod that this is, or the one that the chart is installed into by default.
pub fn own_namespace() -> String {
    let named = std::env::var("POD_NAMESPACE").ok();
    let named = named.or_else(|| std::fs::read_to_string(OWN_NAMESPACE).ok()).map(|name| name.trim().to_owned());
    named.filter(|name| is_name(name)).unwrap_or_else(|| "larder".to_owned())
}

/// Whether a text is a label of a domain name (RFC 1123).
pub fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}
