//! larder itself: the binary of this workspace, its container image, and its chart on a cluster.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use larder_image::{Image, Program, Root};
use tempfile::TempDir;

use crate::{Cluster, Helm};

/// The namespace that it is installed into.
pub const NAMESPACE: &str = "larder";

/// The origin that has its image, and the repository there.
const ORIGIN: &str = "quay.io";
const REPOSITORY: &str = "acme/larder";

/// What its image is called in a cluster, without a tag.
#[must_use]
pub fn image() -> String {
    format!("{ORIGIN}/{REPOSITORY}")
}

/// The binary of this workspace, built as its tests are if its sources have changed; `LARDER_BIN` names another.
///
/// # Panics
///
/// It cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("LARDER_BIN") {
            return path.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "-q", "--workspace", "--bin", "larder"])
            .current_dir(workspace())
            .status();
        assert!(built.is_ok_and(|status| status.success()), "larder cannot be built");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
        target.join("debug/larder")
    })
}

/// The folder of its chart.
#[must_use]
pub fn chart() -> PathBuf {
    workspace().join("chart/larder")
}

/// The file of all that its chart comes to, for those without helm.
#[must_use]
pub fn manifests() -> PathBuf {
    workspace().join("packaging/manifests/larder.yaml")
}

/// Makes its image as `larder-image` does, with the authorities of the cluster, and pushes it under these tags, each of another
/// digest.
///
/// # Errors
///
/// The binary cannot be built, or the image not be made or pushed.
pub fn push(cluster: &Cluster, tags: &[&str]) -> Result<()> {
    let dir = TempDir::new()?;
    let archive = dir.path().join("larder.tar");
    for (number, tag) in tags.iter().enumerate() {
        let root = Root::of(Program::read(binary())?, &cluster.authority())?;
        let image = Image { root, name: format!("{}:{tag}", image()), created: Some(number as u64) };
        let mut out = BufWriter::new(File::create(&archive)?);
        image.archive(&mut out)?;
        out.into_inner().context("cannot write the archive")?;
        cluster.origin(ORIGIN)?.push_archive(&format!("{REPOSITORY}:{tag}"), &archive)?;
    }
    Ok(())
}

/// Installs its chart, or upgrades to it, with the image of this tag and these values, and waits until all of it is ready. There are no
/// volumes in these clusters: the registry's store goes with its pod. Their nodes share this machine's disk, however full that is.
///
/// # Errors
///
/// helm fails, or something does not become ready in four minutes.
pub fn release(cluster: &Cluster, tag: &str, values: &[&str]) -> Result<()> {
    let (chart, image) = (chart(), format!("image.repository={},image.tag={tag}", image()));
    let chart = chart.to_str().context("its path is text")?;
    let mut words = vec!["upgrade", "--install", "larder", chart, "--namespace", NAMESPACE, "--create-namespace"];
    words.extend(["--wait", "--timeout", "4m", "--set", "registry.persistence.enabled=false", "--set-string", &image]);
    words.extend(["--set-string", "node.config.node.cluster.keep_free=0%"]);
    words.extend(values.iter().flat_map(|value| ["--set", value]));
    Helm::new()?.at(cluster.kubectl().config()).run(&words).map(drop)
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("testing/testbed is in it")
}
