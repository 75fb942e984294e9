use std::collections::BTreeSet;

use api::NodeTurns;

use crate::{Plan, Wanter, Wish};

/// What of that which only some nodes may pull at once a node may pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// It may pull for ImageCaches at all, where the policy limits how many nodes do.
    pub cluster: bool,
    /// The ImageCaches with a limit for which it may pull, as `namespace/name`.
    pub caches: BTreeSet<String>,
}

impl Turns {
    /// Whether there is nothing that it may pull.
    pub fn is_empty(&self) -> bool {
        !self.cluster && self.caches.is_empty()
    }
}

impl From<&NodeTurns> for Turns {
    fn from(turns: &NodeTurns) -> Turns {
        Turns { cluster: turns.cluster, caches: turns.image_caches.iter().cloned().collect() }
    }
}

impl From<&Turns> for NodeTurns {
    fn from(turns: &Turns) -> NodeTurns {
        NodeTurns { cluster: turns.cluster, image_caches: turns.caches.iter().cloned().collect() }
    }
}

impl Plan {
    /// Whether something of it needs a turn.
    pub fn takes_turns(&self) -> bool {
        self.nodes_at_once.is_some()
            || self.wishes.iter().flat_map(|wish| &wish.wanted_by).any(|one| one.nodes.is_some())
    }

    /// Whether the node may pull an image with the turns that it has: one of those who want it has no limit, or has given it a turn.
    pub fn lets(&self, wish: &Wish, turns: &Turns) -> bool {
        (self.nodes_at_once.is_none() || turns.cluster) && wish.wanted_by.iter().any(|wanter| wanter.lets(turns))
    }

    /// Why an image waits that may not be pulled with these turns, for people.
    pub fn waits(&self, wish: &Wish, turns: &Turns) -> String {
        let limits = wish.wanted_by.iter().filter_map(|wanter| {
            let nodes = wanter.nodes.filter(|_| !wanter.lets(turns))?;
            Some(format!("parallelism.nodes of the ImageCache {wanter} ({nodes})"))
        });
        let cluster = self.nodes_at_once.filter(|_| !turns.cluster);
        let cluster = cluster.map(|nodes| format!("nodesAtOnce of the CachePolicy ({nodes})"));
        let limits: Vec<String> = cluster.into_iter().chain(limits).collect();
        format!("this node's turn has not come: no more nodes pull at once than {} says", limits.join(" and "))
    }
}

impl Wanter {
    /// Whether an image may be pulled for it.
    pub(crate) fn lets(&self, turns: &Turns) -> bool {
        self.nodes.is_none() || turns.caches.contains(&self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Node;
    use crate::sample::{cache, policy};

    fn plan(rules: Value) -> Plan {
        let caches = [
            cache(
                "shop/few",
                json!({"images": ["quay.io/a:1", "quay.io/b:1"], "parallelism": {"nodes": 3}}),
                json!({}),
            ),
            cache("shop/all", json!({"images": ["quay.io/b:1", "quay.io/c:1"]}), json!({})),
        ];
        Plan::of(&Node::new("node-1", [("pool", "web")]), &caches, &policy(rules))
    }

    fn turns(cluster: bool, caches: &[&str]) -> Turns {
        Turns { cluster, caches: caches.iter().map(|name| (*name).to_owned()).collect() }
    }

    fn let_in(plan: &Plan, turns: &Turns) -> Vec<String> {
        plan.wishes.iter().filter(|wish| plan.lets(wish, turns)).map(|wish| wish.image.to_string()).collect()
    }

    #[test]
    fn what_somebody_wants_without_a_limit_waits_for_nothing() {
        let plan = plan(json!({}));
        assert!(plan.takes_turns());
        assert_eq!(let_in(&plan, &Turns::default()), ["quay.io/b:1", "quay.io/c:1"]);
        assert_eq!(let_in(&plan, &turns(false, &["shop/few"])).len(), 3);
        let waits = plan.waits(&plan.wishes[2], &Turns::default());
        assert!(waits.contains("parallelism.nodes of the ImageCache shop/few (3)"), "{waits}");
    }

    #[test]
    fn the_limit_of_the_policy_is_one_for_all() {
        let plan = plan(json!({"imageCaches": {"nodesAtOnce": 5}}));
        assert_eq!(let_in(&plan, &turns(false, &["shop/few"])), [""; 0]);
        assert_eq!(let_in(&plan, &turns(true, &[])), ["quay.io/b:1", "quay.io/c:1"]);
        assert_eq!(let_in(&plan, &turns(true, &["shop/few"])).len(), 3);
        let all = plan.wishes.iter().find(|wish| wish.image.to_string() == "quay.io/c:1").unwrap();
        let waits = plan.waits(all, &Turns::default());
        assert!(waits.contains("nodesAtOnce of the CachePolicy (5)") && !waits.contains("shop"), "{waits}");
    }

    #[test]
    fn without_limits_there_are_no_turns() {
        let caches = [cache("shop/all", json!({"images": ["quay.io/a:1"]}), json!({}))];
        let plan = Plan::of(&Node::new("node-1", [("pool", "web")]), &caches, &policy(json!({})));
        assert!(!plan.takes_turns() && plan.lets(&plan.wishes[0], &Turns::default()));
    }
}
