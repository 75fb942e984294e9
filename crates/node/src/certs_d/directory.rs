//! The directory of hosts.toml files: which of its directories containerd reads, and what it finds there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::settings::under;

/// A directory that containerd takes for a registry's.
#[derive(Debug)]
pub(crate) struct RegistryDir {
    /// Its hosts.toml, as the host sees it, there or not.
    pub file: PathBuf,
    /// The registry, as the directory is named.
    pub name: String,
    /// It is a symbolic link, so what is in it belongs to something else.
    pub linked: bool,
    /// Docker's certificate files in it, which containerd reads only where there is no hosts.toml.
    pub certificates: Certificates,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Certificates {
    authorities: Vec<String>,
    clients: Vec<(String, String)>,
}

impl Certificates {
    /// The same in the words of a hosts.toml: said of the file as a whole, it holds for the registry itself.
    pub fn as_text(&self) -> String {
        let quoted = |name: &String| toml::Value::String(name.clone()).to_string();
        let mut text = String::new();
        if !self.authorities.is_empty() {
            let list: Vec<String> = self.authorities.iter().map(quoted).collect();
            text += &format!("ca = [{}]\n", list.join(", "));
        }
        if !self.clients.is_empty() {
            let list: Vec<String> =
                self.clients.iter().map(|(cert, key)| format!("[{}, {}]", quoted(cert), quoted(key))).collect();
            text += &format!("client = [{}]\n", list.join(", "));
        }
        text
    }
}

/// The directories in `root` (as the host sees it) that containerd takes for registries, `_default` left out.
pub(crate) fn registries(host_root: &Path, root: &Path) -> Result<Vec<RegistryDir>, Error> {
    let dir = under(host_root, root);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound) => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", &dir)(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", &dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // No host's name begins so: other programs keep their own things under such names.
        if name.starts_with(['.', '_']) || !entry.path().is_dir() {
            continue;
        }
        found.push(RegistryDir {
            file: root.join(&name).join("hosts.toml"),
            linked: entry.file_type().is_ok_and(|kind| kind.is_symlink()),
            certificates: certificates(&entry.path()),
            name,
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The certificate files of a directory by their endings: `.crt` authorities, `.cert` with its `.key`.
pub(crate) fn certificates(dir: &Path) -> Certificates {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut certificates = Certificates::default();
    for name in &names {
        if name.ends_with(".crt") {
            certificates.authorities.push(name.clone());
        } else if let Some(stem) = name.strip_suffix(".cert") {
            certificates.clients.push((name.clone(), format!("{stem}.key")));
        }
    }
    certificates
}

/// The directory of several that `_default` belongs into: containerd looks for a registry and then for `_default` in
/// one before it looks into the next, so a `_default` must not come before any registry's own directory.
pub(crate) fn place_of_default(host_root: &Path, roots: &[PathBuf]) -> Result<Option<PathBuf>, Error> {
    for (at, root) in roots.iter().enumerate().rev() {
        let there = under(host_root, &root.join("_default")).exists();
        if there || at == 0 || !registries(host_root, root)?.is_empty() {
            return Ok(Some(root.clone()));
        }
    }
    Ok(None)
}
