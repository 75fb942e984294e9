use std::sync::Arc;
use std::time::Duration;

use api::{NodeCacheStatus, NodeImageState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::cleanup::Why;
use super::failure::Reason;

/// The counters of what is kept ready. Clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Counters>);

struct Counters {
    pulls: Family<Outcome, Counter>,
    seconds: Histogram,
    images: Family<State, Gauge>,
    removed: Counter,
    removed_bytes: Counter,
    cleaned: Family<Cleaned, Counter>,
    cleaned_bytes: Family<Cleaned, Counter>,
    writes: Family<Result, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cleaned {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

/// From what is there but for its manifest to what is far away and large, in seconds.
const SECONDS: [f64; 9] = [0.1, 0.5, 2.0, 10.0, 30.0, 120.0, 600.0, 1800.0, 7200.0];

impl Metrics {
    /// Makes the counters and names them in `registry`, below its prefix.
    pub fn register(registry: &mut Registry) -> Metrics {
        let counters = Counters {
            pulls: Family::default(),
            seconds: Histogram::new(SECONDS),
            images: Family::default(),
            removed: Counter::default(),
            removed_bytes: Counter::default(),
            cleaned: Family::default(),
            cleaned_bytes: Family::default(),
            writes: Family::default(),
        };
        registry.register(
            "prefetch_pulls",
            "Pulls for ImageCaches that have ended, by result, and why where they failed",
            counters.pulls.clone(),
        );
        registry.register_with_unit(
            "prefetch_pull",
            "How long pulls for ImageCaches took that ended well",
            Unit::Seconds,
            counters.seconds.clone(),
        );
        registry.register(
            "prefetch_images",
            "Images that ImageCaches want on this node, by state",
            counters.images.clone(),
        );
        registry.register(
            "prefetch_removed",
            "Images removed because no ImageCache wants them any more",
            counters.removed.clone(),
        );
        registry.register_with_unit(
            "prefetch_removed",
            "The size of images removed because no ImageCache wants them any more",
            Unit::Bytes,
            counters.removed_bytes.clone(),
        );
        registry.register(
            "cleanup_removed",
            "Images removed because nothing used them, by reason",
            counters.cleaned.clone(),
        );
        registry.register_with_unit(
            "cleanup_removed",
            "The size of images removed because nothing used them, by reason",
            Unit::Bytes,
            counters.cleaned_bytes.clone(),
        );
        registry.register(
            "prefetch_status_writes",
            "Requests to the API server that write this node's NodeCache, by result",
            counters.writes.clone(),
        );
        Metrics(Arc::new(counters))
    }

    pub(super) fn pulled(&self, took: Duration) {
        self.0.pulls.get_or_create(&Outcome { result: "pulled", reason: "" }).inc();
        self.0.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn failed(&self, reason: Reason) {
        self.0.pulls.get_or_create(&Outcome { result: "failed", reason: reason.as_str() }).inc();
    }

    pub(super) fn removed(&self, bytes: u64) {
        self.0.removed.inc();
        self.0.removed_bytes.inc_by(bytes);
    }

    pub(super) fn cleaned(&self, why: Why, bytes: u64) {
        let label = Cleaned { reason: why.as_str() };
        self.0.cleaned.get_or_create(&label).inc();
        self.0.cleaned_bytes.get_or_create(&label).inc_by(bytes);
    }

    pub(super) fn wrote(&self, well: bool) {
        self.0.writes.get_or_create(&Result { result: if well { "written" } else { "failed" } }).inc();
    }

    pub(super) fn show(&self, status: &NodeCacheStatus) {
        let wanted = || status.images.iter().take(status.wanted as usize);
        for (state, label) in [
            (NodeImageState::Warm, "warm"),
            (NodeImageState::Wanted, "wanted"),
            (NodeImageState::Pulling, "pulling"),
            (NodeImageState::Failed, "failed"),
        ] {
            let count = wanted().filter(|image| image.state == state).count();
            self.0.images.get_or_create(&State { state: label }).set(count as i64);
        }
    }
}
