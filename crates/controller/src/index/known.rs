use api::{CachedImage, CachedImageStatus};
use oci::Image;

/// What is kept of a CachedImage.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownImage {
    /// Its image.
    pub image: Image,
    /// Its generation.
    pub generation: Option<i64>,
    /// What it says.
    pub status: Option<CachedImageStatus>,
}

/// What is kept of a CachedImage, by its name; nothing but that of one that is being deleted.
pub fn reduce(object: CachedImage) -> (String, Option<KnownImage>) {
    let metadata = object.metadata;
    let known = KnownImage { image: object.spec.image, generation: metadata.generation, status: object.status };
    let stays = metadata.deletion_timestamp.is_none();
    (metadata.name.unwrap_or_default(), stays.then_some(known))
}
