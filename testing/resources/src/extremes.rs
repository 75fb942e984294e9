//! Specs with every field at its extremes, and beyond.

use anyhow::{Context as _, Result};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// How many bytes an object has that is as large as the API server takes any.
pub const LARGE: usize = 1 << 20;

/// Texts that mean something, by the name of the field that they stand in.
fn meant(field: &str) -> &'static [&'static str] {
    match field {
        "images" | "pins" => &[
            "docker.io/library/nginx:1.27",
            "quay.io/a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "[::1]:5000/a:1",
            "localhost/a:_1",
            "10.0.0.1:65535/a/b-c__d.e:1",
            "registry:1/a:1",
        ],
        "default" | "for" | "stale" | "unusedFor" => &["immutable", "0s", "1ms", "9999d", "1d2h3m4s5ms"],
        "gateTimeout" | "refreshInterval" | "minimumAge" | "interval" => {
            &["1ms", "1s", "1m", "9999d", "9999d99999h999999m9999999s99999999ms"]
        }
        "url" => &["https://a.example", "http://[fd00::5]:5000", "https://10.0.0.1:65535/v2/proxy"],
        "ca" => &["-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----"],
        "registry" | "tokenHosts" | "redirectHosts" => {
            &["docker.io", "ghcr.io", "[fd00::5]:443", "10.0.0.7", "a.b.c.example:8443"]
        }
        "match" | "repository" => &["*", "shop/*", "*:latest", "a*b*c*d"],
        "namespace" => &["shop", "test-*"],
        "size" | "bytesPerSecond" => &["1", "999999999999999", "50Mi", "999999TiB"],
        "key" => &["a", "pool", "topology.kubernetes.io/zone"],
        "values" => &["1", "", "a-b_c.d"],
        _ => &["a", "b.c", "web"],
    }
}

/// Specs of a kind: those that its schema has most likely no objection to, and those with something in them that is too long, too large, of another
/// type, null or unknown.
///
/// # Errors
/// There is no such kind.
pub fn specs(kind: &str) -> Result<BoxedStrategy<Value>> {
    let found = api::definitions().into_iter().find(|definition| definition.spec.names.kind == kind);
    let definition = serde_json::to_value(found.with_context(|| format!("there is no kind {kind}"))?)?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    anyhow::ensure!(schema["properties"].is_object(), "{kind} has no spec");
    let sane = value("spec", schema, false);
    let odd = value("spec", schema, true);
    let twisted = (value("spec", schema, false), any::<prop::sample::Index>(), junk());
    // One thing alone is wrong, so that it is that which is refused.
    let twisted = twisted.prop_map(|(mut spec, which, junk)| {
        let mut places = Vec::new();
        leaves(&spec, String::new(), &mut places);
        if !places.is_empty() {
            let place = which.get(&places);
            *spec.pointer_mut(place).expect("it was found there") = junk;
        }
        spec
    });
    Ok(prop_oneof![4 => sane, 4 => twisted, 2 => odd].boxed())
}

fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            leaves(value, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), found);
        }),
        Value::Array(items) => {
            // Of many that are the same, some will do.
            items.iter().take(4).enumerate().for_each(|(at, item)| leaves(item, format!("{path}/{at}"), found));
        }
        _ => found.push(path),
    }
}

/// What stands in no schema.
fn junk() -> BoxedStrategy<Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        any::<bool>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        "[\\x00-\\x20\u{202e}\u{feff}/:@.%{}\\[\\]'\"\\\\-]{1,20}".prop_map(Value::from),
        Just(json!("a".repeat(70_000))),
        Just(json!([])),
        Just(json!({})),
        Just(json!({"unknown": {"unknown": [1, null]}})),
        Just(json!([[[[[[[[]]]]]]]])),
    ]
    .boxed()
}

/// A value of a field. Where it may be `odd`, it may also be just outside of what the schema has.
fn value(field: &str, schema: &Value, odd: bool) -> BoxedStrategy<Value> {
    if let Some(words) = schema["enum"].as_array() {
        return prop::sample::select(words.clone()).boxed();
    }
    match schema["type"].as_str() {
        Some("object") => object(schema, odd),
        Some("array") => array(field, schema, odd),
        Some("integer" | "number") => number(schema, odd),
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        _ => text(field, schema, odd),
    }
}

fn object(schema: &Value, odd: bool) -> BoxedStrategy<Value> {
    if let Some(of) = schema["additionalProperties"].as_object() {
        let values = value("values", &Value::Object(of.clone()), odd);
        let most = schema["maxProperties"].as_u64().unwrap_or(8) as usize;
        let keys = prop_oneof!["[a-z]{1,63}", "[a-z]{1,20}\\.example/[A-Za-z]{1,8}"];
        let few = prop::collection::btree_map(keys.clone(), values.clone(), 0..3);
        let all = prop::collection::btree_map(keys, values, most..most + 1 + usize::from(odd));
        let all = prop_oneof![9 => few, 1 => all];
        return all.prop_map(|map| Value::Object(map.into_iter().collect())).boxed();
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut fields: Vec<BoxedStrategy<Option<(String, Value)>>> = Vec::new();
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        let is_there = required.contains(&&**name) && !odd;
        let name = name.clone();
        let given = value(&name, of, odd).prop_map(move |value| (name.clone(), value));
        fields.push(match is_there {
            true => given.prop_map(Some).boxed(),
            false => prop::option::of(given).boxed(),
        });
    }
    let whole = fields.prop_map(|fields| fields.into_iter().flatten().collect::<Map<_, _>>());
    match odd {
        true => whole.prop_map(Value::Object).boxed(),
        false => whole.prop_map(|fields| Value::Object(agreeing(fields))).boxed(),
    }
}

/// Fields that go together, as the rules beside the schema want it.
fn agreeing(mut fields: Map<String, Value>) -> Map<String, Value> {
    let text = |fields: &Map<String, Value>, key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
    let is_toleration = ["effect", "value"].iter().any(|key| fields.contains_key(*key));
    match text(&fields, "operator").as_deref() {
        Some("Exists") if is_toleration => drop(fields.remove("value")),
        Some("Exists" | "DoesNotExist") => drop(fields.remove("values")),
        Some("In" | "NotIn") => drop(fields.insert("values".to_owned(), json!(["1", "a-b_c.d"]))),
        Some("Gt" | "Lt") => drop(fields.insert("values".to_owned(), json!(["9223372036854775807"]))),
        _ => {}
    }
    if is_toleration && !fields.contains_key("key") {
        fields.insert("operator".to_owned(), json!("Exists"));
        fields.remove("value");
    }
    if text(&fields, "url").is_some_and(|url| url.starts_with("http://")) {
        fields.remove("ca");
        fields.remove("insecure");
    }
    if fields.get("insecure") == Some(&json!(true)) {
        fields.remove("ca");
    }
    fields
}

fn array(field: &str, schema: &Value, odd: bool) -> BoxedStrategy<Value> {
    let [least, most] = ["minItems", "maxItems"].map(|key| schema[key].as_u64().map(|number| number as usize));
    let (least, most) = (least.unwrap_or(0), most.unwrap_or(8));
    let items = value(field, &schema["items"], odd);
    let few = prop::collection::vec(items.clone(), least..least.max(3) + 1);
    // As many as there may be of a few that differ: what makes objects large, and rules dear.
    let many = prop::collection::vec(items, 1..4).prop_map(move |items| {
        let count = most + usize::from(odd);
        items.into_iter().cycle().take(count).collect()
    });
    let is_set = schema["x-kubernetes-list-type"].is_string();
    let all = prop_oneof![12 => few, 1 => many];
    all.prop_map(move |items: Vec<Value>| {
        let mut kept: Vec<Value> = Vec::new();
        for (at, item) in items.into_iter().enumerate() {
            match item {
                // Each is there once, as it must be.
                Value::String(text) if is_set && !odd && kept.contains(&json!(text)) => {
                    kept.push(json!(distinct(&text, at)))
                }
                item if is_set && !odd && kept.contains(&item) => {}
                item => kept.push(item),
            }
        }
        Value::Array(kept)
    })
    .boxed()
}

/// Another text of the same kind.
fn distinct(text: &str, number: usize) -> String {
    match text.split_once('/') {
        Some((host, rest)) => format!("{host}/x{number}/{rest}"),
        None => format!("x{number}.{text}"),
    }
}

fn number(schema: &Value, odd: bool) -> BoxedStrategy<Value> {
    let bound = |key: &str| schema[key].as_f64().map(|number| number as i64);
    let (least, most) = (bound("minimum").unwrap_or(0), bound("maximum").unwrap_or(1 << 31));
    let inside = prop_oneof![Just(least), Just(most), least..=most].prop_map(Value::from);
    match odd {
        false => inside.boxed(),
        true => {
            let outside = [least - 1, most + 1, i64::MIN, i64::MAX].map(Value::from).to_vec();
            prop_oneof![8 => inside, 1 => prop::sample::select(outside), 1 => Just(json!(1.5))].boxed()
        }
    }
}

fn text(field: &str, schema: &Value, odd: bool) -> BoxedStrategy<Value> {
    let words = prop::sample::select(meant(field)).prop_map(Value::from);
    let most = schema["maxLength"].as_u64().unwrap_or(256) as usize;
    match odd {
        false => words.boxed(),
        true => {
            let long = [most, most + 1].map(|length| json!("a".repeat(length))).to_vec();
            prop_oneof![8 => words, 1 => prop::sample::select(long), 1 => junk()].boxed()
        }
    }
}
