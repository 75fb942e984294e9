use std::fmt;
use std::str::FromStr;

/// A headless Service whose endpoints are the nodes that share pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A text names no Service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Service: write NAMESPACE/NAME, such as larder/larder-peers")]
pub struct NoService(String);

impl FromStr for PeerService {
    type Err = NoService;

    fn from_str(text: &str) -> Result<PeerService, NoService> {
        match text.split_once('/') {
            Some((namespace, name)) if is_label(namespace) && is_label(name) => {
                Ok(PeerService { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(NoService(text.to_owned())),
        }
    }
}

impl fmt::Display for PeerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether a text is a label of a domain name (RFC 1123), as names of namespaces and Services are.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= 63 && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-') && !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_namespace_and_a_name() {
        let service: PeerService = "larder/larder-peers".parse().unwrap();
        assert_eq!((&*service.namespace, &*service.name), ("larder", "larder-peers"));
        assert_eq!(service.to_string(), "larder/larder-peers");
    }

    #[test]
    fn what_the_api_server_would_refuse_is_refused_at_once() {
        let long = format!("larder/{}", "a".repeat(64));
        for wrong in
            ["", "larder", "/", "larder/", "/peers", "a/b/c", "Larder/peers", "larder/-peers", "larder/a,b", &long]
        {
            assert_eq!(wrong.parse::<PeerService>(), Err(NoService(wrong.to_owned())));
        }
    }
}
