use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cache::{Credential, Rules};
use oci::Registry;
use rustls::ClientConfig;
use url::Url;

/// How upstreams are reached. Plain data: whoever reads a configuration fills it in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Any public registry is an upstream without being listed.
    pub open: bool,
    /// The listed ones, for good. Of two with the same registry the last counts.
    pub upstreams: Vec<UpstreamSettings>,
    /// The rules of upstreams that are not listed.
    pub rules: Rules,
    /// A larder registry that is asked before any origin, and whose refusals are final.
    pub front: Option<Front>,
    /// How long anything may take.
    pub deadlines: Deadlines,
    /// What is tried again.
    pub retries: RetrySettings,
    /// When an endpoint is left alone for a while.
    pub breaker: BreakerSettings,
}

/// A larder registry between this larder and all origins.
#[derive(Clone)]
pub struct Front {
    /// `https://host[:port]`, or `http://…`. May have an address that is not public.
    pub url: String,
    /// How to speak TLS with it, looked up for each connection; with the system's authorities if none.
    pub tls: Option<TlsChoice>,
    /// Have it ask the origins anew for what tags mean, whatever it knows (`Cache-Control: no-cache`).
    pub renew: bool,
}

/// Gives the TLS configuration of the moment, so that certificates can be replaced at any time.
pub type TlsChoice = Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>;

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("url", &self.url).finish_non_exhaustive()
    }
}

/// One registry.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// Its name in image names.
    pub registry: Registry,
    /// Where its content comes from, tried in order; none: the registry's own host by https.
    pub endpoints: Vec<Endpoint>,
    /// The credential of [`cache::Authority::Own`].
    pub credential: Option<Credential>,
    /// How its content is kept; [`Rules::own`] is its credential, whatever stands there.
    pub rules: Rules,
    /// What it is spared.
    pub limits: Limits,
    /// It is no upstream, although all public registries may be.
    pub excluded: bool,
    /// Hosts (`host` or `host:port`) besides the endpoints that tokens may be fetched from, credentials included. May have
    /// addresses that are not public.
    pub token_hosts: Vec<String>,
    /// Hosts (`host` or `host:port`) besides the endpoints that redirects may lead to although their addresses are not public.
    pub allowed_hosts: Vec<String>,
}

impl UpstreamSettings {
    /// An upstream with nothing special about it.
    pub fn new(registry: Registry) -> UpstreamSettings {
        UpstreamSettings {
            registry,
            endpoints: Vec::new(),
            credential: None,
            rules: Rules::default(),
            limits: Limits::default(),
            excluded: false,
            token_hosts: Vec::new(),
            allowed_hosts: Vec::new(),
        }
    }

    /// Whether a text can stand in [`token_hosts`](UpstreamSettings::token_hosts) and
    /// [`allowed_hosts`](UpstreamSettings::allowed_hosts).
    ///
    /// # Errors
    /// Why not.
    pub fn check_host(host: &str) -> Result<(), String> {
        host_entry(host).map(drop).ok_or_else(|| format!("{host:?} is no host: write `host` or `host:port`"))
    }
}

/// One server that has the content of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://host[:port][/path]`, or `http://…` for a server without TLS. `/v2/` follows the path; where the path begins
    /// with `/v2/`, the repository follows it (as in `https://mirror.example/v2/hub-proxy`).
    pub url: String,
    /// Certificates (PEM) of authorities that are trusted for this upstream besides the system's.
    pub ca_pem: Option<String>,
    /// The endpoint's certificate is not checked. Holds for this host and port and for nothing it refers to.
    pub insecure_skip_verify: bool,
}

impl Endpoint {
    /// An endpoint with the system's trust.
    pub fn new(url: impl Into<String>) -> Endpoint {
        Endpoint { url: url.into(), ca_pem: None, insecure_skip_verify: false }
    }

    /// Whether a URL is one that an endpoint can have.
    ///
    /// # Errors
    /// Why not, in words that do not quote it.
    pub fn check_url(url: &str) -> Result<(), String> {
        endpoint_url(url).map(drop)
    }
}

/// What an upstream is spared; shared by its endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Requests at a time, bodies included.
    pub concurrency: Option<usize>,
    /// Requests per second, token fetches and the steps of redirects not counted.
    pub requests_per_second: Option<f64>,
    /// Bytes of bodies per second.
    pub bytes_per_second: Option<u64>,
}

/// How long anything may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// To a connection: name lookup, TCP and TLS.
    pub connect: Duration,
    /// From the request to the head of its answer.
    pub headers: Duration,
    /// To the head of the final answer: tokens, redirects and retries included.
    pub answer: Duration,
    /// Without a byte of the body.
    pub idle: Duration,
    /// For a place among the requests that limits allow.
    pub queue: Duration,
    /// The slowest body that is worth waiting for.
    pub minimum_rate: MinimumRate,
}

/// A body whose average over a window is slower is given up. Only the time spent waiting for the network counts.
#[derive(Clone, Copy, Debug)]
pub struct MinimumRate {
    /// Bytes per second; 0 allows any.
    pub bytes_per_second: u64,
    /// What is averaged over.
    pub window: Duration,
}

/// What is tried again: connections that fail or break, and 5xx. Never a 429, never a deadline that passed.
#[derive(Clone, Copy, Debug)]
pub struct RetrySettings {
    /// So many times after the first.
    pub count: u32,
    /// The first pause; doubles with each, and is drawn between half and all of it.
    pub pause: Duration,
}

/// When an endpoint is left alone for a while.
#[derive(Clone, Copy, Debug)]
pub struct BreakerSettings {
    /// After so many failures in a row.
    pub failures: u32,
    /// For so long at first; doubles each time that the one request then let through fails.
    pub pause: Duration,
    /// Never longer than this.
    pub longest: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            open: true,
            upstreams: Vec::new(),
            rules: Rules::default(),
            front: None,
            deadlines: Deadlines::default(),
            retries: RetrySettings::default(),
            breaker: BreakerSettings::default(),
        }
    }
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            connect: Duration::from_secs(3),
            headers: Duration::from_secs(10),
            answer: Duration::from_secs(15),
            idle: Duration::from_secs(10),
            queue: Duration::from_secs(15),
            minimum_rate: MinimumRate { bytes_per_second: 1024, window: Duration::from_secs(30) },
        }
    }
}

impl Default for RetrySettings {
    fn default() -> RetrySettings {
        RetrySettings { count: 3, pause: Duration::from_millis(100) }
    }
}

impl Default for BreakerSettings {
    fn default() -> BreakerSettings {
        BreakerSettings { failures: 5, pause: Duration::from_secs(10), longest: Duration::from_secs(60) }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The URL of the registry in front is not usable.
    #[error("{url:?} is no larder registry: {reason}")]
    Front {
        /// The URL; left out where it might hold a password.
        url: String,
        /// Why.
        reason: String,
    },
    /// An endpoint's URL is not usable.
    #[error("upstream {registry}: {url:?} is no endpoint: {reason}")]
    Endpoint {
        /// The upstream.
        registry: Registry,
        /// The URL; left out where it might hold a password.
        url: String,
        /// Why.
        reason: String,
    },
    /// An endpoint's `ca_pem` holds no usable certificate.
    #[error("upstream {registry}: the CA of {url} cannot be used: {reason}")]
    Ca {
        /// The upstream.
        registry: Registry,
        /// The endpoint.
        url: String,
        /// Why.
        reason: String,
    },
    /// An entry of `token_hosts` or `allowed_hosts` is no host.
    #[error("upstream {registry}: {host:?} is no host: write `host` or `host:port`")]
    Host {
        /// The upstream.
        registry: Registry,
        /// The entry.
        host: String,
    },
    /// A limit or deadline that nothing could ever meet.
    #[error("upstream {registry}: {limit} must be above zero")]
    Limit {
        /// The upstream.
        registry: Registry,
        /// Which one.
        limit: &'static str,
    },
}

/// Reads an endpoint's URL.
pub(crate) fn endpoint_url(text: &str) -> Result<Url, String> {
    let scheme = "it must begin with https:// or http://";
    let url = Url::parse(text).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => scheme.to_owned(),
        error => error.to_string(),
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(scheme.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong into the URL; configure a credential".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must not have a query or fragment".to_owned());
    }
    Ok(url)
}

/// Reads `host` or `host:port`.
pub(crate) fn host_entry(text: &str) -> Option<(String, Option<u16>)> {
    let url = Url::parse(&format!("http://{text}/")).ok()?;
    let bare = url.username().is_empty() && url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    // The URL drops port 80, which is the default of its scheme.
    let port = text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(_, port)| port.parse::<u16>());
    let port = port.transpose().ok()?;
    bare.then(|| Some((url.host_str()?.to_owned(), port)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        assert_eq!(host_entry("Auth.Example"), Some(("auth.example".into(), None)));
        assert_eq!(host_entry("127.0.0.1:80"), Some(("127.0.0.1".into(), Some(80))));
        assert_eq!(host_entry("[::1]:5000"), Some(("[::1]".into(), Some(5000))));
        assert_eq!(host_entry("[::1]"), Some(("[::1]".into(), None)));
        for text in ["", "a/b", "https://a", "u@a", "a:b", "a:99999", "a?b", "a#b", "a b"] {
            assert_eq!(host_entry(text), None, "{text}");
        }
    }

    #[test]
    fn endpoints() {
        for text in ["https://a.example", "http://127.0.0.1:5000/", "https://a.example/v2/proxy"] {
            assert!(endpoint_url(text).is_ok(), "{text}");
        }
        for text in ["a.example", "ftp://a", "https://u:p@a", "https://a/?ns=b", "https://a/#x", "https://"] {
            assert!(endpoint_url(text).is_err(), "{text}");
        }
    }
}
