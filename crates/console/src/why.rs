use api::{CachePolicySpec, ImageCache, NodeCache, NodeImage, NodeImageState};
use oci::Image;
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
    /// Other nodes have it, and give it to this one.
    Nodes,
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

/// Says it for all nodes that are given. `caches` has the NodeCaches of all nodes of the cluster, since others may give the image.
pub fn why(
    image: &Image,
    nodes: &[Node],
    caches: &[NodeCache],
    image_caches: &[ImageCache],
    policy: &CachePolicySpec,
) -> Whys {
    let name = image.to_string();
    let holders: Vec<&str> = caches.iter().filter(|cache| has(cache, &name)).map(node_of).collect();
    let standings = Standings::of(image_caches, policy);
    let mut nodes: Vec<&Node> = nodes.iter().collect();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    let nodes = nodes.into_iter().map(|node| {
        let cache = caches.iter().find(|cache| node_of(cache) == &*node.name);
        let mut because = Vec::new();
        let from = place(node, cache, &name, &holders, image, policy, &mut because);
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

/// Where it is.
fn place(
    node: &Node,
    cache: Option<&NodeCache>,
    name: &str,
    holders: &[&str],
    image: &Image,
    policy: &CachePolicySpec,
    because: &mut Vec<String>,
) -> Place {
    let told = cache.and_then(|cache| entry(cache, name));
    if let Some(told) = told {
        because.extend(sentence(told));
    }
    if holders.contains(&&*node.name) {
        because.push("The runtime has it: a pod starts without a pull, unless its pull policy is Always, which only asks what the tag means.".to_owned());
        return Place::Runtime;
    }
    match cache.and_then(|cache| cache.status.as_ref()) {
        None => because.push(
            "No larder agent of this node has told anything: if there is none, the runtime pulls from the origin itself. See kubectl get nodecaches, and run larder doctor there."
                .to_owned(),
        ),
        Some(status) => {
            let away = status.conditions.iter().find(|one| one.type_ == "Ready" && one.status != "True");
            because.extend(away.map(|away| format!("The agent is not well: {}.", away.message)));
            if status.left_out > 0 && told.is_none() {
                because.push(format!("{} images of this node are not listed in its NodeCache: it may be one of them.", status.left_out));
            }
        }
    }
    // Of no namespace in particular.
    if !covers(&policy.images, image, "") {
        because.push("The CachePolicy does not let it be cached: the runtime gets it from the origin.".to_owned());
        return Place::Origin;
    }
    match holders {
        [] => {
            because.push("No node has it: it comes from larder's registry, which fetches from the origin what it does not have yet.".to_owned());
            Place::RegistryOrOrigin
        }
        holders => {
            let named = holders.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
            let more =
                if holders.len() > NAMED { format!(" and {} more", holders.len() - NAMED) } else { String::new() };
            because.push(format!("Other nodes have it and give its pieces: {named}{more}."));
            Place::Nodes
        }
    }
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

fn entry<'a>(cache: &'a NodeCache, name: &str) -> Option<&'a NodeImage> {
    cache.status.as_ref()?.images.iter().find(|image| image.image == name)
}

/// Whether the runtime of a node has it.
fn has(cache: &NodeCache, name: &str) -> bool {
    let ready = |image: &NodeImage| matches!(image.state, NodeImageState::Present | NodeImageState::Warm);
    entry(cache, name).is_some_and(ready)
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
                json!([{"image": "quay.io/a:1", "state": "Warm", "pinned": true}, {"image": "quay.io/c:1", "state": "Present"}]),
            ),
            node_cache(
                "two",
                json!([{"image": "quay.io/a:1", "state": "Failed", "reason": "DiskFull", "message": "it is full", "attempts": 2}]),
            ),
        ];
        let wanting = image_cache(json!({"images": ["quay.io/a:1"], "nodeSelector": {"pool": "web"}}));
        let policy = serde_json::from_value(policy).unwrap();
        let whys = why(&image.parse().unwrap(), &nodes, &caches, &[wanting], &policy);
        let lines = whys.nodes.iter().flat_map(|why| {
            let head = format!("{}: {:?}", why.node, why.from);
            std::iter::once(head).chain(why.because.iter().map(|reason| format!("  {reason}")))
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_node_is_told_of_with_its_reasons() {
        insta::assert_snapshot!("wanted", told("quay.io/a:1", json!({})));
        insta::assert_snapshot!("had_by_another", told("quay.io/c:1", json!({})));
        insta::assert_snapshot!("had_by_nobody", told("quay.io/nowhere:1", json!({})));
        insta::assert_snapshot!(
            "excluded",
            told("quay.io/nowhere:1", json!({"images": {"exclude": [{"registry": "quay.io"}]}}))
        );
    }
}
