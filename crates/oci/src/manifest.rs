use serde::Deserialize;

use crate::{Digest, MediaType, Platform};

/// What larder reads of a manifest or index. The bytes themselves are stored and served as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What it is.
    pub kind: ManifestKind,
    /// What it names, in its order: config and layers of an image, manifests of an index. Descriptors with a digest
    /// that larder does not know are left out.
    pub children: Vec<Descriptor>,
    /// The manifest that this one refers to.
    pub subject: Option<Digest>,
}

/// What a manifest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestKind {
    /// One image or artifact.
    Image,
    /// A list of manifests.
    Index,
    /// Some media type that larder does not know: passed on, not looked into.
    Opaque,
}

/// One descriptor (OCI image specification, "Content Descriptors").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What it points to.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What it is for, where an index says so.
    pub platform: Option<Platform>,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The content is no JSON object of the expected shape.
    #[error("the manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// It is an image and an index at once (GHSA-qq97-vm5h-rrhg).
    #[error("the manifest has both layers and manifests")]
    Ambiguous,
    /// Its own mediaType is not what its Content-Type says.
    #[error("the manifest says it is {own}, its Content-Type says {content_type}")]
    MediaType {
        /// The `mediaType` field.
        own: String,
        /// The `Content-Type` header.
        content_type: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    media_type: Option<String>,
    config: Option<Pointer>,
    layers: Option<Vec<Pointer>>,
    manifests: Option<Vec<Pointer>>,
    subject: Option<Pointer>,
}

#[derive(Deserialize)]
struct Pointer {
    digest: Option<String>,
    size: Option<u64>,
    platform: Option<serde_json::Value>,
}

impl Pointer {
    fn read(self) -> Option<Descriptor> {
        // One that cannot be read is for nobody, which is no reason to refuse the rest.
        let platform = self.platform.map(|platform| serde_json::from_value(platform).unwrap_or_default());
        Some(Descriptor { digest: self.digest?.parse().ok()?, size: self.size?, platform })
    }
}

impl Manifest {
    /// Of an index, the manifest that is best for a platform; those that do not say what they are for are for any.
    pub fn best_for(&self, platform: &Platform) -> Option<&Descriptor> {
        let rank = |child: &Descriptor| match &child.platform {
            Some(other) => platform.rank(other),
            None => Some(usize::MAX),
        };
        let ranked = self.children.iter().filter_map(|child| Some((rank(child)?, child)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, child)| child)
    }

    /// Reads what matters of a manifest that came with `content_type`.
    ///
    /// Lenient with unknown fields, strict with what could be read in two ways: a field of interest given twice, an image
    /// that is an index too, a media type that contradicts the header. Nesting is limited by the JSON reader (128).
    pub fn read(content_type: &MediaType, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let known = content_type.is_image() || content_type.is_index();
        let fields: Fields = match serde_json::from_slice(bytes) {
            Ok(fields) => fields,
            Err(_) if !known => return Ok(Manifest { kind: ManifestKind::Opaque, children: vec![], subject: None }),
            Err(error) => return Err(error.into()),
        };
        if fields.layers.is_some() && fields.manifests.is_some() {
            return Err(ManifestError::Ambiguous);
        }
        if let Some(own) = fields.media_type.filter(|own| known && own != content_type.as_str()) {
            return Err(ManifestError::MediaType { own, content_type: content_type.to_string() });
        }
        let kind = match known {
            true if content_type.is_index() => ManifestKind::Index,
            true => ManifestKind::Image,
            false => ManifestKind::Opaque,
        };
        let named = fields
            .config
            .into_iter()
            .chain(fields.layers.into_iter().flatten())
            .chain(fields.manifests.into_iter().flatten());
        Ok(Manifest {
            kind,
            children: named.filter_map(Pointer::read).collect(),
            subject: fields.subject.and_then(Pointer::read).map(|subject| subject.digest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(content_type: &str, text: &str) -> Result<Manifest, ManifestError> {
        Manifest::read(&MediaType::parse(content_type).unwrap(), text.as_bytes())
    }

    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    #[test]
    fn children_in_order() {
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        let text = format!(
            r#"{{"schemaVersion":2,"extra":{{"a":[1]}},"config":{{"digest":"{}","size":2}},"layers":[{{"digest":"{}","size":3,"urls":["http://10.0.0.1/"]}},{{"digest":"md5:00","size":1}}],"subject":{{"digest":"{}","size":1}}}}"#,
            digest("c"),
            digest("l"),
            digest("s"),
        );
        let manifest = read(IMAGE, &text).unwrap();
        assert_eq!(manifest.kind, ManifestKind::Image);
        assert_eq!(
            manifest.children,
            [
                Descriptor { digest: digest("c"), size: 2, platform: None },
                Descriptor { digest: digest("l"), size: 3, platform: None }
            ]
        );
        assert_eq!(manifest.subject, Some(digest("s")));
        assert_eq!(read(INDEX, r#"{"manifests":[]}"#).unwrap().kind, ManifestKind::Index);
    }

    #[test]
    fn the_manifest_of_a_platform() {
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        let child = |text: &str, rest: &str| format!(r#"{{"digest":"{}","size":2{rest}}}"#, digest(text));
        let of = |children: &[String]| read(INDEX, &format!(r#"{{"manifests":[{}]}}"#, children.join(","))).unwrap();
        let platform = |text: &str| Platform { os: "linux".into(), architecture: text.into(), ..Platform::default() };
        let amd = child("amd", r#","platform":{"os":"linux","architecture":"amd64"}"#);
        let arm = child("arm", r#","platform":{"os":"linux","architecture":"arm64","variant":"v8"}"#);
        let proof = child("proof", r#","platform":{"os":"unknown","architecture":"unknown"}"#);
        let bad = child("bad", r#","platform":"linux/amd64""#);
        let index = of(&[proof.clone(), bad.clone(), amd, arm.clone()]);
        assert_eq!(index.best_for(&platform("amd64")).map(|one| one.digest), Some(digest("amd")));
        assert_eq!(index.best_for(&platform("arm64")).map(|one| one.digest), Some(digest("arm")));
        assert_eq!(index.best_for(&platform("s390x")), None);
        let plain = of(&[child("first", ""), child("second", ""), arm]);
        assert_eq!(plain.best_for(&platform("arm64")).map(|one| one.digest), Some(digest("arm")));
        assert_eq!(plain.best_for(&platform("amd64")).map(|one| one.digest), Some(digest("first")));
    }

    #[test]
    fn confusion_is_refused() {
        assert!(matches!(read(IMAGE, r#"{"layers":[],"manifests":[]}"#), Err(ManifestError::Ambiguous)));
        assert!(matches!(read("text/plain", r#"{"layers":[],"manifests":[]}"#), Err(ManifestError::Ambiguous)));
        assert!(matches!(read(INDEX, &format!(r#"{{"mediaType":"{IMAGE}"}}"#)), Err(ManifestError::MediaType { .. })));
        assert!(matches!(read(IMAGE, r#"{"layers":[],"layers":[]}"#), Err(ManifestError::Json(_))));
        assert!(matches!(read(IMAGE, &"[".repeat(10_000)), Err(ManifestError::Json(_))));
        assert!(matches!(read(IMAGE, "<html>"), Err(ManifestError::Json(_))));
    }

    #[test]
    fn what_is_not_known_passes() {
        assert_eq!(read("application/vnd.x", "not json").unwrap().kind, ManifestKind::Opaque);
        assert_eq!(read(IMAGE, &format!(r#"{{"mediaType":"{IMAGE}","artifactType":"x/y"}}"#)).unwrap().children, []);
    }

    proptest! {
        #[test]
        fn never_panics(text in "[\\[\\]{}\":,a-z0-9]{0,80}") {
            let _ = read(IMAGE, &text);
        }
    }
}
