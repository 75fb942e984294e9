use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use api::{CachePolicySpec, Cleanup, CleanupMode, ImageCache, OnDelete, Permission, PrivateImages};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use oci::{Digest, Image, Reference};

use crate::{Node, Standing, Standings, Turns, Wanted, selects};

/// What one node is to have ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The images, in the order in which they are pulled: by priority, then by the names of the ImageCaches, then as these list them.
    pub wishes: Vec<Wish>,
    /// The most pulls at once.
    pub pulls: u32,
    /// The most nodes that pull for ImageCaches at once, if there is a limit: this one needs its turn then.
    pub nodes_at_once: Option<u32>,
    /// What goes of images that nothing wants or uses; nothing if not given.
    pub cleanup: Option<Cleanup>,
}

/// An image that is to be ready on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The image.
    pub image: Image,
    /// What it is to be: what its tag means now, as the controller last found out, or the digest that names it. Where nobody knows yet,
    /// whatever the tag means when it is pulled.
    pub digest: Option<Digest>,
    /// Who wants it, the highest priority first.
    pub wanted_by: Vec<Arc<Wanter>>,
    /// How often a failed pull is tried again: as often as the most patient of them says.
    pub retries: u32,
    /// Where it goes if it needs a credential: into the runtime if one of them says so and the policy allows it.
    pub private_images: PrivateImages,
    /// What becomes of it when it is not wanted any more: it stays if one of those who want it now says so.
    pub on_delete: OnDelete,
}

/// An ImageCache that wants images on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanter {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its `metadata.generation`: what was given up is tried anew when it changes.
    pub generation: Option<i64>,
    /// When its tags were last asked for: what was given up is tried anew when they are asked for again.
    pub refreshed: Option<Time>,
    /// Images of ImageCaches with a higher priority are pulled first.
    pub priority: i32,
    /// The most of its images that are pulled at once on a node: what it says itself or, if that is less, what the policy says.
    pub per_node: u32,
    /// The most nodes that pull for it at once, if there is a limit: a node needs its turn then.
    pub nodes: Option<u32>,
    /// New nodes wait for it.
    pub gates: bool,
}

impl fmt::Display for Wanter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Plan {
    /// Of all ImageCaches of the cluster, for a node.
    pub fn of<C: Borrow<ImageCache>>(node: &Node, caches: &[C], policy: &CachePolicySpec) -> Plan {
        let standings = Standings::of(caches, policy);
        let counts = |cache: &&ImageCache| standings.standing(cache) == Standing::Counts && selects(&cache.spec, node);
        let mut caches: Vec<&ImageCache> = caches.iter().map(Borrow::borrow).filter(counts).collect();
        caches.sort_by_key(|cache| (Reverse(cache.spec.priority), &cache.metadata.namespace, &cache.metadata.name));

        let cleanup = policy.cleanup.clone().filter(|cleanup| cleanup.mode != CleanupMode::Off);
        let limits = &policy.image_caches;
        let mut plan =
            Plan { wishes: Vec::new(), pulls: limits.pulls_per_node, nodes_at_once: limits.nodes_at_once, cleanup };
        let mut places: HashMap<Image, usize> = HashMap::new();
        // When the answer was found that a wish has its digest from.
        let mut found: Vec<Option<Time>> = Vec::new();
        for cache in caches {
            let wanter = Arc::new(Wanter::of(cache, policy));
            let digests = Digests::of(cache);
            for image in Wanted::of_status(cache, policy).images {
                let digest = digests.of_image(&image);
                match places.get(&image) {
                    Some(&place) => {
                        let wish = &mut plan.wishes[place];
                        wish.join(cache, wanter.clone(), policy);
                        if digest.is_some() && (wish.digest.is_none() || found[place] < wanter.refreshed) {
                            wish.digest = digest;
                            found[place].clone_from(&wanter.refreshed);
                        }
                    }
                    None => {
                        places.insert(image.clone(), plan.wishes.len());
                        found.push(digest.and(wanter.refreshed.clone()));
                        plan.wishes.push(Wish::new(image, digest, cache, wanter.clone(), policy));
                    }
                }
            }
        }
        plan
    }

    /// The wish for an image.
    pub fn wish(&self, image: &Image) -> Option<&Wish> {
        self.wishes.iter().find(|wish| wish.image == *image)
    }

    /// Which of the wishes that are `ready` to be pulled may begin while the images of `pulling` are being pulled: as many as the node may
    /// pull at once, and for each ImageCache as many as it may. An image that several want begins if one of them has room and, where that one
    /// lets only some nodes pull at once, it is this node's turn. Without `turns` nobody waits for any.
    pub fn next(
        &self,
        pulling: &HashSet<Image>,
        turns: Option<&Turns>,
        mut ready: impl FnMut(&Wish) -> bool,
    ) -> Vec<&Wish> {
        let mut running: HashMap<(&str, &str), u32> = HashMap::new();
        for wish in self.wishes.iter().filter(|wish| pulling.contains(&wish.image)) {
            wish.count(&mut running);
        }
        // What nobody wants any more and is still coming takes a place too.
        let mut room = (self.pulls as usize).saturating_sub(pulling.len());
        let mut next = Vec::new();
        for wish in &self.wishes {
            if room == 0 {
                break;
            }
            if turns.is_some_and(|turns| !self.lets(wish, turns)) {
                continue;
            }
            let has_room = |wanter: &Arc<Wanter>| {
                turns.is_none_or(|turns| wanter.lets(turns))
                    && running.get(&(&*wanter.namespace, &*wanter.name)).copied().unwrap_or_default() < wanter.per_node
            };
            if !pulling.contains(&wish.image) && wish.wanted_by.iter().any(has_room) && ready(wish) {
                wish.count(&mut running);
                room -= 1;
                next.push(wish);
            }
        }
        next
    }
}

impl Wish {
    fn new(
        image: Image,
        digest: Option<Digest>,
        cache: &ImageCache,
        wanter: Arc<Wanter>,
        policy: &CachePolicySpec,
    ) -> Wish {
        Wish {
            image,
            digest,
            wanted_by: vec![wanter],
            retries: cache.spec.retries,
            private_images: private_images(cache, policy),
            on_delete: cache.spec.on_delete,
        }
    }

    /// One more wants it.
    fn join(&mut self, cache: &ImageCache, wanter: Arc<Wanter>, policy: &CachePolicySpec) {
        self.wanted_by.push(wanter);
        self.retries = self.retries.max(cache.spec.retries);
        if private_images(cache, policy) == PrivateImages::Runtime {
            self.private_images = PrivateImages::Runtime;
        }
        if cache.spec.on_delete == OnDelete::Keep {
            self.on_delete = OnDelete::Keep;
        }
    }

    /// The highest priority with which it is wanted.
    pub fn priority(&self) -> i32 {
        self.wanted_by.first().map_or(0, |wanter| wanter.priority)
    }

    fn count<'a>(&'a self, running: &mut HashMap<(&'a str, &'a str), u32>) {
        for wanter in &self.wanted_by {
            *running.entry((&wanter.namespace, &wanter.name)).or_default() += 1;
        }
    }
}

impl Wanter {
    fn of(cache: &ImageCache, policy: &CachePolicySpec) -> Wanter {
        Wanter {
            namespace: cache.metadata.namespace.clone().unwrap_or_default(),
            name: cache.metadata.name.clone().unwrap_or_default(),
            generation: cache.metadata.generation,
            refreshed: cache.status.as_ref().and_then(|status| status.last_refresh.clone()),
            priority: cache.spec.priority,
            per_node: cache.spec.parallelism.per_node.min(policy.image_caches.pulls_per_node),
            nodes: cache.spec.parallelism.nodes,
            gates: crate::gates(&cache.spec, policy),
        }
    }
}

fn private_images(cache: &ImageCache, policy: &CachePolicySpec) -> PrivateImages {
    match policy.image_caches.private_in_runtime {
        Permission::Allow => cache.spec.private_images,
        Permission::Refuse => PrivateImages::Store,
    }
}

/// What the tags of an ImageCache mean, by the texts of the images.
struct Digests<'a>(HashMap<&'a str, &'a str>);

impl<'a> Digests<'a> {
    fn of(cache: &'a ImageCache) -> Digests<'a> {
        let images = cache.status.iter().flat_map(|status| &status.images);
        Digests(images.filter_map(|one| Some((&*one.image, one.digest.as_deref()?))).collect())
    }

    fn of_image(&self, image: &Image) -> Option<Digest> {
        match &image.reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => self.0.get(image.to_string().as_str())?.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sample::{cache, policy};

    fn plan(caches: &[ImageCache], rules: Value) -> Plan {
        Plan::of(&Node::new("node-1", [("pool", "web")]), caches, &policy(rules))
    }

    fn images(wishes: impl IntoIterator<Item = impl Borrow<Wish>>) -> Vec<String> {
        wishes.into_iter().map(|wish| wish.borrow().image.to_string()).collect()
    }

    fn digest(letter: char) -> String {
        format!("sha256:{}", letter.to_string().repeat(64))
    }

    fn known(image: &str, digest: &str, refreshed: &str) -> Value {
        json!({"images": [{"image": image, "digest": digest}], "lastRefresh": refreshed})
    }

    #[test]
    fn only_who_selects_the_node_and_counts_wants_something_there() {
        let caches = [
            cache("shop/web", json!({"images": ["quay.io/web:1"], "nodeSelector": {"pool": "web"}}), json!({})),
            cache("shop/db", json!({"images": ["quay.io/db:1"], "nodeSelector": {"pool": "db"}}), json!({})),
            cache("shop/all", json!({"images": ["quay.io/all:1"]}), json!({})),
        ];
        assert_eq!(images(plan(&caches, json!({})).wishes), ["quay.io/all:1", "quay.io/web:1"]);
        let one = json!({"imageCaches": {"perNamespace": 0}});
        assert!(plan(&caches, one).wishes.is_empty());
    }

    #[test]
    fn images_come_by_priority_and_then_as_they_are_listed() {
        let caches = [
            cache("shop/b", json!({"images": ["quay.io/z:1", "quay.io/a:1"]}), json!({})),
            cache("shop/a", json!({"images": ["quay.io/m:1"], "priority": -5}), json!({})),
            cache("zoo/c", json!({"images": ["quay.io/x:1", "quay.io/a:1"], "priority": 10}), json!({})),
            cache("a/d", json!({"images": ["quay.io/n:1"]}), json!({})),
        ];
        let plan = plan(&caches, json!({}));
        let order = ["quay.io/x:1", "quay.io/a:1", "quay.io/n:1", "quay.io/z:1", "quay.io/m:1"];
        assert_eq!(images(&plan.wishes), order);
        let shared = &plan.wishes[1];
        assert_eq!(shared.wanted_by.iter().map(ToString::to_string).collect::<Vec<_>>(), ["zoo/c", "shop/b"]);
        assert_eq!((shared.priority(), plan.wishes[4].priority()), (10, -5));
    }

    #[test]
    fn an_image_of_several_has_what_the_kindest_of_them_says() {
        let with = |name: &str, spec: Value| {
            let mut all = json!({"images": ["quay.io/a:1"]});
            all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            cache(name, all, json!({}))
        };
        let one = with("shop/a", json!({"retries": 2, "onDelete": "Remove"}));
        let other = with("shop/b", json!({"retries": 9, "onDelete": "Remove", "privateImages": "Runtime"}));
        let keeping = with("shop/c", json!({"retries": 0}));
        let wish = |caches: &[ImageCache], rules: Value| plan(caches, rules).wishes.remove(0);

        let both = wish(&[one.clone(), other.clone()], json!({}));
        assert_eq!((both.retries, both.on_delete, both.private_images), (9, OnDelete::Remove, PrivateImages::Runtime));
        let all = wish(&[one.clone(), other.clone(), keeping], json!({}));
        assert_eq!((all.retries, all.on_delete), (9, OnDelete::Keep));
        assert_eq!(wish(&[one], json!({})).private_images, PrivateImages::Store);
        let refused = wish(&[other], json!({"imageCaches": {"privateInRuntime": "Refuse"}}));
        assert_eq!(refused.private_images, PrivateImages::Store);
    }

    #[test]
    fn the_digest_is_the_one_that_was_found_last() {
        let spec = json!({"images": ["docker.io/a:1"]});
        let canonical = "docker.io/library/a:1";
        let old = cache("shop/a", spec.clone(), known(canonical, &digest('a'), "2026-01-01T00:00:00Z"));
        let new = cache("shop/b", spec.clone(), known(canonical, &digest('b'), "2026-01-01T00:00:01Z"));
        let none = cache("shop/0", spec.clone(), json!({"lastRefresh": "2026-01-01T00:00:02Z"}));
        let strange = cache("shop/s", spec, known(canonical, "what", "2026-01-01T00:00:03Z"));
        let found = |caches: &[ImageCache]| plan(caches, json!({})).wishes[0].digest.map(|digest| digest.to_string());
        assert_eq!(found(std::slice::from_ref(&old)), Some(digest('a')));
        assert_eq!(found(&[old.clone(), new.clone()]), Some(digest('b')));
        assert_eq!(found(&[none.clone(), old, new, strange.clone()]), Some(digest('b')));
        assert_eq!(found(&[none, strange]), None);
    }

    #[test]
    fn an_image_that_is_named_by_its_digest_needs_nobody_to_ask() {
        let image = format!("quay.io/a@{}", digest('c'));
        let lying = known(&image, &digest('d'), "2026-01-01T00:00:00Z");
        let plan = plan(&[cache("shop/a", json!({ "images": [image] }), lying)], json!({}));
        assert_eq!(plan.wishes[0].digest.unwrap().to_string(), digest('c'));
    }

    #[test]
    fn images_of_workloads_are_wanted_as_the_status_says() {
        let status = json!({"images": [{"image": "quay.io/a:1"}, {"image": "quay.io/w:1"}]});
        let spec = json!({"images": ["quay.io/a:1"], "workloads": {"selector": {}}});
        let plan = plan(&[cache("shop/a", spec, status)], json!({"imageCaches": {"images": 2}}));
        assert_eq!(images(&plan.wishes), ["quay.io/a:1", "quay.io/w:1"]);
    }

    #[test]
    fn a_wanter_has_what_the_policy_leaves_it() {
        let spec = json!({"images": ["quay.io/a:1"], "parallelism": {"perNode": 8}, "gateNodes": true});
        let caches = [cache("shop/a", spec, json!({}))];
        let free = plan(&caches, json!({"imageCaches": {"pullsPerNode": 16}}));
        assert_eq!(
            (free.pulls, free.wishes[0].wanted_by[0].per_node, free.wishes[0].wanted_by[0].gates),
            (16, 8, true)
        );
        let strict = plan(&caches, json!({"imageCaches": {"pullsPerNode": 3, "gateNodes": "Refuse"}}));
        assert_eq!(
            (strict.pulls, strict.wishes[0].wanted_by[0].per_node, strict.wishes[0].wanted_by[0].gates),
            (3, 3, false)
        );
    }

    #[test]
    fn as_many_begin_as_the_node_and_each_of_them_may_have_at_once() {
        let caches = [
            cache(
                "shop/a",
                json!({"images": ["quay.io/a1:1", "quay.io/a2:1", "quay.io/a3:1"], "parallelism": {"perNode": 1}, "priority": 1}),
                json!({}),
            ),
            cache(
                "shop/b",
                json!({"images": ["quay.io/a2:1", "quay.io/b1:1", "quay.io/b2:1", "quay.io/b3:1"]}),
                json!({}),
            ),
        ];
        let plan = plan(&caches, json!({"imageCaches": {"pullsPerNode": 4}}));
        let set = |names: &[&str]| {
            names.iter().map(|name| format!("quay.io/{name}:1").parse().unwrap()).collect::<HashSet<Image>>()
        };
        let next = |pulling: &[&str], done: &[&str]| {
            let done = set(done);
            images(plan.next(&set(pulling), Some(&Turns::default()), |wish| !done.contains(&wish.image)))
        };
        // The first takes the one place of shop/a; the second is wanted by shop/b too, which has room for two.
        assert_eq!(next(&[], &[]), ["quay.io/a1:1", "quay.io/a2:1", "quay.io/b1:1"]);
        assert_eq!(next(&["a1", "a2", "b1"], &[]), [""; 0]);
        assert_eq!(next(&["a2", "b1"], &["a1"]), [""; 0]);
        assert_eq!(next(&["b1"], &["a1", "a2"]), ["quay.io/a3:1", "quay.io/b2:1"]);
        assert_eq!(next(&[], &["a1", "a2", "a3"]), ["quay.io/b1:1", "quay.io/b2:1"]);
        // What is no longer wanted and still coming takes places of the node.
        assert_eq!(next(&["old1", "old2", "old3"], &[]), ["quay.io/a1:1"]);
    }

    #[test]
    fn what_waits_for_its_turn_takes_nobodys_place() {
        let of = |tags: [u8; 2]| tags.map(|tag| format!("quay.io/a:{tag}"));
        let caches = [
            cache("shop/few", json!({"images": of([1, 2]), "parallelism": {"nodes": 1}, "priority": 1}), json!({})),
            cache("shop/all", json!({"images": of([2, 3]), "parallelism": {"perNode": 1}}), json!({})),
        ];
        let plan = plan(&caches, json!({"imageCaches": {"pullsPerNode": 3}}));
        let next = |turns: Option<&Turns>| images(plan.next(&HashSet::new(), turns, |_| true));
        assert_eq!(next(Some(&Turns::default())), ["quay.io/a:2"]);
        let turns = Turns { cluster: false, caches: ["shop/few".to_owned()].into() };
        assert_eq!(next(Some(&turns)), ["quay.io/a:1", "quay.io/a:2"]);
        assert_eq!(next(None), ["quay.io/a:1", "quay.io/a:2"]);
    }
}
