//! Pointing the runtimes at the mirror, and back.

use std::path::{Path, PathBuf};

use crate::certs_d::adopt::{adopt, strip};
use crate::certs_d::directory::{Certificates, RegistryDir, certificates, place_of_default, registries};
use crate::certs_d::hosts::Hosts;
use crate::certs_d::remember::{Memory, Put};
use crate::containerd::Version;
use crate::disk::Disk;
use crate::{Error, Finding, Runtime, RuntimeKind, Settings, Severity, crio, examine};

/// What [`install`] did.
#[derive(Debug, Default)]
pub struct Installed {
    /// Files that were written, as the host sees them.
    pub written: Vec<PathBuf>,
    /// Files that were left as they are, and why.
    pub left: Vec<(PathBuf, String)>,
    /// CRI-O must be told to read its files again (SIGHUP, or `systemctl reload crio`); containerd reads them at each pull.
    pub reload_crio: bool,
    /// What keeps pulls from larder now.
    pub findings: Vec<Finding>,
}

/// Points every runtime at the mirror. May be called at each start and as often as wanted: it takes up what others
/// changed since, and gives back what is no longer needed. Never touches containerd's own configuration.
///
/// What cannot be written or adopted is in the answer, and does not keep the rest from being done.
///
/// # Errors
/// If what is remembered cannot be listed.
pub fn install(settings: &Settings, runtimes: &[Runtime]) -> Result<Installed, Error> {
    let memory = memory(settings);
    let mut installed = run(settings, runtimes, &memory)?;
    installed.findings.extend(examine(settings, runtimes));
    Ok(installed)
}

/// Puts back all that [`install`] changed: files, modes, owners and directories as they were. Where somebody changed a
/// file since, only larder's part goes. May be repeated if it was interrupted. Says what could not be put back.
///
/// # Errors
/// If what is remembered cannot be listed.
pub fn uninstall(settings: &Settings) -> Result<Vec<Finding>, Error> {
    take_back(settings, &memory(settings))
}

pub(crate) fn memory(settings: &Settings) -> Memory {
    Memory { root: settings.host_root.clone(), state: settings.state.clone(), disk: Disk::default() }
}

pub(crate) fn run(settings: &Settings, runtimes: &[Runtime], memory: &Memory) -> Result<Installed, Error> {
    let mut install = Install { settings, memory, done: Installed::default(), tried: Vec::new() };
    for runtime in runtimes {
        match &runtime.kind {
            RuntimeKind::Containerd(config) => install.containerd(runtime.version, config.roots()),
            RuntimeKind::Crio => install.crio(),
        }
    }
    if !runtimes.iter().any(uncertain) {
        install.give_back_the_rest()?;
    }
    Ok(install.done)
}

/// Whether where a runtime looks for files depends on what it does not say just now, as while it is started again.
fn uncertain(runtime: &Runtime) -> bool {
    let by_default = matches!(&runtime.kind, RuntimeKind::Containerd(config) if config.by_default);
    by_default && runtime.silent.is_some()
}

pub(crate) fn take_back(settings: &Settings, memory: &Memory) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    // Inner directories go before those that hold them, whichever record made them.
    let mut records = memory.all()?;
    records.sort_by_key(|record| std::cmp::Reverse(record.as_ref().map_or(0, |record| record.made.len())));
    for record in records {
        let result = record.and_then(|record| Ok((memory.restore(&record, without(settings))?, record)));
        match result {
            Ok((None, _)) => {}
            Ok((Some(why), record)) => findings.push(Finding::new(
                Severity::Warning,
                "left-alone",
                format!("{} was not put back: {why}", record.path.display()),
                "If it names larder's mirror, take that out by hand.",
            )),
            Err(e) => findings.push(cannot_write(&e)),
        }
    }
    if findings.is_empty() {
        memory.close()?;
    }
    Ok(findings)
}

/// Takes larder's part out of a file of either kind.
fn without(settings: &Settings) -> impl Fn(&[u8], bool) -> Option<Vec<u8>> {
    let mirror = settings.mirror_url();
    move |bytes, unmarked| strip(std::str::from_utf8(bytes).ok()?, &mirror, unmarked).map(String::into_bytes)
}

fn cannot_write(error: &Error) -> Finding {
    Finding::new(
        Severity::Error,
        "cannot-write",
        error.to_string(),
        "Let larder run as root, with the host's directory mounted for writing; on hosts that generate these files \
         (Talos, Bottlerocket, GKE) name http://127.0.0.1:7439 as the mirror in their own settings.",
    )
}

struct Install<'a> {
    settings: &'a Settings,
    memory: &'a Memory,
    done: Installed,
    tried: Vec<PathBuf>,
}

impl Install<'_> {
    fn containerd(&mut self, version: Option<Version>, roots: &[PathBuf]) {
        if roots.iter().any(|root| self.settings.state.starts_with(self.settings.on_host(root))) {
            self.done.findings.push(Finding::new(
                Severity::Error,
                "state-in-config-path",
                format!("{} is where containerd looks for registries", self.settings.state.display()),
                "Choose another directory for larder's state.",
            ));
            return;
        }
        if let Err(e) = self.hosts_files(version, roots) {
            self.done.findings.push(cannot_write(&e));
        }
    }

    fn hosts_files(&mut self, version: Option<Version>, roots: &[PathBuf]) -> Result<(), Error> {
        let root_of_default = place_of_default(&self.settings.host_root, roots)?;
        for root in roots {
            for registry in registries(&self.settings.host_root, root)? {
                self.registry(version, registry);
            }
        }
        if let Some(root) = root_of_default {
            let dir = root.join("_default");
            let seen = self.settings.on_host(&dir);
            self.registry(
                version,
                RegistryDir {
                    file: dir.join("hosts.toml"),
                    name: "_default".into(),
                    linked: seen.is_symlink(),
                    certificates: certificates(&seen),
                },
            );
        }
        Ok(())
    }

    fn registry(&mut self, version: Option<Version>, registry: RegistryDir) {
        if registry.linked {
            self.done.left.push((registry.file, "its directory is a symbolic link".into()));
            return;
        }
        let mirror = self.settings.mirror_url();
        self.put(&registry.file, |original| wanted(original, &registry.certificates, &mirror, version));
    }

    fn crio(&mut self) {
        let registries = crio::Others::read(&self.settings.host_root).free(self.settings);
        if registries.is_empty() {
            return;
        }
        let text = crio::text(&self.settings.mirror, &registries);
        self.done.reload_crio |= self.put(Path::new(crio::DROP_IN), |_| Ok(text.into_bytes()));
    }

    fn put(&mut self, file: &Path, wanted: impl FnOnce(Option<&[u8]>) -> Result<Vec<u8>, String>) -> bool {
        self.tried.push(file.to_owned());
        match self.memory.put(file, wanted, without(self.settings)) {
            Ok(Put::Written) => {
                self.done.written.push(file.to_owned());
                return true;
            }
            Ok(Put::Unchanged) => {}
            Ok(Put::Left(why)) => self.done.left.push((file.to_owned(), why)),
            Err(e) => self.done.findings.push(cannot_write(&e)),
        }
        false
    }

    /// What was changed once and is not read any more, such as after config_path moved, is put back.
    fn give_back_the_rest(&mut self) -> Result<(), Error> {
        for record in self.memory.all()? {
            let result = record.and_then(|record| {
                if self.tried.contains(&record.path) {
                    return Ok(());
                }
                self.done.reload_crio |= record.path == Path::new(crio::DROP_IN);
                self.memory.restore(&record, without(self.settings)).map(|_| ())
            });
            if let Err(e) = result {
                self.done.findings.push(cannot_write(&e));
            }
        }
        Ok(())
    }
}

/// What a hosts.toml must say. An empty one is for containerd the same as none: certificate files are read instead.
fn wanted(
    original: Option<&[u8]>,
    certificates: &Certificates,
    mirror: &str,
    version: Option<Version>,
) -> Result<Vec<u8>, String> {
    let text = match original {
        None | Some([]) => certificates.as_text(),
        Some(bytes) => std::str::from_utf8(bytes).map_err(|_| "it is no UTF-8".to_owned())?.to_owned(),
    };
    let hosts = Hosts::parse(&text).map_err(|e| e.to_string())?;
    if hosts.referrers && version.is_some_and(|version| version < Version { major: 2, minor: 2 }) {
        return Err("`referrers` voids it before containerd 2.2".into());
    }
    adopt(&text, mirror).map(String::into_bytes).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
