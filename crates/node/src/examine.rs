//! Why pulls would not go through larder, as far as configuration tells.

use std::path::{Path, PathBuf};

use crate::certs_d::directory::{place_of_default, registries};
use crate::certs_d::hosts::{Hosts, HostsError};
use crate::certs_d::remember::{Memory, Record};
use crate::containerd::{Version, drop_in};
use crate::disk::{Seen, look};
use crate::install::memory;
use crate::{ConfigPath, ContainerdConfig, Finding, Runtime, RuntimeKind, Settings, Severity, crio};

const CERTS_D: &str = "/etc/containerd/certs.d";
const INSTALL: &str = "Start `larder node` on this host, or start it again: it writes the file.";

/// All that is to be said of the runtimes' configuration, worst first. Changes nothing; checks of the agent, peers and
/// clocks are others' and their findings can be put beside these.
pub fn examine(settings: &Settings, runtimes: &[Runtime]) -> Vec<Finding> {
    let mut examination = Examination { settings, memory: memory(settings), findings: Vec::new() };
    if runtimes.is_empty() {
        examination.say(
            Severity::Error,
            "unknown-runtime",
            format!("neither containerd nor CRI-O was found under {}", settings.host_root.display()),
            "Give the host's root directory; other runtimes are not supported.",
        );
    }
    for runtime in runtimes {
        if let Some(why) = &runtime.silent {
            examination.say(
                Severity::Info,
                "runtime-silent",
                format!("containerd did not say how it runs ({why}), so what its files say counts"),
                "If it runs, let larder use its socket: as root, and in a container with the host's /run below the host's root.",
            );
        }
        match &runtime.kind {
            RuntimeKind::Containerd(config) => examination.containerd(runtime.version, config),
            RuntimeKind::Crio => examination.crio(),
        }
    }
    examination.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    examination.findings
}

struct Examination<'a> {
    settings: &'a Settings,
    memory: Memory,
    findings: Vec<Finding>,
}

impl Examination<'_> {
    fn say(&mut self, severity: Severity, code: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding::new(severity, code, what, remedy));
    }

    fn containerd(&mut self, version: Option<Version>, config: &ContainerdConfig) {
        self.config_path(version, config);
        if config.discard_unpacked_layers {
            self.say(
                Severity::Info,
                "discard-unpacked-layers",
                "containerd throws layers away once they are unpacked, so peers are served from larder's own store",
                "",
            );
        }
        let roots = config.roots();
        for root in roots {
            let found = match registries(&self.settings.host_root, root) {
                Ok(found) => found,
                Err(e) => {
                    self.say(Severity::Error, "unreadable", e.to_string(), "Let larder read it: it must run as root.");
                    continue;
                }
            };
            for registry in found {
                self.hosts_file(&registry.file, Some(&registry.name), version, registry.linked);
            }
        }
        if let Ok(Some(root)) = place_of_default(&self.settings.host_root, roots) {
            self.hosts_file(&root.join("_default/hosts.toml"), None, version, false);
        }
    }

    fn config_path(&mut self, version: Option<Version>, config: &ContainerdConfig) {
        if let Some(in_files) = &config.in_files
            && self.not_as_in_files(config, in_files)
        {
            return;
        }
        let file = config.files.first().map_or(Path::new("/etc/containerd/config.toml"), PathBuf::as_path).display();
        let (severity, code, what) = match &config.config_path {
            ConfigPath::One(_) => return,
            ConfigPath::NotSet => (
                Severity::Error,
                "config-path-missing",
                "containerd reads no hosts.toml: `config_path` is not set".into(),
            ),
            ConfigPath::Mirrors => (
                Severity::Error,
                "registry-mirrors",
                "containerd uses the old `registry.mirrors` and reads no hosts.toml; these mirrors must move into \
                 hosts.toml files first, as both cannot be set"
                    .into(),
            ),
            ConfigPath::Several(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                let (severity, so) = match config.roots() {
                    [] => (Severity::Error, "containerd takes them for one here, so it finds no hosts.toml"),
                    _ => (
                        Severity::Warning,
                        "this works only as long as containerd pulls by its local path, as it does now (because of \
                         `discard_unpacked_layers` or a similar setting)",
                    ),
                };
                let by = if config.by_default { "by default" } else { "by its configuration" };
                (
                    severity,
                    "config-path-several",
                    format!("containerd has several directories as `config_path` {by} ({}): {so}", paths.join(", ")),
                )
            }
        };
        let how = match version {
            Some(version) if version.major >= 2 => {
                "write this into a file that the `imports` of it name, such as /etc/containerd/conf.d/larder.toml"
            }
            _ => "set this in it, beside what it says already",
        };
        let certs_d = match &config.config_path {
            ConfigPath::Several(paths) => paths.first().map_or(Path::new(CERTS_D), PathBuf::as_path),
            _ => Path::new(CERTS_D),
        };
        let text = drop_in(version, certs_d);
        self.say(
            severity,
            code,
            what,
            format!("larder does not change {file} itself: {how}, and restart containerd:\n\n{text}"),
        );
    }

    /// containerd runs with another `config_path` than its files say. Whether that is all there is to say of it.
    fn not_as_in_files(&mut self, config: &ContainerdConfig, in_files: &ConfigPath) -> bool {
        let file = config.files.first().map_or(Path::new("/etc/containerd/config.toml"), PathBuf::as_path).display();
        let works = |path: &ConfigPath| matches!(path, ConfigPath::One(_));
        let what = format!("containerd runs with {} as `config_path`, and {file} says {in_files}", config.config_path);
        let (severity, remedy) = match (works(&config.config_path), works(in_files)) {
            (false, false) => return false,
            (false, true) => (Severity::Error, "Restart containerd: it reads its files when it starts."),
            (true, true) => (Severity::Info, "Nothing needs to be done before containerd is restarted."),
            (true, false) => (
                Severity::Warning,
                "When containerd is restarted, it finds no hosts.toml any more; set `config_path` to one directory.",
            ),
        };
        self.say(severity, "config-path-not-in-force", what, remedy);
        true
    }

    /// One file; `registry` is whose, or nothing for `_default`.
    fn hosts_file(&mut self, file: &Path, registry: Option<&str>, version: Option<Version>, linked: bool) {
        let shown = file.display();
        let whose =
            registry.map_or("all registries without a directory of their own".into(), |name| format!("`{name}`"));
        let severity = if registry.is_some() { Severity::Warning } else { Severity::Error };
        let known = self.memory.load(file).unwrap_or_else(|e| {
            self.findings.push(Finding::new(
                Severity::Warning,
                "memory-broken",
                e.to_string(),
                "Compare the file with what it should be.",
            ));
            None
        });
        let direct = |why: String| format!("pulls from {whose} do not go through larder: {why}");
        let bytes = match look(&self.settings.on_host(file)) {
            Seen::Other(why) => {
                let remedy = "Make it a plain file, or put larder's mirror first where it comes from.";
                self.say(severity, "left-alone", format!("{shown} is left as it is: {why}"), remedy);
                return;
            }
            Seen::Absent => Vec::new(),
            Seen::File(bytes, _) => bytes,
        };
        if bytes.is_empty() {
            let (code, why) = match (registry, known) {
                (_, Some(_)) => ("hosts-file-missing", format!("somebody removed {shown}")),
                (Some(_), None) => {
                    ("empty-directory", format!("their directory has no hosts.toml and hides `_default` ({shown})"))
                }
                (None, None) => ("default-missing", format!("there is no {shown}")),
            };
            self.say(severity, code, direct(why), INSTALL);
            return;
        }
        let text = String::from_utf8_lossy(&bytes);
        let old = version.is_some_and(|version| version < Version { major: 2, minor: 2 });
        let hosts = match Hosts::parse(&text) {
            Ok(hosts) if hosts.referrers && old => Err(HostsError::Capability("referrers".into())),
            other => other,
        };
        let hosts = match hosts {
            Ok(hosts) => hosts,
            Err(e) => {
                let code = match &e {
                    HostsError::Toml(_) => "broken-toml",
                    HostsError::Capability(_) => "unknown-capability",
                };
                let why = format!("containerd does not read {shown}: {e}");
                self.say(severity, code, direct(why), "Correct the file; larder takes it up at its next start.");
                return;
            }
        };
        let mirror = self.settings.mirror_url();
        match hosts.position(&mirror) {
            Some(0) => {
                if known.is_some_and(|known: Record| !known.accounts_for(Some(&bytes))) {
                    self.say(
                        Severity::Info,
                        "hosts-file-changed",
                        format!("somebody changed {shown} since larder wrote it; larder's mirror is still first"),
                        "Nothing needs to be done: larder takes it up at its next start.",
                    );
                }
            }
            _ if hosts.urls.is_empty() => {
                self.say(severity, "larder-not-named", direct(format!("{shown} does not name its mirror")), INSTALL);
            }
            _ => {
                let why = format!("{shown} names {} first", hosts.urls[0]);
                self.say(severity, "foreign-mirror-first", direct(why), INSTALL);
            }
        }
        if linked {
            self.say(
                Severity::Info,
                "left-alone",
                format!("the directory of {shown} is a symbolic link, so larder does not write there"),
                "",
            );
        }
    }

    fn crio(&mut self) {
        let others = crio::Others::read(&self.settings.host_root);
        for (file, why) in &others.broken {
            let what = format!("{} is no valid TOML: {why}", file.display());
            self.say(Severity::Warning, "broken-toml", what, "Correct it: CRI-O reads none of its registries.");
        }
        if self.settings.crio_registries.is_empty() {
            self.say(
                Severity::Error,
                "crio-no-registries",
                "CRI-O goes to larder only for registries that are listed, and none is",
                "List the registries that images come from in larder's configuration.",
            );
            return;
        }
        for registry in &self.settings.crio_registries {
            let own = format!("{registry}/");
            for (prefix, file) in &others.prefixes {
                if prefix == registry || prefix.starts_with(&own) {
                    self.say(
                        Severity::Warning,
                        "crio-shadowed",
                        format!("images from `{prefix}` follow {} and not larder's file", file.display()),
                        format!(
                            "Add a [[registry.mirror]] with location \"{}/{}\" and insecure = true to it, and reload CRI-O.",
                            self.settings.mirror,
                            prefix.replacen(':', "__", 1)
                        ),
                    );
                }
            }
        }
        let free = others.free(self.settings);
        if free.is_empty() {
            return;
        }
        let file = Path::new(crio::DROP_IN);
        match look(&self.settings.on_host(file)) {
            Seen::File(bytes, _) if bytes == crio::text(&self.settings.mirror, &free).as_bytes() => {}
            Seen::File(..) => {
                let what = format!("{} is not what larder would write", file.display());
                self.say(Severity::Warning, "crio-drop-in-changed", what, INSTALL);
            }
            _ => self.say(Severity::Error, "crio-drop-in-missing", format!("there is no {}", file.display()), INSTALL),
        }
    }
}
