use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Counts of what was asked of upstreams. Clones count together.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<Request, Counter>,
    durations: Family<Upstream, Histogram, fn() -> Histogram>,
    errors: Family<Problem, Counter>,
    received: Family<Upstream, Counter>,
    quota_limit: Family<Upstream, Gauge>,
    quota_remaining: Family<Upstream, Gauge>,
    token_fetches: Family<Upstream, Counter>,
    retries: Family<Upstream, Counter>,
    open_breakers: Family<Upstream, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Upstream {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    upstream: String,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Problem {
    upstream: String,
    reason: &'static str,
}

fn durations() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

impl Metrics {
    /// Counts that nobody reads.
    pub fn unregistered() -> Metrics {
        Metrics {
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            errors: Family::default(),
            received: Family::default(),
            quota_limit: Family::default(),
            quota_remaining: Family::default(),
            token_fetches: Family::default(),
            retries: Family::default(),
            open_breakers: Family::default(),
        }
    }

    /// Counts that this registry shows, under names that begin with `larder_upstream_`.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::unregistered();
        let all = registry.sub_registry_with_prefix("larder_upstream");
        all.register("requests", "Answers by status code", metrics.requests.clone());
        all.register_with_unit(
            "request_duration",
            "From sending a request to the head of its answer",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        all.register("errors", "Requests that did not give what was asked, by reason", metrics.errors.clone());
        all.register_with_unit("received", "Bodies received", Unit::Bytes, metrics.received.clone());
        all.register("ratelimit_limit", "Pulls that the upstream allows in its window", metrics.quota_limit.clone());
        all.register("ratelimit_remaining", "Pulls that the upstream still allows", metrics.quota_remaining.clone());
        all.register("token_fetches", "Requests to token services", metrics.token_fetches.clone());
        all.register("retries", "Requests that were sent again", metrics.retries.clone());
        all.register("breaker_open", "Endpoints left alone after failures", metrics.open_breakers.clone());
        metrics
    }

    /// The counts of one upstream. `label` must come from a bounded set.
    pub(crate) fn of(&self, label: String) -> UpstreamMetrics {
        let upstream = Upstream { upstream: label };
        UpstreamMetrics {
            received: self.received.get_or_create_owned(&upstream),
            token_fetches: self.token_fetches.get_or_create_owned(&upstream),
            retries: self.retries.get_or_create_owned(&upstream),
            open_breakers: self.open_breakers.get_or_create_owned(&upstream),
            all: self.clone(),
            upstream,
        }
    }
}

/// The counts of one upstream.
#[derive(Clone)]
pub(crate) struct UpstreamMetrics {
    all: Metrics,
    upstream: Upstream,
    pub(crate) received: Counter,
    pub(crate) token_fetches: Counter,
    pub(crate) retries: Counter,
    pub(crate) open_breakers: Gauge,
}

impl UpstreamMetrics {
    pub(crate) fn answer(&self, status: StatusCode, took: Duration) {
        let labels = Request { upstream: self.upstream.upstream.clone(), code: code(status) };
        self.all.requests.get_or_create(&labels).inc();
        self.all.durations.get_or_create(&self.upstream).observe(took.as_secs_f64());
    }

    pub(crate) fn error(&self, reason: &'static str) {
        self.all.errors.get_or_create(&Problem { upstream: self.upstream.upstream.clone(), reason }).inc();
    }

    pub(crate) fn quota(&self, limit: Option<i64>, remaining: Option<i64>) {
        if let Some(limit) = limit {
            self.all.quota_limit.get_or_create(&self.upstream).set(limit);
        }
        if let Some(remaining) = remaining {
            self.all.quota_remaining.get_or_create(&self.upstream).set(remaining);
        }
    }
}

/// The status as a label of few values, whatever upstreams make up.
fn code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        206 => "206",
        301 => "301",
        302 => "302",
        303 => "303",
        307 => "307",
        308 => "308",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        416 => "416",
        429 => "429",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        other => match other / 100 {
            ..=2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        },
    }
}
