use std::collections::HashSet;

use api::{CachePolicySpec, ImageCache};
use oci::Image;

use crate::rule::covers;

/// The images that an ImageCache keeps ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In its order: those that it lists, then those of its workloads.
    pub images: Vec<Image>,
    /// Those that it names and that are not kept ready.
    pub left_out: Vec<(Image, Left)>,
}

/// Why an image is not kept ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The policy says that it is not cached.
    Excluded,
    /// There are more than the policy lets an ImageCache have. Those that are listed come before those of workloads, so that a
    /// workload that appears never takes the place of an image that somebody wrote down.
    TooMany,
}

impl Wanted {
    /// Of an ImageCache with the images of its workloads; [`images_of_workloads`] has those that are known from its status.
    pub fn of(cache: &ImageCache, workloads: impl IntoIterator<Item = Image>, policy: &CachePolicySpec) -> Wanted {
        let namespace = cache.metadata.namespace.as_deref().unwrap_or_default();
        let limit = policy.image_caches.images as usize;
        let mut known = HashSet::new();
        let mut wanted = Wanted::default();
        for image in cache.spec.images.iter().cloned().chain(workloads) {
            if !known.insert(image.clone()) {
                continue;
            }
            if !covers(&policy.images, &image, namespace) {
                wanted.left_out.push((image, Left::Excluded));
            } else if wanted.images.len() == limit {
                wanted.left_out.push((image, Left::TooMany));
            } else {
                wanted.images.push(image);
            }
        }
        wanted
    }

    /// The same as everybody knows it who sees the ImageCache alone.
    pub fn of_status(cache: &ImageCache, policy: &CachePolicySpec) -> Wanted {
        Wanted::of(cache, images_of_workloads(cache), policy)
    }
}

/// The images of the workloads that an ImageCache selects, as the controller wrote them into its status among the others. None if it
/// selects none: what the status has beside its own images is then of a time before it was edited.
pub fn images_of_workloads(cache: &ImageCache) -> impl Iterator<Item = Image> {
    let status = cache.status.as_ref().filter(|_| cache.spec.workloads.is_some());
    // What is no image was written by somebody else.
    status.into_iter().flat_map(|status| &status.images).filter_map(|progress| progress.image.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sample::{cache, policy};

    fn texts(images: &[Image]) -> Vec<String> {
        images.iter().map(ToString::to_string).collect()
    }

    fn image(text: &str) -> Image {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_listed_comes_first_and_each_image_once() {
        let cache = cache("shop/web", json!({"images": ["quay.io/b:1", "docker.io/a:1"]}), json!({}));
        let workloads = ["ghcr.io/c:1", "quay.io/b:1", "docker.io/library/a:1", "ghcr.io/c:1"].map(image);
        let wanted = Wanted::of(&cache, workloads, &policy(json!({})));
        assert_eq!(texts(&wanted.images), ["quay.io/b:1", "docker.io/library/a:1", "ghcr.io/c:1"]);
        assert!(wanted.left_out.is_empty());
    }

    #[test]
    fn what_is_beyond_the_limit_is_left_out_and_workloads_first() {
        let cache = cache("shop/web", json!({"images": ["quay.io/a:1", "quay.io/b:1"]}), json!({}));
        let two = policy(json!({"imageCaches": {"images": 2}}));
        let wanted = Wanted::of(&cache, [image("quay.io/c:1"), image("quay.io/a:1")], &two);
        assert_eq!(texts(&wanted.images), ["quay.io/a:1", "quay.io/b:1"]);
        assert_eq!(wanted.left_out, [(image("quay.io/c:1"), Left::TooMany)]);
    }

    #[test]
    fn what_is_excluded_takes_nobodys_place() {
        let cache = cache("shop/web", json!({"images": ["quay.io/a:1", "ghcr.io/b:1"]}), json!({}));
        let policy = policy(json!({"imageCaches": {"images": 1}, "images": {"exclude": [{"registry": "quay.io"}]}}));
        let wanted = Wanted::of(&cache, [], &policy);
        assert_eq!(texts(&wanted.images), ["ghcr.io/b:1"]);
        assert_eq!(wanted.left_out, [(image("quay.io/a:1"), Left::Excluded)]);
    }

    #[test]
    fn the_status_tells_of_workloads_only_where_some_are_selected() {
        let status = json!({"images": [{"image": "quay.io/a:1"}, {"image": "ghcr.io/c:1"}, {"image": "no image"}]});
        let listing = cache("shop/web", json!({"images": ["quay.io/a:2"]}), status.clone());
        assert_eq!(texts(&Wanted::of_status(&listing, &policy(json!({}))).images), ["quay.io/a:2"]);
        let selecting = json!({"images": ["quay.io/a:2"], "workloads": {"selector": {}}});
        let selecting = cache("shop/web", selecting, status);
        let wanted = Wanted::of_status(&selecting, &policy(json!({})));
        assert_eq!(texts(&wanted.images), ["quay.io/a:2", "quay.io/a:1", "ghcr.io/c:1"]);
    }

    #[test]
    fn what_the_controller_writes_comes_to_the_same_for_who_reads_it() {
        let spec = json!({"images": ["quay.io/a:1"], "workloads": {"selector": {}}});
        let three = policy(json!({"imageCaches": {"images": 3}}));
        let workloads = ["ghcr.io/d:1", "ghcr.io/c:1", "ghcr.io/e:1"].map(image);
        let decided = Wanted::of(&cache("shop/web", spec.clone(), json!({})), workloads, &three);
        let written: Vec<_> = decided.images.iter().map(|image| json!({"image": image})).collect();
        let read = Wanted::of_status(&cache("shop/web", spec, json!({"images": written})), &three);
        assert_eq!(read.images, decided.images);
    }
}
