use std::fmt;

/// A media type, as it stands in `Content-Type` or a descriptor, without parameters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(std::borrow::Cow<'static, str>);

impl MediaType {
    /// OCI image manifest.
    pub const OCI_MANIFEST: MediaType = MediaType::fixed("application/vnd.oci.image.manifest.v1+json");
    /// OCI image index.
    pub const OCI_INDEX: MediaType = MediaType::fixed("application/vnd.oci.image.index.v1+json");
    /// Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: MediaType = MediaType::fixed("application/vnd.docker.distribution.manifest.v2+json");
    /// Docker manifest list.
    pub const DOCKER_LIST: MediaType = MediaType::fixed("application/vnd.docker.distribution.manifest.list.v2+json");
    /// What a blob is when nothing else is known.
    pub const OCTET_STREAM: MediaType = MediaType::fixed("application/octet-stream");
    /// JSON.
    pub const JSON: MediaType = MediaType::fixed("application/json");

    const fn fixed(text: &'static str) -> MediaType {
        MediaType(std::borrow::Cow::Borrowed(text))
    }

    /// Reads a `Content-Type`, dropping parameters; `None` if it is no media type of at most 255 visible ASCII characters.
    pub fn parse(text: &str) -> Option<MediaType> {
        let text = text.split(';').next().unwrap_or_default().trim();
        let well_formed = text.len() <= 255
            && text.split_once('/').is_some_and(|(main, sub)| !main.is_empty() && !sub.is_empty())
            && text.bytes().all(|c| c.is_ascii_graphic());
        if !well_formed {
            return None;
        }
        let known =
            [&MediaType::OCI_MANIFEST, &MediaType::OCI_INDEX, &MediaType::DOCKER_MANIFEST, &MediaType::DOCKER_LIST];
        Some(
            known
                .into_iter()
                .find(|known| known.as_str() == text)
                .cloned()
                .unwrap_or_else(|| MediaType(text.to_owned().into())),
        )
    }

    /// The media type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a list of manifests.
    pub fn is_index(&self) -> bool {
        *self == MediaType::OCI_INDEX || *self == MediaType::DOCKER_LIST
    }

    /// Whether this is a manifest of one image or artifact.
    pub fn is_image(&self) -> bool {
        *self == MediaType::OCI_MANIFEST || *self == MediaType::DOCKER_MANIFEST
    }
}

/// The `Accept` of a request for a manifest: all that larder knows, and whatever else the registry has.
pub const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
application/vnd.docker.distribution.manifest.v2+json, */*;q=0.5";

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_parameters_and_refuses_nonsense() {
        assert_eq!(MediaType::parse("application/json; charset=utf-8"), Some(MediaType::JSON));
        assert_eq!(MediaType::parse("a/b").unwrap().as_str(), "a/b");
        for text in ["", "a", "/", "a/", "a/b c", "a/b\r\nX: y"] {
            assert_eq!(MediaType::parse(text), None, "{text}");
        }
    }
}
