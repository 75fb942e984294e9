//! CRI-O's registries.conf: a drop-in that puts the mirror in front of each registry of a list.
//!
//! There is no "all others", a mirror is asked without `ns=`, so the registry is the first element of the path, and a
//! later file replaces an earlier one's table of the same prefix whole: a registry that somebody configured is left to them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::settings::{Settings, under};

pub(crate) const DROP_IN: &str = "/etc/containers/registries.conf.d/99-larder.conf";

/// The drop-in for these registries.
pub(crate) fn text(mirror: &str, registries: &[&str]) -> String {
    let mut text = String::from(
        "# Written by `larder node`, removed by `larder node --uninstall`. CRI-O reads it at `systemctl reload crio`.\n",
    );
    for registry in registries {
        let quoted = |value: String| Value::String(value).to_string();
        let path = registry.replace(':', "__");
        text += &format!(
            "\n[[registry]]\nprefix = {name}\nlocation = {name}\n\n[[registry.mirror]]\nlocation = {mirror}\ninsecure = true\n",
            name = quoted((*registry).to_owned()),
            mirror = quoted(format!("{mirror}/{path}")),
        );
    }
    text
}

/// What others configured: file by prefix; and the files that are no TOML.
#[derive(Debug, Default)]
pub(crate) struct Others {
    pub prefixes: BTreeMap<String, PathBuf>,
    pub broken: Vec<(PathBuf, String)>,
}

impl Others {
    pub fn read(host_root: &Path) -> Others {
        let dir = Path::new("/etc/containers/registries.conf.d");
        let mut files = vec![PathBuf::from("/etc/containers/registries.conf")];
        let entries = fs::read_dir(under(host_root, dir)).into_iter().flatten().flatten();
        files.extend(entries.map(|entry| dir.join(entry.file_name())));
        files.retain(|file| {
            file.extension().is_some_and(|extension| extension == "conf") && *file != Path::new(DROP_IN)
        });
        files.sort();
        let mut others = Others::default();
        for file in files {
            let Ok(text) = fs::read_to_string(under(host_root, &file)) else { continue };
            let table = match text.parse::<Table>() {
                Ok(table) => table,
                Err(e) => {
                    others.broken.push((file, e.message().to_owned()));
                    continue;
                }
            };
            for registry in table.get("registry").and_then(Value::as_array).into_iter().flatten() {
                let name = registry.get("prefix").or(registry.get("location")).and_then(Value::as_str);
                others.prefixes.extend(name.map(|name| (name.to_owned(), file.clone())));
            }
        }
        others
    }

    /// The registries of the settings that nobody else configured.
    pub fn free<'a>(&self, settings: &'a Settings) -> Vec<&'a str> {
        let registries = settings.crio_registries.iter().map(String::as_str);
        registries.filter(|registry| !self.prefixes.contains_key(*registry)).collect()
    }
}
