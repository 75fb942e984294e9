//! What a running containerd says of itself, asked below another root as an agent in a container does.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use node::{ConfigPath, ContainerdConfig, PullPath, Runtime, RuntimeKind, Settings, Version, detect, examine};
use programs::Program;
use tempfile::TempDir;
use testbed::wait_for;

const PATIENCE: Duration = Duration::from_secs(60);

/// containerd with all its files in a folder; ends with it.
struct Containerd {
    child: Child,
    host: TempDir,
}

impl Containerd {
    fn start(program: Program, config: &str) -> Result<Containerd> {
        let host = tempfile::tempdir()?;
        let root = host.path();
        let file = root.join("etc/containerd/config.toml");
        fs::create_dir_all(file.parent().context("it has a folder")?)?;
        fs::write(&file, text(root, config))?;
        let log = File::create(root.join("log"))?;
        let mut command = Command::new(programs::ensure(&[program])?.get(program));
        let child = command.arg("--config").arg(&file).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Containerd { child, host })
    }

    fn root(&self) -> &Path {
        self.host.path()
    }

    /// What is found of it, as soon as it answers.
    fn detected(&self) -> Result<(Runtime, ContainerdConfig)> {
        let runtime = tokio::runtime::Runtime::new()?;
        let found = wait_for("containerd answers", PATIENCE, || {
            let mut found = runtime.block_on(detect(self.root()))?;
            Ok(found.pop().filter(|runtime| runtime.silent.is_none()))
        });
        let log = || fs::read_to_string(self.root().join("log")).unwrap_or_default();
        let found = found.with_context(log)?;
        let RuntimeKind::Containerd(config) = found.kind.clone() else { anyhow::bail!("it is no containerd") };
        Ok((found, config))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration in which nothing lies outside `root`. The rest is what a test is about, after `version`.
fn text(root: &Path, config: &str) -> String {
    let (version, rest) = config.split_once('\n').unwrap_or((config, ""));
    let root = root.display();
    let cni = if version.ends_with('2') { "io.containerd.grpc.v1.cri" } else { "io.containerd.cri.v1.runtime" };
    format!(
        "{version}\nimports = []\nroot = '{root}/var/lib/containerd'\nstate = '{root}/run/containerd'\n\
         disabled_plugins = ['io.containerd.nri.v1.nri']\n\
         [grpc]\naddress = '{root}/run/containerd/containerd.sock'\n\
         [plugins.'io.containerd.internal.v1.opt']\npath = '{root}/opt'\n\
         [plugins.'{cni}'.cni]\nconf_dir = '{root}/etc/cni/net.d'\n{rest}"
    )
}

const NEW: &str = "version = 3\n";
const NEW_SET: &str = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/a'\n";

#[test]
fn its_version_tells_a_default_that_its_files_do_not() -> Result<()> {
    let containerd = Containerd::start(Program::Containerd, NEW)?;
    let (runtime, config) = containerd.detected()?;
    assert_eq!(runtime.version, Some(Version { major: 2, minor: 4 }));
    let both = ["/etc/containerd/certs.d", "/etc/docker/certs.d"].map(Into::into).to_vec();
    assert_eq!((&config.config_path, config.by_default), (&ConfigPath::Several(both), true));
    assert_eq!((config.pull_path, config.in_files), (PullPath::Transfer, None));
    let findings = examine(&Settings::new(containerd.root()), &[runtime]);
    assert_eq!(findings[0].code, "config-path-several");
    Ok(())
}

#[test]
fn what_holds_is_what_it_was_started_with() -> Result<()> {
    let containerd = Containerd::start(Program::Containerd, NEW_SET)?;
    let (_, config) = containerd.detected()?;
    assert_eq!((config.config_path, config.in_files), (ConfigPath::One("/a".into()), None));

    let file = containerd.root().join("etc/containerd/config.toml");
    fs::write(&file, fs::read_to_string(&file)?.replace("'/a'", "'/b'"))?;
    let (runtime, config) = containerd.detected()?;
    assert_eq!(config.config_path, ConfigPath::One("/a".into()));
    assert_eq!(config.in_files, Some(ConfigPath::One("/b".into())));
    let findings = examine(&Settings::new(containerd.root()), &[runtime]);
    ensure!(findings.iter().any(|finding| finding.code == "config-path-not-in-force"), "{findings:?}");
    Ok(())
}

#[test]
fn the_older_one_tells_its_version() -> Result<()> {
    let containerd = Containerd::start(Program::Containerd17, "version = 2\n")?;
    let (runtime, config) = containerd.detected()?;
    assert_eq!(runtime.version, Some(Version { major: 1, minor: 7 }));
    assert_eq!((config.config_path, config.pull_path), (ConfigPath::NotSet, PullPath::Local));
    Ok(())
}
