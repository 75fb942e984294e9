use std::path::{Path, PathBuf};

/// Where the host is, where larder remembers what it changed, and where its mirror listens.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The host's root: `/`, or where a pod has it mounted.
    pub host_root: PathBuf,
    /// Where the originals are remembered, as this process sees it. Never inside a directory of hosts.toml files:
    /// containerd would take it for a registry.
    pub state: PathBuf,
    /// The mirror's address, `host:port`, as the runtime reaches it.
    pub mirror: String,
    /// The registries that CRI-O is pointed to the mirror for: it knows no "all others".
    pub crio_registries: Vec<String>,
}

impl Settings {
    /// The defaults for a host: state in `/var/lib/larder/node/hosts` of it, mirror on 127.0.0.1:7439.
    pub fn new(host_root: impl Into<PathBuf>) -> Self {
        let host_root = host_root.into();
        Settings {
            state: host_root.join("var/lib/larder/node/hosts"),
            host_root,
            mirror: "127.0.0.1:7439".into(),
            crio_registries: Vec::new(),
        }
    }

    /// The mirror's URL, the name of larder's host in a hosts.toml.
    pub fn mirror_url(&self) -> String {
        format!("http://{}", self.mirror)
    }

    pub(crate) fn on_host(&self, path: &Path) -> PathBuf {
        under(&self.host_root, path)
    }
}

/// `path` of the host as this process sees it.
pub(crate) fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
