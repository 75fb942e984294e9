use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{
    CachePolicy, CachePolicySpec, ImageCache, ImageCacheSpec, ImageCacheStatus, ImageProgress, NodeCache, names,
};
use apiserver::{ApiServer, News, Seen, Watch, follow};
use k8s_openapi::api::core::v1;
use kube::api::ObjectMeta;
use kube::core::DeserializeGuard;
use tokio::sync::watch;
use warm::{Plan, Turns};

use super::queue::Heard;

/// What of a node matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// What decides on its images.
    pub node: warm::Node,
    /// Another one after it was made anew under its name.
    pub uid: String,
}

/// Follows what the API server says of a node's images, and tells in `plans` what is wanted, in `nodes` which node this is and in `turns` what
/// it may pull now. The first two tell nothing before all of it is known once, and all keep what was last known while the API server is away.
pub async fn follow_plan(
    server: &ApiServer,
    node: &str,
    plans: watch::Sender<Option<Plan>>,
    nodes: watch::Sender<Option<KnownNode>>,
    turns: watch::Sender<Heard>,
) -> Infallible {
    let mut plan = plans.subscribe();
    let view = View { state: Mutex::default(), plans, nodes, turns };
    let seen: [Arc<Seen>; 4] = Default::default();
    // What the controller gives is followed only while something needs it.
    let follow_turns = async {
        let own = Watch::<DeserializeGuard<NodeCache>>::everywhere("the NodeCache of this node").named(node);
        let takes = |plan: &Option<Plan>| plan.as_ref().is_some_and(Plan::takes_turns);
        loop {
            if plan.wait_for(takes).await.is_err() {
                // Not as long as the view is there, which has its other end.
                std::future::pending::<()>().await;
            }
            tokio::select! {
                never = follow(server, &own, &seen[3], turns_of, |news| view.hear(|state| state.turns(news))) => match never {},
                Ok(_) = plan.wait_for(|plan| !takes(plan)) => view.hear(|state| state.turns = Turns::default()),
            }
        }
    };
    let this_node = Watch::<v1::Node>::everywhere("this node").named(node);
    let caches = Watch::<DeserializeGuard<ImageCache>>::everywhere("ImageCaches");
    let policy = Watch::<CachePolicy>::everywhere("the CachePolicy").named(names::POLICY);
    let policy_of = |policy: CachePolicy| (policy.metadata.name == Some(names::POLICY.to_owned()), policy.spec);
    tokio::select! {
        never = follow(server, &this_node, &seen[0], known, |news| view.hear(|state| state.node(node, news))) => never,
        never = follow(server, &caches, &seen[1], trimmed, |news| view.hear(|state| state.caches(news))) => never,
        never = follow(server, &policy, &seen[2], policy_of, |news| view.hear(|state| state.policy(news))) => never,
        never = follow_turns => never,
    }
}

struct View {
    state: Mutex<State>,
    plans: watch::Sender<Option<Plan>>,
    nodes: watch::Sender<Option<KnownNode>>,
    turns: watch::Sender<Heard>,
}

/// What is known. `None` is what was never listed.
#[derive(Default)]
struct State {
    node: Option<KnownNode>,
    caches: Option<BTreeMap<Key, ImageCache>>,
    policy: Option<CachePolicySpec>,
    turns: Turns,
}

/// A namespace and a name.
type Key = (String, String);

impl View {
    /// Takes news in, and tells what follows from them.
    fn hear(&self, take: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        take(&mut state);
        // Before the plan that may need them.
        let heard = state.heard();
        self.turns.send_if_modified(|last| std::mem::replace(last, heard.clone()) != heard);
        if let Some(plan) = state.plan() {
            tell(&self.plans, plan);
        }
        if let Some(node) = &state.node {
            tell(&self.nodes, node.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells it to those who wait for it, unless it is what they know.
fn tell<T: PartialEq>(to: &watch::Sender<Option<T>>, what: T) {
    to.send_if_modified(|last| {
        let news = last.as_ref() != Some(&what);
        if news {
            *last = Some(what);
        }
        news
    });
}

impl State {
    fn plan(&self) -> Option<Plan> {
        let (node, caches, policy) = (self.node.as_ref()?, self.caches.as_ref()?, self.policy.as_ref()?);
        let caches: Vec<&ImageCache> = caches.values().collect();
        Some(Plan::of(&node.node, &caches, policy))
    }

    /// What is heard of turns; of who gives them, by any ImageCache.
    fn heard(&self) -> Heard {
        let statuses = self.caches.iter().flat_map(BTreeMap::values).filter_map(|cache| cache.status.as_ref());
        Heard { turns: self.turns.clone(), said: statuses.filter_map(|status| status.last_turns.clone()).max() }
    }

    fn turns(&mut self, news: News<Turns>) {
        self.turns = match news {
            News::All(turns) => turns.into_iter().next().unwrap_or_default(),
            News::Changed(turns) => turns,
            News::Gone(_) => Turns::default(),
        };
    }

    /// A node whose object is gone is on its way out or is made anew: its images stay.
    fn node(&mut self, name: &str, news: News<KnownNode>) {
        match news {
            News::All(nodes) => {
                if let Some(node) = nodes.into_iter().find(|one| *one.node.name == *name) {
                    self.node = Some(node);
                } else if self.node.is_none() {
                    tracing::warn!(
                        name,
                        "there is no such Node in the cluster: node.cluster.name or NODE_NAME must be its name"
                    );
                }
            }
            News::Changed(node) => self.node = Some(node),
            News::Gone(_) => {}
        }
    }

    fn caches(&mut self, news: News<(Key, Option<ImageCache>)>) {
        match news {
            News::All(list) => {
                let mut before = self.caches.take().unwrap_or_default();
                // One that cannot be read counts as it was when it could.
                let one = |(key, cache): (Key, Option<ImageCache>)| {
                    Some((key.clone(), cache.or_else(|| before.remove(&key))?))
                };
                self.caches = Some(list.into_iter().filter_map(one).collect());
            }
            News::Changed((key, cache)) => {
                if let (Some(caches), Some(cache)) = (&mut self.caches, cache) {
                    caches.insert(key, cache);
                }
            }
            News::Gone((key, _)) => {
                if let Some(caches) = &mut self.caches {
                    caches.remove(&key);
                }
            }
        }
    }

    /// Without a CachePolicy, everything has its default.
    fn policy(&mut self, news: News<(bool, CachePolicySpec)>) {
        match news {
            News::All(list) => {
                let found = list.into_iter().find_map(|(counts, spec)| counts.then_some(spec));
                self.policy = Some(found.unwrap_or_default());
            }
            News::Changed((true, spec)) => self.policy = Some(spec),
            News::Gone((true, _)) => self.policy = Some(CachePolicySpec::default()),
            News::Changed(_) | News::Gone(_) => {}
        }
    }
}

/// What a node may pull that only some may at once; nothing if its NodeCache cannot be read.
fn turns_of(DeserializeGuard(read): DeserializeGuard<NodeCache>) -> Turns {
    let status = read.ok().and_then(|cache| cache.status);
    status.and_then(|status| status.turns).as_ref().map(Turns::from).unwrap_or_default()
}

fn known(node: v1::Node) -> KnownNode {
    KnownNode { node: (&node).into(), uid: node.metadata.uid.unwrap_or_default() }
}

/// What of an ImageCache decides on images; the rest is not kept in memory. Nothing if it cannot be read.
fn trimmed(DeserializeGuard(read): DeserializeGuard<ImageCache>) -> (Key, Option<ImageCache>) {
    let key = |meta: &ObjectMeta| (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    let cache = match read {
        Ok(cache) => cache,
        Err(invalid) => {
            let (namespace, name) = key(&invalid.metadata);
            tracing::warn!(
                namespace,
                name,
                error = invalid.error,
                "this ImageCache cannot be read, and counts as it last was"
            );
            return ((namespace, name), None);
        }
    };
    let metadata = ObjectMeta {
        namespace: cache.metadata.namespace,
        name: cache.metadata.name,
        generation: cache.metadata.generation,
        creation_timestamp: cache.metadata.creation_timestamp,
        deletion_timestamp: cache.metadata.deletion_timestamp,
        ..ObjectMeta::default()
    };
    let spec = ImageCacheSpec { image_pull_secrets: Vec::new(), ..cache.spec };
    let status = cache.status.map(|status| ImageCacheStatus {
        images: status
            .images
            .into_iter()
            .map(|one| ImageProgress { image: one.image, digest: one.digest, ..ImageProgress::default() })
            .collect(),
        last_refresh: status.last_refresh,
        last_turns: status.last_turns,
        ..ImageCacheStatus::default()
    });
    (key(&metadata), Some(ImageCache { metadata, spec, status }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(labels: Value) -> KnownNode {
        let metadata = json!({"name": "node-1", "uid": "u1", "labels": labels});
        known(serde_json::from_value(json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata})).unwrap())
    }

    fn guarded(name: &str, spec: Value) -> DeserializeGuard<ImageCache> {
        let object = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache",
            "metadata": {"namespace": "shop", "name": name, "generation": 7, "labels": {"a": "b"}},
            "spec": spec,
            "status": {"images": [{"image": "quay.io/a:1", "digest": "sha256:1", "warm": 3}], "nodes": 5},
        });
        serde_json::from_value(object).unwrap()
    }

    fn images(state: &State) -> Option<Vec<String>> {
        Some(state.plan()?.wishes.iter().map(|wish| wish.image.to_string()).collect())
    }

    #[test]
    fn nothing_is_wanted_before_everything_is_known() {
        let mut state = State::default();
        state.caches(News::All(vec![trimmed(guarded("web", json!({"images": ["quay.io/a:1"]})))]));
        assert_eq!(images(&state), None);
        state.node("node-1", News::All(vec![node(json!({}))]));
        assert_eq!(images(&state), None);
        state.policy(News::All(Vec::new()));
        assert_eq!(images(&state), Some(vec!["quay.io/a:1".to_owned()]));
    }

    #[test]
    fn what_changes_changes_what_is_wanted() {
        let mut state = State::default();
        state.node("node-1", News::All(vec![node(json!({"pool": "web"}))]));
        state.policy(News::All(Vec::new()));
        state.caches(News::All(Vec::new()));
        assert_eq!(images(&state), Some(Vec::new()));
        let web = |image: &str| trimmed(guarded("web", json!({"images": [image], "nodeSelector": {"pool": "web"}})));
        state.caches(News::Changed(web("quay.io/a:1")));
        assert_eq!(images(&state), Some(vec!["quay.io/a:1".to_owned()]));
        state.caches(News::Changed(web("quay.io/b:1")));
        assert_eq!(images(&state), Some(vec!["quay.io/b:1".to_owned()]));
        state.node("node-1", News::Changed(node(json!({}))));
        assert_eq!(images(&state), Some(Vec::new()));
        state.node("node-1", News::Changed(node(json!({"pool": "web"}))));
        state.policy(News::Changed((
            true,
            serde_json::from_value(json!({"imageCaches": {"perNamespace": 0}})).unwrap(),
        )));
        assert_eq!(images(&state), Some(Vec::new()));
        state.policy(News::Gone((true, CachePolicySpec::default())));
        assert_eq!(images(&state).unwrap().len(), 1);
        state.node("node-1", News::Gone(node(json!({}))));
        assert_eq!(images(&state).unwrap().len(), 1, "a node that goes keeps its images");
        state.caches(News::Gone(web("quay.io/b:1")));
        assert_eq!(images(&state), Some(Vec::new()));
    }

    #[test]
    fn an_image_cache_that_cannot_be_read_counts_as_it_was() {
        let mut state = State::default();
        state.node("node-1", News::All(vec![node(json!({}))]));
        state.policy(News::All(Vec::new()));
        let good = || trimmed(guarded("web", json!({"images": ["quay.io/a:1"]})));
        let bad = || trimmed(guarded("web", json!({"images": ["no image"]})));
        assert!(bad().1.is_none());
        state.caches(News::All(vec![good(), trimmed(guarded("bad", json!({"images": ["no image"]})))]));
        state.caches(News::Changed(bad()));
        state.caches(News::All(vec![bad()]));
        assert_eq!(images(&state), Some(vec!["quay.io/a:1".to_owned()]));
    }

    #[test]
    fn turns_are_those_of_the_nodecache_and_the_last_word_of_any_image_cache_counts() {
        let mut state = State::default();
        let own = |status: Value| {
            let object = json!({"apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": "n"}, "status": status});
            turns_of(serde_json::from_value(object).unwrap())
        };
        let given = own(json!({"present": 1, "turns": {"cluster": true, "imageCaches": ["shop/web"]}}));
        assert!(given.cluster && given.caches.contains("shop/web"));
        assert!(own(json!({"present": "no"})).is_empty() && own(json!({})).is_empty());
        state.turns(News::All(vec![given.clone()]));
        state.turns(News::Gone(given.clone()));
        assert!(state.heard().turns.is_empty());
        state.turns(News::Changed(given.clone()));
        let said = |name: &str, minute: u32| {
            let (key, mut cache) = trimmed(guarded(name, json!({"images": ["quay.io/a:1"]})));
            let time = serde_json::from_value(json!(format!("2026-01-01T00:{minute:02}:00Z"))).unwrap();
            cache.as_mut().unwrap().status.as_mut().unwrap().last_turns = Some(time);
            (key, cache)
        };
        state.caches(News::All(vec![said("a", 3), said("b", 20), said("c", 9)]));
        let heard = state.heard();
        assert_eq!((heard.turns, heard.said.unwrap().0.to_string()), (given, "2026-01-01T00:20:00Z".to_owned()));
    }

    #[test]
    fn what_decides_is_kept_and_no_more() {
        let ((namespace, name), kept) = trimmed(guarded("web", json!({"images": ["quay.io/a:1"]})));
        let kept = kept.unwrap();
        assert_eq!((namespace.as_str(), name.as_str(), kept.metadata.generation), ("shop", "web", Some(7)));
        let status = kept.status.unwrap();
        assert_eq!((status.nodes, status.images[0].warm, status.images[0].digest.as_deref()), (0, 0, Some("sha256:1")));
        assert!(kept.metadata.labels.is_none());
    }
}
