use std::time::Duration;

use oci::Pattern;

use crate::credential::Credential;

/// How content of one upstream is kept, and who may have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Everybody who reaches larder may have what the upstream's own credential gives.
    pub shared: bool,
    /// The upstream's own credential, if it has one.
    pub own: Option<Credential>,
    /// What anyone is given may be by a credential that somebody else shares, for as long as that lasts: that it is public is written
    /// nowhere.
    pub lent: bool,
    /// How long a tag's answer is good where no pattern says otherwise.
    pub freshness: Freshness,
    /// Patterns over `repository:tag`, first match wins. `*` stands for any characters.
    pub patterns: Vec<(Pattern, Freshness)>,
    /// How long after its last check a tag is served while the origin cannot be asked.
    pub stale: Duration,
    /// Serve the last known answer where the origin says 404.
    pub serve_when_gone: bool,
    /// Serve the last known answer where the origin says 401 or 403.
    pub serve_when_denied: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            shared: false,
            own: None,
            lent: false,
            freshness: Freshness::For(Duration::from_secs(5 * 60)),
            patterns: Vec::new(),
            stale: Duration::from_secs(7 * 24 * 3600),
            serve_when_gone: false,
            serve_when_denied: false,
        }
    }
}

/// How long a tag→digest answer is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// So long; zero asks the origin at every pull.
    For(Duration),
    /// For ever.
    Immutable,
}

impl Rules {
    /// The credential that opens to everybody what it may read.
    pub fn for_all(&self) -> Option<&Credential> {
        self.own.as_ref().filter(|_| self.shared)
    }

    /// The freshness of a tag.
    pub fn freshness_of(&self, repository: &oci::Repository, tag: &oci::Tag) -> Freshness {
        if self.patterns.is_empty() {
            return self.freshness;
        }
        let text = format!("{repository}:{tag}");
        self.patterns
            .iter()
            .find(|(pattern, _)| pattern.matches(&text))
            .map_or(self.freshness, |(_, freshness)| *freshness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_decides() {
        let rules = Rules {
            patterns: vec![
                (Pattern::new("*:latest"), Freshness::For(Duration::ZERO)),
                (Pattern::new("shop/*"), Freshness::Immutable),
            ],
            ..Rules::default()
        };
        let of = |repository: &str, tag: &str| rules.freshness_of(&repository.parse().unwrap(), &tag.parse().unwrap());
        assert_eq!(of("shop/api", "latest"), Freshness::For(Duration::ZERO));
        assert_eq!(of("shop/api", "1"), Freshness::Immutable);
        assert_eq!(of("other", "1"), rules.freshness);
    }
}
