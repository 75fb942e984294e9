use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;

/// What an image runs on (OCI image index, "platform").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct Platform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    platform: Option<Platform>,
}

impl Platform {
    /// The platforms that an index says its manifests are for, each once; none of what is no index.
    pub fn of_index(bytes: &[u8]) -> BTreeSet<Platform> {
        let entries = serde_json::from_slice::<Index>(bytes).map(|index| index.manifests).unwrap_or_default();
        entries.into_iter().filter_map(|entry| entry.platform).filter(Platform::is_one).collect()
    }

    /// The platform of an image, as its config says.
    pub fn of_config(bytes: &[u8]) -> Option<Platform> {
        serde_json::from_slice(bytes).ok().filter(Platform::is_one)
    }

    /// Attestations are listed among the manifests of an index as if they were for a platform of their own.
    fn is_one(&self) -> bool {
        let word =
            |text: &str| text.len() <= 32 && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
        let known = |text: &str| !text.is_empty() && text != "unknown" && word(text);
        known(&self.os) && known(&self.architecture) && word(&self.variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_and_attestations_are_none() {
        let index = br#"{"manifests": [
            {"digest": "x", "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
            {"platform": {"os": "linux", "architecture": "amd64"}}, {"platform": {"os": "linux", "architecture": "amd64", "os.version": "1"}},
            {"platform": {"os": "unknown", "architecture": "unknown"}}, {"platform": {"os": "a b", "architecture": "x"}}, {}]}"#;
        let texts: Vec<_> = Platform::of_index(index).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["linux/amd64", "linux/arm64/v8"]);
        assert!(Platform::of_index(b"[]").is_empty() && Platform::of_index(b"{\"layers\": []}").is_empty());
        let config = br#"{"os": "linux", "architecture": "arm", "variant": "v7", "rootfs": {}}"#;
        assert_eq!(Platform::of_config(config).unwrap().to_string(), "linux/arm/v7");
        assert_eq!(Platform::of_config(b"{}"), None);
    }
}
