use std::fmt;
use std::str::FromStr;

use crate::{DigestError, Name, NameError, Reference, ReferenceError};

/// An image as people write it: `docker.io/library/alpine:3.20`, `ghcr.io/a/b@sha256:…`. Where it has a tag and a digest, the
/// digest counts.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Image {
    /// Its repository.
    pub name: Name,
    /// Its tag or digest.
    pub reference: Reference,
}

/// Why a text is no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The registry in front is missing: nothing is guessed here.
    #[error("the registry is missing")]
    NoRegistry,
    /// The registry or the repository is not valid.
    #[error(transparent)]
    Name(NameError),
    /// The tag is not valid.
    #[error(transparent)]
    Tag(ReferenceError),
    /// The digest is not valid.
    #[error(transparent)]
    Digest(DigestError),
    /// Neither a tag nor a digest.
    #[error("the tag or digest is missing")]
    NoReference,
}

impl FromStr for Image {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Image, ImageError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // The colon of a tag is behind the last slash; one before it belongs to a port.
        let file = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name[file..].find(':') {
            Some(colon) => (&name[..file + colon], Some(&name[file + colon + 1..])),
            None => (name, None),
        };
        let name = Name::parse(name).map_err(|error| match error {
            NameError::NoRegistry => ImageError::NoRegistry,
            other => ImageError::Name(other),
        })?;
        let tag = tag.map(str::parse).transpose().map_err(ImageError::Tag)?;
        let reference = match (digest, tag) {
            (Some(digest), _) => Reference::Digest(digest.parse().map_err(ImageError::Digest)?),
            (None, Some(tag)) => Reference::Tag(tag),
            (None, None) => return Err(ImageError::NoReference),
        };
        Ok(Image { name, reference })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if matches!(self.reference, Reference::Digest(_)) { '@' } else { ':' };
        write!(f, "{}{separator}{}", self.name, self.reference)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Image {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Image {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Image, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, written) in [
            ("docker.io/alpine:3.20", "docker.io/library/alpine:3.20"),
            ("reg.local:5000/a/b:1", "reg.local:5000/a/b:1"),
            ("[::1]:5000/a:1", "[::1]:5000/a:1"),
            (&format!("ghcr.io/a/b@{digest}"), &format!("ghcr.io/a/b@{digest}")),
            (&format!("ghcr.io/a/b:1@{digest}"), &format!("ghcr.io/a/b@{digest}")),
        ] {
            let image: Image = text.parse().unwrap();
            assert_eq!(image.to_string(), written, "{text}");
            assert_eq!(written.parse::<Image>().unwrap(), image);
            let json = serde_json::to_value(&image).unwrap();
            assert_eq!(json, written);
            assert_eq!(serde_json::from_value::<Image>(json).unwrap(), image);
        }
        for (text, error) in [
            ("", ImageError::NoRegistry),
            ("alpine:3.20", ImageError::NoRegistry),
            ("library/alpine:3.20", ImageError::NoRegistry),
            (&digest, ImageError::NoRegistry),
            ("ghcr.io/a", ImageError::NoReference),
            ("reg.local:5000/a", ImageError::NoReference),
            ("ghcr.io/a:", ImageError::Tag(ReferenceError::Tag)),
            (&format!("ghcr.io/a:@{digest}"), ImageError::Tag(ReferenceError::Tag)),
            ("ghcr.io/A:1", ImageError::Name(NameError::Repository)),
            ("ghcr..io/a:1", ImageError::Name(NameError::Registry)),
            ("ghcr.io/a@x", ImageError::Digest(DigestError::Form)),
        ] {
            assert_eq!(text.parse::<Image>(), Err(error), "{text}");
        }
    }
}
