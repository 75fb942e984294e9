use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use api::{NodeImageState, WAITS_FOR_TURN, conditions};
use serde::Deserialize;
use warm::Turns;

use super::Texts;
use super::fits::Fits;
use super::part::{Nothing, Part};

/// A NodeCache, of which no more is read than what is kept: there are thousands, each with many images.
pub type NodeCache = Part<api::NodeCache, Nothing, Nothing, Fits<Status>>;

/// What an agent says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    conditions: Fits<Vec<Fits<Condition>>>,
    images: Fits<Vec<Fits<NodeImage>>>,
    turns: Fits<NodeTurns>,
    bytes: Fits<NodeBytes>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: Fits<String>,
    status: Fits<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeImage {
    image: Fits<String>,
    digest: Fits<String>,
    state: Fits<NodeImageState>,
    bytes: Fits<u64>,
    last_used: Fits<String>,
    reason: Fits<String>,
    message: Fits<String>,
    attempts: Fits<u32>,
    given_up: Fits<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeTurns {
    cluster: Fits<bool>,
    image_caches: Fits<Vec<Fits<String>>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeBytes {
    images: Fits<u64>,
    store: Fits<u64>,
    capacity: Fits<u64>,
    available: Fits<u64>,
}

/// What is kept of a NodeCache: how the wanted images are on its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The node.
    pub node: Arc<str>,
    /// The uid of the node that it belongs to, if it says so.
    pub owner: Option<Box<str>>,
    /// The agent does its work.
    pub ready: bool,
    /// The images that are wanted there, sorted. Nodes that want the same have the same list.
    images: Arc<[Arc<str>]>,
    /// How each of them is.
    states: Box<[State]>,
    /// Why some failed, by their places.
    failures: Box<[(u32, Failure)]>,
    /// What the node has, wanted or not.
    pub held: Box<[Arc<HeldHere>]>,
    /// What it may pull of that which only some nodes may at once.
    pub turns: Turns,
    /// Another one whenever the agent has said something.
    pub pulse: Pulse,
}

/// Tells whether an agent has said something, if only how full its disk is. It makes no difference between reports: whether what they say is
/// the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pulse(pub u64);

impl PartialEq for Pulse {
    fn eq(&self, _: &Pulse) -> bool {
        true
    }
}

impl Eq for Pulse {}

impl Pulse {
    fn of(status: &Status) -> Pulse {
        let mut hasher = DefaultHasher::new();
        if let Some(bytes) = &status.bytes.0 {
            (bytes.images.0, bytes.store.0, bytes.capacity.0, bytes.available.0).hash(&mut hasher);
        }
        status.conditions.each().count().hash(&mut hasher);
        for image in status.images.each() {
            let state = image.state.0.map(|state| state as u8);
            (state, image.digest.text(), image.reason.text(), image.attempts.0).hash(&mut hasher);
            (image.bytes.0, image.last_used.text()).hash(&mut hasher);
        }
        Pulse(hasher.finish())
    }
}

/// An image that nodes have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeldHere {
    /// As the runtime names it.
    pub image: Arc<str>,
    /// The digest of its manifest, where the node says it.
    pub digest: Option<Arc<str>>,
}

impl From<&NodeTurns> for Turns {
    fn from(turns: &NodeTurns) -> Turns {
        let caches = turns.image_caches.each().cloned().collect();
        Turns { cluster: turns.cluster.0 == Some(true), caches }
    }
}

/// How a wanted image is on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Ready.
    Warm,
    /// Not yet.
    Coming,
    /// Not before it is the node's turn.
    Waits,
    /// It cannot be made ready as yet.
    Failed,
    /// It cannot be made ready, and is not tried again.
    GivenUp,
}

/// Why an image failed on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In one word.
    pub reason: Arc<str>,
    /// For people.
    pub message: Arc<str>,
}

impl Report {
    /// Of a NodeCache as the API server has it.
    pub fn of(cache: &NodeCache, texts: &mut Texts) -> Report {
        let metadata = cache.metadata();
        let node = texts.text(metadata.name.as_deref().unwrap_or_default());
        let owners = metadata.owner_references.iter().flatten();
        let owner = owners.filter(|owner| owner.kind == "Node").map(|owner| owner.uid.as_str().into()).next();
        let Some(status) = &cache.status.0 else { return Report { node, owner, ..Report::default() } };
        let mut images: Vec<(Arc<str>, State, Option<Failure>)> = Vec::new();
        let mut held = Vec::new();
        for image in status.images.each() {
            let (Some(name), Some(state)) = (image.image.text(), image.state.0) else { continue };
            if matches!(state, NodeImageState::Present | NodeImageState::Warm) {
                held.push(texts.held(name, image.digest.text()));
            }
            let state = match state {
                NodeImageState::Present => continue,
                NodeImageState::Warm => State::Warm,
                NodeImageState::Wanted if image.reason.text() == Some(WAITS_FOR_TURN) => State::Waits,
                NodeImageState::Wanted | NodeImageState::Pulling => State::Coming,
                NodeImageState::Failed if image.given_up.0 == Some(true) => State::GivenUp,
                NodeImageState::Failed => State::Failed,
            };
            let failure = matches!(state, State::Failed | State::GivenUp).then(|| Failure {
                reason: texts.text(image.reason.text().unwrap_or("Failed")),
                message: texts.text(image.message.text().unwrap_or("the node does not say why")),
            });
            images.push((texts.text(name), state, failure));
        }
        held.sort_by(|one, other| one.image.cmp(&other.image));
        images.sort_by(|one, other| one.0.cmp(&other.0));
        images.dedup_by(|later, earlier| later.0 == earlier.0);
        let states = images.iter().map(|(_, state, _)| *state).collect();
        let numbered = images.iter_mut().zip(0..);
        let failures = numbered.filter_map(|((_, _, failure), place)| Some((place, failure.take()?))).collect();
        let images = texts.list(images.into_iter().map(|(image, ..)| image).collect());
        let holds = |one: &Condition| one.r#type.text() == Some(conditions::READY) && one.status.text() == Some("True");
        let ready = status.conditions.each().any(holds);
        let turns = status.turns.0.as_ref().map(Turns::from).unwrap_or_default();
        Report { node, owner, ready, images, states, failures, held: held.into(), turns, pulse: Pulse::of(status) }
    }

    /// Whether it says the same of what is wanted.
    pub(super) fn is_as_wanted(&self, other: &Report) -> bool {
        let parts = |report: &Report| (report.owner.clone(), report.ready, report.images.clone());
        let same = self.states == other.states && self.failures == other.failures && self.turns == other.turns;
        parts(self) == parts(other) && same
    }

    /// The images that are wanted there, sorted.
    pub fn images(&self) -> &Arc<[Arc<str>]> {
        &self.images
    }

    /// How the image at a place of the list is.
    pub fn state(&self, place: usize) -> State {
        self.states[place]
    }

    /// How all of them are, in the order of the list.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// How an image is, if it is wanted there.
    pub fn state_of(&self, image: &str) -> Option<State> {
        let place = self.images.binary_search_by(|known| (**known).cmp(image)).ok()?;
        Some(self.states[place])
    }

    /// Why the image at a place of the list failed, if it did.
    pub fn failure(&self, place: usize) -> Option<&Failure> {
        let place = u32::try_from(place).ok()?;
        let at = self.failures.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        Some(&self.failures[at].1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wanted_is_kept_and_shared() {
        let cache = |name: &str, state: &str| -> NodeCache {
            serde_json::from_value(json!({
                "apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": name},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True", "reason": "Working", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                    "images": [
                        {"image": "quay.io/b:1", "state": state, "reason": "NotFound", "message": "it is not there"},
                        {"image": "quay.io/a:1", "state": "Warm"},
                        {"image": "quay.io/p:1", "state": "Present"},
                        {"image": "quay.io/c:1", "state": "Pulling"},
                    ],
                },
            }))
            .unwrap()
        };
        let mut texts = Texts::default();
        let report = Report::of(&cache("node-1", "Failed"), &mut texts);
        assert!(report.ready && &*report.node == "node-1");
        assert_eq!(
            report.images().iter().map(|image| &**image).collect::<Vec<_>>(),
            ["quay.io/a:1", "quay.io/b:1", "quay.io/c:1"]
        );
        assert_eq!([0, 1, 2].map(|place| report.state(place)), [State::Warm, State::Failed, State::Coming]);
        assert_eq!((report.state_of("quay.io/a:1"), report.state_of("quay.io/p:1")), (Some(State::Warm), None));
        let failure = report.failure(1).unwrap();
        assert_eq!((&*failure.reason, &*failure.message), ("NotFound", "it is not there"));
        assert!(report.failure(0).is_none());
        let held: Vec<_> = report.held.iter().map(|held| &*held.image).collect();
        assert_eq!(held, ["quay.io/a:1", "quay.io/p:1"]);
        let other = Report::of(&cache("node-2", "Wanted"), &mut texts);
        assert!(Arc::ptr_eq(report.images(), other.images()));
        let new: NodeCache = serde_json::from_value(json!({"metadata": {"name": "node-3"}})).unwrap();
        let new = Report::of(&new, &mut texts);
        assert!(!new.ready && new.images().is_empty() && &*new.node == "node-3");
    }

    #[test]
    fn of_what_another_version_wrote_counts_what_can_be_read() {
        let cache = |status: serde_json::Value| -> NodeCache {
            serde_json::from_value(json!({"metadata": {"name": "node-1"}, "status": status})).unwrap()
        };
        let mut texts = Texts::default();
        let strange = Report::of(&cache(json!(["a", 1])), &mut texts);
        assert!(!strange.ready && strange.images().is_empty() && &*strange.node == "node-1");
        let strange = Report::of(
            &cache(json!({
                "conditions": {"Ready": true}, "bytes": 7, "turns": {"cluster": true, "imageCaches": ["a/b", 1]},
                "images": [
                    "quay.io/text:1", {"image": 1, "state": "Warm"}, {"image": "quay.io/new:1", "state": "Thawing"},
                    {"image": "quay.io/a:1", "state": "Failed", "attempts": -1, "message": ["no"], "givenUp": "yes"},
                ],
            })),
            &mut texts,
        );
        assert_eq!((strange.ready, strange.states()), (false, &[State::Failed][..]));
        assert_eq!(strange.failure(0).map(|failure| &*failure.reason), Some("Failed"));
        assert_eq!((strange.turns.cluster, strange.turns.caches.len()), (true, 1));
    }
}
