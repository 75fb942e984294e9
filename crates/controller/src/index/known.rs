use std::sync::Arc;

use api::{CachedImage, CachedImageStatus};
use oci::Image;

use super::Texts;

/// What is kept of a CachedImage.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownImage {
    /// Its image.
    pub image: Image,
    /// Its generation.
    pub generation: Option<i64>,
    /// What it says.
    pub said: Option<Said>,
}

/// What a CachedImage says. Small: many images are on the same nodes, whose names are most of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// All but the names of nodes.
    pub status: CachedImageStatus,
    /// The names of the first nodes that have it.
    pub node_names: Arc<[Arc<str>]>,
}

impl Said {
    fn of(mut status: CachedImageStatus, texts: &mut Texts) -> Said {
        let names = std::mem::take(&mut status.held.node_names);
        let names = names.iter().map(|name| texts.text(name)).collect();
        Said { status, node_names: texts.list(names) }
    }

    /// The whole status.
    pub fn whole(&self) -> CachedImageStatus {
        let mut status = self.status.clone();
        status.held.node_names = self.node_names.iter().map(ToString::to_string).collect();
        status
    }
}

/// What is kept of a CachedImage, by its name; nothing but that of one that is being deleted.
pub fn reduce(object: CachedImage, texts: &mut Texts) -> (String, Option<KnownImage>) {
    let metadata = object.metadata;
    let said = object.status.map(|status| Said::of(status, texts));
    let known = KnownImage { image: object.spec.image, generation: metadata.generation, said };
    let stays = metadata.deletion_timestamp.is_none();
    (metadata.name.unwrap_or_default(), stays.then_some(known))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_names_of_nodes_are_shared_and_nothing_is_lost() {
        let object = |name: &str| -> CachedImage {
            serde_json::from_value(json!({
                "apiVersion": "larder.dev/v1alpha1", "kind": "CachedImage", "metadata": {"name": name, "generation": 2},
                "spec": {"image": "quay.io/a:1"},
                "status": {"pods": 3, "held": {"registry": true, "nodes": 2, "nodeNames": ["node-1", "node-2"]}},
            }))
            .unwrap()
        };
        let mut texts = Texts::default();
        let (name, known) = reduce(object("a"), &mut texts);
        let said = known.unwrap().said.unwrap();
        assert_eq!((&*name, Some(said.whole())), ("a", object("a").status));
        let other = reduce(object("b"), &mut texts).1.unwrap().said.unwrap();
        assert!(Arc::ptr_eq(&said.node_names, &other.node_names) && said == other);
    }
}
