use api::{
    CachePolicySpec, CachedImage, CachedImageStatus, IN_STORE, ImageCache, NodeCache, NodeImage, NodeImageState,
    WAITS_FOR_TURN,
};
use oci::{Image, Reference};
use serde::Serialize;
use warm::{Node, Standing, Standings, Unselected, Wanted, covers, selection};

use crate::images::name_of;

/// The most nodes that are named where many have an image.
const NAMED: usize = 3;

/// Where an image would come from if a pod wanted it on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Place {
    /// The node has it.
    Runtime,
    /// It is private, and the node's agent has it, not the runtime.
    Store,
    /// Other nodes have it, and give it to this one.
    Nodes,
    /// No node has it, and larder's registry has all of it.
    Registry,
    /// No node has it: from larder's registry or, if that has not got it either, from the origin.
    RegistryOrOrigin,
    /// The CachePolicy says that it is not cached: from the origin, past larder.
    Origin,
}

/// Where an image would come from, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Whys {
    /// The image, with what was left out of its name.
    pub image: String,
    /// By node, in the order of their names.
    pub nodes: Vec<Why>,
}

/// Where an image would come from on a node, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// The node.
    pub node: String,
    /// Where from.
    pub from: Place,
    /// Why, in sentences.
    pub because: Vec<String>,
}

/// Says it for all nodes that are given. `known` is the CachedImage of the image, if there is one; `caches` has the NodeCaches of all nodes of the cluster, since others may give the image.
pub fn why(
    image: &Image,
    nodes: &[Node],
    caches: &[NodeCache],
    image_caches: &[ImageCache],
    known: Option<&CachedImage>,
    policy: &CachePolicySpec,
) -> Whys {
    let known = known.and_then(|known| known.status.as_ref());
    let name = image.to_string();
    let holders: Vec<&str> = caches.iter().filter(|cache| has(cache, image)).map(node_of).collect();
    let standings = Standings::of(image_caches, policy);
    let mut nodes: Vec<&Node> = nodes.iter().collect();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    let nodes = nodes.into_iter().map(|node| {
        let cache = caches.iter().find(|cache| node_of(cache) == &*node.name);
        let mut because = Vec::new();
        let view = View { image, holders: &holders, agents: !caches.is_empty(), known, policy };
        let told = cache.and_then(|cache| entry(cache, image));
        let from = view.place(node, cache, told, &mut because);
        if told.is_some_and(|told| told.private) || is_private(image_caches, &name) {
            because.push("The origin gives it to nobody without a credential: a pod needs a pull secret that the origin accepts.".to_owned());
        }
        for wanting in image_caches {
            let wanted = Wanted::of_status(wanting, policy);
            let left = wanted.left_out.iter().any(|(left, _)| left == image);
            if left || wanted.images.contains(image) {
                because.push(by_cache(wanting, node, left, standings.standing(wanting)));
            }
        }
        Why { node: node.name.to_string(), from, because }
    });
    Whys { image: name.clone(), nodes: nodes.collect() }
}

/// What is the same for all nodes.
struct View<'a> {
    image: &'a Image,
    /// The nodes that have it.
    holders: &'a [&'a str],
    /// Agents of some nodes have told what they have.
    agents: bool,
    known: Option<&'a CachedImageStatus>,
    policy: &'a CachePolicySpec,
}

impl View<'_> {
    /// Where it comes from on a node.
    fn place(
        &self,
        node: &Node,
        cache: Option<&NodeCache>,
        told: Option<&NodeImage>,
        because: &mut Vec<String>,
    ) -> Place {
        because.extend(told.and_then(sentence));
        if self.holders.contains(&&*node.name) {
            because.push("The runtime has it: a pod starts without a pull, unless its pull policy is Always, which only asks what the tag means.".to_owned());
            return Place::Runtime;
        }
        if told.is_some_and(is_in_store) {
            because.push("The agent has all of it in its own store: a pod's pull takes it from there.".to_owned());
            return Place::Store;
        }
        match cache.and_then(|cache| cache.status.as_ref()) {
            None if self.agents => {
                because.push(
                    "No larder agent of this node has told anything, unlike others: without one, the runtime pulls from the origin. Run larder doctor there."
                        .to_owned(),
                );
                return Place::Origin;
            }
            None => because.push(
                "No node tells what it has: agents do so where they keep images ready (node.prefetch).".to_owned(),
            ),
            Some(status) => {
                let away = status.conditions.iter().find(|one| one.type_ == "Ready" && one.status != "True");
                because.extend(away.map(|away| format!("The agent is not well: {}.", away.message)));
                if status.left_out > 0 && told.is_none() {
                    let left = status.left_out;
                    because.push(format!(
                        "{left} images of this node are not listed in its NodeCache: it may be one of them."
                    ));
                }
            }
        }
        let rules = self.policy.images.include.iter().chain(&self.policy.images.exclude);
        if rules.clone().any(|rule| rule.namespace.is_some()) {
            because.push("Rules of the CachePolicy for namespaces are not looked at here.".to_owned());
        }
        if !covers(&self.policy.images, self.image, "") {
            because.push("The CachePolicy does not let it be cached: the runtime gets it from the origin.".to_owned());
            return Place::Origin;
        }
        if self.holders.is_empty() && self.known.is_some_and(|known| known.held.registry) {
            because.push("No node is known to have it, and larder's registry has all of it.".to_owned());
            return Place::Registry;
        }
        if self.holders.is_empty() {
            because.push("No node is known to have it: it comes from larder's registry, which fetches from the origin what it does not have yet.".to_owned());
            return Place::RegistryOrOrigin;
        }
        let named = self.holders.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        let more = self.holders.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        because.push(format!("Other nodes have it and give its pieces: {named}{more}."));
        Place::Nodes
    }
}

/// Whether an ImageCache has found out that it needs a credential.
fn is_private(caches: &[ImageCache], name: &str) -> bool {
    let statuses = caches.iter().filter_map(|cache| cache.status.as_ref());
    statuses.flat_map(|status| &status.images).any(|one| one.private && one.image == name)
}

/// What the agent says of it.
fn sentence(told: &NodeImage) -> Option<String> {
    let attempts = told.attempts.map(|attempts| format!(" after {attempts} attempts")).unwrap_or_default();
    match told.state {
        NodeImageState::Present => None,
        NodeImageState::Warm if told.pinned => {
            Some("It is kept ready here, pinned against kubelet's garbage collection.".to_owned())
        }
        NodeImageState::Warm => Some("It is kept ready here.".to_owned()),
        NodeImageState::Pulling => Some("It is being pulled for an ImageCache right now.".to_owned()),
        NodeImageState::Wanted if told.reason.as_deref() == Some(WAITS_FOR_TURN) => Some(format!(
            "It is wanted here, and waits: {}.",
            told.message.as_deref().unwrap_or("this node's turn to pull has not come").trim_end_matches('.'),
        )),
        NodeImageState::Wanted => Some("It is wanted here, and its turn to be pulled has not come.".to_owned()),
        NodeImageState::Failed => Some(format!(
            "It cannot be made ready here{attempts}: {}: {}.",
            told.reason.as_deref().unwrap_or("Unknown"),
            told.message.as_deref().unwrap_or("no message").trim_end_matches('.'),
        )),
    }
}

fn by_cache(cache: &ImageCache, node: &Node, left_out: bool, standing: Standing) -> String {
    let name = name_of(cache);
    if standing == Standing::TooMany {
        return format!(
            "The ImageCache {name} names it, and does not count: its namespace has more than the CachePolicy allows."
        );
    }
    if left_out {
        return format!("The ImageCache {name} names it, and the CachePolicy leaves it out.");
    }
    match selection(&cache.spec, node) {
        Ok(()) => format!("The ImageCache {name} wants it here."),
        Err(Unselected::Label(key)) => format!("The ImageCache {name} wants it on nodes with another label {key}."),
        Err(Unselected::Terms) => {
            format!("The ImageCache {name} wants it on nodes that meet its nodeSelectorTerms, which this one does not.")
        }
        Err(Unselected::Taint(key)) => {
            format!("The ImageCache {name} wants it, but does not tolerate the taint {key} of this node.")
        }
    }
}

fn node_of(cache: &NodeCache) -> &str {
    cache.metadata.name.as_deref().unwrap_or_default()
}

/// What a node says of an image: under its name or, where that is a digest, under any name of the same repository with this digest.
fn entry<'a>(cache: &'a NodeCache, image: &Image) -> Option<&'a NodeImage> {
    let (name, repository) = (image.to_string(), image.name.to_string());
    let digest = match &image.reference {
        Reference::Digest(digest) => Some(digest.to_string()),
        Reference::Tag(_) => None,
    };
    let same = |one: &&NodeImage| {
        let of_repository = || one.image.strip_prefix(&repository).is_some_and(|rest| rest.starts_with([':', '@']));
        one.image == name || (digest.is_some() && one.digest == digest && of_repository())
    };
    cache.status.as_ref()?.images.iter().find(same)
}

/// Whether it is ready, and not in the runtime.
fn is_in_store(image: &NodeImage) -> bool {
    image.state == NodeImageState::Warm && image.reason.as_deref() == Some(IN_STORE)
}

/// Whether the runtime of a node has it.
fn has(cache: &NodeCache, image: &Image) -> bool {
    let ready = |image: &NodeImage| {
        matches!(image.state, NodeImageState::Present | NodeImageState::Warm) && !is_in_store(image)
    };
    entry(cache, image).is_some_and(ready)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node_cache(name: &str, images: Value) -> NodeCache {
        let object = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": name},
            "status": {"images": images},
        });
        serde_json::from_value(object).unwrap()
    }

    fn image_cache(spec: Value) -> ImageCache {
        let object = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache",
            "metadata": {"namespace": "shop", "name": "web"}, "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    fn told(image: &str, policy: Value) -> String {
        let nodes = ["one", "two", "three"].map(|name| {
            let pool = if name == "three" { "db" } else { "web" };
            Node::new(name, [("pool", pool)])
        });
        let caches = [
            node_cache(
                "one",
                json!([{"image": "quay.io/a:1", "state": "Warm", "pinned": true}, {"image": "quay.io/c:1", "state": "Present", "digest": format!("sha256:{}", "c".repeat(64))}]),
            ),
            node_cache(
                "two",
                json!([{"image": "quay.io/p:1", "state": "Warm", "private": true, "reason": "InStore"}, {"image": "quay.io/a:1", "state": "Failed", "reason": "DiskFull", "message": "it is full", "attempts": 2}]),
            ),
        ];
        let wanting = image_cache(json!({"images": ["quay.io/a:1"], "nodeSelector": {"pool": "web"}}));
        let policy = serde_json::from_value(policy).unwrap();
        let known = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "CachedImage", "metadata": {"name": "x"},
            "spec": {"image": image}, "status": {"held": {"registry": image.contains("/kept:")}},
        });
        let known: CachedImage = serde_json::from_value(known).unwrap();
        let whys = why(&image.parse().unwrap(), &nodes, &caches, &[wanting], Some(&known), &policy);
        let lines = whys.nodes.iter().flat_map(|why| {
            let head = format!("{}: {:?}", why.node, why.from);
            std::iter::once(head).chain(why.because.iter().map(|reason| format!("  {reason}")))
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_node_is_told_of_with_its_reasons() {
        insta::assert_snapshot!("wanted", told("quay.io/a:1", json!({})));
        insta::assert_snapshot!("private", told("quay.io/p:1", json!({})));
        insta::assert_snapshot!("had_by_another", told("quay.io/c:1", json!({})));
        let by_digest = format!("quay.io/c@sha256:{}", "c".repeat(64));
        insta::assert_snapshot!("by_digest", told(&by_digest, json!({"images": {"include": [{"namespace": "*"}]}})));
        insta::assert_snapshot!("had_by_the_registry", told("quay.io/kept:1", json!({})));
        insta::assert_snapshot!("had_by_nobody", told("quay.io/nowhere:1", json!({})));
        insta::assert_snapshot!(
            "excluded",
            told("quay.io/nowhere:1", json!({"images": {"exclude": [{"registry": "quay.io"}]}}))
        );
    }
}
