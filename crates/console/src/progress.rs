use std::fmt;

use api::ImageCache;
use oci::{Image, Reference};
use serde::Serialize;

/// How far an ImageCache is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// How many nodes it selects.
    pub nodes: u32,
    /// How many images it wants.
    pub images: u32,
    /// How many of images times nodes are ready,
    pub warm: u64,
    /// and how many cannot be made ready.
    pub failed: u64,
    /// Every image is ready on every node.
    pub is_warm: bool,
    /// Why there is nothing to be made ready, if so.
    pub nothing: Option<String>,
    /// What is in the way: of the ImageCache itself, then of its images.
    pub failures: Vec<String>,
}

impl Progress {
    /// As its status says; nothing if that is about an earlier edit.
    pub fn of(cache: &ImageCache) -> Option<Progress> {
        let status = cache.status.as_ref().filter(|status| status.observed_generation == cache.metadata.generation)?;
        let condition = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind);
        let refused = condition("Ready").filter(|ready| ready.status == "False").map(|ready| ready.message.clone());
        let failure = |one: &api::PullFailure| match one.nodes {
            0 => format!("{}: {}", one.image, one.message),
            1 => format!("{} on {}: {}: {}", one.image, one.node, one.reason, one.message),
            nodes => format!("{} on {nodes} nodes, such as {}: {}: {}", one.image, one.node, one.reason, one.message),
        };
        Some(Progress {
            nodes: status.nodes,
            images: status.image_count,
            warm: status.images.iter().map(|image| u64::from(image.warm)).sum(),
            failed: status.images.iter().map(|image| u64::from(image.failed)).sum(),
            is_warm: condition("Warm").is_some_and(|warm| warm.status == "True"),
            nothing: condition("Warm")
                .filter(|warm| matches!(&*warm.reason, "NoNodes" | "NoImages" | "NotCounted"))
                .map(|warm| warm.message.clone()),
            failures: refused.into_iter().chain(status.failures.iter().map(failure)).collect(),
        })
    }

    /// All that there is to do, images times nodes.
    pub fn all(&self) -> u64 {
        u64::from(self.nodes) * u64::from(self.images)
    }

    /// Nothing more comes by itself soon: what is not ready has failed.
    pub fn is_stuck(&self) -> bool {
        !self.is_warm && self.failed > 0 && self.warm + self.failed >= self.all()
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} images ready on {} nodes", self.warm, self.all(), self.nodes)?;
        if self.failed > 0 {
            write!(f, ", {} failing", self.failed)?;
        }
        Ok(())
    }
}

/// A name for an ImageCache that keeps this image ready, as people would write it: `nginx-1.27`.
pub fn name_of(image: &Image) -> String {
    let repository = image.name.repository.as_str();
    let last = repository.rsplit('/').next().unwrap_or(repository);
    let reference = match &image.reference {
        Reference::Tag(tag) => tag.to_string(),
        Reference::Digest(digest) => {
            digest.to_string().rsplit(':').next().unwrap_or_default().chars().take(12).collect()
        }
    };
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else if c == '.' {
            '.'
        } else {
            '-'
        }
    };
    let text: String = format!("{last}-{reference}").chars().map(allowed).take(200).collect();
    // Each part between dots begins and ends with a letter or a digit.
    let parts = text.split('.').map(|part| part.trim_matches('-')).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn progress(observed: i64, status: Value) -> Option<Progress> {
        let mut object = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache",
            "metadata": {"namespace": "shop", "name": "web", "generation": 2}, "spec": {"images": ["quay.io/a:1"]}, "status": status,
        });
        object["status"]["observedGeneration"] = json!(observed);
        Progress::of(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn what_is_about_an_earlier_edit_says_nothing() {
        assert_eq!(progress(1, json!({"nodes": 3})), None);
        assert_eq!(progress(2, json!({"nodes": 3})).map(|progress| progress.nodes), Some(3));
    }

    #[test]
    fn it_is_stuck_when_all_that_is_left_has_failed() {
        let of = |warm: u32, failed: u32| {
            let images = json!([{"image": "quay.io/a:1", "warm": warm, "failed": failed}]);
            progress(2, json!({"nodes": 3, "imageCount": 1, "images": images})).unwrap()
        };
        assert_eq!([of(1, 1), of(2, 1), of(3, 0)].map(|one| one.is_stuck()), [false, true, false]);
        assert_eq!(of(1, 1).to_string(), "1 of 3 images ready on 3 nodes, 1 failing");
    }

    #[test]
    fn names_are_names_of_objects() {
        let digest = format!("quay.io/a/b@sha256:{}", "a1".repeat(32));
        for (image, name) in [
            ("docker.io/library/nginx:1.27", "nginx-1.27"),
            (&digest, "b-a1a1a1a1a1a1"),
            ("quay.io/a:_x..y_", "a--x.y"),
        ] {
            assert_eq!(name_of(&image.parse().unwrap()), name, "{image}");
        }
    }
}
