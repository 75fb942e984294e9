use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use cache::Outcome;
use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::handshake::{Door, Refusal};

/// The server's counters. Clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Counters>);

struct Counters {
    requests: Family<RequestLabels, Counter>,
    /// The common ones, found without a lookup: by endpoint, method and outcome, status 200.
    usual: Vec<Counter>,
    duration: [Histogram; Kind::ALL.len()],
    served: [Counter; Kind::ALL.len()],
    connections: Gauge,
    streams: Gauge,
    waits: Counter,
    accept_failures: Counter,
    handshakes: Family<HandshakeLabels, Counter>,
}

/// What was asked for: a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ping,
    Manifest,
    Blob,
    Tags,
    Referrers,
    Other,
}

impl Kind {
    const ALL: [Kind; 6] = [Kind::Ping, Kind::Manifest, Kind::Blob, Kind::Tags, Kind::Referrers, Kind::Other];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Ping => "ping",
            Kind::Manifest => "manifest",
            Kind::Blob => "blob",
            Kind::Tags => "tags",
            Kind::Referrers => "referrers",
            Kind::Other => "other",
        }
    }
}

/// The method: a label, so of a bounded number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Head,
    Other,
}

impl Verb {
    const ALL: [Verb; 3] = [Verb::Get, Verb::Head, Verb::Other];

    fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Head => "HEAD",
            Verb::Other => "other",
        }
    }
}

const OUTCOMES: [Option<Outcome>; 6] = [
    None,
    Some(Outcome::Hit),
    Some(Outcome::Revalidated),
    Some(Outcome::Stale),
    Some(Outcome::Joined),
    Some(Outcome::Miss),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: &'static str,
    method: &'static str,
    code: u16,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    listener: &'static str,
    reason: &'static str,
}

impl Metrics {
    /// Makes the counters and names them in `registry`, below its prefix.
    pub fn register(registry: &mut Registry) -> Metrics {
        let requests = Family::<RequestLabels, Counter>::default();
        let duration = Family::<EndpointLabels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
            Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
        });
        let served = Family::<EndpointLabels, Counter>::default();
        let counters = Counters {
            usual: usual(&requests),
            requests,
            duration: Kind::ALL.map(|kind| duration.get_or_create_owned(&EndpointLabels { endpoint: kind.as_str() })),
            served: Kind::ALL.map(|kind| served.get_or_create_owned(&EndpointLabels { endpoint: kind.as_str() })),
            connections: Gauge::default(),
            streams: Gauge::default(),
            waits: Counter::default(),
            accept_failures: Counter::default(),
            handshakes: Family::default(),
        };
        let c = &counters;
        registry.register(
            "requests",
            "Requests answered, by what was asked, status and how the answer came about",
            c.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Time from a request's head to its answer's head",
            Unit::Seconds,
            duration,
        );
        registry.register_with_unit("served", "Bytes of bodies handed to clients", Unit::Bytes, served);
        registry.register("connections", "Open connections", c.connections.clone());
        registry.register("streams", "Blobs being sent now", c.streams.clone());
        registry.register(
            "connection_limit_waits",
            "Times that a further connection had to wait because as many as allowed were open",
            c.waits.clone(),
        );
        registry.register(
            "accept_failures",
            "Connections that could not be accepted, for want of file descriptors or memory",
            c.accept_failures.clone(),
        );
        registry.register(
            "handshakes_failed",
            "TLS connections that did not come about, by the address that was come to and why",
            c.handshakes.clone(),
        );
        Metrics(Arc::new(counters))
    }

    pub(crate) fn answered(&self, kind: Kind, verb: Verb, status: StatusCode, outcome: Option<Outcome>, seconds: f64) {
        self.0.duration[kind as usize].observe(seconds);
        if status == StatusCode::OK {
            self.0.usual[place(kind, verb, outcome)].inc();
        } else {
            self.0.requests.get_or_create(&labels(kind, verb, status.as_u16(), outcome)).inc();
        }
    }

    pub(crate) fn served(&self, kind: Kind, bytes: u64) {
        self.0.served[kind as usize].inc_by(bytes);
    }

    pub(crate) fn connection(&self) -> Held {
        Held::new(&self.0.connections)
    }

    pub(crate) fn stream(&self) -> Held {
        Held::new(&self.0.streams)
    }

    pub(crate) fn waited(&self) {
        self.0.waits.inc();
    }

    pub(crate) fn accept_failed(&self) {
        self.0.accept_failures.inc();
    }

    pub(crate) fn handshake_failed(&self, door: Door, refusal: Refusal) {
        let labels = HandshakeLabels { listener: door.as_str(), reason: refusal.as_str() };
        self.0.handshakes.get_or_create(&labels).inc();
    }
}

/// One in a gauge, for as long as it exists.
pub(crate) struct Held(Gauge<i64, AtomicI64>);

impl Held {
    fn new(gauge: &Gauge) -> Held {
        gauge.inc();
        Held(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The counters of status 200, in the order of [`place`].
fn usual(requests: &Family<RequestLabels, Counter>) -> Vec<Counter> {
    let mut counters = Vec::with_capacity(Kind::ALL.len() * Verb::ALL.len() * OUTCOMES.len());
    for kind in Kind::ALL {
        for verb in Verb::ALL {
            for outcome in OUTCOMES {
                let real = verb != Verb::Other && (outcome.is_none() == (kind == Kind::Ping || kind == Kind::Other));
                counters.push(match real {
                    true => requests.get_or_create_owned(&labels(kind, verb, 200, outcome)),
                    false => Counter::default(),
                });
            }
        }
    }
    counters
}

fn place(kind: Kind, verb: Verb, outcome: Option<Outcome>) -> usize {
    let outcome = match outcome {
        None => 0,
        Some(Outcome::Hit) => 1,
        Some(Outcome::Revalidated) => 2,
        Some(Outcome::Stale) => 3,
        Some(Outcome::Joined) => 4,
        Some(Outcome::Miss) => 5,
    };
    (kind as usize * Verb::ALL.len() + verb as usize) * OUTCOMES.len() + outcome
}

fn labels(kind: Kind, verb: Verb, code: u16, outcome: Option<Outcome>) -> RequestLabels {
    RequestLabels {
        endpoint: kind.as_str(),
        method: verb.as_str(),
        code,
        outcome: outcome.map_or("none", Outcome::as_str),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_counter_is_at_its_place() {
        let requests = Family::default();
        let counters = usual(&requests);
        for kind in Kind::ALL {
            for verb in [Verb::Get, Verb::Head] {
                for outcome in OUTCOMES {
                    counters[place(kind, verb, outcome)].inc();
                    if let Some(counter) = requests.get(&labels(kind, verb, 200, outcome)) {
                        assert_eq!(counter.get(), 1, "{kind:?} {verb:?} {outcome:?}");
                    }
                }
            }
        }
    }
}
