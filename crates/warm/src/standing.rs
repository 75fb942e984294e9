use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};

use api::{CachePolicySpec, ImageCache};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Whether an ImageCache is acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Counts,
    /// It is being deleted, and wants nothing any more.
    Ending,
    /// Its namespace had as many before it as the policy allows.
    TooMany,
}

/// Which ImageCaches count: in each namespace the oldest ones, as many as the policy allows, so that a new one never takes the place of
/// another. Those of the same second count by their names.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    too_many: HashSet<(String, String)>,
}

impl Standings {
    /// Of all ImageCaches of the cluster, or of whole namespaces.
    pub fn of<C: Borrow<ImageCache>>(caches: &[C], policy: &CachePolicySpec) -> Standings {
        let limit = policy.image_caches.per_namespace as usize;
        let mut namespaces: HashMap<&str, Vec<&ImageCache>> = HashMap::new();
        for cache in caches.iter().map(Borrow::borrow).filter(|cache| cache.metadata.deletion_timestamp.is_none()) {
            namespaces.entry(namespace(cache)).or_default().push(cache);
        }
        let mut too_many = HashSet::new();
        for mut caches in namespaces.into_values().filter(|caches| caches.len() > limit) {
            caches.sort_by_key(|cache| (age(cache), name(cache)));
            too_many.extend(caches.into_iter().skip(limit).map(key));
        }
        Standings { too_many }
    }

    /// Whether that one counts.
    pub fn standing(&self, cache: &ImageCache) -> Standing {
        if cache.metadata.deletion_timestamp.is_some() {
            Standing::Ending
        } else if self.too_many.contains(&key(cache)) {
            Standing::TooMany
        } else {
            Standing::Counts
        }
    }
}

fn namespace(cache: &ImageCache) -> &str {
    cache.metadata.namespace.as_deref().unwrap_or_default()
}

fn name(cache: &ImageCache) -> &str {
    cache.metadata.name.as_deref().unwrap_or_default()
}

fn key(cache: &ImageCache) -> (String, String) {
    (namespace(cache).to_owned(), name(cache).to_owned())
}

fn age(cache: &ImageCache) -> Option<&Time> {
    cache.metadata.creation_timestamp.as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sample::{cache, policy};

    fn made(name: &str, second: u32) -> ImageCache {
        let mut cache = cache(name, json!({"images": ["quay.io/a:1"]}), json!({}));
        cache.metadata.creation_timestamp =
            Some(serde_json::from_value(json!(format!("2026-01-01T00:00:{second:02}Z"))).unwrap());
        cache
    }

    fn counting(caches: &[ImageCache], limit: u32) -> Vec<&str> {
        let standings = Standings::of(caches, &policy(json!({"imageCaches": {"perNamespace": limit}})));
        caches.iter().filter(|cache| standings.standing(cache) == Standing::Counts).map(name).collect()
    }

    #[test]
    fn the_oldest_of_each_namespace_count() {
        let caches = [made("shop/d", 1), made("shop/b", 3), made("shop/c", 2), made("other/a", 9), made("shop/a", 3)];
        assert_eq!(counting(&caches, 2), ["d", "c", "a"]);
        assert_eq!(counting(&caches, 3), ["d", "c", "a", "a"]);
        assert_eq!(counting(&caches, 4).len(), 5);
        assert!(counting(&caches, 0).is_empty());
    }

    #[test]
    fn one_that_is_being_deleted_takes_nobodys_place() {
        let mut caches = [made("shop/a", 1), made("shop/b", 2)];
        caches[0].metadata.deletion_timestamp = caches[0].metadata.creation_timestamp.clone();
        assert_eq!(counting(&caches, 1), ["b"]);
        let standings = Standings::of(&caches, &CachePolicySpec::default());
        assert_eq!(standings.standing(&caches[0]), Standing::Ending);
    }
}
