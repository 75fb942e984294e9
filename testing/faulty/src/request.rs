//! A request as the upstream understands it: parsed head, and what it asks for.

use serde::{Deserialize, Serialize};

/// What a request is about, read from its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `/v2/`
    Ping,
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest,
    /// `/v2/NAME/blobs/DIGEST`
    Blob,
    /// `/v2/NAME/tags/list`
    Tags,
    /// `/v2/NAME/referrers/DIGEST`
    Referrers,
    /// `/v2/_catalog`
    Catalog,
    /// The token service, `/token`
    Token,
    /// Anything else.
    #[default]
    Other,
    /// A new connection, before anything was read from it: only for rules.
    Connection,
}

/// A parsed request head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Incoming {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) kind: Kind,
    pub(crate) repo: String,
    pub(crate) reference: String,
    pub(crate) headers: Vec<(String, String)>,
    /// Body that came with it (form of a token request, control messages).
    pub(crate) body: Vec<u8>,
    pub(crate) keep_alive: bool,
}

impl Incoming {
    /// Parses a head without its final empty line. `None` if it is not HTTP/1.
    pub(crate) fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut request_line = lines.next()?.split(' ');
        let (method, target, version) = (request_line.next()?, request_line.next()?, request_line.next()?);
        if !version.starts_with("HTTP/1.") {
            return None;
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())))
            .collect::<Option<Vec<_>>>()?;
        let (kind, repo, reference) = classify(path);
        let mut incoming = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            kind,
            repo,
            reference,
            headers,
            body: Vec::new(),
            keep_alive: version != "HTTP/1.0",
        };
        if incoming.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            incoming.keep_alive = false;
        }
        Some(incoming)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn head_only(&self) -> bool {
        self.method == "HEAD"
    }

    /// All values of one query parameter, decoded.
    pub(crate) fn params(&self, name: &str) -> Vec<String> {
        form_values(&self.query, name)
    }

    pub(crate) fn param(&self, name: &str) -> Option<String> {
        self.params(name).into_iter().next()
    }

    /// The one byte range asked for, as offsets into `len` bytes. `None`: no range, or one that is ignored (several ranges,
    /// nonsense). `Some(Err)`: not satisfiable.
    pub(crate) fn range(&self, len: u64) -> Option<Result<std::ops::Range<u64>, ()>> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let range = if first.is_empty() {
            let suffix: u64 = last.parse().ok()?;
            len.saturating_sub(suffix)..len
        } else {
            let last = if last.is_empty() { len } else { last.parse::<u64>().ok()?.saturating_add(1).min(len) };
            first.parse().ok()?..last
        };
        Some(if range.is_empty() { Err(()) } else { Ok(range) })
    }
}

/// All values of `name` in a query string or form body.
pub(crate) fn form_values(form: &str, name: &str) -> Vec<String> {
    form.split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| decode(&value.replace('+', " ")))
        .collect()
}

/// Percent-decoding; what is not valid stays as it is.
pub(crate) fn decode(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(byte);
            rest = &tail[2..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn classify(path: &str) -> (Kind, String, String) {
    let none = |kind| (kind, String::new(), String::new());
    if path == "/token" {
        return none(Kind::Token);
    }
    let path = decode(path);
    let Some(rest) = path.strip_prefix("/v2/").or((path == "/v2").then_some("")) else {
        return none(Kind::Other);
    };
    if rest.is_empty() {
        return none(Kind::Ping);
    }
    if rest == "_catalog" {
        return none(Kind::Catalog);
    }
    if let Some(repo) = rest.strip_suffix("/tags/list") {
        return (Kind::Tags, repo.to_owned(), String::new());
    }
    for (marker, kind) in [("/manifests/", Kind::Manifest), ("/blobs/", Kind::Blob), ("/referrers/", Kind::Referrers)] {
        if let Some((repo, reference)) = rest.rsplit_once(marker) {
            return (kind, repo.to_owned(), reference.to_owned());
        }
    }
    none(Kind::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_understood() {
        let head = "GET /v2/a/b/blobs/sha256%3Aab?x=1&y=a%20b+c HTTP/1.1\r\nHost: h\r\nRANGE: bytes=5-9";
        let incoming = Incoming::parse(head).unwrap();
        assert_eq!((incoming.kind, &*incoming.repo, &*incoming.reference), (Kind::Blob, "a/b", "sha256:ab"));
        assert_eq!(incoming.param("y").unwrap(), "a b c");
        assert_eq!(incoming.range(100), Some(Ok(5..10)));
        assert_eq!(incoming.range(7), Some(Ok(5..7)));
        assert_eq!(incoming.range(5), Some(Err(())));
        assert!(incoming.keep_alive);
    }

    #[test]
    fn ranges() {
        let with = |range: &str| Incoming { headers: vec![("Range".into(), range.into())], ..Incoming::default() };
        assert_eq!(with("bytes=-3").range(10), Some(Ok(7..10)));
        assert_eq!(with("bytes=7-").range(10), Some(Ok(7..10)));
        assert_eq!(with("bytes=0-1,3-4").range(10), None);
        assert_eq!(with("lines=1-2").range(10), None);
    }

    #[test]
    fn kinds() {
        assert_eq!(classify("/v2/").0, Kind::Ping);
        assert_eq!(classify("/v2/a/tags/list"), (Kind::Tags, "a".into(), String::new()));
        assert_eq!(classify("/v2/a/b/referrers/sha256:x").0, Kind::Referrers);
        assert_eq!(classify("/token").0, Kind::Token);
        assert_eq!(classify("/x").0, Kind::Other);
    }
}
