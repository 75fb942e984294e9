use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LINK};
use oci::{Digest, MediaType};

use crate::failure::Failure;

/// The longest query of a next page that is taken, in bytes.
const LONGEST_PAGE: usize = 4096;

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `Docker-Content-Digest`, where it is one.
pub(crate) fn digest(headers: &HeaderMap) -> Option<Digest> {
    text(headers, "docker-content-digest")?.trim().parse().ok()
}

/// `OCI-Filters-Applied`.
pub(crate) fn filters_applied(headers: &HeaderMap) -> Option<String> {
    text(headers, "oci-filters-applied").map(str::to_owned)
}

/// `Content-Type`, where it is one. A web page is never what was asked for: login walls and captive portals answer with them.
pub(crate) fn media_type(headers: &HeaderMap) -> Result<Option<MediaType>, Failure> {
    let found = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).and_then(MediaType::parse);
    match found {
        Some(found) if found.as_str().eq_ignore_ascii_case("text/html") => {
            Err(Failure::invalid("the answer is a web page, not a registry's"))
        }
        found => Ok(found),
    }
}

/// `Content-Length` in bytes; several must agree.
pub(crate) fn length(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let value = value.to_str().ok().and_then(|value| value.trim().parse::<u64>().ok());
        let Some(value) = value else { return Err(Failure::invalid("the answer's Content-Length is no number")) };
        if length.is_some_and(|other| other != value) {
            return Err(Failure::invalid("the answer has two different lengths"));
        }
        length = Some(value);
    }
    Ok(length)
}

/// Refuses content that is encoded: larder asks for none, and decoding could inflate it without end.
pub(crate) fn refuse_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    let identity = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(identity) {
        Ok(())
    } else {
        Err(Failure::invalid("the answer is encoded although that was not asked for"))
    }
}

/// First byte and length of the whole, from `Content-Range: bytes first-last/whole`.
pub(crate) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    parse_content_range(headers.get(CONTENT_RANGE)?.to_str().ok()?)
}

fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let number = |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, whole) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let whole = if whole == "*" { None } else { Some(number(whole)?) };
    let sound = unit.eq_ignore_ascii_case("bytes") && first <= last && whole.is_none_or(|whole| last < whole);
    sound.then_some((first, whole))
}

/// The query of the next page, from `Link: <…?query>; rel="next"` (distribution specification, "Listing Tags"), without `ns`.
pub(crate) fn next_page(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(parse_next)
}

fn parse_next(mut text: &str) -> Option<String> {
    loop {
        let (target, rest) = text.trim_start_matches([' ', '\t', ',']).strip_prefix('<')?.split_once('>')?;
        // Parameters end at a comma outside of quotes.
        let mut quoted = false;
        let end = rest.find(|c: char| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        let (parameters, others) = rest.split_at(end.unwrap_or(rest.len()));
        let next = parameters.split(';').any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
                name.trim().eq_ignore_ascii_case("rel") && relations.any(|rel| rel.eq_ignore_ascii_case("next"))
            })
        });
        if next {
            return page(target.split_once('?')?.1);
        }
        text = others;
    }
}

/// A page's query that may be sent on: printable, without `ns`, which is between larder and its clients.
pub(crate) fn page(query: &str) -> Option<String> {
    let query = query.split('#').next().unwrap_or_default();
    let sound =
        query.len() <= LONGEST_PAGE && query.bytes().all(|c| c.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&c));
    if !sound {
        return None;
    }
    let is_ns = |part: &&str| part.split('=').next() == Some("ns");
    let kept: Vec<&str> = query.split('&').filter(|part| !part.is_empty() && !is_ns(part)).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// The number in `RateLimit-Limit: 100;w=21600` and its like, as Docker Hub sends them.
pub(crate) fn quota(headers: &HeaderMap, name: &str) -> Option<i64> {
    text(headers, name)?.split(';').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn content_ranges() {
        for (text, expected) in [
            ("bytes 10-99/100", Some((10, Some(100)))),
            ("bytes 0-0/1", Some((0, Some(1)))),
            ("Bytes 5-9/*", Some((5, None))),
            ("bytes 10-100/100", None),
            ("bytes 10-9/100", None),
            ("bytes */100", None),
            ("bytes -5-9/100", None),
            ("bytes +5-9/100", None),
            ("octets 5-9/10", None),
            ("bytes 5-18446744073709551616/*", None),
            ("", None),
        ] {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
    }

    #[test]
    fn links() {
        for (text, expected) in [
            (r#"</v2/a/tags/list?n=2&last=b>; rel="next""#, Some("n=2&last=b")),
            (r#"<https://a.example/v2/a/tags/list?last=b&ns=docker.io>; rel=next"#, Some("last=b")),
            (r#"<https://x/?a=1>; title="a, <b>"; rel=prev, <https://x/?b=2>;rel="last Next""#, Some("b=2")),
            (r#"<https://x/?a=1>; rel="prev""#, None),
            (r#"</v2/a/tags/list>; rel="next""#, None),
            (r#"</v2/a/tags/list?ns=x>; rel="next""#, None),
            (r#"</v2/a/tags/list?a b>; rel="next""#, None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(parse_next(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn lengths() {
        let headers = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_LENGTH, http::HeaderValue::from_static(value));
            }
            length(&headers).map_err(|failure| failure.kind)
        };
        assert_eq!(headers(&[]), Ok(None));
        assert_eq!(headers(&["5", "5"]), Ok(Some(5)));
        assert!(headers(&["5", "6"]).is_err());
        assert!(headers(&["-5"]).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[ -~]{0,60}") {
            let _ = parse_content_range(&text);
            if let Some(page) = parse_next(&text) {
                prop_assert!(!page.split('&').any(|part| part.starts_with("ns=")));
                let url = format!("http://h/?{page}");
                prop_assert!(url.parse::<http::Uri>().is_ok());
            }
        }

        #[test]
        fn a_link_is_found_among_others(text in "<[a-z?=&/]{0,20}>; rel=\"?next\"?") {
            let _ = parse_next(&text);
        }
    }
}
