use std::time::Duration;

use super::section::Section;
use super::units::Span;

/// How long what is known about access is good, and whether clients are asked who they are.
#[derive(Clone, Copy)]
pub struct Access {
    /// That a repository is public.
    pub public: Duration,
    /// That a credential may read a repository.
    pub grant: Duration,
    /// The same while the origin cannot be asked.
    pub outage: Duration,
    /// `/v2/` asks for credentials.
    pub login: bool,
}

impl Default for Access {
    fn default() -> Access {
        Access {
            public: Duration::from_secs(3600),
            grant: Duration::from_secs(600),
            outage: Duration::from_secs(24 * 3600),
            login: false,
        }
    }
}

impl Access {
    /// Reads `[access]`.
    pub fn read(mut section: Section<'_>) -> Access {
        let default = Access::default();
        let access = Access {
            public: section.value("public").map_or(default.public, |Span(span)| span),
            grant: section.value("grant").map_or(default.grant, |Span(span)| span),
            outage: section.value("outage").map_or(default.outage, |Span(span)| span),
            login: section.value("login").unwrap_or(default.login),
        };
        section.finish();
        access
    }
}
