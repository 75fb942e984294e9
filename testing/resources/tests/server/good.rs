//! Objects that are taken.

use serde_json::{Value, json};

pub const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

pub fn digest() -> String {
    format!("sha256:{}", "0123456789abcdef".repeat(4))
}

/// Kinds and specs that are taken.
pub fn good() -> Vec<(&'static str, Value)> {
    let all = json!({
        "images": ["docker.io/library/nginx:1.27", format!("ghcr.io/shop/api:v3@{}", digest())],
        "workloads": {
            "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front", "back"]},
                {"key": "example.com/old", "operator": "DoesNotExist"},
            ]},
            "kinds": ["Deployment", "CronJob"],
        },
        "nodeSelector": {"pool": "web", "example.com/empty": ""},
        "nodeSelectorTerms": [{"matchExpressions": [
            {"key": "topology.kubernetes.io/zone", "operator": "NotIn", "values": ["a"]},
            {"key": "cpus", "operator": "Gt", "values": ["8"]},
            {"key": "gpu", "operator": "Exists"},
        ]}],
        "tolerations": [
            {"operator": "Exists"},
            {"key": "dedicated", "value": "web", "effect": "NoSchedule"},
        ],
        "refreshInterval": "1h30m",
        "imagePullSecrets": [{"name": "registry.example"}, {"name": "other"}],
        "privateImages": "Runtime",
        "parallelism": {"perNode": 4, "nodes": 100},
        "priority": -5,
        "retries": 0,
        "gateNodes": true,
        "gateTimeout": "90s",
        "onDelete": "Remove",
    });
    let images = |images: &[&str]| json!({ "images": images });
    vec![
        ("ImageCache", all),
        ("ImageCache", images(&["docker.io/nginx:1.27"])),
        ("ImageCache", images(&["localhost/a:1", "localhost:5000/a:1", "registry:5000/a:1"])),
        ("ImageCache", images(&["10.0.0.1/a:1", "10.0.0.1:65535/a/b-c__d.e:_1", "[::1]:5000/a:1", "[fd00::5]/a:1"])),
        ("ImageCache", images(&[&format!("ghcr.io/a/b@{}", digest())])),
        ("ImageCache", images(&[&format!("ghcr.io/a/b@sha512:{}", "ab".repeat(64))])),
        ("ImageCache", json!({"images": [], "workloads": {"selector": {}}})),
        ("Upstream", json!({"registry": "docker.io"})),
        (
            "Upstream",
            json!({"registry": "registry.example:8443", "endpoints": [
                {"url": "https://10.0.0.1:8443/v2/proxy", "ca": CERTIFICATE},
                {"url": "https://mirror.example", "insecure": true},
                {"url": "http://[fd00::5]:5000"},
            ]}),
        ),
        (
            "Upstream",
            json!({
                "registry": "ghcr.io",
                "credential": {"secretName": "ghcr.robot", "shared": true},
                "freshness": {"default": "immutable", "stale": "0s", "patterns": [{"match": "*:latest", "for": "250ms"}]},
                "onNotFound": "Serve",
                "onDenied": "Refuse",
                "tokenHosts": ["auth.example", "[fd00::5]:443"],
                "redirectHosts": ["blobs.example:8443", "10.0.0.7"],
                "limits": {"concurrency": 32, "requestsPerMinute": 100, "bytesPerSecond": "50Mi"},
            }),
        ),
        ("CachePolicy", json!({})),
        (
            "CachePolicy",
            json!({
                "images": {
                    "include": [{"registry": "*.example.com"}, {"registry": "ghcr.io", "repository": "shop/*:v*"}],
                    "exclude": [{"namespace": "test-*"}],
                },
                "freshness": {"default": "10m", "stale": "30d", "patterns": [{"match": "shop/*", "for": "immutable"}]},
                "retention": {"budget": {"percent": 50, "size": "200GiB"}, "unusedFor": "30d", "pins": ["docker.io/library/alpine:3.20"]},
                "cleanup": {
                    "mode": "DryRun", "unusedFor": "1d", "diskAbove": 75, "diskBelow": 60, "minimumAge": "10m", "interval": "5m",
                    "keep": [{"registry": "registry.k8s.io"}],
                },
                "imageCaches": {
                    "images": 20, "perNamespace": 5, "pullsPerNode": 8, "nodesAtOnce": 50, "gateNodes": "Refuse", "gateTimeout": "15m",
                    "privateInRuntime": "Refuse",
                },
            }),
        ),
        ("CachedImage", json!({"image": "docker.io/library/nginx:1.27"})),
        ("NodeCache", Value::Null),
    ]
}
