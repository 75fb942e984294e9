use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// A registry as image names write it: `docker.io`, `ghcr.io`, `localhost:5000`, `[::1]:5000`.
///
/// Lower case always. The other names of Docker Hub (`index.docker.io`, `registry-1.docker.io`) are read as `docker.io`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Registry(Arc<str>);

/// A repository within a registry, such as `library/nginx` (OCI distribution specification, "Pulling manifests").
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

/// A registry and a repository: what an image name says before its tag or digest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The registry that holds the repository.
    pub registry: Registry,
    /// The repository within it.
    pub repository: Repository,
}

/// Why a text is no registry, repository or name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The registry is no host name or address with an optional port.
    #[error("the registry's name is not a host name or address with an optional port")]
    Registry,
    /// The repository does not follow the specification's grammar.
    #[error(
        "a repository's name has lower-case letters, digits and single separators (. _ __ -) in parts joined by / and at most 255 characters"
    )]
    Repository,
    /// The name has no registry in front and none was given beside it.
    #[error("the name has no registry: write it in front (docker.io/library/alpine) or add ?ns=docker.io")]
    NoRegistry,
}

/// The registry that unqualified Docker names mean.
const DOCKER: &str = "docker.io";

impl Registry {
    /// The host without its port; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        self.split().0
    }

    /// The port, where the name has one.
    pub fn port(&self) -> Option<u16> {
        self.split().1
    }

    fn split(&self) -> (&str, Option<u16>) {
        match self.0.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (&self.0, None),
        }
    }

    /// `host:port` of the registry's API where nothing else is configured: 443 unless the name has a port, and
    /// `registry-1.docker.io` for Docker Hub.
    pub fn default_endpoint(&self) -> (String, u16) {
        if self.is_docker_hub() {
            return ("registry-1.docker.io".to_owned(), 443);
        }
        (self.host().to_owned(), self.port().unwrap_or(443))
    }

    /// Whether this is Docker Hub, whose repositories without a namespace are in `library/`.
    pub fn is_docker_hub(&self) -> bool {
        &*self.0 == DOCKER
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a path's first element is a registry by the rule of image names: it has a dot, a colon or a written-out
    /// port, or is `localhost`.
    pub(crate) fn looks_like(element: &str) -> bool {
        element.contains(['.', ':']) || element == "localhost" || written_port(element).is_some()
    }

    /// The name as a path's first element, where a port is written `host__5000`.
    pub fn to_element(&self) -> String {
        match self.split() {
            (host, Some(port)) => format!("{host}__{port}"),
            (host, None) => host.to_owned(),
        }
    }

    /// Reads a registry from a path's element, where a port may be written `host__5000`.
    pub(crate) fn from_element(element: &str) -> Result<Registry, NameError> {
        match written_port(element) {
            Some((host, port)) => format!("{host}:{port}").parse(),
            None => element.parse(),
        }
    }
}

/// Splits `host__5000`.
fn written_port(element: &str) -> Option<(&str, &str)> {
    let (host, port) = element.rsplit_once("__")?;
    let digits = !port.is_empty() && port.len() <= 5 && port.bytes().all(|c| c.is_ascii_digit());
    (digits && !host.is_empty()).then_some((host, port))
}

impl FromStr for Registry {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Registry, NameError> {
        if text.is_empty() || text.len() > 255 || !text.is_ascii() {
            return Err(NameError::Registry);
        }
        let text = text.to_ascii_lowercase();
        let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
            let (address, rest) = bracketed.split_once(']').ok_or(NameError::Registry)?;
            address.parse::<Ipv6Addr>().map_err(|_| NameError::Registry)?;
            match rest.strip_prefix(':') {
                Some(port) => (&text[..address.len() + 2], Some(port)),
                None if rest.is_empty() => (&text[..], None),
                None => return Err(NameError::Registry),
            }
        } else {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (&text[..], None),
            };
            let label = |label: &str| {
                !label.is_empty()
                    && label.len() <= 63
                    && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            };
            let is_address = host.parse::<IpAddr>().is_ok();
            // All-numeric hosts that are no dotted quad are read as addresses by some resolvers (0x7f.1, 2130706433).
            let numeric = host
                .rsplit('.')
                .next()
                .is_some_and(|last| last.starts_with("0x") || last.bytes().all(|c| c.is_ascii_digit()));
            if !host.split('.').all(label) || (numeric && !is_address) {
                return Err(NameError::Registry);
            }
            (host, port)
        };
        if let Some(port) = port {
            let number = port.parse::<u16>().map_err(|_| NameError::Registry)?;
            if number == 0 || port.starts_with(['0', '+']) {
                return Err(NameError::Registry);
            }
        }
        let hub =
            matches!(host, "index.docker.io" | "registry-1.docker.io" | DOCKER) && matches!(port, None | Some("443"));
        Ok(Registry(if hub { DOCKER.into() } else { text.into() }))
    }
}

impl Repository {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = NameError;

    /// The grammar of the distribution specification:
    /// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`, at most 255 characters.
    fn from_str(text: &str) -> Result<Repository, NameError> {
        let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let component = |component: &str| {
            let bytes = component.as_bytes();
            let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
            alphanumeric(*first)
                && alphanumeric(*last)
                && bytes.split(|c| alphanumeric(*c)).all(|separator| match separator {
                    b"" | b"." | b"_" | b"__" => true,
                    other => other.iter().all(|c| *c == b'-'),
                })
        };
        if text.len() <= 255 && text.split('/').all(component) {
            Ok(Repository(text.into()))
        } else {
            Err(NameError::Repository)
        }
    }
}

impl Name {
    /// Puts a registry and a repository together, with Docker Hub's rule that `nginx` means `library/nginx`.
    pub fn new(registry: Registry, repository: Repository) -> Name {
        let repository = if registry.is_docker_hub() && !repository.as_str().contains('/') {
            Repository(format!("library/{repository}").into())
        } else {
            repository
        };
        Name { registry, repository }
    }

    /// Reads `registry/repository`; the registry is needed.
    pub fn parse(text: &str) -> Result<Name, NameError> {
        match text.split_once('/') {
            Some((first, rest)) if Registry::looks_like(first) => {
                Ok(Name::new(Registry::from_element(first)?, rest.parse()?))
            }
            _ => Err(NameError::NoRegistry),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

macro_rules! textual {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
textual!(Registry, Repository);

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn registries() {
        for (text, written) in [
            ("docker.io", "docker.io"),
            ("Index.Docker.IO", "docker.io"),
            ("registry-1.docker.io:443", "docker.io"),
            ("ghcr.io", "ghcr.io"),
            ("localhost:5000", "localhost:5000"),
            ("10.0.0.1:5000", "10.0.0.1:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("registry", "registry"),
        ] {
            assert_eq!(text.parse::<Registry>().unwrap().as_str(), written);
        }
        for text in [
            "",
            "a b",
            "evil.com@good",
            "good/evil",
            "a..b",
            "-a.b",
            "a.b:",
            "a.b:0",
            "a.b:99999",
            "a.b:+80",
            "a.b:5000:1",
            "[::1",
            "[::1]5000",
            "[zz]:1",
            "bücher.example",
            "xn--.",
            "a.b?c",
            "a.b#c",
            "a\0b",
            "2130706433",
            "0x7f.1",
            "127.1",
        ] {
            assert!(text.parse::<Registry>().is_err(), "{text}");
        }
        assert!("a".repeat(300).parse::<Registry>().is_err());
        let registry: Registry = "[::1]:5000".parse().unwrap();
        assert_eq!((registry.host(), registry.port()), ("[::1]", Some(5000)));
        assert_eq!("docker.io".parse::<Registry>().unwrap().default_endpoint(), ("registry-1.docker.io".into(), 443));
        assert_eq!("a.b:5000".parse::<Registry>().unwrap().default_endpoint(), ("a.b".into(), 5000));
        assert_eq!("[::1]".parse::<Registry>().unwrap().default_endpoint(), ("[::1]".into(), 443));
    }

    #[test]
    fn repositories() {
        for text in ["a", "library/nginx", "a.b_c__d--e/f0", "blobs/uploads", "a/manifests/b", "0"] {
            assert!(text.parse::<Repository>().is_ok(), "{text}");
        }
        for text in [
            "", "/", "a/", "/a", "a//b", "A", "..", "a/../b", ".a", "a.", "a..b", "a___b", "a-/b", "_catalog", "a b",
            "a\r\nb", "a%2fb", "ä",
        ] {
            assert!(text.parse::<Repository>().is_err(), "{text}");
        }
        assert!("a".repeat(255).parse::<Repository>().is_ok());
        assert!("a".repeat(256).parse::<Repository>().is_err());
    }

    #[test]
    fn names() {
        for (text, written) in [
            ("docker.io/nginx", "docker.io/library/nginx"),
            ("index.docker.io/a/b", "docker.io/a/b"),
            ("ghcr.io/nginx", "ghcr.io/nginx"),
            ("registry.local__5000/a/b", "registry.local:5000/a/b"),
            ("localhost/a", "localhost/a"),
        ] {
            assert_eq!(Name::parse(text).unwrap().to_string(), written);
        }
        assert_eq!(Name::parse("library/nginx"), Err(NameError::NoRegistry));
        assert_eq!(Name::parse("nginx"), Err(NameError::NoRegistry));
    }

    proptest! {
        #[test]
        fn a_repository_never_leaves_its_folder(text in "[a-z0-9._/-]{1,40}") {
            if let Ok(repository) = text.parse::<Repository>() {
                prop_assert!(std::path::Path::new(repository.as_str())
                    .components()
                    .all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }

        #[test]
        fn a_registry_is_a_host(text in "\\PC{0,30}") {
            if let Ok(registry) = text.parse::<Registry>() {
                prop_assert!(!registry.as_str().contains(['/', '@', '?', '#', '%', '\\']));
                prop_assert_eq!(registry.as_str().parse::<Registry>().unwrap(), registry);
            }
        }
    }
}
