//! The names by which larder marks objects of Kubernetes.

/// The API group of all kinds.
pub const GROUP: &str = "larder.dev";

/// The version of all kinds.
pub const VERSION: &str = "v1alpha1";

/// The name of the one [`CachePolicy`](crate::CachePolicy) that counts.
pub const POLICY: &str = "default";

/// The taint of a node on which images are still being made ready. Nodes register with it; it goes when every
/// [`ImageCache`](crate::ImageCache) that gates nodes and matches is warm there, or after its timeout.
pub const WARMING_TAINT: &str = "larder.dev/warming";

/// The annotation of an [`ImageCache`](crate::ImageCache) that makes its tags be asked for anew. The value is [`REFRESH_NOW`].
pub const REFRESH_ANNOTATION: &str = "larder.dev/refresh";

/// The value of [`REFRESH_ANNOTATION`]. Whoever has seen to it takes the annotation away.
pub const REFRESH_NOW: &str = "now";
