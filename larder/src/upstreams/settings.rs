use std::time::Duration;

use api::{UpstreamSpec, Withdrawn};
use cache::{Credential, Rules};
use oci::Pattern;
use units::{Size, Span};
use upstream::{Endpoint, Limits, UpstreamSettings};

/// What an Upstream comes to: `usual` is what holds where it says nothing. Without a credential nothing is shared, but what an
/// administrator shares may come from somebody else who has it.
pub fn settings(spec: &UpstreamSpec, credential: Option<Credential>, usual: &Rules) -> UpstreamSettings {
    let said = spec.credential.as_ref().is_some_and(|credential| credential.shared);
    let (shared, lent) = (said && credential.is_some(), said && credential.is_none());
    UpstreamSettings {
        endpoints: spec.endpoints.iter().map(endpoint).collect(),
        rules: Rules {
            shared,
            lent,
            serve_when_gone: spec.on_not_found == Withdrawn::Serve,
            serve_when_denied: spec.on_denied == Withdrawn::Serve,
            ..freshness(spec, usual)
        },
        credential,
        limits: spec.limits.as_ref().map(limits).unwrap_or_default(),
        token_hosts: spec.token_hosts.clone(),
        allowed_hosts: spec.redirect_hosts.clone(),
        ..UpstreamSettings::new(spec.registry.clone())
    }
}

fn endpoint(endpoint: &api::Endpoint) -> Endpoint {
    let api::Endpoint { url, ca, insecure } = endpoint.clone();
    Endpoint { url, ca_pem: ca, insecure_skip_verify: insecure }
}

/// Own patterns come before the usual ones, which do not count beside an own default.
fn freshness(spec: &UpstreamSpec, usual: &Rules) -> Rules {
    let Some(own) = &spec.freshness else { return usual.clone() };
    let patterns = own.patterns.iter().map(|one| (Pattern::new(&one.r#match), good(one.r#for)));
    let others = usual.patterns.iter().filter(|_| own.default.is_none()).cloned();
    Rules {
        freshness: own.default.map_or(usual.freshness, good),
        patterns: patterns.chain(others).collect(),
        stale: own.stale.map_or(usual.stale, |Span(stale)| stale),
        ..usual.clone()
    }
}

fn good(freshness: api::Freshness) -> cache::Freshness {
    match freshness {
        api::Freshness::For(Span(span)) => cache::Freshness::For(span),
        api::Freshness::Immutable => cache::Freshness::Immutable,
    }
}

fn limits(limits: &api::Limits) -> Limits {
    let minute = Duration::from_secs(60).as_secs_f64();
    Limits {
        concurrency: limits.concurrency.and_then(|number| usize::try_from(number).ok()),
        requests_per_second: limits.requests_per_minute.map(|number| f64::from(number) / minute),
        bytes_per_second: limits.bytes_per_second.map(|Size(bytes)| bytes),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(spec: Value) -> UpstreamSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn usual() -> Rules {
        Rules { patterns: vec![(Pattern::new("*:v*"), cache::Freshness::Immutable)], ..Rules::default() }
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let found = settings(&spec(json!({"registry": "ghcr.io"})), None, &usual());
        assert_eq!(found, UpstreamSettings { rules: usual(), ..UpstreamSettings::new("ghcr.io".parse().unwrap()) });
    }

    #[test]
    fn all_that_is_said_counts() {
        let spec = spec(json!({
            "registry": "registry.corp:8443",
            "endpoints": [{"url": "https://10.0.0.1", "ca": "PEM"}, {"url": "https://10.0.0.2", "insecure": true}],
            "credential": {"secretName": "corp", "shared": true},
            "freshness": {"stale": "1d", "patterns": [{"match": "*:latest", "for": "0s"}]},
            "onNotFound": "Serve", "onDenied": "Serve",
            "tokenHosts": ["auth.corp"], "redirectHosts": ["blobs.corp:9000"],
            "limits": {"concurrency": 4, "requestsPerMinute": 90, "bytesPerSecond": "1MiB"},
        }));
        let found = settings(&spec, Some(Credential::new("a", "b")), &usual());
        assert_eq!(found.endpoints[0], Endpoint { ca_pem: Some("PEM".into()), ..Endpoint::new("https://10.0.0.1") });
        assert!(found.endpoints[1].insecure_skip_verify);
        let Rules { shared, stale, serve_when_gone, serve_when_denied, patterns, .. } = found.rules;
        assert!(shared && serve_when_gone && serve_when_denied);
        assert_eq!((stale, patterns.len(), &patterns[1]), (Duration::from_secs(86400), 2, &usual().patterns[0]));
        assert_eq!((found.token_hosts, found.allowed_hosts), (spec.token_hosts, spec.redirect_hosts));
        let limits = Limits { concurrency: Some(4), requests_per_second: Some(1.5), bytes_per_second: Some(1 << 20) };
        assert_eq!(found.limits, limits);
    }

    #[test]
    fn an_own_freshness_stands_alone() {
        let spec = spec(json!({"registry": "ghcr.io", "freshness": {"default": "1h"}}));
        let rules = settings(&spec, None, &usual()).rules;
        assert_eq!(rules.freshness, cache::Freshness::For(Duration::from_secs(3600)));
        assert!(rules.patterns.is_empty());
    }

    #[test]
    fn nothing_is_shared_without_a_credential() {
        let spec = spec(json!({"registry": "ghcr.io", "credential": {"secretName": "a", "shared": true}}));
        let found = |credential| {
            let Rules { shared, lent, .. } = settings(&spec, credential, &usual()).rules;
            (shared, lent)
        };
        assert_eq!(found(None), (false, true));
        assert_eq!(found(Some(Credential::new("a", "b"))), (true, false));
    }
}
