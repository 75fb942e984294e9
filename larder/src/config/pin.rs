use std::str::FromStr;

use oci::{DigestError, Name, NameError, Reference, ReferenceError};

use super::section::textual;

/// An image that stays in the store.
pub struct Pin {
    /// Its repository.
    pub name: Name,
    /// Its tag or digest.
    pub reference: Reference,
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Pin, String> {
        let wrong = |why: &str| format!("{text:?}: {why}; write it like \"docker.io/library/alpine:3.20\"");
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
            NameError::NoRegistry => wrong("the registry is missing"),
            other => wrong(&other.to_string()),
        })?;
        let reference = match (digest, tag) {
            (Some(digest), _) => {
                Reference::Digest(digest.parse().map_err(|error: DigestError| wrong(&error.to_string()))?)
            }
            (None, Some(tag)) => {
                Reference::Tag(tag.parse().map_err(|error: ReferenceError| wrong(&error.to_string()))?)
            }
            (None, None) => return Err(wrong("the tag or digest is missing")),
        };
        Ok(Pin { name, reference })
    }
}

textual!(Pin: "an image such as \"docker.io/library/alpine:3.20\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, name, reference) in [
            ("docker.io/alpine:3.20", "docker.io/library/alpine", "3.20"),
            ("reg.local:5000/a/b:1", "reg.local:5000/a/b", "1"),
            (&format!("ghcr.io/a/b@{digest}"), "ghcr.io/a/b", digest.as_str()),
            (&format!("ghcr.io/a/b:1@{digest}"), "ghcr.io/a/b", digest.as_str()),
        ] {
            let pin: Pin = text.parse().unwrap();
            assert_eq!(
                (pin.name.to_string().as_str(), pin.reference.to_string().as_str()),
                (name, reference),
                "{text}"
            );
        }
        for text in [
            "",
            "alpine:3.20",
            "library/alpine:3.20",
            "ghcr.io/a",
            "ghcr.io/a:",
            "ghcr.io/A:1",
            "ghcr.io/a@x",
            "reg.local:5000/a",
        ] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}
