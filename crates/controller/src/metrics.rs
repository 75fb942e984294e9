use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The controller's counters. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(crate) leading: Gauge,
    pub(crate) objects: Family<Kind, Gauge>,
    pub(crate) writes: Family<Write, Counter>,
    pub(crate) releases: Family<Released, Counter>,
    pub(crate) questions: Family<Question, Counter>,
    pub(crate) tells: Family<Question, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    pub kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Write {
    pub kind: &'static str,
    pub result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Released {
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Question {
    pub result: &'static str,
}

impl Metrics {
    /// Shows them under `registry`.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        let Metrics { leading, objects, writes, releases, questions, tells } = metrics.clone();
        let registry = registry.sub_registry_with_prefix("controller");
        registry.register("leading", "Whether this replica is the one that writes", leading);
        registry.register("objects", "Objects that are known", objects);
        registry.register("writes", "Requests that change an object", writes);
        registry.register("releases", "Nodes that lost the taint larder.dev/warming", releases);
        registry.register("tag_questions", "Questions to registries what a tag means, by result", questions);
        registry.register("registry_tells", "How often the larder registry was told what is in use, by result", tells);
        metrics
    }
}
