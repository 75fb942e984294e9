use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use oci::{Digest, MediaType};

use crate::body::Body;

pub(crate) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
pub(crate) const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// How long clients may keep what they got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// For ever, but for themselves: a cache in between does not know who may have it.
    Forever,
    /// Until it was asked for again.
    Ask,
}

/// An answer in the making.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

impl Answer {
    pub(crate) fn new(status: StatusCode) -> Answer {
        let mut headers = HeaderMap::with_capacity(16);
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Answer { status, headers, body: Body::empty() }
    }

    pub(crate) fn header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    pub(crate) fn media_type(&mut self, media_type: &MediaType) {
        let value = HeaderValue::from_str(media_type.as_str())
            .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
        self.header(header::CONTENT_TYPE, value);
    }

    /// The digest, as the registry API and as HTTP say it.
    pub(crate) fn digest(&mut self, digest: &Digest, keep: Keep) {
        // One allocation for both: the digest stands within the quotes of the tag.
        let quoted = Bytes::from(format!("\"{digest}\""));
        let bare = quoted.slice(1..quoted.len() - 1);
        let value = |bytes| HeaderValue::from_maybe_shared::<Bytes>(bytes).expect("a digest is printable ASCII");
        self.header(CONTENT_DIGEST, value(bare));
        self.header(header::ETAG, value(quoted));
        self.header(
            header::CACHE_CONTROL,
            HeaderValue::from_static(match keep {
                Keep::Forever => "private, max-age=31536000, immutable",
                Keep::Ask => "private, no-cache",
            }),
        );
    }

    /// `Warning: 299`, the one form that the distribution specification allows.
    pub(crate) fn warning(&mut self, text: &str) {
        let mut quoted = String::with_capacity(text.len() + 8);
        quoted.push_str("299 - \"");
        for c in text.chars().filter(|c| !c.is_control()).take(1000) {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                // Headers are ASCII.
                c if c.is_ascii() => quoted.push(c),
                _ => quoted.push('?'),
            }
        }
        quoted.push('"');
        if let Ok(value) = HeaderValue::from_str(&quoted) {
            self.header(header::WARNING, value);
        }
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// Whether a header of entity tags names this digest (RFC 9110, 13.1.2: weak comparison).
pub(crate) fn names(header: &HeaderValue, digest: &Digest) -> bool {
    let Ok(text) = header.to_str() else { return false };
    let digest = digest.to_string();
    text.split(',').map(str::trim).any(|tag| {
        tag == "*"
            || tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"').and_then(|tag| tag.strip_suffix('"'))
                == Some(&digest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_of_the_one_form_allowed() {
        let mut answer = Answer::new(StatusCode::OK);
        for (text, value) in [
            ("it may be out of date", r#"299 - "it may be out of date""#),
            ("a \"b\" \\ \r\n\u{2026}", r#"299 - "a \"b\" \\ ?""#),
        ] {
            answer.warning(text);
            assert_eq!(answer.headers[header::WARNING], value);
        }
        answer.warning(&"x".repeat(10_000));
        assert!(answer.headers[header::WARNING].len() <= 4096);
    }

    #[test]
    fn entity_tags() {
        let digest = Digest::sha256(b"");
        let named = |text: &str| names(&HeaderValue::from_str(text).unwrap(), &digest);
        for text in [format!("\"{digest}\""), format!("W/\"{digest}\""), format!("\"a\" , \"{digest}\""), "*".into()] {
            assert!(named(&text), "{text}");
        }
        for text in [digest.to_string(), String::new(), "\"".into(), format!("\"{digest}")] {
            assert!(!named(&text), "{text}");
        }
    }
}
