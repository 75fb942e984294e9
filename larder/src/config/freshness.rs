use std::str::FromStr;
use std::time::Duration;

use cache::{Freshness, Rules};
use oci::Pattern;

use super::section::{Section, textual};
use super::units::Span;

/// How long tags are good, and how long they are served when the origin cannot be asked.
#[derive(Clone, Default)]
pub struct Tags {
    freshness: Option<Freshness>,
    stale: Option<Duration>,
    patterns: Vec<(Pattern, Freshness)>,
}

impl Tags {
    /// Reads `[freshness]`.
    pub fn read(mut section: Section<'_>) -> Tags {
        let tags = Tags::read_keys(&mut section, "default");
        section.finish();
        tags
    }

    /// Reads the keys of a section that says more than that.
    pub fn read_keys(section: &mut Section<'_>, default: &'static str) -> Tags {
        let freshness = section.value(default).map(|Good(freshness)| freshness);
        let stale = section.value("stale").map(|Span(span)| span);
        let mut patterns = Vec::new();
        for mut pattern in section.sections("patterns") {
            let matches: Option<String> = pattern.value("match");
            let good = pattern.value("for");
            match (matches, good) {
                (Some(matches), Some(Good(freshness))) => patterns.push((Pattern::new(matches), freshness)),
                _ if pattern.has("match") && pattern.has("for") => {}
                _ => pattern.problem("match", "a pattern needs both match and for: { match = \"*:v*\", for = \"7d\" }"),
            }
            pattern.finish();
        }
        Tags { freshness, stale, patterns }
    }

    /// These, and where they say nothing, the others. Patterns come before the others' patterns, and an own default
    /// before the others' patterns too.
    pub fn or(mut self, others: &Tags) -> Tags {
        if self.freshness.is_none() {
            self.patterns.extend(others.patterns.iter().cloned());
            self.freshness = others.freshness;
        }
        self.stale = self.stale.or(others.stale);
        self
    }

    /// The rules that follow, the rest as usual.
    pub fn rules(&self) -> Rules {
        let usual = Rules::default();
        Rules {
            freshness: self.freshness.unwrap_or(usual.freshness),
            stale: self.stale.unwrap_or(usual.stale),
            patterns: self.patterns.clone(),
            ..usual
        }
    }
}

/// How long a tag is good, as written: a length of time, or `immutable`.
struct Good(Freshness);

impl FromStr for Good {
    type Err = String;

    fn from_str(text: &str) -> Result<Good, String> {
        match text {
            "immutable" => Ok(Good(Freshness::Immutable)),
            _ => match text.parse() {
                Ok(Span(span)) => Ok(Good(Freshness::For(span))),
                Err(error) => Err(format!("{error}, or \"immutable\"")),
            },
        }
    }
}

/// Freshness as people write it.
pub fn written(freshness: Freshness) -> String {
    match freshness {
        Freshness::For(span) => Span(span).to_string(),
        Freshness::Immutable => "immutable".to_owned(),
    }
}

/// What happens to the last known answer when the origin takes it back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Withdrawn {
    /// It is served.
    Serve,
    /// It is not.
    Refuse,
}

impl FromStr for Withdrawn {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Withdrawn, &'static str> {
        match text {
            "serve" => Ok(Withdrawn::Serve),
            "refuse" => Ok(Withdrawn::Refuse),
            _ => Err("expected \"serve\" or \"refuse\""),
        }
    }
}

textual!(
    Good: "a length of time such as \"5m\", or \"immutable\"",
    Withdrawn: "\"serve\" or \"refuse\"",
);
