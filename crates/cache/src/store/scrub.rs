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
                store.set_aside(digest, "its bytes have another digest");
                report.quarantined.push(*digest);
            }
            Err(error) => {
                tracing::warn!(%digest, %error, "a blob cannot be read");
                store.set_aside(digest, "it cannot be read");
                report.quarantined.push(*digest);
            }
        }
    }
    sweep(store, &store.layout.root.join("repositories"), &mut report);
    Ok(report)
}

/// Removes the records of manifests and blobs that eviction has taken. If one is removed by mistake, because the blob
/// comes in at this very moment, the next request asks the origin once.
fn sweep(store: &DiskStore, folder: &Path, report: &mut ScrubReport) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        if name != "_manifests" && name != "_blobs" {
            sweep(store, &entry.path(), report);
            continue;
        }
        for algorithm in ["sha256", "sha512"] {
            for record in fs::read_dir(entry.path().join(algorithm)).into_iter().flatten().flatten() {
                let digest = record.file_name().to_str().and_then(|hex| Digest::from_parts(algorithm, hex).ok());
                let gone = digest.is_none_or(|digest| !store.blob_path(&digest).exists());
                if gone && fs::remove_file(record.path()).is_ok() {
                    report.records_removed += 1;
                }
            }
        }
    }
}
