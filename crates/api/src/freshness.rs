use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use units::{Span, UnitError};

use crate::text::{FreshnessText, PatternText, SpanText};

/// How long the digest of a tag is believed, as written: a length of time, or `immutable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// So long; zero asks the origin at every pull.
    For(Span),
    /// For ever.
    Immutable,
}

impl FromStr for Freshness {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Freshness, UnitError> {
        if text == "immutable" { Ok(Freshness::Immutable) } else { text.parse().map(Freshness::For) }
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Freshness::For(span) => span.fmt(f),
            Freshness::Immutable => f.write_str("immutable"),
        }
    }
}

impl Serialize for Freshness {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Freshness {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Freshness, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An exception for tags that a pattern matches.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct FreshnessPattern {
    /// A pattern over `repository:tag`, such as `*:latest` or `shop/*`; `*` stands for any characters.
    #[schemars(with = "PatternText")]
    pub r#match: String,
    /// How long such a tag's digest is believed: a length of time, or `immutable`.
    #[schemars(with = "FreshnessText")]
    pub r#for: Freshness,
}

/// How long tags of all registries are believed that say nothing else.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct PolicyFreshness {
    /// How long a tag's digest is believed; within it the origin is not asked. `0s` asks at every pull, `immutable` never asks again.
    #[serde(default = "default")]
    #[schemars(with = "FreshnessText")]
    pub default: Freshness,
    /// How long after its last check a tag is served while the origin cannot be asked.
    #[serde(default = "stale")]
    #[schemars(with = "SpanText")]
    pub stale: Span,
    /// Exceptions; the first that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub patterns: Vec<FreshnessPattern>,
}

impl Default for PolicyFreshness {
    fn default() -> PolicyFreshness {
        PolicyFreshness { default: default(), stale: stale(), patterns: Vec::new() }
    }
}

fn default() -> Freshness {
    Freshness::For(Span(Duration::from_secs(5 * 60)))
}

fn stale() -> Span {
    Span(Duration::from_secs(7 * 24 * 3600))
}

/// How long tags of one registry are believed, where it differs from the CachePolicy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
pub struct UpstreamFreshness {
    /// How long a tag's digest is believed. With it, the patterns of the CachePolicy do not count for this registry. The
    /// CachePolicy's if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<FreshnessText>")]
    pub default: Option<Freshness>,
    /// How long after its last check a tag is served while the origin cannot be asked. The CachePolicy's if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<SpanText>")]
    pub stale: Option<Span>,
    /// Exceptions, which come before those of the CachePolicy; the first that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub patterns: Vec<FreshnessPattern>,
}
