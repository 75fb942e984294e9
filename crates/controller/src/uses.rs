use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use oci::{Digest, Image, Reference};
use warm::{Standing, covers, may_cover};

use crate::index::{HeldHere, Index, PodImages};

/// The most ImageCaches that are named.
const WANTERS: usize = 32;

/// The most nodes that are named.
const HOLDERS: usize = 64;

/// The most digests that one image is known to have on nodes: two while a tag moves, and some that were not pulled anew.
const DIGESTS: usize = 8;

/// Who names an image, and which nodes have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// How many pods name it.
    pub pods: u32,
    /// How many workloads do.
    pub workloads: u32,
    /// The first ImageCaches that want it.
    pub wanted_by: Vec<String>,
    /// The CachePolicy pins it.
    pub pinned: bool,
    /// How many nodes have it.
    pub nodes: u32,
    /// The first of them, by their names.
    pub node_names: Vec<Arc<str>>,
    /// What nodes have under its name.
    pub digests: Vec<Arc<str>>,
}

impl Use {
    /// Whether anything names it.
    pub fn is_named(&self) -> bool {
        self.pods > 0 || self.workloads > 0 || self.pinned || !self.wanted_by.is_empty()
    }
}

/// The images that are named or known, with their uses.
struct Uses {
    uses: HashMap<Image, Use>,
    /// What texts come to, by their addresses: equal texts of an index are one.
    images: HashMap<*const u8, Option<Image>>,
}

impl Uses {
    fn image(&mut self, text: &Arc<str>) -> Option<Image> {
        // What is no image is told of by whoever tries to pull it.
        self.images.entry(text.as_ptr()).or_insert_with(|| Image::in_short(text).ok()).clone()
    }

    /// The images of a list, each once.
    fn images(&mut self, texts: &[Arc<str>]) -> HashSet<Image> {
        texts.iter().filter_map(|text| self.image(text)).collect()
    }

    fn of(&mut self, image: Image) -> &mut Use {
        self.uses.entry(image).or_default()
    }
}

impl Index {
    /// All images that something names or of which there is a CachedImage, and how they are used. What the CachePolicy does not let be
    /// cached is not among them.
    pub fn uses(&self) -> HashMap<Image, Use> {
        let rules = &self.policy().images;
        let mut uses = Uses { uses: HashMap::new(), images: HashMap::new() };
        let mut pods: HashMap<(&str, *const Arc<str>), (&PodImages, u32)> = HashMap::new();
        for (key, images) in self.pods() {
            pods.entry((&*key.namespace, images.as_ptr())).or_insert((images, 0)).1 += 1;
        }
        for ((namespace, _), (images, count)) in pods {
            for image in uses.images(images) {
                if covers(rules, &image, namespace) {
                    uses.of(image).pods += count;
                }
            }
        }
        for (key, workload) in self.workloads() {
            for image in uses.images(&workload.images) {
                if covers(rules, &image, &key.namespace) {
                    uses.of(image).workloads += 1;
                }
            }
        }
        let standings = self.standings();
        for (key, cache) in self.caches() {
            if standings.standing(cache) != Standing::Counts {
                continue;
            }
            for image in self.wanted(key, cache).0.images {
                let wanted_by = &mut uses.of(image).wanted_by;
                if wanted_by.len() < WANTERS {
                    wanted_by.push(key.to_string());
                }
            }
        }
        for image in self.policy().retention.pins.iter().filter(|image| may_cover(rules, image)) {
            uses.of(image.clone()).pinned = true;
        }
        for known in self.known().values().filter(|known| may_cover(rules, &known.image)) {
            uses.of(known.image.clone());
        }
        self.count_holders(&mut uses.uses);
        uses.uses
    }

    /// Counts the nodes that have each image: under its name or, where that is a digest, under any name of its repository.
    fn count_holders(&self, uses: &mut HashMap<Image, Use>) {
        let mut all: Vec<(&Image, &mut Use)> = uses.iter_mut().collect();
        let places: HashMap<Image, usize> = all.iter().map(|(image, _)| (*image).clone()).zip(0..).collect();
        let mut known: HashMap<*const HeldHere, Vec<usize>> = HashMap::new();
        let mut reports: Vec<_> = self.reports().collect();
        reports.sort_by(|one, other| one.node.cmp(&other.node));
        for report in reports {
            let mut here = Vec::new();
            for held in &report.held {
                for place in known.entry(Arc::as_ptr(held)).or_insert_with(|| named(held, &places)) {
                    let digests = &mut all[*place].1.digests;
                    if let Some(digest) = held.digest.as_ref().filter(|_| digests.len() < DIGESTS)
                        && !digests.contains(digest)
                    {
                        digests.push(digest.clone());
                    }
                    here.push(*place);
                }
            }
            here.sort_unstable();
            here.dedup();
            for place in here {
                let one = &mut all[place].1;
                one.nodes += 1;
                if one.node_names.len() < HOLDERS {
                    one.node_names.push(report.node.clone());
                }
            }
        }
    }
}

/// The places of the images of which this is one.
fn named(held: &HeldHere, places: &HashMap<Image, usize>) -> Vec<usize> {
    let Ok(image) = held.image.parse::<Image>() else { return Vec::new() };
    let digest = held.digest.as_deref().and_then(|digest| digest.parse::<Digest>().ok());
    let by_digest = digest.map(|digest| Image { name: image.name.clone(), reference: Reference::Digest(digest) });
    [Some(image), by_digest].iter().flatten().filter_map(|image| places.get(image).copied()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn uses(index: &Index) -> Vec<(String, u32, u32, usize, u32)> {
        let mut all: Vec<_> = index
            .uses()
            .into_iter()
            .map(|(image, one)| (image.to_string(), one.pods, one.workloads, one.wanted_by.len(), one.nodes))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn whoever_names_an_image_is_counted_once() {
        let mut index = Index::default();
        index.pod("shop/a", &["quay.io/a:1", "nginx", "docker.io/library/nginx:latest", "NO IMAGE"]);
        index.pod("shop/b", &["quay.io/a:1"]);
        index.pod("dev/c", &["quay.io/a:1"]);
        index.deployment("shop/web", json!({}), &["quay.io/a:1", "quay.io/b:1"]);
        index.wants("shop/w", json!({"images": ["quay.io/c:1", "quay.io/a:1"]}));
        index.tells("n1", true, &[("quay.io/a:1", "Present"), ("quay.io/c:1", "Warm"), ("quay.io/x:1", "Present")]);
        index.tells("n2", true, &[("quay.io/a:1", "Pulling")]);
        let named = |image: &str, pods, workloads, wanted, nodes| (image.to_owned(), pods, workloads, wanted, nodes);
        assert_eq!(
            uses(&index),
            [
                named("docker.io/library/nginx:latest", 1, 0, 0, 0),
                named("quay.io/a:1", 3, 1, 1, 1),
                named("quay.io/b:1", 0, 1, 0, 0),
                named("quay.io/c:1", 0, 0, 1, 1),
            ]
        );
        index.no_pod("shop/b");
        index.no_pod("dev/c");
        index.no_deployment("shop/web");
        assert_eq!(uses(&index)[1], named("quay.io/a:1", 1, 0, 1, 1));
        assert_eq!(uses(&index).len(), 3);
    }

    #[test]
    fn what_is_excluded_is_not_there() {
        let mut index = Index::default();
        index.pod("shop/a", &["quay.io/a:1", "quay.io/b:1"]);
        index.pod("dev/a", &["quay.io/a:1", "ghcr.io/c:1"]);
        index.rules(json!({
            "images": {"exclude": [{"namespace": "dev"}, {"repository": "b"}]},
            "retention": {"pins": ["quay.io/b:1", "quay.io/pinned:1"]},
        }));
        let all: Vec<_> = uses(&index).into_iter().map(|(image, pods, ..)| (image, pods)).collect();
        assert_eq!(all, [("quay.io/a:1".to_owned(), 1), ("quay.io/pinned:1".to_owned(), 0)]);
    }

    #[test]
    fn nodes_have_what_is_named_by_its_digest_under_any_name() {
        let mut index = Index::default();
        let digest = format!("sha256:{}", "a".repeat(64));
        index.pod("shop/a", &[&format!("quay.io/a@{digest}"), "quay.io/a:1"]);
        index.tells_digests("n1", &[("quay.io/a:1", &digest), ("quay.io/other:1", &digest)]);
        index.tells_digests("n2", &[(&format!("quay.io/a@{digest}"), &digest)]);
        assert_eq!(uses(&index).iter().map(|one| one.4).collect::<Vec<_>>(), [1, 2]);
        let by_tag = &index.uses()[&"quay.io/a:1".parse().unwrap()];
        assert_eq!(by_tag.digests.iter().map(|digest| &**digest).collect::<Vec<_>>(), [digest.as_str()]);
    }

    #[test]
    fn an_image_on_thousands_of_nodes_names_the_first_of_them() {
        let mut index = Index::default();
        index.pod("shop/a", &["quay.io/a:1"]);
        for node in 0..200 {
            index.tells(&format!("n{node:03}"), true, &[("quay.io/a:1", "Present")]);
        }
        let uses = index.uses();
        let one = &uses[&"quay.io/a:1".parse().unwrap()];
        assert_eq!((one.nodes, one.node_names.len()), (200, HOLDERS));
        assert_eq!(one.node_names.last().map(|node| &**node), Some("n063"));
    }
}
