use std::borrow::Cow;

/// The parameters that the API knows (distribution specification, "Listing tags", "Listing referrers", "Registry proxying").
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    /// The registry that the repository belongs to.
    pub(crate) ns: Option<Cow<'a, str>>,
    pub(crate) n: Option<Cow<'a, str>>,
    pub(crate) last: Option<Cow<'a, str>>,
    pub(crate) artifact_type: Option<Cow<'a, str>>,
    /// All but `ns` and `artifactType` as it stands: what an upstream put into its link to a further page comes back so.
    pub(crate) rest: String,
}

/// The query cannot be read, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadQuery(pub(crate) &'static str);

impl<'a> Query<'a> {
    /// Reads a query. A parameter that is given twice could be read in two ways, here and by whatever stands in front.
    pub(crate) fn parse(text: Option<&'a str>) -> Result<Query<'a>, BadQuery> {
        let mut query = Query::default();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key).ok_or(BadQuery("the query's encoding is broken"))?;
            if !matches!(&*key, "ns" | "artifactType") {
                if !query.rest.is_empty() {
                    query.rest.push('&');
                }
                query.rest.push_str(pair);
            }
            let field = match &*key {
                "ns" => &mut query.ns,
                "n" => &mut query.n,
                "last" => &mut query.last,
                "artifactType" => &mut query.artifact_type,
                _ => continue,
            };
            let value = decode(value).ok_or(BadQuery("the query's encoding is broken"))?;
            if field.replace(value).is_some() {
                return Err(BadQuery("a parameter of the query is given twice"));
            }
        }
        Ok(query)
    }
}

/// Undoes percent-encoding. A plus is a plus: media types have them, and nothing here has spaces.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        bytes.push((digit(rest.next())? << 4 | digit(rest.next())?) as u8);
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Encodes a parameter's value.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("a String takes everything"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_and_unknown_parameters() {
        let query =
            Query::parse(Some("ns=reg.local%3A5000&n=5&last=a.b&artifactType=application%2Fx+json&t=%20&u")).unwrap();
        assert_eq!(query.ns.as_deref(), Some("reg.local:5000"));
        assert_eq!(query.n.as_deref(), Some("5"));
        assert_eq!(query.last.as_deref(), Some("a.b"));
        assert_eq!(query.artifact_type.as_deref(), Some("application/x+json"));
        assert_eq!(query.rest, "n=5&last=a.b&t=%20&u");
        assert_eq!(Query::parse(None), Ok(Query::default()));
        assert_eq!(Query::parse(Some("&&")), Ok(Query::default()));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for text in ["ns=a&ns=b", "ns=a&ns=a", "ns=a&%6es=b", "n=1&n=2", "ns=%", "ns=%4", "ns=%zz", "ns=%ff", "%=1"] {
            assert!(Query::parse(Some(text)).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn encoding_is_undone(text in "\\PC{0,20}") {
            let encoded = encode(&text);
            let decoded = decode(&encoded);
            prop_assert_eq!(decoded.as_deref(), Some(text.as_str()));
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = Query::parse(Some(&text));
        }
    }
}
