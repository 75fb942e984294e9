//! The archive is what others take for an image, and always the same.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use image::{Image, Program, Root, Written};
use tempfile::TempDir;

const NAME: &str = "larder.example/larder:1.2.3";

/// A program that is linked with the C library, as larder is.
const LINKED: &str = "/usr/bin/id";

fn authorities(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("authorities.pem");
    fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")?;
    Ok(path)
}

fn archive(dir: &Path, binary: &Path, created: Option<u64>) -> Result<(Vec<u8>, Written)> {
    let root = Root::of(Program::read(binary)?, &authorities(dir)?)?;
    let mut bytes = Vec::new();
    let written = Image { root, name: NAME.to_owned(), created }.archive(&mut bytes)?;
    Ok((bytes, written))
}

#[test]
fn equal_inputs_give_equal_bytes() -> Result<()> {
    let (one, other) = (TempDir::new()?, TempDir::new()?);
    // Another place, another time, another owner's umask: the same.
    let copy = other.path().join("a-copy");
    fs::copy(LINKED, &copy)?;
    let (first, written) = archive(one.path(), Path::new(LINKED), None)?;
    let (second, _) = archive(other.path(), &copy, None)?;
    assert!(first == second, "the archives differ");
    let (dated, redated) = (archive(one.path(), &copy, Some(1))?, archive(one.path(), &copy, Some(2))?);
    assert_ne!(dated.1, redated.1, "the time is in it");
    assert_ne!(dated.1, written);
    Ok(())
}

#[test]
fn it_has_what_the_program_needs_and_runs() -> Result<()> {
    let dir = TempDir::new()?;
    let (bytes, _) = archive(dir.path(), Path::new(LINKED), None)?;
    let layout = dir.path().join("layout");
    tar::Archive::new(&bytes[..]).unpack(&layout)?;
    let json = |path: PathBuf| -> Result<serde_json::Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let blob = |descriptor: &serde_json::Value| -> Result<PathBuf> {
        let digest = descriptor["digest"].as_str().context("a digest")?;
        Ok(layout.join("blobs").join(digest.replace(':', "/")))
    };
    let index = json(layout.join("index.json"))?;
    let manifest = json(blob(&index["manifests"][0])?)?;
    let root = dir.path().join("root");
    for layer in manifest["layers"].as_array().context("layers")? {
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&fs::read(blob(layer)?)?[..]).read_to_end(&mut unpacked)?;
        let mut unpacked = tar::Archive::new(&unpacked[..]);
        unpacked.set_preserve_ownerships(false);
        unpacked.unpack(&root)?;
    }
    let config = json(blob(&manifest["config"])?)?;
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/local/bin/larder"]));
    // Nothing of the machine is in reach there. Only root may go there.
    let run = Command::new("chroot").arg(&root).args(["/usr/local/bin/larder", "-u", "larder"]).output()?;
    assert_eq!(String::from_utf8_lossy(&run.stdout).trim(), "65532", "{}", String::from_utf8_lossy(&run.stderr));
    Ok(())
}

#[test]
fn other_tools_take_it() -> Result<()> {
    programs::debian(&["skopeo"])?;
    let dir = TempDir::new()?;
    let (bytes, written) = archive(dir.path(), Path::new(LINKED), Some(1_700_000_000))?;
    let path = dir.path().join("larder.tar");
    fs::write(&path, bytes)?;
    let output = Command::new("skopeo").arg("inspect").arg(format!("oci-archive:{}:1.2.3", path.display())).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(seen["Digest"], written.digest);
    assert_eq!(seen["Created"], "2023-11-14T22:13:20Z");
    assert_eq!(seen["Layers"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[test]
fn what_is_no_program_or_no_authority_is_refused() -> Result<()> {
    let dir = TempDir::new()?;
    let script = dir.path().join("script");
    fs::write(&script, "#!/bin/sh\n")?;
    assert!(Program::read(&script).is_err());
    let empty = dir.path().join("empty");
    fs::write(&empty, "")?;
    assert!(Root::of(Program::read(Path::new(LINKED))?, &empty).is_err());
    Ok(())
}
