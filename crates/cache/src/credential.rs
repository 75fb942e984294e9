use std::fmt;
use std::sync::Arc;

/// A user name and password that a client sent. Lives in memory only and shows itself to nobody.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential(Arc<(String, String)>);

impl Credential {
    /// The longest user name or password that larder looks at, in bytes. Tokens of cloud registries, which are sent as
    /// passwords, stay below it.
    pub const LIMIT: usize = 16 * 1024;

    /// Puts a user name and a password together.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Credential {
        Credential(Arc::new((username.into(), password.into())))
    }

    /// The user name.
    pub fn username(&self) -> &str {
        &self.0.0
    }

    /// The password: to be sent to the upstream's own hosts and nowhere else.
    pub fn password(&self) -> &str {
        &self.0.1
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// By what a client says that it may have what is not for everybody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// It knows this.
    Credential(Credential),
    /// It keeps ready what ImageCaches want, as whoever made this has verified: a node, for itself.
    Prefetch,
}

/// With whose right a source is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// Nobody's: what the origin gives to anyone.
    Anonymous,
    /// The credential that an administrator configured for the upstream; the source knows it.
    Own,
    /// The client's.
    Client(Credential),
    /// That of ImageCaches: the credential that there is for what they want, which the source knows or asks another source for.
    Prefetch,
}

impl From<Claim> for Authority {
    fn from(claim: Claim) -> Authority {
        match claim {
            Claim::Credential(credential) => Authority::Client(credential),
            Claim::Prefetch => Authority::Prefetch,
        }
    }
}
