use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Digest, DigestError};

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// What names a manifest within a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A name that may move.
    Tag(Tag),
    /// The content itself.
    Digest(Digest),
}

/// Why a text is no tag or reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text does not follow the grammar of tags.
    #[error("a tag has 1 to 128 letters, digits, . _ and -, and does not begin with . or -")]
    Tag,
    /// The text has a colon, so it must be a digest, and is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Tag, ReferenceError> {
        let bytes = text.as_bytes();
        let word = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_';
        let valid = bytes.len() <= 128
            && bytes.first().is_some_and(word)
            && bytes.iter().all(|c| word(c) || *c == b'.' || *c == b'-');
        if valid { Ok(Tag(text.into())) } else { Err(ReferenceError::Tag) }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        // No tag has a colon, so whatever has one is meant as a digest and is refused as one.
        if text.contains(':') { Ok(Reference::Digest(text.parse()?)) } else { Ok(Reference::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => fmt::Display::fmt(tag, f),
            Reference::Digest(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_digests() {
        for text in ["latest", "1.27", "_x", "V3-rc.1", "sha256-abc"] {
            assert!(matches!(text.parse(), Ok(Reference::Tag(_))), "{text}");
        }
        assert!("a".repeat(128).parse::<Tag>().is_ok());
        for text in ["", ".x", "-x", "a/b", "a b", "ä", &"a".repeat(129)] {
            assert_eq!(text.parse::<Reference>(), Err(ReferenceError::Tag), "{text}");
        }
        let digest = Digest::sha256(b"x");
        assert_eq!(digest.to_string().parse(), Ok(Reference::Digest(digest)));
        assert!(matches!("sha256:baddigeststring".parse::<Reference>(), Err(ReferenceError::Digest(_))));
        assert!(matches!("nginx:1".parse::<Reference>(), Err(ReferenceError::Digest(_))));
    }
}
