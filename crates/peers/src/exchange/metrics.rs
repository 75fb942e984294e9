use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::health::Reason;

/// The counters of the exchange between nodes. Clones count together.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Counters>);

#[derive(Default)]
struct Counters {
    received: Family<From, Counter>,
    sent: Counter,
    pieces: Family<From, Counter>,
    failed: Counter,
    passed_over: Family<Why, Counter>,
    redirected: Counter,
    members: Gauge,
    uploads: Gauge,
    downloads: Gauge,
    gathered: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct From {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

impl Metrics {
    /// Makes the counters and names them in `registry`, below its prefix.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        let c = &*metrics.0;
        registry.register_with_unit(
            "peer_received",
            "Bytes of pieces that came in, by who gave them: another node, or a source beyond the nodes",
            Unit::Bytes,
            c.received.clone(),
        );
        registry.register_with_unit("peer_sent", "Bytes of pieces given to other nodes", Unit::Bytes, c.sent.clone());
        registry.register("peer_pieces", "Pieces that came in whole, by who gave the end of it", c.pieces.clone());
        registry.register("peer_pieces_failed", "Pieces that nobody could give", c.failed.clone());
        registry.register("peer_passed_over", "Nodes that were found dead, slow or lying", c.passed_over.clone());
        registry.register("peer_redirected", "Answers that sent the asker to other holders", c.redirected.clone());
        registry.register("peers", "Nodes known, this one not counted", c.members.clone());
        registry.register("peer_uploads", "Pieces being given to other nodes", c.uploads.clone());
        registry.register("peer_downloads", "Pieces coming in", c.downloads.clone());
        registry.register("peer_gatherings", "Blobs of which some pieces are here", c.gathered.clone());
        metrics
    }

    pub(super) fn received(&self, source: &'static str, bytes: u64) {
        self.0.received.get_or_create(&From { source }).inc_by(bytes);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.0.sent.inc_by(bytes);
    }

    pub(super) fn came(&self, source: &'static str) {
        self.0.pieces.get_or_create(&From { source }).inc();
    }

    pub(super) fn failed(&self) {
        self.0.failed.inc();
    }

    pub(super) fn passed_over(&self, reason: Reason) {
        self.0.passed_over.get_or_create(&Why { reason: reason.as_str() }).inc();
    }

    pub(super) fn redirected(&self) {
        self.0.redirected.inc();
    }

    pub(super) fn members(&self, count: usize) {
        self.0.members.set(count as i64);
    }

    pub(super) fn gathered(&self, count: usize) {
        self.0.gathered.set(count as i64);
    }

    pub(super) fn upload(&self) -> Running {
        Running::new(&self.0.uploads)
    }

    pub(super) fn download(&self) -> Running {
        Running::new(&self.0.downloads)
    }
}

/// Something that is in a gauge as long as it lasts.
pub(super) struct Running(Gauge);

impl Running {
    fn new(gauge: &Gauge) -> Running {
        gauge.inc();
        Running(gauge.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
