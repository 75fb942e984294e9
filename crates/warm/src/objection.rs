use api::{CachePolicySpec, ImageCache, Permission, PrivateImages};

use crate::{Left, Standing, Wanted};

/// Something that an ImageCache asks for and the policy does not grant. The rest of it is done all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    /// There are too many in its namespace, and it does not count at all.
    TooManyImageCaches {
        /// The most that the policy allows.
        limit: u32,
    },
    /// It has more images than it may.
    TooManyImages {
        /// How many it has.
        images: usize,
        /// The most that the policy allows.
        limit: u32,
    },
    /// These images are not cached.
    Excluded {
        /// The first of them.
        first: String,
        /// How many there are.
        images: usize,
    },
    /// New nodes may not wait for it.
    GateNodes,
    /// Private images may not go into the runtime.
    PrivateInRuntime,
}

impl Objection {
    /// The reason of a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Objection::TooManyImageCaches { .. } => "TooManyImageCaches",
            Objection::TooManyImages { .. } => "TooManyImages",
            Objection::Excluded { .. } => "ImagesExcluded",
            Objection::GateNodes => "GateNodesRefused",
            Objection::PrivateInRuntime => "PrivateInRuntimeRefused",
        }
    }
}

impl std::fmt::Display for Objection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Objection::TooManyImageCaches { limit } => write!(
                f,
                "the CachePolicy allows {limit} ImageCaches in a namespace, and there are older ones: nothing of this one is done; \
                 delete another, or have imageCaches.perNamespace raised"
            ),
            Objection::TooManyImages { images, limit } => write!(
                f,
                "it has {images} images with those of its workloads, and the CachePolicy allows {limit}: the rest is left out; \
                 name fewer, or have imageCaches.images raised"
            ),
            Objection::Excluded { first, images: 1 } => {
                write!(f, "{first} is left out: the CachePolicy says that it is not cached")
            }
            Objection::Excluded { first, images } => write!(
                f,
                "{images} images, such as {first}, are left out: the CachePolicy says that they are not cached"
            ),
            Objection::GateNodes => f.write_str("the CachePolicy does not let new nodes wait for ImageCaches: gateNodes has no effect"),
            Objection::PrivateInRuntime => f.write_str(
                "the CachePolicy does not let private images go into the container runtime: privateImages is taken as Store",
            ),
        }
    }
}

/// What is not granted to an ImageCache of this standing, the gravest first.
pub fn objections(cache: &ImageCache, wanted: &Wanted, standing: Standing, policy: &CachePolicySpec) -> Vec<Objection> {
    let limits = &policy.image_caches;
    let mut found = Vec::new();
    if standing == Standing::TooMany {
        found.push(Objection::TooManyImageCaches { limit: limits.per_namespace });
    }
    let left = |why: Left| wanted.left_out.iter().filter(move |(_, left)| *left == why).map(|(image, _)| image);
    let beyond = left(Left::TooMany).count();
    if beyond > 0 {
        found.push(Objection::TooManyImages { images: wanted.images.len() + beyond, limit: limits.images });
    }
    if let Some(first) = left(Left::Excluded).next() {
        found.push(Objection::Excluded { first: first.to_string(), images: left(Left::Excluded).count() });
    }
    if cache.spec.gate_nodes && limits.gate_nodes == Permission::Refuse {
        found.push(Objection::GateNodes);
    }
    if cache.spec.private_images == PrivateImages::Runtime && limits.private_in_runtime == Permission::Refuse {
        found.push(Objection::PrivateInRuntime);
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sample::{cache, policy};

    fn reasons(spec: Value, standing: Standing, rules: Value) -> Vec<&'static str> {
        let (cache, policy) = (cache("shop/web", spec, json!({})), policy(rules));
        let wanted = Wanted::of_status(&cache, &policy);
        objections(&cache, &wanted, standing, &policy).iter().map(Objection::reason).collect()
    }

    #[test]
    fn what_is_not_granted_is_said() {
        let asking = json!({"images": ["quay.io/a:1", "quay.io/b:1", "ghcr.io/c:1"], "gateNodes": true, "privateImages": "Runtime"});
        assert!(reasons(asking.clone(), Standing::Counts, json!({})).is_empty());
        let strict = json!({
            "imageCaches": {"images": 1, "gateNodes": "Refuse", "privateInRuntime": "Refuse"},
            "images": {"exclude": [{"registry": "ghcr.io"}]},
        });
        let all =
            ["TooManyImageCaches", "TooManyImages", "ImagesExcluded", "GateNodesRefused", "PrivateInRuntimeRefused"];
        assert_eq!(reasons(asking, Standing::TooMany, strict.clone()), all);
        assert!(reasons(json!({"images": ["quay.io/a:1"]}), Standing::Counts, strict).is_empty());
    }

    #[test]
    fn messages_have_the_numbers() {
        let text = Objection::TooManyImages { images: 7, limit: 5 }.to_string();
        assert!(text.contains("it has 7 images") && text.contains("allows 5"), "{text}");
        let text = Objection::Excluded { first: "quay.io/a:1".into(), images: 1 }.to_string();
        assert!(text.starts_with("quay.io/a:1 is left out"), "{text}");
    }
}
