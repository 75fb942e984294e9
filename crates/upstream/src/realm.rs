use url::{Host, Url};

use crate::challenge::Bearer;
use crate::failure::Failure;

/// Where names of different owners live side by side, beside the endings of two short parts such as `co.uk`.
const SHARED: [&str; 20] = [
    "amazonaws.com",
    "appspot.com",
    "awsapprunner.com",
    "azurecr.io",
    "azurewebsites.net",
    "cloudapp.azure.com",
    "cloudapp.net",
    "cloudfront.net",
    "duckdns.org",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "netlify.app",
    "ngrok.io",
    "on.aws",
    "pages.dev",
    "pkg.dev",
    "run.app",
    "workers.dev",
];

/// The URL of the token service that a challenge names, if a credential for `endpoint` may go there (CVE-2026-33540): by
/// https unless the endpoint itself is plain; to the endpoint's own host and port, a configured host, or a name of the same
/// owner. Never to another host that is an address or this machine.
pub(crate) fn token_url(
    bearer: &Bearer,
    endpoint: &Url,
    token_hosts: &[(String, Option<u16>)],
) -> Result<Url, Failure> {
    let refused =
        |why: &str| Failure::invalid(format!("the token service that the registry names is not trusted: {why}"));
    let mut url = Url::parse(&bearer.realm).map_err(|_| refused("it is no URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("its URL has a user name"));
    }
    match (url.scheme(), endpoint.scheme()) {
        ("https", _) | ("http", "http") => {}
        ("http", _) => return Err(refused("it does not use https")),
        _ => return Err(refused("its URL is neither https nor http")),
    }
    url.set_fragment(None);
    let (Some(host), port) = (url.host_str(), url.port_or_known_default()) else {
        return Err(refused("its URL has no host"));
    };
    let same = endpoint.host_str() == Some(host) && endpoint.port_or_known_default() == port;
    let listed = token_hosts.iter().any(|(name, at)| name == host && (at.is_none() || *at == port));
    if same || listed {
        return Ok(url);
    }
    match (url.host(), endpoint.host()) {
        (Some(Host::Domain(theirs)), Some(Host::Domain(own))) if same_owner(theirs, own) => Ok(url),
        _ => Err(refused("it is on another host; add it to token_hosts if it is the right one")),
    }
}

/// Whether two names have the same registrable domain. Errs on the side of no.
fn same_owner(one: &str, other: &str) -> bool {
    match (registrable(one), registrable(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

fn registrable(name: &str) -> Option<&str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = |labels: usize| match name.rmatch_indices('.').nth(labels - 1) {
        Some((at, _)) => Some(&name[at + 1..]),
        None => (name.split('.').count() == labels).then_some(name),
    };
    let shared = SHARED
        .iter()
        .find(|ending| name.strip_suffix(**ending).is_some_and(|before| before.is_empty() || before.ends_with('.')));
    if let Some(ending) = shared {
        return last(ending.split('.').count() + 1);
    }
    let two = last(2)?;
    let (second, top) = two.split_once('.')?;
    if top == "localhost" {
        return None;
    }
    // co.uk, com.au, gov.br: names under them belong to different owners. Some real domains look the same, which costs
    // them a line of configuration at most.
    if top.len() == 2 && second.len() <= 3 { last(3) } else { Some(two) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(realm: &str, endpoint: &str, hosts: &[(&str, Option<u16>)]) -> bool {
        let bearer = Bearer { realm: realm.to_owned(), service: None, scope: None };
        let hosts: Vec<_> = hosts.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect();
        token_url(&bearer, &endpoint.parse().unwrap(), &hosts).is_ok()
    }

    #[test]
    fn known_registries() {
        for (realm, endpoint) in [
            ("https://auth.docker.io/token", "https://registry-1.docker.io"),
            ("https://ghcr.io/token", "https://ghcr.io"),
            ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com"),
            ("https://quay.io/v2/auth", "https://quay.io"),
            ("https://eu.gcr.io/v2/token", "https://eu.gcr.io"),
            ("https://us-docker.pkg.dev/v2/token", "https://us-docker.pkg.dev"),
            ("https://mine.azurecr.io/oauth2/token", "https://mine.azurecr.io"),
            ("https://api.digitalocean.com/v2/registry/auth", "https://registry.digitalocean.com"),
            ("https://registry.corp:5000/token", "https://registry.corp:5000"),
            ("http://127.0.0.1:5000/token", "http://127.0.0.1:5000"),
            ("https://10.0.0.1/token", "https://10.0.0.1"),
            ("https://auth.corp.example/token", "http://registry.corp.example"),
            ("https://auth.shop.co.uk/", "https://registry.shop.co.uk"),
        ] {
            assert!(allowed(realm, endpoint, &[]), "{realm} for {endpoint}");
        }
    }

    #[test]
    fn others() {
        for (realm, endpoint) in [
            ("https://evil.example/token", "https://registry-1.docker.io"),
            ("https://docker.io.evil.example/token", "https://registry-1.docker.io"),
            ("https://evildocker.io/token", "https://registry-1.docker.io"),
            ("http://auth.docker.io/token", "https://registry-1.docker.io"),
            ("http://registry-1.docker.io/token", "https://registry-1.docker.io"),
            ("https://user@auth.docker.io/token", "https://registry-1.docker.io"),
            ("https://user:password@registry-1.docker.io/token", "https://registry-1.docker.io"),
            ("https://auth.docker.io@evil.example/token", "https://registry-1.docker.io"),
            ("file:///etc/passwd", "https://registry-1.docker.io"),
            ("gopher://registry-1.docker.io/", "https://registry-1.docker.io"),
            ("/token", "https://registry-1.docker.io"),
            ("", "https://registry-1.docker.io"),
            ("https://127.0.0.1/token", "https://registry-1.docker.io"),
            ("https://127.1/token", "https://registry-1.docker.io"),
            ("https://[::1]/token", "https://registry-1.docker.io"),
            ("https://169.254.169.254/latest", "https://registry-1.docker.io"),
            ("https://localhost/token", "https://registry-1.docker.io"),
            ("https://a.localhost/token", "https://b.localhost"),
            ("http://127.0.0.1:5001/token", "http://127.0.0.1:5000"),
            ("http://10.0.0.2/token", "http://10.0.0.1"),
            ("https://other.azurecr.io/token", "https://mine.azurecr.io"),
            ("https://azurecr.io/token", "https://mine.azurecr.io"),
            ("https://evil.co.uk/", "https://shop.co.uk"),
            ("https://auth/token", "https://registry"),
            ("https://com/token", "https://com."),
        ] {
            assert!(!allowed(realm, endpoint, &[]), "{realm} for {endpoint}");
        }
    }

    #[test]
    fn listed_ones() {
        let plain = "http://127.0.0.1:5000";
        assert!(allowed("http://127.0.0.1:5001/token", plain, &[("127.0.0.1", Some(5001))]));
        assert!(allowed("http://127.0.0.1:5001/token", plain, &[("127.0.0.1", None)]));
        assert!(!allowed("http://127.0.0.1:5001/token", plain, &[("127.0.0.1", Some(5002))]));
        assert!(allowed("https://sso.other.example/t", "https://a.example", &[("sso.other.example", None)]));
        assert!(!allowed("http://sso.other.example/t", "https://a.example", &[("sso.other.example", None)]));
    }
}
