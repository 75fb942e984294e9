use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use programs::{Program, ensure};
use tempfile::TempDir;

/// The real helm, with folders of its own.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    home: TempDir,
    kubeconfig: Option<PathBuf>,
}

impl Helm {
    /// Without a cluster.
    ///
    /// # Errors
    ///
    /// It cannot be built.
    pub fn new() -> Result<Self> {
        let programs = ensure(&[Program::Helm])?;
        Ok(Self { program: programs.get(Program::Helm).to_owned(), home: TempDir::new()?, kubeconfig: None })
    }

    /// For the cluster that this file leads to.
    #[must_use]
    pub fn at(self, kubeconfig: &Path) -> Self {
        Self { kubeconfig: Some(kubeconfig.to_owned()), ..self }
    }

    /// Runs it and gives what it printed.
    ///
    /// # Errors
    ///
    /// It fails; the error has what it complained about.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, self.home.path().join(folder));
        }
        // Without a cluster, none of this machine's is asked.
        command.env("KUBECONFIG", self.kubeconfig.as_deref().unwrap_or(Path::new("/dev/null")));
        let output = command.args(words).output().context("cannot run helm")?;
        if !output.status.success() {
            bail!("helm {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
