use std::fmt;

use serde::Deserialize;

/// What an image is for (OCI image specification, "Image Index": the `platform` property).
#[derive(Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// The operating system, as Go calls it: `linux`.
    #[serde(default)]
    pub os: String,
    /// The processor, as Go calls it: `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// What kind of that processor, such as `v7`; empty if nothing is said.
    #[serde(default, deserialize_with = "text_or_nothing")]
    pub variant: String,
}

fn text_or_nothing<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(from)?.unwrap_or_default())
}

impl Platform {
    /// That of this machine.
    pub fn here() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            same => same,
        };
        Platform { os: std::env::consts::OS.to_owned(), architecture: architecture.to_owned(), variant: String::new() }
    }

    /// The platform of an image, as its config says.
    pub fn of_config(bytes: &[u8]) -> Option<Platform> {
        serde_json::from_slice(bytes).ok().filter(Platform::is_known)
    }

    /// Whether it is one to show people. Attestations are listed among the manifests of an index as if they were for a platform of their own.
    pub fn is_known(&self) -> bool {
        let word =
            |text: &str| text.len() <= 32 && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
        let known = |text: &str| !text.is_empty() && text != "unknown" && word(text);
        known(&self.os) && known(&self.architecture) && word(&self.variant)
    }

    /// How well what is for `other` runs here: 0 is best, `None` not at all. As containerd's `platforms` package ranks them, so that what larder
    /// gets is what the runtime would.
    pub fn rank(&self, other: &Platform) -> Option<usize> {
        if self.os != other.os {
            return None;
        }
        let (architecture, variant) = other.normal();
        let (own, own_variant) = self.normal();
        let arm: &[&str] = match own_variant {
            "v8" => &["v8", "v7", "v6", "v5"],
            "v7" => &["v7", "v6", "v5"],
            "v6" => &["v6", "v5"],
            _ => &["v5"],
        };
        match own {
            "arm64" if architecture == "arm64" => (own_variant == variant).then_some(0),
            "arm64" if architecture == "arm" => arm.iter().position(|one| *one == variant).map(|place| place + 1),
            "arm" if architecture == "arm" => arm.iter().position(|one| *one == variant),
            _ => (own == architecture && own_variant == variant).then_some(0),
        }
    }

    /// Architecture and variant without the different ways to write the same.
    fn normal(&self) -> (&str, &str) {
        match (&*self.architecture, &*self.variant) {
            ("x86_64" | "x86-64", "v1") | ("amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64", "" | "8" | "v8") | ("arm64", "" | "8" | "v8") => ("arm64", "v8"),
            ("aarch64", variant) => ("arm64", variant),
            ("arm", "" | "7" | "v7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            same => same,
        }
    }
}

/// As people write it: `linux/arm64/v8`.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &*self.variant {
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: next() }
    }

    #[test]
    fn the_best_of_what_runs() {
        let rank = |own: &str, other: &str| platform(own).rank(&platform(other));
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/amd64/v1"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(rank("linux/amd64", "linux/386"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(rank("linux/arm64", "linux/arm/v7"), Some(2));
        assert_eq!(rank("linux/arm", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm", "linux/arm64"), None);
        assert_eq!(rank("linux/riscv64", "linux/riscv64"), Some(0));
        assert_eq!(Platform::here().rank(&Platform::here()), Some(0));
        assert_eq!(platform("linux/arm64/v8").to_string(), "linux/arm64/v8");
        assert_eq!(platform("linux/amd64").to_string(), "linux/amd64");
    }

    #[test]
    fn platforms_are_read_and_attestations_are_none() {
        let config = br#"{"os": "linux", "architecture": "arm", "variant": "v7", "rootfs": {}}"#;
        assert_eq!(Platform::of_config(config).unwrap().to_string(), "linux/arm/v7");
        assert_eq!(Platform::of_config(b"{}"), None);
        for (text, known) in
            [("linux/amd64", true), ("unknown/unknown", false), ("a b/x", false), ("linux/arm/v7", true)]
        {
            assert_eq!(platform(text).is_known(), known, "{text}");
        }
    }
}
