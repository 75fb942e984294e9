use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use peers::{Authority, Certificate, Role};

/// What a Secret holds.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Who holds certificates, in the order in which they are spoken of here: the role, and its name in the certificate.
pub const HOLDERS: [(Role, &str); 3] =
    [(Role::Node, "nodes"), (Role::Registry, "registry"), (Role::Controller, "controller")];

/// Keys of the authority's Secret, as `larder certs` calls its files.
pub(crate) const SIGNER: [&str; 2] = ["ca.crt", "ca.key"];
/// The same, of the authority that takes over.
pub(crate) const NEXT: [&str; 2] = ["next.crt", "next.key"];
// Keys of a holder's Secret, as `peers::Files` reads them.
pub(crate) const CERT: &str = "tls.crt";
pub(crate) const KEY: &str = "tls.key";
pub(crate) const TRUSTED: &str = "ca.crt";

/// All keys that are written here.
pub(crate) const OURS: [&str; 6] = [SIGNER[0], SIGNER[1], NEXT[0], NEXT[1], CERT, KEY];

/// A Secret as it was found; nothing at all if it is not there.
#[derive(Clone, Default)]
pub struct Found {
    /// What it holds.
    pub data: Data,
    /// Since when it has told its holder to believe whom it does.
    pub trusted_since: Option<SystemTime>,
}

/// What the Secrets come to. What is of no use in them is as if it were not there.
pub struct Standing {
    pub(crate) signer: Option<Authority>,
    pub(crate) next: Option<Authority>,
    /// As [`HOLDERS`] are.
    pub(crate) holders: [Holder; HOLDERS.len()],
}

/// Nodes, the registry, or the controller.
pub(crate) struct Holder {
    pub(crate) held: Option<Held>,
    pub(crate) trusted: Vec<Certificate>,
    pub(crate) trusted_since: Option<SystemTime>,
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) certificate: Certificate,
    pub(crate) pem: String,
    pub(crate) key: String,
}

impl Standing {
    /// Of the authority's Secret, and of those of [`HOLDERS`].
    pub fn of(authority: &Found, holders: &[Found; HOLDERS.len()]) -> Standing {
        let signer = |[certificate, key]: [&str; 2]| {
            Authority::parse(text(&authority.data, certificate)?, text(&authority.data, key)?).ok()
        };
        let holder = |at: usize| Holder::of(&holders[at], HOLDERS[at].0);
        Standing { signer: signer(SIGNER), next: signer(NEXT), holders: std::array::from_fn(holder) }
    }
}

impl Holder {
    fn of(found: &Found, role: Role) -> Holder {
        let trusted = text(&found.data, TRUSTED).and_then(|pem| Certificate::all(pem).ok()).unwrap_or_default();
        let held = || {
            let (pem, key) = (text(&found.data, CERT)?, text(&found.data, KEY)?);
            let certificate = Certificate::all(pem).ok()?.swap_remove(0);
            let good = certificate.roles() == [role] && certificate.fits(key);
            good.then(|| Held { certificate, pem: pem.to_owned(), key: key.to_owned() })
        };
        Holder { held: held(), trusted, trusted_since: found.trusted_since }
    }

    /// Whether others believe its certificate.
    pub(crate) fn is_believed(&self, now: SystemTime) -> bool {
        self.held.as_ref().is_some_and(|held| {
            let signed = |authority: &Certificate| is_good(authority, now) && held.certificate.signed_by(authority);
            is_good(&held.certificate, now) && self.trusted.iter().any(signed)
        })
    }

    /// Whether it has believed what `authority` signs for so long.
    pub(crate) fn has_trusted(&self, authority: &Certificate, long: Duration, now: SystemTime) -> bool {
        let since = self.trusted_since.and_then(|since| now.duration_since(since).ok());
        self.trusted.contains(authority) && since.is_some_and(|since| since >= long)
    }
}

/// Whether a certificate has not ended.
pub(crate) fn is_good(certificate: &Certificate, now: SystemTime) -> bool {
    certificate.until() > now
}

fn text<'a>(data: &'a Data, key: &str) -> Option<&'a str> {
    std::str::from_utf8(data.get(key)?).ok()
}
