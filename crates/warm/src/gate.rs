use std::borrow::Borrow;
use std::time::Duration;

use api::{CachePolicySpec, ImageCache, ImageCacheSpec, Permission};

use crate::{Node, Standing, Standings, selects};

/// Whether new nodes wait for an ImageCache with this spec: it asks for it, and the policy lets it.
pub fn gates(spec: &ImageCacheSpec, policy: &CachePolicySpec) -> bool {
    spec.gate_nodes && policy.image_caches.gate_nodes == Permission::Allow
}

/// How long after it was made a node waits at most: the least that one of the ImageCaches it waits for says, and no longer than
/// the policy allows.
pub fn gate_timeout<'a>(gating: impl IntoIterator<Item = &'a ImageCacheSpec>, policy: &CachePolicySpec) -> Duration {
    let limit = policy.image_caches.gate_timeout.0;
    gating.into_iter().map(|spec| spec.gate_timeout.0).min().map_or(limit, |least| least.min(limit))
}

/// Whether a node has to wait for some ImageCache.
pub fn is_gated<C: Borrow<ImageCache>>(node: &Node, caches: &[C], policy: &CachePolicySpec) -> bool {
    let standings = Standings::of(caches, policy);
    caches.iter().map(Borrow::borrow).any(|cache| {
        standings.standing(cache) == Standing::Counts && gates(&cache.spec, policy) && selects(&cache.spec, node)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sample::{cache, policy};

    #[test]
    fn a_node_waits_for_who_selects_it_and_may_gate() {
        let node = Node::new("a", [("pool", "web")]);
        let gating = cache("shop/web", json!({"gateNodes": true, "nodeSelector": {"pool": "web"}}), json!({}));
        let other = cache("shop/db", json!({"gateNodes": true, "nodeSelector": {"pool": "db"}}), json!({}));
        let calm = cache("shop/calm", json!({}), json!({}));
        let allowed = policy(json!({}));
        assert!(is_gated(&node, &[&calm, &other, &gating], &allowed));
        assert!(!is_gated(&node, &[&calm, &other], &allowed));
        assert!(!is_gated(&node, &[&gating], &policy(json!({"imageCaches": {"gateNodes": "Refuse"}}))));
        assert!(!is_gated(&node, &[&gating], &policy(json!({"imageCaches": {"perNamespace": 0}}))));
    }

    #[test]
    fn the_least_timeout_counts() {
        let spec = |timeout: &str| cache("shop/web", json!({"gateTimeout": timeout}), json!({})).spec;
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let (five, forty) = (spec("5m"), spec("40m"));
        let usual = policy(json!({}));
        assert_eq!(gate_timeout([&forty, &five], &usual), minutes(5));
        assert_eq!(gate_timeout([&forty], &usual), minutes(30));
        assert_eq!(gate_timeout([], &usual), minutes(30));
        assert_eq!(gate_timeout([&five], &policy(json!({"imageCaches": {"gateTimeout": "2m"}}))), minutes(2));
    }
}
