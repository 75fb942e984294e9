//! Schemas of texts: what the API server takes for an image, a length of time or a host, and what it says of anything else.
//!
//! Rules are CEL and not `pattern`, whose message is the pattern. Everything has a bound: without one, the API server takes
//! rules for too expensive and refuses the whole definition.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

/// An element of a host name.
macro_rules! label {
    () => {
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    };
}

/// A part of an IPv4 address.
macro_rules! octet {
    () => {
        "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
    };
}

/// A host: the last element of a name begins with a letter, or some would take it for an address; an address of four numbers; an
/// IPv6 address in brackets, whose rules are not for an expression to tell.
macro_rules! host {
    () => {
        concat!(
            "((",
            label!(),
            "\\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?|",
            octet!(),
            "(\\.",
            octet!(),
            "){3}|",
            "\\[[0-9a-f:]{2,39}\\])",
            "(:(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}))?"
        )
    };
}

/// A repository: parts joined by slashes.
macro_rules! repository {
    () => {
        "[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*)*"
    };
}

/// What names a manifest within a repository.
macro_rules! reference {
    () => {
        "(:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})?(@sha256:[a-f0-9]{64}|@sha512:[a-f0-9]{128})?"
    };
}

/// An amount of bytes, without a unit or with one that cannot make it too large for a number.
macro_rules! size {
    () => {
        "[1-9][0-9]{0,5}(k|M|G|T|B|kB|KB|MB|GB|TB|Ki|Mi|Gi|Ti|KiB|MiB|GiB|TiB)|[1-9][0-9]{0,14}"
    };
}

/// A length of time, empty included. No more digits than make less than a century.
macro_rules! span {
    () => {
        "([0-9]{1,4}d)?([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,7}s)?([0-9]{1,8}ms)?"
    };
}

/// `self.matches('^(…)$')`, where the pattern may hold backslashes.
macro_rules! whole {
    ($($pattern:expr),+) => {
        concat!("self.matches(r'^(", $($pattern),+, ")$')")
    };
}

/// The rule that what is in brackets is an IPv6 address.
const ADDRESS: (&str, &str) = (
    "!self.startsWith('[') || (self.contains(']') && isIP(self.substring(1, self.indexOf(']'))) \
     && ip(self.substring(1, self.indexOf(']'))).family() == 6)",
    "what is in brackets must be an IPv6 address",
);

/// What a map whose keys are the keys of labels is annotated with. The length alone: the API server takes anything else about keys for too
/// expensive.
pub(crate) fn label_keys() -> serde_json::Value {
    json!([{ "rule": "self.all(key, size(key) > 0 && size(key) <= 317)", "message": "a label's key has 1 to 317 characters" }])
}

/// Types that stand for the schema of a text.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident: $least:literal..=$most:literal $([$rule:expr, $message:expr])* $({$more:expr})?;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let rules: &[(&str, &str)] = &[$(($rule, $message),)* $($more)?];
                schema($least, $most, rules)
            }
        }
    )*};
}

fn schema(least: usize, most: usize, rules: &[(&str, &str)]) -> Schema {
    let mut schema = json_schema!({ "type": "string", "maxLength": most });
    if least > 0 {
        schema.insert("minLength".to_owned(), json!(least));
    }
    if !rules.is_empty() {
        let rules: Vec<_> = rules.iter().map(|(rule, message)| json!({ "rule": rule, "message": message })).collect();
        schema.insert("x-kubernetes-validations".to_owned(), rules.into());
    }
    schema
}

texts! {
    /// What [`oci::Image`] reads, in canonical letters.
    ImageText: 1..=512
        [concat!("self.matches(r'^", host!(), "/') && self.matches(r'^(localhost/|[^/]{0,255}[.:])')"),
         "begin with the registry in lower case, such as docker.io/library/nginx:1.27"]
        [concat!("!self.contains('/') || (self.matches(r'^[^/]+/", repository!(), "([:@]|$)') && self.matches('^[^/]+/[^:@]{1,255}([:@]|$)'))"),
         "after the registry comes a repository: lower-case letters and digits with single separators (. _ __ -), in parts joined by /, \
          at most 255 characters"]
        ["!self.contains('/') || self.matches(r'/[^/:@]+[:@][^/]*$')",
         "end with a tag or a digest, such as docker.io/library/nginx:1.27"]
        [concat!("!self.matches('/[^/:@]+[:@][^/]*$') || self.matches(r'/[^/:@]+", reference!(), "$')"),
         "a tag has 1 to 128 letters, digits, . _ and -, and does not begin with . or -; a digest is written @sha256: and 64 lower-case \
          hexadecimal digits"]
        {ADDRESS};
    /// What [`oci::Registry`] reads, in canonical letters.
    RegistryText: 1..=255
        [whole!(host!()), "write the registry as image names do: a host name or address in lower case with an optional port, such as ghcr.io"]
        {ADDRESS};
    /// A host that requests go to.
    HostText: 1..=255
        [whole!(host!()), "write host or host:port in lower case, such as auth.example.com"]
        {ADDRESS};
    /// Where a registry is served.
    UrlText: 1..=1024
        ["isURL(self) && url(self).getScheme() in ['https', 'http'] && url(self).getHost() != ''",
         "write a URL that begins with https:// or http://"]
        ["!self.contains('@')", "user names and passwords do not belong into a URL; write a credential"]
        ["!self.contains('?') && !self.contains('#')", "an endpoint has no query and no fragment"];
    /// Certificates of authorities.
    CaText: 1..=65536
        ["self.contains('-----BEGIN CERTIFICATE-----')", "write certificates as PEM: -----BEGIN CERTIFICATE-----"]
        ["!self.contains('PRIVATE KEY')", "a private key has no place here: write certificates alone"];
    /// What [`units::Span`] reads.
    SpanText: 1..=40
        [whole!(span!()), "write a length of time like 10s, 5m, 1h30m or 7d"];
    /// The same, and not zero.
    PositiveSpanText: 1..=40
        [concat!(whole!(span!()), " && self.matches('[1-9]')"), "write a length of time above zero like 10s, 5m, 1h30m or 7d"];
    /// The same, and at least a minute.
    LongSpanText: 1..=40
        [whole!("([1-9][0-9]{0,3}d)?([1-9][0-9]{0,4}h)?([1-9][0-9]{0,5}m)?"),
         "write a length of time of whole minutes, at least one, like 5m, 1h30m or 7d"];
    /// What [`crate::Freshness`] reads.
    FreshnessText: 1..=40
        [concat!("self == 'immutable' || ", whole!(span!())), "write a length of time like 10s, 5m, 1h30m or 7d, or immutable"];
    /// What [`units::Size`] reads, above zero.
    SizeText: 1..=20
        [whole!(size!()), "write a size like 64MiB, 20GiB or 500GB"];
    /// A pattern over names and tags, where `*` stands for any characters.
    PatternText: 1..=255
        [whole!("[a-zA-Z0-9._:/@*\\[\\]-]+"), "a pattern has letters, digits, . _ - : / @ and * for any characters"];
    /// The name of an object or a namespace.
    NameText: 1..=253
        [whole!("[a-z0-9]([a-z0-9.-]*[a-z0-9])?"), "write the name of an object: lower-case letters, digits, - and ."];
    /// A pattern over namespaces.
    NamespacePatternText: 1..=63
        [whole!("[a-z0-9*-]+"), "a pattern over namespaces has lower-case letters, digits, - and * for any characters"];
    /// The key of a label or taint.
    KeyText: 1..=317
        [whole!("([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"),
         "write a label's key, such as pool or example.com/pool"];
    /// The value of a label or taint; may be empty.
    ValueText: 0..=63
        [whole!("([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"), "write a label's value: letters, digits, - _ and ."];
    /// What a status says of an image; nobody writes it by hand.
    StatusImageText: 0..=1024;
    /// The digest of a manifest in a status.
    DigestText: 0..=140;
    /// A name in a status.
    ShortText: 0..=317;
    /// Words for people in a status.
    MessageText: 0..=1024;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::string::string_regex;

    /// Texts that a pattern takes, and not so long that most would be refused for that.
    fn of(pattern: &str) -> impl Strategy<Value = String> + use<> {
        string_regex(&pattern.replace(")*", "){0,2}").replace("]+", "]{1,9}")).expect("patterns are valid")
    }

    proptest! {
        #[test]
        fn what_the_schema_takes_for_an_image_is_one(text in of(concat!(host!(), "/", repository!(), ":", "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"))) {
            // Rules beside the pattern: a bare word is no registry, brackets hold an address, and nothing is too long.
            let registry = text.split('/').next().unwrap();
            let repository = &text[registry.len() + 1..text.rfind(':').unwrap()];
            prop_assume!(registry.contains(['.', ':']) && !registry.starts_with('['));
            prop_assume!(registry.len() <= 255 && repository.len() <= 255 && text.len() <= 512);
            prop_assert!(text.parse::<oci::Image>().is_ok(), "{}", text);
        }

        #[test]
        fn what_the_schema_takes_for_a_registry_is_one(text in of(host!())) {
            prop_assume!(!text.starts_with('[') && text.len() <= 255);
            prop_assert!(text.parse::<oci::Registry>().is_ok(), "{}", text);
        }

        #[test]
        fn what_the_schema_takes_for_a_length_of_time_is_one(text in of(span!())) {
            prop_assume!(!text.is_empty());
            prop_assert!(text.parse::<units::Span>().is_ok(), "{}", text);
        }

        #[test]
        fn what_the_schema_takes_for_a_size_is_one(text in of(size!())) {
            let size: Result<units::Size, _> = text.parse();
            prop_assert!(size.is_ok_and(|units::Size(bytes)| i64::try_from(bytes).is_ok()), "{}", text);
        }
    }
}
