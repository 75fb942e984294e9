//! What the upstream has: repositories with blobs, manifests and tags.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use crate::source::Source;

/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image or index that was put into an upstream, and what it is made of.
#[derive(Clone, Debug, Serialize)]
pub struct Image {
    /// Digest of the manifest (or index).
    pub digest: String,
    /// Media type of the manifest.
    pub media_type: String,
    /// The manifest byte for byte.
    #[serde(skip)]
    pub bytes: Bytes,
    /// Digest of the configuration blob; empty for an index.
    pub config: String,
    /// Digests of the layers, in order; for an index, of its child manifests.
    pub layers: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Content {
    repos: HashMap<String, Repo>,
}

#[derive(Default)]
struct Repo {
    blobs: HashMap<String, Source>,
    manifests: HashMap<String, Manifest>,
    tags: BTreeMap<String, String>,
}

#[derive(Clone)]
pub(crate) struct Manifest {
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
    /// The digest it is known by; the one asked for where it was asked for by digest.
    pub(crate) digest: String,
}

impl Content {
    fn repo(&mut self, repo: &str) -> &mut Repo {
        self.repos.entry(repo.to_owned()).or_default()
    }

    pub(crate) fn put_blob(&mut self, repo: &str, digest: &str, source: Source) {
        self.repo(repo).blobs.insert(digest.to_owned(), source);
    }

    pub(crate) fn put_manifest(&mut self, repo: &str, tag: Option<&str>, media_type: &str, bytes: Bytes) -> String {
        let source = Source::bytes(bytes.clone());
        let digest = source.sha256();
        let repo = self.repo(repo);
        for digest in [source.sha512(), digest.clone()] {
            let manifest = Manifest { media_type: media_type.to_owned(), bytes: bytes.clone(), digest: digest.clone() };
            repo.manifests.insert(digest, manifest);
        }
        if let Some(tag) = tag {
            repo.tags.insert(tag.to_owned(), digest.clone());
        }
        digest
    }

    pub(crate) fn put_image(&mut self, repo: &str, tag: Option<&str>, layers: &[u64], seed: u64) -> Image {
        let layers: Vec<(String, u64)> = layers
            .iter()
            .enumerate()
            .map(|(number, size)| {
                let source = Source::layer(*size, seed.wrapping_mul(1000).wrapping_add(number as u64));
                let digest = source.sha256();
                self.put_blob(repo, &digest, source);
                (digest, *size)
            })
            .collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": { "Labels": { "seed": seed.to_string() } },
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|(digest, _)| digest).collect::<Vec<_>>() },
        });
        let config = Source::bytes(config.to_string());
        let config_digest = config.sha256();
        let descriptor =
            |media_type, digest: &str, size| json!({ "mediaType": media_type, "digest": digest, "size": size });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &config_digest, config.len()),
            "layers": layers.iter().map(|(digest, size)| descriptor(OCI_LAYER, digest, *size)).collect::<Vec<_>>(),
        });
        self.put_blob(repo, &config_digest, config);
        let bytes = Bytes::from(manifest.to_string());
        Image {
            digest: self.put_manifest(repo, tag, OCI_MANIFEST, bytes.clone()),
            media_type: OCI_MANIFEST.to_owned(),
            bytes,
            config: config_digest,
            layers: layers.into_iter().map(|(digest, _)| digest).collect(),
        }
    }

    pub(crate) fn put_index(&mut self, repo: &str, tag: Option<&str>, children: &[(&str, &Image)]) -> Image {
        let manifests: Vec<Value> = children
            .iter()
            .map(|(platform, child)| {
                let (os, architecture) = platform.split_once('/').unwrap_or(("linux", platform));
                json!({
                    "mediaType": child.media_type, "digest": child.digest, "size": child.bytes.len(),
                    "platform": { "os": os, "architecture": architecture },
                })
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        let bytes = Bytes::from(index.to_string());
        Image {
            digest: self.put_manifest(repo, tag, OCI_INDEX, bytes.clone()),
            media_type: OCI_INDEX.to_owned(),
            bytes,
            config: String::new(),
            layers: children.iter().map(|(_, child)| child.digest.clone()).collect(),
        }
    }

    pub(crate) fn put_artifact(&mut self, repo: &str, artifact_type: &str, subject: &Image, payload: Bytes) -> Image {
        let empty = Source::bytes("{}");
        let layer = Source::bytes(payload);
        let (config, digest) = (empty.sha256(), layer.sha256());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
            "layers": [{ "mediaType": "application/octet-stream", "digest": digest, "size": layer.len() }],
            "subject": { "mediaType": subject.media_type, "digest": subject.digest, "size": subject.bytes.len() },
        });
        self.put_blob(repo, &config, empty);
        self.put_blob(repo, &digest, layer);
        let bytes = Bytes::from(manifest.to_string());
        Image {
            digest: self.put_manifest(repo, None, OCI_MANIFEST, bytes.clone()),
            media_type: OCI_MANIFEST.to_owned(),
            bytes,
            config,
            layers: vec![digest],
        }
    }

    pub(crate) fn move_tag(&mut self, repo: &str, tag: &str, digest: &str) {
        self.repo(repo).tags.insert(tag.to_owned(), digest.to_owned());
    }

    /// Removes a tag, a manifest with its tags, or a blob. False if nothing had that name.
    pub(crate) fn delete(&mut self, repo: &str, reference: &str) -> bool {
        let Some(repo) = self.repos.get_mut(repo) else { return false };
        let mut found = repo.tags.remove(reference).is_some() | repo.blobs.remove(reference).is_some();
        if let Some(gone) = repo.manifests.remove(reference) {
            repo.manifests.retain(|_, manifest| manifest.bytes != gone.bytes);
            repo.tags.retain(|_, digest| digest != reference);
            found = true;
        }
        found
    }

    pub(crate) fn has_repo(&self, repo: &str) -> bool {
        self.repos.contains_key(repo)
    }

    pub(crate) fn repos(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.repos.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn blob(&self, repo: &str, digest: &str) -> Option<Source> {
        self.repos.get(repo)?.blobs.get(digest).cloned()
    }

    pub(crate) fn manifest(&self, repo: &str, reference: &str) -> Option<Manifest> {
        let repo = self.repos.get(repo)?;
        let digest = repo.tags.get(reference).map_or(reference, String::as_str);
        repo.manifests.get(digest).cloned()
    }

    pub(crate) fn tags(&self, repo: &str) -> Vec<&str> {
        self.repos.get(repo).map(|repo| repo.tags.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    /// Descriptors of the manifests whose `subject` is `digest`.
    pub(crate) fn referrers(&self, repo: &str, digest: &str) -> Vec<Value> {
        let manifests = self.repos.get(repo).into_iter().flat_map(|repo| &repo.manifests);
        let mut found: Vec<Value> = manifests
            .filter(|(key, _)| key.starts_with("sha256:"))
            .filter_map(|(key, manifest)| {
                let parsed: Value = serde_json::from_slice(&manifest.bytes).ok()?;
                (parsed["subject"]["digest"] == *digest).then(|| {
                    let artifact_type = match &parsed["artifactType"] {
                        Value::Null => &parsed["config"]["mediaType"],
                        given => given,
                    };
                    json!({
                        "mediaType": manifest.media_type, "digest": key, "size": manifest.bytes.len(),
                        "artifactType": artifact_type, "annotations": parsed["annotations"],
                    })
                })
            })
            .map(|mut descriptor| {
                if descriptor["annotations"].is_null()
                    && let Some(fields) = descriptor.as_object_mut()
                {
                    fields.remove("annotations");
                }
                descriptor
            })
            .collect();
        found.sort_by_key(|descriptor| descriptor["digest"].to_string());
        found
    }
}
