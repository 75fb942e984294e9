//! What containerd is told by its configuration, and what only the running one knows.

pub(crate) mod config;
pub(crate) mod running;

use std::fmt;
use std::path::Path;

/// A version of a runtime, as far as behaviour depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2 of 2.4.1.
    pub major: u64,
    /// 4 of 2.4.1.
    pub minor: u64,
}

impl Version {
    /// Reads `2.4.1`, `v2.4.1-k3s1`, `containerd://2.4.1`.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.rsplit("://").next().unwrap_or(text);
        let mut numbers = text.trim().trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
        Some(Version { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A file for an administrator that sets `config_path` to one directory, to be imported by config.toml.
///
/// For containerd 1.7 it is a part of config.toml and no file to import: there an imported file replaces the whole
/// table of the plugin.
pub fn drop_in(version: Option<Version>, certs_d: &Path) -> String {
    let (file, table) = match version {
        Some(version) if version.major < 2 => (2, "io.containerd.grpc.v1.cri"),
        _ => (3, "io.containerd.cri.v1.images"),
    };
    let path = toml::Value::String(certs_d.to_string_lossy().into_owned());
    format!("version = {file}\n\n[plugins.\"{table}\".registry]\n  config_path = {path}\n")
}
