//! Programs that come as Debian packages.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail};

use crate::lock::lock;

/// What the maintainer scripts of packages ask before they start a service.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Makes sure that these Debian packages are installed. No service that they bring is started.
///
/// # Errors
///
/// Where packages are missing and this is not root on a Debian-like system, or they cannot be installed.
pub fn debian(packages: &[&str]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    if !rustix::process::geteuid().is_root() {
        bail!("missing packages; as root: {by_hand}");
    }
    let cache = crate::cache_dir()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let _held = lock(&cache.join("apt.lock"), || eprintln!("another process installs packages; waiting"))?;
    let _quiet = NoServices::new()?;
    eprintln!("installing {}", missing.join(" "));
    // The lists may be absent (a fresh image) or too old (the version they name is gone): both show as a failed install.
    let mut output = install(&missing)?;
    if !output.status.success() {
        apt(&["update"])?;
        output = install(&missing)?;
    }
    if !output.status.success() {
        bail!("`{by_hand}` failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let installed = |package: &&str| {
        let output = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}"]).arg(package).output();
        output.is_ok_and(|output| output.stdout == b"installed")
    };
    packages.iter().copied().filter(|package| !installed(package)).collect()
}

fn install(packages: &[&str]) -> Result<Output> {
    apt(&[&["install", "--yes", "--no-install-recommends"], packages].concat())
}

fn apt(arguments: &[&str]) -> Result<Output> {
    Command::new("apt-get")
        .args(["--quiet", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("cannot run apt-get: this needs a Debian-like system")
}

/// Keeps packages from starting their services, for as long as it lives.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<Self> {
        let ours = !Path::new(SERVICE_POLICY).exists();
        if ours {
            // 101: "action forbidden by policy".
            fs::write(SERVICE_POLICY, "#!/bin/sh\nexit 101\n")
                .and_then(|()| fs::set_permissions(SERVICE_POLICY, fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot write {SERVICE_POLICY}"))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(SERVICE_POLICY);
        }
    }
}
