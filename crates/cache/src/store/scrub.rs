use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use oci::Digest;
use serde::Serialize;

use super::disk::DiskStore;
use super::{StoreError, seal};

/// What a scrub found.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubReport {
    /// Blobs hashed.
    pub blobs: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Blobs that were right but had lost their seal.
    pub resealed: u64,
    /// Blobs that were wrong or unreadable, and were set aside.
    pub quarantined: Vec<Digest>,
    /// Records of content that is no longer there, removed.
    pub records_removed: u64,
}

/// How far a scrub is.
#[derive(Clone, Copy, Debug)]
pub struct ScrubProgress {
    /// Blobs hashed so far.
    pub blobs: u64,
    /// Bytes hashed so far.
    pub bytes: u64,
    /// Blobs in all, when the scrub began.
    pub blobs_total: u64,
    /// Bytes in all, when the scrub began.
    pub bytes_total: u64,
}

/// Hashes every blob of a store at full speed and sets aside what is wrong. Works beside a process that serves the store.
/// Blocks.
pub fn scrub(store: &DiskStore, progress: impl FnMut(ScrubProgress)) -> Result<ScrubReport, StoreError> {
    scrub_paced(store, u64::MAX, progress)
}

pub(super) fn scrub_paced(
    store: &DiskStore,
    bytes_per_second: u64,
    mut progress: impl FnMut(ScrubProgress),
) -> Result<ScrubReport, StoreError> {
    let mut all = Vec::new();
    let mut bytes_total = 0;
    store.each_blob(|digest, stat| {
        all.push(digest);
        bytes_total += stat.st_size as u64;
    })?;
    let begun = Instant::now();
    let mut report = ScrubReport::default();
    for digest in &all {
        let Ok(Some((file, stat))) = store.open_file(digest) else { continue };
        let hashed = seal::hash(&file, digest, |bytes| {
            report.bytes += bytes;
            progress(ScrubProgress {
                blobs: report.blobs,
                bytes: report.bytes,
                blobs_total: all.len() as u64,
                bytes_total,
            });
            let due = Duration::from_secs_f64(report.bytes as f64 / bytes_per_second as f64);
            if let Some(wait) = due.checked_sub(begun.elapsed()) {
                std::thread::sleep(wait);
            }
        });
        report.blobs += 1;
        match hashed {
            Ok(found) if found == *digest => {
                if !seal::is_sealed(&stat, digest) {
                    report.resealed += 1;
                    let _ = seal::apply(&file, digest, stat.st_size as u64);
                }
            }
            Ok(_) => {
                if store.set_aside(digest, Some(&stat), "its bytes have another digest") {
                    report.quarantined.push(*digest);
                }
            }
            Err(error) => {
                tracing::warn!(%digest, %error, "a blob cannot be read");
                if store.set_aside(digest, Some(&stat), "it cannot be read") {
                    report.quarantined.push(*digest);
                }
            }
        }
    }
    sweep(store, &store.layout.root.join("repositories"), &mut report);
    Ok(report)
}

/// How long a list, or that a repository is public, is kept after it was last written.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Removes records below `folder` that serve nothing any more: of what eviction has taken, and of what nobody has asked for
/// in a long time; and the folders that are empty then. If one is removed by mistake, the next request asks the origin once.
fn sweep(store: &DiskStore, folder: &Path, report: &mut ScrubReport) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep(store, &path, report);
            // Only an empty one goes. Who writes into it at this moment makes it anew.
            let _ = fs::remove_dir(&path);
        } else if is_of_no_use(store, &path) && fs::remove_file(&path).is_ok() {
            report.records_removed += 1;
        }
    }
}

fn is_of_no_use(store: &DiskStore, path: &Path) -> bool {
    let age = fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
    // What cannot be looked at is not gone.
    let is_gone = |digest: Option<Digest>| {
        if digest.is_some_and(|digest| store.shelved.as_ref().is_some_and(|shelved| shelved.keeps(&digest))) {
            return false;
        }
        let looked = digest.map(|digest| fs::symlink_metadata(store.blob_path(&digest)));
        looked.is_none_or(|looked| looked.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound))
    };
    let mut parts = path.iter().rev().filter_map(|part| part.to_str());
    let (name, folder, kind) = (parts.next(), parts.next(), parts.next());
    match (kind, folder, name) {
        (Some("_manifests" | "_blobs"), Some(algorithm), Some(hex)) => is_gone(Digest::from_parts(algorithm, hex).ok()),
        (_, Some("_tags"), _) => is_gone(tagged(path)),
        (Some("_documents"), _, _) | (_, _, Some("_public" | "_shared")) => age.is_some_and(|age| age > UNUSED),
        _ => false,
    }
}

/// What a tag's record names.
fn tagged(path: &Path) -> Option<Digest> {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    record.get("digest")?.as_str()?.parse().ok()
}
