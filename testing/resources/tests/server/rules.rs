//! What is taken, what is refused, and what is filled in.

use anyhow::{Context as _, Result, anyhow, ensure};
use api::{CachePolicy, CachedImage, ImageCache, NodeCache, Upstream};
use serde_json::{Value, json};

use crate::bad::bad;
use crate::client::{Answer, Server, object};
use crate::good::good;

pub fn good_objects_are_taken(server: &Server) -> Result<()> {
    let mut wrong = Vec::new();
    for (kind, spec) in good() {
        let given = object(kind, "default", spec);
        match server.try_create(&given) {
            Ok(taken) => check_types(&given, &taken).with_context(|| format!("{given}"))?,
            Err(error) => wrong.push(format!("{given}: {error}")),
        }
    }
    ensure!(wrong.is_empty(), "refused: {wrong:#?}");
    Ok(())
}

/// The types read what the API server stores, lose nothing of it, and have the same defaults.
fn check_types(given: &Value, taken: &Value) -> Result<()> {
    let (read, own) = match given["kind"].as_str() {
        Some("Upstream") => (through::<Upstream>(taken)?, through::<Upstream>(given)?),
        Some("CachePolicy") => (through::<CachePolicy>(taken)?, through::<CachePolicy>(given)?),
        Some("ImageCache") => (through::<ImageCache>(taken)?, through::<ImageCache>(given)?),
        Some("CachedImage") => (through::<CachedImage>(taken)?, through::<CachedImage>(given)?),
        Some("NodeCache") => (through::<NodeCache>(taken)?, through::<NodeCache>(given)?),
        other => return Err(anyhow!("no type for {other:?}")),
    };
    ensure!(own["spec"] == read["spec"], "the type has other defaults: {} and {}", own["spec"], read["spec"]);
    let stored = server_words(&taken["spec"]);
    ensure!(stored == server_words(&read["spec"]), "the type loses something: {stored} and {}", read["spec"]);
    Ok(())
}

fn through<T: serde::de::DeserializeOwned + serde::Serialize>(object: &Value) -> Result<Value> {
    Ok(serde_json::to_value(serde_json::from_value::<T>(object.clone())?)?)
}

/// The same without empty lists, and with images, lengths of time and sizes in the form that types write.
fn server_words(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| **value != json!([]));
            kept.map(|(key, value)| (key.clone(), server_words(value))).collect()
        }
        Value::Array(values) => values.iter().map(server_words).collect(),
        Value::String(text) => {
            let image = text.parse::<oci::Image>().map(|image| image.to_string());
            let span = text.parse::<units::Span>().map(|span| span.to_string());
            let size = text.parse::<units::Size>().map(|units::Size(bytes)| bytes.to_string());
            image.ok().or(span.ok()).or(size.ok()).unwrap_or_else(|| text.clone()).into()
        }
        other => other.clone(),
    }
}

pub fn bad_objects_are_refused(server: &Server) -> Result<()> {
    let mut wrong = Vec::new();
    for (kind, spec, field, why) in bad() {
        let given = object(kind, "default", spec);
        let written: String = given["spec"].to_string().chars().take(200).collect();
        expect(&mut wrong, &format!("{kind} {written}"), server.try_create(&given), field, why);
    }
    let other = object("CachePolicy", "other", json!({}));
    expect(&mut wrong, "a second policy", server.try_create(&other), "metadata.name", "there is one CachePolicy");
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

fn expect(wrong: &mut Vec<String>, what: &str, answer: Answer, field: &str, why: &str) {
    match answer {
        Ok(_) => wrong.push(format!("{what}: was taken, and should be refused: {field}: {why}")),
        Err(error) if error.contains(field) && error.contains(why) => {}
        Err(error) => wrong.push(format!("{what}: {error}; expected {field}: {why}")),
    }
}

pub fn defaults_are_filled_in(server: &Server) -> Result<()> {
    let image = json!(["ghcr.io/a/b:1"]);
    let minimal = [
        (
            // What is null is not given.
            object(
                "ImageCache",
                "null",
                json!({
                    "images": image, "workloads": null, "refreshInterval": null, "priority": null, "onDelete": null,
                    "parallelism": {"nodes": null},
                }),
            ),
            json!({
                "images": image, "privateImages": "Store", "parallelism": {"perNode": 2}, "priority": 0, "retries": 5,
                "gateNodes": false, "gateTimeout": "10m", "onDelete": "Keep",
            }),
        ),
        (
            object("ImageCache", "defaults", json!({"images": image})),
            json!({
                "images": image, "privateImages": "Store", "parallelism": {"perNode": 2}, "priority": 0, "retries": 5,
                "gateNodes": false, "gateTimeout": "10m", "onDelete": "Keep",
            }),
        ),
        (
            object("ImageCache", "kinds", json!({"images": image, "workloads": {"selector": {}}})),
            json!({
                "images": image, "privateImages": "Store", "parallelism": {"perNode": 2}, "priority": 0, "retries": 5,
                "gateNodes": false, "gateTimeout": "10m", "onDelete": "Keep",
                "workloads": {"selector": {}, "kinds": ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"]},
            }),
        ),
        (
            object(
                "Upstream",
                "defaults",
                json!({"registry": "ghcr.io", "endpoints": [{"url": "https://a.example"}], "credential": {"secretName": "a"}}),
            ),
            json!({
                "registry": "ghcr.io", "endpoints": [{"url": "https://a.example", "insecure": false}],
                "credential": {"secretName": "a", "shared": false}, "onNotFound": "Refuse", "onDenied": "Refuse",
            }),
        ),
        (
            object("CachePolicy", "default", json!({"cleanup": {}})),
            json!({
                "images": {}, "freshness": {"default": "5m", "stale": "7d"}, "retention": {"budget": {"percent": 80}},
                "cleanup": {"mode": "Remove", "unusedFor": "14d", "minimumAge": "1h", "interval": "15m"},
                "imageCaches": {
                    "images": 100, "perNamespace": 100, "pullsPerNode": 4, "gateNodes": "Allow", "gateTimeout": "30m",
                    "privateInRuntime": "Allow",
                },
            }),
        ),
    ];
    for (given, expected) in minimal {
        let taken = server.try_create(&given).map_err(|error| anyhow!("{given}: {error}"))?;
        ensure!(taken["spec"] == expected, "{} instead of {expected}", taken["spec"]);
    }
    Ok(())
}

pub fn what_must_stay_stays(server: &Server) -> Result<()> {
    let mut wrong = Vec::new();
    let cases = [
        (object("Upstream", "stays", json!({"registry": "ghcr.io"})), "registry", json!("quay.io"), "stays what it is"),
        (
            object("CachedImage", "stays", json!({"image": "ghcr.io/a/b:1"})),
            "image",
            json!("ghcr.io/a/b:2"),
            "stays about its image",
        ),
    ];
    for (given, key, value, why) in cases {
        let mut changed = server.create(&given).map_err(|error| anyhow!("{given}: {error}"))?;
        changed["spec"][key] = value;
        expect(&mut wrong, &changed.to_string(), server.replace(&changed, ""), &format!("spec.{key}"), why);
        server.delete(&given).map_err(|error| anyhow!(error))?;
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// Rules cost time; the API server gives up an object whose rules cost more than it allows.
pub fn the_largest_objects_are_taken(server: &Server) -> Result<()> {
    let repository = format!("{}/{}", "a-".repeat(100) + "a", "b".repeat(40));
    let image = |number: usize| format!("registry.example.com:5000/{repository}:{number:0>128}");
    let expression = json!({"key": "k".repeat(63), "operator": "In", "values": vec!["v".repeat(63); 64]});
    let images: Vec<_> = (0..500).map(image).collect();
    let rule = json!({"registry": "*".repeat(255), "repository": "*".repeat(255), "namespace": "*".repeat(63)});
    let pattern = json!({"match": "*".repeat(255), "for": "9999d99999h999999m9999999s99999999ms"});
    let hosts =
        |letter: &str| -> Vec<_> { (0..32).map(|number| format!("{}{number}.example", letter.repeat(60))).collect() };
    let objects = [
        object(
            "ImageCache",
            "large",
            json!({
                "images": images,
                "workloads": {"selector": {"matchExpressions": vec![expression.clone(); 32]}},
                "nodeSelectorTerms": vec![json!({"matchExpressions": vec![expression; 16]}); 16],
                "tolerations": vec![json!({"key": "k".repeat(63), "value": "v".repeat(63)}); 32],
            }),
        ),
        object(
            "CachePolicy",
            "default",
            json!({
                "images": {"include": vec![rule.clone(); 128], "exclude": vec![rule.clone(); 128]},
                "freshness": {"patterns": vec![pattern.clone(); 64]},
                "retention": {"pins": images},
                "cleanup": {"keep": vec![rule; 128]},
            }),
        ),
        object(
            "Upstream",
            "large",
            json!({
                "registry": "ghcr.io",
                "endpoints": vec![json!({"url": format!("https://a.example/{}", "a".repeat(1000)), "ca": format!("-----BEGIN CERTIFICATE-----{}", "A".repeat(65000))}); 16],
                "freshness": {"patterns": vec![pattern; 64]},
                "tokenHosts": hosts("a"),
                "redirectHosts": hosts("b"),
            }),
        ),
    ];
    for given in objects {
        let answer = server.try_create(&given);
        answer.map_err(|error| anyhow!("{}: {}", given["kind"], error.chars().take(2000).collect::<String>()))?;
    }
    Ok(())
}
