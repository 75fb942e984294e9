use http::{HeaderMap, StatusCode, header::LOCATION};
use url::Url;

use crate::failure::Failure;

/// So many steps are followed.
pub(crate) const MOST: usize = 10;

/// Whether a status sends on to another URL.
pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether two URLs have the same scheme, host and port: only then may a credential for one go to the other.
pub(crate) fn same_server(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Where a redirect leads.
pub(crate) fn target(from: &Url, headers: &HeaderMap) -> Result<Url, Failure> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| Failure::invalid("a redirect without a place to go to"))?;
    let mut to = from.join(location).map_err(|_| Failure::invalid("a redirect to what is no URL"))?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => {}
        (_, "http") => return Err(Failure::invalid("a redirect from https to http")),
        _ => return Err(Failure::invalid("a redirect to a URL that is neither https nor http")),
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err(Failure::invalid("a redirect to a URL with a user name"));
    }
    to.set_fragment(None);
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(from: &str, location: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, location.parse().unwrap());
        target(&from.parse().unwrap(), &headers).ok().map(String::from)
    }

    #[test]
    fn targets() {
        for (from, location, expected) in [
            ("https://a/v2/x", "https://cdn/y?sig=1", Some("https://cdn/y?sig=1")),
            ("https://a/v2/x", "/y", Some("https://a/y")),
            ("https://a/v2/x", "//b/y", Some("https://b/y")),
            ("http://a/v2/x", "https://a/y#z", Some("https://a/y")),
            ("http://a/v2/x", "http://b/y", Some("http://b/y")),
            ("https://a/v2/x", "http://a/y", None),
            ("https://a/v2/x", "file:///etc/passwd", None),
            ("https://a/v2/x", "https://u:p@b/y", None),
            ("https://a/v2/x", "https://[::", None),
        ] {
            assert_eq!(follow(from, location).as_deref(), expected, "{location}");
        }
        assert!(target(&"https://a".parse().unwrap(), &HeaderMap::new()).is_err());
    }

    #[test]
    fn servers() {
        let same = |one: &str, other: &str| same_server(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(same("https://A/x", "https://a:443/y"));
        assert!(!same("https://a", "https://a:444"));
        assert!(!same("https://a", "http://a:443"));
        assert!(!same("https://a", "https://a.b"));
    }
}
