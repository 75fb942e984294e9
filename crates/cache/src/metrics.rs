use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::reply::Outcome;
use crate::source::SourceKind;
use crate::store::StoreError;

/// The engine's counters. Clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Counters>);

#[derive(Default)]
struct Counters {
    lookups: Family<LookupLabels, Counter>,
    fills: Family<FillLabels, Counter>,
    fills_running: Gauge,
    resumes: Counter,
    prefixes_discarded: Counter,
    fetched: Family<SourceLabels, Counter>,
    mismatches: Family<SourceLabels, Counter>,
    store_errors: Family<StoreErrorLabels, Counter>,
    store_bytes: Gauge,
    store_budget: Gauge,
    store_protected: Gauge,
    evictions: Counter,
    evicted_bytes: Counter,
    /// What of the store's own counts is in these.
    evictions_seen: Mutex<(u64, u64)>,
    quarantined: Counter,
    grants: Family<AccessLabels, Counter>,
    stale: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FillLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreErrorLabels {
    errno: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AccessLabels {
    decision: &'static str,
}

/// How a fill ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FillResult {
    Kept,
    Passed,
    Failed,
}

impl Metrics {
    /// Makes the counters and names them in `registry`, below its prefix.
    pub fn register(registry: &mut Registry) -> Metrics {
        let counters = Counters::default();
        let c = &counters;
        registry.register(
            "lookups",
            "Answers of the engine, by what was asked and how the answer came about",
            c.lookups.clone(),
        );
        registry.register("fills", "Blobs fetched: kept, passed through uncached, or failed", c.fills.clone());
        registry.register("fills_running", "Blobs being fetched now", c.fills_running.clone());
        registry.register("fill_resumes", "Bodies that stopped in the middle and were resumed", c.resumes.clone());
        registry.register(
            "fill_prefixes_discarded",
            "Bodies that began at byte 0 although a later byte was asked for",
            c.prefixes_discarded.clone(),
        );
        registry.register_with_unit(
            "fetched",
            "Bytes of blobs that came in, by what kind of source they came from",
            Unit::Bytes,
            c.fetched.clone(),
        );
        registry.register("digest_mismatch", "Bodies whose bytes had another digest", c.mismatches.clone());
        registry.register("store_errors", "Failures of the store's disk", c.store_errors.clone());
        registry.register_with_unit(
            "store",
            "Bytes in the store, fills in progress included",
            Unit::Bytes,
            c.store_bytes.clone(),
        );
        registry.register_with_unit(
            "store_budget",
            "Most bytes that the store may hold",
            Unit::Bytes,
            c.store_budget.clone(),
        );
        registry.register_with_unit(
            "store_protected",
            "Bytes in the store that are in use or pinned, and stay",
            Unit::Bytes,
            c.store_protected.clone(),
        );
        registry.register("evictions", "Blobs dropped to keep the budget", c.evictions.clone());
        registry.register_with_unit(
            "evicted",
            "Bytes dropped to keep the budget",
            Unit::Bytes,
            c.evicted_bytes.clone(),
        );
        registry.register("quarantined", "Stored blobs that turned out to be wrong", c.quarantined.clone());
        registry.register("access_decisions", "How access to repositories was decided", c.grants.clone());
        registry.register(
            "stale_answers",
            "Answers that may be out of date, given while the origin could not be asked",
            c.stale.clone(),
        );
        // Shown from the start, so that an alert on its increase sees the first one.
        for kind in [SourceKind::Peer, SourceKind::Registry, SourceKind::Origin] {
            drop(c.mismatches.get_or_create(&SourceLabels { source: kind.as_str() }));
            drop(c.fetched.get_or_create(&SourceLabels { source: kind.as_str() }));
        }
        Metrics(Arc::new(counters))
    }

    pub(crate) fn answered(&self, kind: &'static str, outcome: Outcome) {
        self.0.lookups.get_or_create(&LookupLabels { kind, outcome: outcome.as_str() }).inc();
        if outcome == Outcome::Stale {
            self.0.stale.inc();
        }
    }

    pub(crate) fn filled(&self, result: FillResult) {
        let result = match result {
            FillResult::Kept => "kept",
            FillResult::Passed => "passed",
            FillResult::Failed => "failed",
        };
        self.0.fills.get_or_create(&FillLabels { result }).inc();
    }

    pub(crate) fn fills_running(&self, running: usize) {
        self.0.fills_running.set(running as i64);
    }

    pub(crate) fn resumed(&self) {
        self.0.resumes.inc();
    }

    pub(crate) fn prefix_discarded(&self) {
        self.0.prefixes_discarded.inc();
    }

    pub(crate) fn mismatched(&self, source: SourceKind) {
        self.0.mismatches.get_or_create(&SourceLabels { source: source.as_str() }).inc();
    }

    pub(crate) fn fetched(&self, source: SourceKind, bytes: u64) {
        self.0.fetched.get_or_create(&SourceLabels { source: source.as_str() }).inc_by(bytes);
    }

    pub(crate) fn store_error(&self, error: &StoreError) {
        self.0.store_errors.get_or_create(&StoreErrorLabels { errno: error.label() }).inc();
    }

    pub(crate) fn quarantined(&self, blobs: u64) {
        self.0.quarantined.inc_by(blobs);
    }

    pub(crate) fn usage(&self, usage: crate::store::Usage) {
        let mut seen = self.0.evictions_seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.evictions.inc_by(usage.evictions.saturating_sub(seen.0));
        self.0.evicted_bytes.inc_by(usage.evicted.saturating_sub(seen.1));
        *seen = (usage.evictions.max(seen.0), usage.evicted.max(seen.1));
        drop(seen);
        self.0.store_bytes.set(usage.bytes.min(i64::MAX as u64) as i64);
        self.0.store_budget.set(usage.budget.min(i64::MAX as u64) as i64);
        self.0.store_protected.set(usage.protected.min(i64::MAX as u64) as i64);
    }

    pub(crate) fn access(&self, decision: &'static str) {
        self.0.grants.get_or_create(&AccessLabels { decision }).inc();
    }
}
