use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tar::{Builder, EntryType};

use crate::layer::{Layer, append, digest, header};
use crate::root::{Root, USER};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image to be written.
pub struct Image {
    /// Its file system.
    pub root: Root,
    /// What it is called where the archive is imported: with a registry and a tag.
    pub name: String,
    /// When it says that it was made, in seconds since 1970.
    pub created: Option<u64>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The digest of its manifest.
    pub digest: String,
}

/// The blobs of an archive, by digest.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let (digest, size) = (digest(&bytes), bytes.len());
        self.0.insert(digest.clone(), bytes);
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    fn add_json(&mut self, media_type: &str, value: &Value) -> Value {
        self.add(media_type, value.to_string().into_bytes())
    }
}

impl Image {
    /// Writes it as an OCI image layout (OCI image specification, image-layout.md) in a tar.
    ///
    /// # Errors
    /// `out` cannot be written, or the name has no tag.
    pub fn archive(&self, out: impl Write) -> Result<Written> {
        let (_, tag) =
            self.name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).context("the name needs a tag")?;
        let mut blobs = Blobs::default();
        let mut descriptor = self.manifest(&mut blobs)?;
        let written = Written { digest: descriptor["digest"].as_str().unwrap_or_default().to_owned() };
        descriptor["platform"] = json!({"os": "linux", "architecture": self.root.architecture});
        // The first is what tools of the specification go by, the second what containerd does.
        descriptor["annotations"] =
            json!({"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": self.name});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]});

        let mut tar = Builder::new(out);
        let folder = |tar: &mut Builder<_>, path| append(tar, header(EntryType::Directory, 0o755, 0, 0), path, &[]);
        let file = |tar: &mut Builder<_>, path: &str, bytes: &[u8]| {
            append(tar, header(EntryType::Regular, 0o644, 0, bytes.len() as u64), path, bytes)
        };
        file(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        file(&mut tar, "index.json", index.to_string().as_bytes())?;
        folder(&mut tar, "blobs")?;
        folder(&mut tar, "blobs/sha256")?;
        for (digest, bytes) in &blobs.0 {
            file(&mut tar, &format!("blobs/{}", digest.replace(':', "/")), bytes)?;
        }
        tar.finish()?;
        Ok(written)
    }

    fn manifest(&self, blobs: &mut Blobs) -> Result<Value> {
        let (mut layers, mut unpacked) = (Vec::new(), Vec::new());
        for entries in [&self.root.base, &self.root.program] {
            let layer = Layer::of(entries)?;
            unpacked.push(layer.diff_id);
            layers.push(blobs.add(LAYER, layer.bytes));
        }
        let mut config = json!({
            "os": "linux",
            "architecture": self.root.architecture,
            "config": {
                "User": format!("{USER}:{USER}"),
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
                "Entrypoint": ["/usr/local/bin/larder"],
                "WorkingDir": "/",
                "Labels": {
                    "org.opencontainers.image.title": "larder",
                    "org.opencontainers.image.description": "Keeps container images close to the nodes that run them",
                    "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                    "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                },
            },
            "rootfs": {"type": "layers", "diff_ids": unpacked},
        });
        if let Some(seconds) = self.created {
            config["created"] = json!(rfc3339(seconds));
        }
        let config = blobs.add_json(CONFIG, &config);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        Ok(blobs.add_json(MANIFEST, &manifest))
    }
}

/// A moment as RFC 3339 writes it, in UTC.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0, so that a leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_821_753), "2026-11-27T23:22:33Z");
    }
}
