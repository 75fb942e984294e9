use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::command::run;

/// A file system that a test mounted below a folder of its own. Unmounted when dropped, and its loop device freed.
pub struct Volume {
    dir: TempDir,
    mounted: bool,
}

/// Says that a test needs root where this is somebody else.
///
/// # Panics
/// If this process is not root's.
pub fn need_root() {
    assert!(rustix::process::geteuid().is_root(), "this test mounts file systems: run it as root");
}

impl Volume {
    /// A file system in memory, such as `size=8m`.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn tmpfs(options: &str) -> anyhow::Result<Volume> {
        Volume::mount(&["-t", "tmpfs", "-o", options, "tmpfs"])
    }

    /// The ext4 file system in an image.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn image(image: &Path, options: &str) -> anyhow::Result<Volume> {
        let image = image.to_str().context("paths of tests are text")?;
        Volume::mount(&["-t", "ext4", "-o", &format!("loop,{options}"), image])
    }

    fn mount(arguments: &[&str]) -> anyhow::Result<Volume> {
        need_root();
        let mut volume = Volume { dir: tempfile::Builder::new().prefix("larder-volume-").tempdir()?, mounted: false };
        fs::create_dir(volume.path())?;
        run(Command::new("mount").args(arguments).arg(volume.path()))?;
        volume.mounted = true;
        Ok(volume)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    /// The folder for a store in it.
    pub fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// Takes up space with a file until so many bytes are left.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn fill_but(&self, left: u64) -> anyhow::Result<()> {
        let stat = rustix::fs::statvfs(self.path())?;
        let free = (stat.f_bavail * stat.f_frsize).saturating_sub(left);
        let file = fs::File::create(self.path().join("ballast"))?;
        Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free)?)
    }

    /// Gives that space back.
    pub fn free(&self) {
        let _ = fs::remove_file(self.path().join("ballast"));
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if !self.mounted {
            return;
        }
        let umount = |how: &[&str]| run(Command::new("umount").args(how).arg(self.path()));
        // Lazily where a failed test still has something open.
        if umount(&["-q"]).is_err() {
            let _ = umount(&["-l", "-q"]);
        }
    }
}

/// Makes an image with an ext4 file system in it.
///
/// # Errors
/// The image cannot be made.
pub fn ext4_image(path: &Path, bytes: u64, options: &[&str]) -> anyhow::Result<()> {
    programs::debian(&["e2fsprogs"])?;
    fs::File::create(path)?.set_len(bytes)?;
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).args(options).arg(path))?;
    Ok(())
}

/// Runs `larder scrub` and gives its report.
///
/// # Errors
/// It cannot be run, or ends with something else than a report.
pub fn scrub(store: &Path) -> anyhow::Result<serde_json::Value> {
    let output = Command::new(crate::Larder::binary()).args(["scrub", "-o", "json", "--store"]).arg(store).output()?;
    if !matches!(output.status.code(), Some(0 | 1)) {
        bail!("larder scrub: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("larder scrub printed no report")
}
