//! config.toml and what it imports: what holds in the end for pulls.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Version;
use super::running::Running;
use crate::Error;
use crate::settings::under;

/// What containerd 2.2 and later takes for `config_path` where nothing is said.
const DEFAULT: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";

/// Where containerd looks for hosts.toml files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigPath {
    /// In one directory, in every version and mode.
    One(PathBuf),
    /// In several, one after the other; only the local pull path finds anything there.
    Several(Vec<PathBuf>),
    /// Nowhere.
    NotSet,
    /// Nowhere: the old `registry.mirrors` are in use.
    Mirrors,
}

impl fmt::Display for ConfigPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &PathBuf| path.display().to_string();
        match self {
            ConfigPath::One(path) => write!(f, "{}", path.display()),
            ConfigPath::Several(paths) => f.write_str(&paths.iter().map(shown).collect::<Vec<_>>().join(":")),
            ConfigPath::NotSet | ConfigPath::Mirrors => f.write_str("none"),
        }
    }
}

/// Which code of containerd pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPath {
    /// In the CRI plugin: always before 2.1, and by some settings after.
    Local,
    /// The transfer service. It takes `a:b` for one directory.
    Transfer,
}

/// What holds for pulls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerdConfig {
    /// Where hosts.toml files are looked for.
    pub config_path: ConfigPath,
    /// Whether nobody set it and the version's default holds.
    pub by_default: bool,
    /// What the files say, where the running containerd says something else: it has not been restarted since they
    /// were changed, or reads others.
    pub in_files: Option<ConfigPath>,
    /// Layers are not kept in the content store after unpacking.
    pub discard_unpacked_layers: bool,
    /// Which code pulls.
    pub pull_path: PullPath,
    /// Its `root`, as the host sees it: content and snapshots are below.
    pub root: PathBuf,
    /// All files that were read, as the host sees them, the first one first.
    pub files: Vec<PathBuf>,
}

impl ContainerdConfig {
    /// The folder of its content store, as the host sees it.
    pub fn content(&self) -> PathBuf {
        self.root.join("io.containerd.content.v1.content")
    }

    /// The directories in which containerd finds hosts.toml files as it runs, in its order; none if it finds none.
    pub fn roots(&self) -> &[PathBuf] {
        match (&self.config_path, self.pull_path) {
            (ConfigPath::One(root), _) => std::slice::from_ref(root),
            (ConfigPath::Several(roots), PullPath::Local) => roots,
            _ => &[],
        }
    }
}

/// The settings of one file, or of all; nothing where nothing is said.
#[derive(Debug, Default, Clone)]
struct Said {
    config_path: Option<String>,
    mirrors: bool,
    discard: Option<bool>,
    root: Option<PathBuf>,
    /// Settings that force the local path if they are other than the default.
    local: [Option<bool>; 4],
    has_plugin: bool,
}

impl Said {
    fn read(table: &Table) -> Said {
        let version = table.get("version").and_then(Value::as_integer).unwrap_or(1);
        let name = match version {
            ..=1 => "cri",
            2 => "io.containerd.grpc.v1.cri",
            _ => "io.containerd.cri.v1.images",
        };
        let root = table.get("root").and_then(Value::as_str).map(PathBuf::from);
        let Some(plugin) = table.get("plugins").and_then(|plugins| plugins.get(name)) else {
            return Said { root, ..Said::default() };
        };
        let empty = Value::Table(Table::new());
        // Before version 3 what concerns snapshots and unpacking was in a table of its own.
        let unpacking = if version <= 2 { plugin.get("containerd").unwrap_or(&empty) } else { plugin };
        let registry = plugin.get("registry").unwrap_or(&empty);
        let filled = |key: &str| registry.get(key).and_then(Value::as_table).is_some_and(|table| !table.is_empty());
        let flag = |table: &Value, key: &str| table.get(key).and_then(Value::as_bool);
        let others = filled("mirrors") || filled("configs") || filled("auths");
        Said {
            config_path: registry.get("config_path").and_then(Value::as_str).map(str::to_owned),
            mirrors: filled("mirrors"),
            discard: flag(unpacking, "discard_unpacked_layers"),
            root,
            local: [
                flag(plugin, "use_local_image_pull").or(others.then_some(true)),
                flag(unpacking, "disable_snapshot_annotations").map(|disabled| !disabled),
                plugin.get("max_concurrent_downloads").and_then(Value::as_integer).map(|n| n != 3),
                flag(plugin, "image_pull_with_sync_fs"),
            ],
            has_plugin: true,
        }
    }

    fn imported(self, later: Said, replaces: bool) -> Said {
        let root = later.root.clone().or(self.root);
        if replaces && later.has_plugin {
            return Said { root, ..later };
        }
        let mut local = self.local;
        for (mine, theirs) in local.iter_mut().zip(later.local) {
            *mine = theirs.or(*mine);
        }
        Said {
            config_path: later.config_path.or(self.config_path),
            mirrors: self.mirrors || later.mirrors,
            discard: later.discard.or(self.discard),
            root,
            local,
            has_plugin: self.has_plugin || later.has_plugin,
        }
    }
}

/// Reads `file` (as the host sees it) and what it imports. A file that is not there says nothing.
///
/// Without a version, a file of version 3 or later is taken for containerd 2, any other for 1.7.
pub(crate) fn read(
    host_root: &Path,
    file: &Path,
    usual_root: &Path,
    version: Option<Version>,
    running: &Running,
) -> Result<ContainerdConfig, Error> {
    let main = parse(host_root, file)?.unwrap_or_default();
    let file_version = main.get("version").and_then(Value::as_integer).unwrap_or(1);
    let version = version.unwrap_or(Version { major: if file_version >= 3 { 2 } else { 1 }, minor: 0 });
    let mut files = Vec::new();
    let said = gather(host_root, file, version.major < 2, &mut files)?;

    let discard_unpacked_layers = running.discard_unpacked_layers.or(said.discard).unwrap_or(false);
    let local = discard_unpacked_layers || said.local.contains(&Some(true));
    let pull_path =
        if version < (Version { major: 2, minor: 1 }) || local { PullPath::Local } else { PullPath::Transfer };
    let by_default = said.config_path.as_deref().is_none_or(str::is_empty);
    let nowhere = if said.mirrors { ConfigPath::Mirrors } else { ConfigPath::NotSet };
    let in_files = match said.config_path.filter(|path| !path.is_empty()) {
        Some(path) => split(&path),
        None if !said.mirrors && version >= (Version { major: 2, minor: 2 }) => split(DEFAULT),
        None => nowhere.clone(),
    };
    let config_path = match running.registry_config_path.as_deref() {
        Some("") => nowhere,
        Some(path) => split(path),
        None => in_files.clone(),
    };
    let in_files = Some(in_files).filter(|in_files| *in_files != config_path);
    let root = said.root.unwrap_or_else(|| usual_root.to_owned());
    Ok(ContainerdConfig { config_path, by_default, in_files, discard_unpacked_layers, pull_path, root, files })
}

fn split(path: &str) -> ConfigPath {
    let mut parts: Vec<PathBuf> = path.split(':').filter(|part| !part.is_empty()).map(PathBuf::from).collect();
    match parts.len() {
        0 => ConfigPath::NotSet,
        1 => ConfigPath::One(parts.remove(0)),
        _ => ConfigPath::Several(parts),
    }
}

fn parse(host_root: &Path, file: &Path) -> Result<Option<Table>, Error> {
    let path = under(host_root, file);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &path)(e)),
    };
    text.parse().map(Some).map_err(|source| Error::Toml { path, source: Box::new(source) })
}

fn gather(host_root: &Path, file: &Path, replaces: bool, files: &mut Vec<PathBuf>) -> Result<Said, Error> {
    if files.contains(&file.to_owned()) {
        return Ok(Said::default());
    }
    let Some(table) = parse(host_root, file)? else { return Ok(Said::default()) };
    files.push(file.to_owned());
    let mut said = Said::read(&table);
    for import in table.get("imports").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let pattern = file.parent().unwrap_or(Path::new("/")).join(import);
        for path in matching(host_root, &pattern) {
            said = said.imported(gather(host_root, &path, replaces, files)?, replaces);
        }
    }
    Ok(said)
}

/// The files that a pattern means; `*` in its last part stands for anything.
fn matching(host_root: &Path, pattern: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (pattern.parent(), pattern.file_name().map(|name| name.to_string_lossy())) else {
        return Vec::new();
    };
    let Some((start, end)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let mut found: Vec<PathBuf> = fs::read_dir(under(host_root, dir))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end))
        .map(|name| dir.join(name))
        .collect();
    found.sort();
    found
}
