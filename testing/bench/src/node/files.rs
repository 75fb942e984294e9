//! nginx on a node, with images as plain files: what no mirror can be faster than.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use testbed::{Launch, Machine, wait_for};

use crate::client::Client;
use crate::server::nginx_config;

/// Where it keeps what it has.
const FOLDER: &str = "/var/lib/bench";
const PORT: u16 = 8080;
/// The type of every manifest that the testbed makes for one platform.
const MANIFESTS: &str = "location ~ /manifests/ { default_type application/vnd.oci.image.manifest.v1+json; } ";

/// nginx on a machine.
pub(super) struct Files<'a> {
    machine: &'a Machine,
}

impl<'a> Files<'a> {
    /// Starts it, unless it runs.
    pub(super) fn start(machine: &'a Machine) -> Result<Files<'a>> {
        let files = Files { machine };
        if machine.process("nginx").is_ok() {
            return Ok(files);
        }
        let config = format!("{FOLDER}/nginx.conf");
        machine.write(&config, &nginx_config(Path::new(FOLDER), SocketAddr::from(([0, 0, 0, 0], PORT)), MANIFESTS))?;
        fs::create_dir_all(machine.path(FOLDER).join("files"))?;
        let launch = Launch::new("/usr/sbin/nginx").args(["-p", FOLDER, "-c", &config, "-g", "daemon off;"]);
        let process = machine.spawn("nginx", launch)?;
        wait_for("nginx listens", Duration::from_secs(20), || {
            process.require_running()?;
            Ok(machine.in_network(|| Client::connect(files.address()))?.ok())
        })?;
        Ok(files)
    }

    /// Where it is found by every machine.
    pub(super) fn address(&self) -> SocketAddr {
        (self.machine.address(), PORT).into()
    }

    /// Keeps what the machine's mirror has of an image: its manifest, also by its tag, and the blobs that it names.
    pub(super) fn keep(&self, mirror: SocketAddr, repository: &str, tag: &str, digest: &str) -> Result<()> {
        let manifest = self.take(mirror, &format!("/v2/{repository}/manifests/{digest}"))?;
        let tagged = manifest.parent().context("it is in a folder")?.join(tag);
        fs::copy(&manifest, tagged)?;
        let manifest: Value = serde_json::from_slice(&fs::read(&manifest)?)?;
        let layers = manifest["layers"].as_array().context("manifests have layers")?;
        for blob in layers.iter().chain([&manifest["config"]]) {
            let digest = blob["digest"].as_str().context("blobs have digests")?;
            self.take(mirror, &format!("/v2/{repository}/blobs/{digest}"))?;
        }
        Ok(())
    }

    fn take(&self, mirror: SocketAddr, path: &str) -> Result<std::path::PathBuf> {
        let kept = self.machine.path(FOLDER).join("files").join(path.trim_start_matches('/'));
        get_into(self.machine, mirror, &format!("{path}?ns=docker.io"), &kept)?;
        Ok(kept)
    }
}

/// Has a machine get something by HTTP into a file, whose folder is made.
pub(super) fn get_into(machine: &Machine, from: SocketAddr, path: &str, into: &Path) -> Result<()> {
    fs::create_dir_all(into.parent().context("files have a folder")?)?;
    let mut file = File::create(into).with_context(|| format!("cannot create {}", into.display()))?;
    let taken = machine.in_network(|| Client::connect(from)?.get(path, |bytes| file.write_all(bytes).is_ok()))??;
    if taken.status != 200 {
        bail!("{from}{path} gives {}", taken.status);
    }
    Ok(())
}
