use std::path::Path;

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
}

impl Default for Controller {
    fn default() -> Controller {
        Controller {
            namespace: own_namespace(Path::new(OWN_NAMESPACE)),
            lease: "larder-controller".into(),
            identity: None,
            certificates: None,
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
        section.finish();
        Controller {
            namespace: namespace.unwrap_or(default.namespace),
            lease: lease.unwrap_or(default.lease),
            identity,
            certificates,
        }
    }
}

/// The namespace of the pod that this is, or the one that the chart is installed into by default.
fn own_namespace(file: &Path) -> String {
    let named = std::env::var("POD_NAMESPACE").ok();
    let named = named.or_else(|| std::fs::read_to_string(file).ok()).map(|name| name.trim().to_owned());
    named.filter(|name| is_name(name)).unwrap_or_else(|| "larder".to_owned())
}

/// Whether a text is a label of a domain name (RFC 1123).
pub fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}
