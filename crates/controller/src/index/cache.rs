use std::fmt;

use api::ImageCache;
use api::names::REFRESH_ANNOTATION;
use kube::api::ObjectMeta;

/// Which ImageCache.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl CacheKey {
    /// Of an ImageCache with this metadata.
    pub fn of(meta: &ObjectMeta) -> CacheKey {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        CacheKey { namespace: text(&meta.namespace), name: text(&meta.name) }
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Lets go of what is of no use here.
pub fn reduce(mut cache: ImageCache) -> ImageCache {
    cache.metadata.managed_fields = None;
    cache.metadata.labels = None;
    cache.metadata.owner_references = None;
    if let Some(annotations) = &mut cache.metadata.annotations {
        annotations.retain(|key, _| key == REFRESH_ANNOTATION);
    }
    cache
}
