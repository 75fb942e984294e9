use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

use crate::failure::Failure;

/// The longest challenge that is read, in bytes over all headers.
const LONGEST: usize = 8 * 1024;

/// How a registry asks for credentials (RFC 9110, "WWW-Authenticate"; distribution's "Token Authentication").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token from a token service.
    Bearer(Bearer),
}

/// Where to get a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    /// The token service's URL, as it came.
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    pub(crate) scope: Option<String>,
}

/// The strongest challenge among all in the headers that larder can answer.
pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Challenge>, Failure> {
    let values = || headers.get_all(WWW_AUTHENTICATE).iter();
    if values().map(http::HeaderValue::len).sum::<usize>() > LONGEST {
        return Err(Failure::invalid("the challenge for credentials is too long"));
    }
    let mut best = None;
    for value in values().filter_map(|value| value.to_str().ok()) {
        for (scheme, parameters) in parse(value) {
            let find = |name: &str| {
                let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = find("realm") {
                    return Ok(Some(Challenge::Bearer(Bearer {
                        realm,
                        service: find("service"),
                        scope: find("scope"),
                    })));
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                best = Some(Challenge::Basic);
            }
        }
    }
    Ok(best)
}

type Parameters = Vec<(String, String)>;

/// All challenges of one header, up to the first mistake.
fn parse(text: &str) -> Vec<(String, Parameters)> {
    let mut scanner = Scanner { rest: text };
    let mut challenges = Vec::new();
    loop {
        scanner.skip(" \t,");
        let Some(scheme) = scanner.token() else { return challenges };
        let mut parameters = Vec::new();
        loop {
            let before = scanner.rest;
            scanner.skip(" \t,");
            let Some(name) = scanner.token() else { break };
            scanner.skip(" \t");
            if !scanner.eat('=') {
                // The next challenge's scheme.
                scanner.rest = before;
                break;
            }
            scanner.skip(" \t");
            match scanner.value() {
                Some(value) => parameters.push((name, value)),
                None => {
                    // Either credentials in the form of RFC 9110's token68, which end at the next comma, or a mistake.
                    scanner.rest = scanner.rest.split_once(',').map_or("", |(_, rest)| rest);
                    break;
                }
            }
        }
        challenges.push((scheme, parameters));
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

impl Scanner<'_> {
    fn skip(&mut self, characters: &str) {
        self.rest = self.rest.trim_start_matches(|c| characters.contains(c));
    }

    fn eat(&mut self, character: char) -> bool {
        let rest = self.rest.strip_prefix(character);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn token(&mut self) -> Option<String> {
        // The characters of RFC 9110's token, and those beyond them that registries send unquoted.
        let end = |c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c));
        let (token, rest) = self.rest.split_at(self.rest.find(end).unwrap_or(self.rest.len()));
        self.rest = rest;
        (!token.is_empty()).then(|| token.to_owned())
    }

    fn value(&mut self) -> Option<String> {
        if !self.rest.starts_with('"') {
            return self.token();
        }
        let mut value = String::new();
        let mut characters = self.rest[1..].char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[1 + at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                other => value.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        read(&headers).unwrap()
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer(Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) }))
    }

    #[test]
    fn challenges() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            one(&[hub]),
            bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push"))
        );
        assert_eq!(one(&[r#"bearer REALM = "https://a/t" , Service=x"#]), bearer("https://a/t", Some("x"), None));
        assert_eq!(one(&["Bearer realm=https://a/t,service=s"]), bearer("https://a/t", Some("s"), None));
        assert_eq!(one(&[r#"Bearer realm="a\"b\\c""#]), bearer("a\"b\\c", None, None));
        assert_eq!(one(&[r#"Basic realm="x, Bearer realm=y""#]), Some(Challenge::Basic));
        assert_eq!(one(&["Basic"]), Some(Challenge::Basic));
        assert_eq!(one(&[r#"Basic realm="x", Bearer realm="https://a/t""#]), bearer("https://a/t", None, None));
        assert_eq!(one(&["Negotiate YWJj==, Basic realm=x"]), Some(Challenge::Basic));
        assert_eq!(one(&["Digest nonce=1", "Basic realm=x"]), Some(Challenge::Basic));
        assert_eq!(one(&[r#"Bearer realm="https://a/t"#]), None);
        assert_eq!(one(&["Bearer", r#"Bearer realm="https://a/t""#]), bearer("https://a/t", None, None));
        assert_eq!(one(&["Bearer service=x", "", ",,,", "=", "\"\""]), None);
        assert_eq!(one(&[]), None);
    }

    #[test]
    fn a_long_one_is_refused() {
        let mut headers = HeaderMap::new();
        for _ in 0..10 {
            headers.append(WWW_AUTHENTICATE, format!("Bearer realm=\"{}\"", "x".repeat(1000)).parse().unwrap());
        }
        assert!(read(&headers).is_err());
    }

    proptest! {
        #[test]
        fn ends_on_any_text(text in "[ -~]{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_quoted_is_read_back(realm in "[ -~]{0,40}", scope in "[ -~]{0,40}") {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Basic realm=x, Bearer realm=\"{}\", scope=\"{}\"", quote(&realm), quote(&scope));
            prop_assert_eq!(one(&[&header]), bearer(&realm, None, Some(&scope)));
        }
    }
}
