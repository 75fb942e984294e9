//! Objects that are refused, with what is said of them.

use serde_json::{Value, json};

use crate::good::CERTIFICATE;

/// Kinds and specs that are refused, with the field and the words that say why.
pub fn bad() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let image = |image: &str| json!({ "images": [image] });
    let with = |key: &str, value: Value| {
        let mut spec = json!({"images": ["ghcr.io/a/b:1"]});
        spec[key] = value;
        spec
    };
    let term = |operator: &str, values: Value| {
        with("nodeSelectorTerms", json!([{"matchExpressions": [{"key": "a", "operator": operator, "values": values}]}]))
    };
    let upstream = |key: &str, value: Value| {
        let mut spec = json!({"registry": "ghcr.io"});
        spec[key] = value;
        spec
    };
    let endpoint = |endpoint: Value| upstream("endpoints", json!([endpoint]));
    let (first, registry) = ("spec.images[0]", "begin with the registry in lower case");
    let repository = "after the registry comes a repository";
    let (tag, end) = ("a tag has 1 to 128 letters", "end with a tag or a digest");
    let mut bad = vec![
        // Images.
        ("ImageCache", image("nginx:1.27"), first, registry),
        ("ImageCache", image("library/nginx:1.27"), first, registry),
        ("ImageCache", image("GHCR.io/a:1"), first, registry),
        ("ImageCache", image("http://ghcr.io/a:1"), first, registry),
        ("ImageCache", image("ghcr..io/a:1"), first, registry),
        ("ImageCache", image("-ghcr.io/a:1"), first, registry),
        ("ImageCache", image("user@ghcr.io/a:1"), first, registry),
        ("ImageCache", image("1.2.3/a:1"), first, registry),
        ("ImageCache", image("256.1.1.1/a:1"), first, registry),
        ("ImageCache", image("ghcr.io:65536/a:1"), first, registry),
        ("ImageCache", image("ghcr.io:0/a:1"), first, registry),
        ("ImageCache", image("[1:2]:5000/a:1"), first, "what is in brackets must be an IPv6 address"),
        ("ImageCache", image("ghcr.io/A:1"), first, repository),
        ("ImageCache", image("ghcr.io//a:1"), first, repository),
        ("ImageCache", image("ghcr.io/a/../b:1"), first, repository),
        ("ImageCache", image("ghcr.io/a___b:1"), first, repository),
        ("ImageCache", image("ghcr.io/a b:1"), first, repository),
        ("ImageCache", image("ghcr.io/a"), first, end),
        ("ImageCache", image("ghcr.io:443/a/b"), first, end),
        ("ImageCache", image("ghcr.io/a:"), first, tag),
        ("ImageCache", image("ghcr.io/a:.x"), first, tag),
        ("ImageCache", image("ghcr.io/a:1\n"), first, tag),
        ("ImageCache", image("ghcr.io/a@sha256:abc"), first, tag),
        ("ImageCache", image("ghcr.io/a@md5:0123456789abcdef0123456789abcdef"), first, tag),
        ("ImageCache", image(""), first, "at least 1 chars long"),
        ("ImageCache", json!({"images": ["ghcr.io/a:1", "ghcr.io/a:1"]}), "spec.images[1]", "Duplicate value"),
        (
            "ImageCache",
            json!({"images": vec!["ghcr.io/a:1"; 501]}),
            "spec.images",
            "Too many: 501: must have at most 500 items",
        ),
        // What is to be kept ready, and where.
        ("ImageCache", json!({}), "spec", "name images, workloads or both"),
        ("ImageCache", json!({"images": []}), "spec", "name images, workloads or both"),
        ("ImageCache", Value::Null, "spec", "Required value"),
        ("ImageCache", with("workloads", json!({})), "spec.workloads.selector", "Required value"),
        (
            "ImageCache",
            with("workloads", json!({"selector": {}, "kinds": []})),
            "spec.workloads.kinds",
            "at least 1 items",
        ),
        (
            "ImageCache",
            with("workloads", json!({"selector": {}, "kinds": ["Pod"]})),
            "spec.workloads.kinds[0]",
            "Unsupported value",
        ),
        ("ImageCache", with("nodeSelector", json!({"pool": "a b"})), "spec.nodeSelector", "write a label's value"),
        (
            "ImageCache",
            with("nodeSelector", json!({"": "a"})),
            "spec.nodeSelector",
            "a label's key has 1 to 317 characters",
        ),
        ("ImageCache", with("nodeSelectorTerms", json!([{}])), "matchExpressions", "Required value"),
        (
            "ImageCache",
            with("nodeSelectorTerms", json!([{"matchExpressions": []}])),
            "matchExpressions",
            "at least 1 items",
        ),
        ("ImageCache", term("In", json!([])), "matchExpressions[0]", "In and NotIn need values"),
        ("ImageCache", term("Exists", json!(["x"])), "matchExpressions[0]", "Exists and DoesNotExist take no values"),
        ("ImageCache", term("Gt", json!(["x"])), "matchExpressions[0]", "Gt and Lt take one whole number"),
        ("ImageCache", term("Lt", json!(["1", "2"])), "matchExpressions[0]", "Gt and Lt take one whole number"),
        ("ImageCache", term("Equals", json!(["1"])), "operator", "Unsupported value"),
        (
            "ImageCache",
            with("tolerations", json!([{"value": "x"}])),
            "spec.tolerations[0]",
            "say so with operator Exists",
        ),
        (
            "ImageCache",
            with("tolerations", json!([{"key": "a", "operator": "Exists", "value": "x"}])),
            "spec.tolerations[0]",
            "Exists takes no value",
        ),
        (
            "ImageCache",
            with("tolerations", json!([{"key": "a", "effect": "Never"}])),
            "spec.tolerations[0].effect",
            "Unsupported value",
        ),
        // Numbers, names and words.
        (
            "ImageCache",
            with("parallelism", json!({"perNode": 0})),
            "spec.parallelism.perNode",
            "greater than or equal to 1",
        ),
        (
            "ImageCache",
            with("parallelism", json!({"nodes": 5001})),
            "spec.parallelism.nodes",
            "less than or equal to 5000",
        ),
        ("ImageCache", with("parallelism", json!({"perNode": 1.5})), "spec.parallelism.perNode", "must be of type"),
        ("ImageCache", with("priority", json!(1001)), "spec.priority", "less than or equal to 1000"),
        ("ImageCache", with("retries", json!(-1)), "spec.retries", "greater than or equal to 0"),
        ("ImageCache", with("onDelete", json!("purge")), "spec.onDelete", "Unsupported value"),
        ("ImageCache", with("gateNodes", json!("yes")), "spec.gateNodes", "must be of type boolean"),
        (
            "ImageCache",
            with("imagePullSecrets", json!([{"name": "A"}])),
            "spec.imagePullSecrets[0].name",
            "write the name of an object",
        ),
        // S-06: a Secret of one's own namespace, and none beside.
        (
            "ImageCache",
            with("imagePullSecrets", json!([{"name": "other/pull"}])),
            "spec.imagePullSecrets[0].name",
            "write the name of an object",
        ),
        (
            "ImageCache",
            with("imagePullSecrets", json!([{"name": "../other/pull"}])),
            "spec.imagePullSecrets[0].name",
            "write the name of an object",
        ),
        (
            "ImageCache",
            with("imagePullSecrets", json!([{"name": "pull.other.svc/x"}])),
            "spec.imagePullSecrets[0].name",
            "write the name of an object",
        ),
        (
            "ImageCache",
            with("imagePullSecrets", json!([{"name": "pull%2f..%2fother"}])),
            "spec.imagePullSecrets[0].name",
            "write the name of an object",
        ),
        (
            "ImageCache",
            with("imagePullSecrets", json!([{"name": "pull?x=1#"}])),
            "spec.imagePullSecrets[0].name",
            "write the name of an object",
        ),
        (
            "ImageCache",
            with("imagePullSecrets", json!([{"name": "pull", "namespace": "other"}])),
            "spec.imagePullSecrets[0].namespace",
            "unknown field",
        ),
        (
            "ImageCache",
            with("imagePullSecrets", json!(["other/pull"])),
            "spec.imagePullSecrets[0]",
            "must be of type object",
        ),
        (
            "ImageCache",
            with("secretRef", json!({"namespace": "other", "name": "pull"})),
            "spec.secretRef",
            "unknown field",
        ),
        (
            "ImageCache",
            with("imagePullSecrets", json!([{"name": "a"}, {"name": "a"}])),
            "spec.imagePullSecrets[1]",
            "Duplicate value",
        ),
        ("ImageCache", with("imagePullSecret", json!([])), "spec.imagePullSecret", "unknown field"),
        ("ImageCache", with("status", json!({})), "spec.status", "unknown field"),
        // A registry.
        ("Upstream", json!({}), "spec.registry", "Required value"),
        ("Upstream", json!({"registry": "https://ghcr.io"}), "spec.registry", "write the registry as image names do"),
        ("Upstream", json!({"registry": "ghcr.io/shop"}), "spec.registry", "write the registry as image names do"),
        ("Upstream", json!({"registry": "[::1"}), "spec.registry", "write the registry as image names do"),
        ("Upstream", json!({"registry": "[12:12]"}), "spec.registry", "what is in brackets must be an IPv6 address"),
        (
            "Upstream",
            endpoint(json!({"url": "mirror.example"})),
            "spec.endpoints[0].url",
            "begins with https:// or http://",
        ),
        (
            "Upstream",
            endpoint(json!({"url": "ftp://mirror.example"})),
            "spec.endpoints[0].url",
            "begins with https:// or http://",
        ),
        ("Upstream", endpoint(json!({"url": "https://"})), "spec.endpoints[0].url", "begins with https:// or http://"),
        (
            "Upstream",
            endpoint(json!({"url": "https://u:p@mirror.example"})),
            "spec.endpoints[0].url",
            "do not belong into a URL",
        ),
        (
            "Upstream",
            endpoint(json!({"url": "https://mirror.example/?ns=x"})),
            "spec.endpoints[0].url",
            "no query and no fragment",
        ),
        (
            "Upstream",
            endpoint(json!({"url": "http://a.example", "insecure": true})),
            "spec.endpoints[0]",
            "this endpoint is without TLS",
        ),
        (
            "Upstream",
            endpoint(json!({"url": "http://a.example", "ca": CERTIFICATE})),
            "spec.endpoints[0]",
            "this endpoint is without TLS",
        ),
        (
            "Upstream",
            endpoint(json!({"url": "https://a.example", "ca": "/etc/ca.pem"})),
            "spec.endpoints[0].ca",
            "write certificates as PEM",
        ),
        (
            "Upstream",
            endpoint(json!({"url": "https://a.example", "ca": format!("{CERTIFICATE}-----BEGIN PRIVATE KEY-----")})),
            "spec.endpoints[0].ca",
            "a private key has no place here",
        ),
        (
            "Upstream",
            upstream("endpoints", json!(vec![json!({"url": "https://a.example"}); 17])),
            "spec.endpoints",
            "Too many: 17",
        ),
        ("Upstream", upstream("credential", json!({"shared": true})), "spec.credential.secretName", "Required value"),
        (
            "Upstream",
            upstream("credential", json!({"secretName": "a/b"})),
            "spec.credential.secretName",
            "write the name of an object",
        ),
        (
            "Upstream",
            upstream("tokenHosts", json!(["https://a.example"])),
            "spec.tokenHosts[0]",
            "write host or host:port",
        ),
        (
            "Upstream",
            upstream("redirectHosts", json!(["a.example", "a.example"])),
            "spec.redirectHosts[1]",
            "Duplicate value",
        ),
        ("Upstream", upstream("freshness", json!({"default": "for ever"})), "spec.freshness.default", "or immutable"),
        (
            "Upstream",
            upstream("freshness", json!({"patterns": [{"match": "*:latest"}]})),
            "spec.freshness.patterns[0].for",
            "Required value",
        ),
        (
            "Upstream",
            upstream("freshness", json!({"patterns": [{"match": "a b", "for": "1m"}]})),
            "spec.freshness.patterns[0].match",
            "a pattern has",
        ),
        (
            "Upstream",
            upstream("limits", json!({"concurrency": 0})),
            "spec.limits.concurrency",
            "greater than or equal to 1",
        ),
        ("Upstream", upstream("onDenied", json!("serve")), "spec.onDenied", "Unsupported value"),
        // The policy.
        (
            "CachePolicy",
            json!({"images": {"include": [{}]}}),
            "spec.images.include[0]",
            "a rule names a registry, a repository or a namespace",
        ),
        (
            "CachePolicy",
            json!({"images": {"exclude": [{"namespace": "Shop"}]}}),
            "spec.images.exclude[0].namespace",
            "a pattern over namespaces",
        ),
        (
            "CachePolicy",
            json!({"retention": {"budget": {"percent": 101}}}),
            "spec.retention.budget.percent",
            "less than or equal to 100",
        ),
        ("CachePolicy", json!({"retention": {"pins": ["alpine:3.20"]}}), "spec.retention.pins[0]", registry),
        (
            "CachePolicy",
            json!({"cleanup": {"diskAbove": 60, "diskBelow": 60}}),
            "spec.cleanup",
            "diskBelow must be less than diskAbove",
        ),
        ("CachePolicy", json!({"cleanup": {"diskBelow": 60}}), "spec.cleanup", "give diskAbove too"),
        ("CachePolicy", json!({"cleanup": {"mode": "On"}}), "spec.cleanup.mode", "Unsupported value"),
        ("CachePolicy", json!({"cleanup": {"minimumAge": "0s"}}), "spec.cleanup.minimumAge", "above zero"),
        // What the controller writes.
        ("CachedImage", json!({"image": "nginx"}), "spec.image", registry),
        ("CachedImage", json!({}), "spec.image", "Required value"),
    ];
    for span in ["", "5", "5 m", "m", "-5m", "5y", "5M", "1.5h", "1m1h", "99999d", "5m\n"] {
        let why = if span.is_empty() { "at least 1 chars long" } else { "write a length of time" };
        bad.push(("ImageCache", with("gateTimeout", json!(span)), "spec.gateTimeout", why));
        bad.push(("Upstream", upstream("freshness", json!({"stale": span})), "spec.freshness.stale", why));
    }
    for span in ["59s", "0m", "1m30s", "1h0m"] {
        bad.push((
            "ImageCache",
            with("refreshInterval", json!(span)),
            "spec.refreshInterval",
            "of whole minutes, at least one",
        ));
    }
    for size in ["0", "-1", "1.5GiB", "20gb", "20 GiB", "1e3", "1000000TiB", "1G1"] {
        bad.push((
            "Upstream",
            upstream("limits", json!({"bytesPerSecond": size})),
            "spec.limits.bytesPerSecond",
            "write a size like",
        ));
    }
    // The API server takes a field that is null for one that is not given; anywhere else null stands for nothing that could be meant.
    for (key, field) in [
        ("images", "spec.images[0]"),
        ("tolerations", "spec.tolerations[0]"),
        ("nodeSelectorTerms", "spec.nodeSelectorTerms[0]"),
    ] {
        bad.push(("ImageCache", with(key, json!([null])), field, "null"));
    }
    bad.push(("ImageCache", json!({"images": null}), "spec", "name images, workloads or both"));
    bad.push(("Upstream", json!({"registry": null}), "spec.registry", "Required value"));
    bad.push((
        "Upstream",
        upstream("credential", json!({"secretName": null})),
        "spec.credential.secretName",
        "Required value",
    ));
    bad
}
