//! What is written of objects, and how it is shown.

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};
use testbed::{Cluster, wait_for};

use crate::PATIENCE;
use crate::client::{Server, object};
use crate::good::digest;

const TIME: &str = "2026-01-02T03:04:05Z";

fn condition(kind: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": "True", "reason": "AsItShould", "message": message, "lastTransitionTime": TIME,
        "observedGeneration": 1,
    })
}

/// Who writes the status does not change the spec, and the other way round.
pub fn a_status_is_written_by_itself(server: &Server) -> Result<()> {
    let given = object("ImageCache", "web", json!({"images": ["ghcr.io/a/b:1"]}));
    let refused = |error| anyhow!("{given}: {error}");
    let made = server.create(&given).map_err(refused)?;

    let mut both = made.clone();
    both["spec"]["priority"] = 7.into();
    both["status"] =
        json!({"observedGeneration": 1, "nodes": 3, "warmNodes": 2, "conditions": [condition("Ready", "")]});
    let after = server.replace(&both, "/status").map_err(refused)?;
    ensure!(after["spec"] == made["spec"], "the spec changed with the status: {after}");
    ensure!(after["metadata"]["generation"] == 1, "a status is no new generation: {after}");
    ensure!(after["status"]["warmNodes"] == 2 && after["status"]["failed"] == 0, "{after}");

    let mut both = after.clone();
    both["spec"]["priority"] = 7.into();
    both["status"]["warmNodes"] = 3.into();
    let after = server.replace(&both, "").map_err(refused)?;
    ensure!(after["status"]["warmNodes"] == 2, "the status changed with the spec: {after}");
    ensure!(after["spec"]["priority"] == 7 && after["metadata"]["generation"] == 2, "{after}");

    let mut wrong = after;
    wrong["status"]["conditions"] = json!([{"type": "Ready", "status": "Maybe"}]);
    let Err(error) = server.replace(&wrong, "/status") else { return Err(anyhow!("a wrong condition was taken")) };
    ensure!(
        error.contains("Unsupported value: \"Maybe\"") && error.contains("lastTransitionTime: Required value"),
        "{error}"
    );
    server.delete(&given).map_err(refused)?;

    a_full_node_is_taken(server)
}

/// A node's status has its bound, and is then still small enough for the API server.
fn a_full_node_is_taken(server: &Server) -> Result<()> {
    let given = object("NodeCache", "node-1", Value::Null);
    let made = server.create(&given).map_err(|error| anyhow!(error))?;
    let image = |number: usize| {
        json!({
            "image": format!("registry.example.com:5000/{}:{number}", "team/".repeat(20) + "app"), "digest": digest(), "state": "Failed",
            "pinned": true, "bytes": 5_000_000_000_u64, "lastUsed": TIME, "reason": "NotFound", "message": "m".repeat(200), "attempts": 3,
        })
    };
    let status = |count: usize| {
        let mut object = made.clone();
        object["status"] = json!({"present": count, "images": (0..count).map(image).collect::<Vec<_>>()});
        object
    };
    let Err(error) = server.replace(&status(api::NODE_IMAGES + 1), "/status") else {
        return Err(anyhow!("a status with too many images was taken"));
    };
    ensure!(error.contains("status.images: Too many: 1025"), "{error}");
    let taken = server.replace(&status(api::NODE_IMAGES), "/status").map_err(|error| anyhow!(error))?;
    let read: api::NodeCache = serde_json::from_value(taken)?;
    ensure!(read.status.is_some_and(|status| status.images.len() == api::NODE_IMAGES), "images were lost");
    server.delete(&given).map_err(|error| anyhow!(error))?;
    Ok(())
}

/// The table that `kubectl get` prints has every column, with what the object says.
pub fn columns_are_there(server: &Server) -> Result<()> {
    for (mut given, status, expected) in shown() {
        let kind = given["kind"].as_str().context("it has a kind")?.to_owned();
        let refused = |error: String| anyhow!("{kind}: {error}");
        let mut made = server.create(&given).map_err(refused)?;
        made["status"] = status;
        server.replace(&made, "/status").map_err(refused)?;
        given = server.read(&given).map_err(refused)?;

        let table = server.table(&kind)?;
        let cells = table["rows"][0]["cells"].as_array().context("a row")?;
        let columns = table["columnDefinitions"].as_array().context("columns")?;
        let mut seen: Vec<_> =
            columns.iter().zip(cells).map(|(column, cell)| (column["name"].clone(), cell.clone())).collect();
        let (name, age) = (seen.remove(0), seen.pop().context("the age comes last")?);
        ensure!(name.1 == given["metadata"]["name"], "{name:?}");
        ensure!(age.0 == "Age" && age.1.as_str().is_some_and(|age| age.ends_with('s')), "{age:?}");
        let expected: Vec<_> = expected.iter().map(|(name, cell)| (json!(name), cell.clone())).collect();
        // How long ago a time is depends on today.
        let seen: Vec<_> = seen
            .into_iter()
            .map(|(name, cell)| match name.as_str() {
                Some("Last Used" | "Cleanup") if kind != "CachePolicy" => {
                    (name, json!(cell.as_str().is_some_and(|ago| ago.ends_with(['d', 'y']))))
                }
                _ => (name, cell),
            })
            .collect();
        ensure!(seen == expected, "{kind}: {seen:#?} instead of {expected:#?}");

        let all: Vec<_> = definition(&kind)?.into_iter().collect();
        let listed: Vec<_> = columns.iter().skip(1).filter_map(|column| column["name"].as_str()).collect();
        ensure!(all == listed, "{kind}: {all:?} and {listed:?}");
        server.delete(&given).map_err(refused)?;
    }
    Ok(())
}

fn definition(kind: &str) -> Result<Vec<String>> {
    let found = api::definitions().into_iter().find(|definition| definition.spec.names.kind == kind);
    let columns = found.context("it is defined")?.spec.versions.remove(0).additional_printer_columns;
    Ok(columns.unwrap_or_default().into_iter().map(|column| column.name).collect())
}

type Cells = Vec<(&'static str, Value)>;

/// Objects with their status, and what the columns then say but for the age.
fn shown() -> Vec<(Value, Value, Cells)> {
    let ready = json!([condition("Ready", ""), condition("Available", "answers"), condition("Warm", "2 of 3 nodes")]);
    vec![
        (
            object("ImageCache", "web", json!({"images": ["ghcr.io/a/b:1"], "gateNodes": true, "priority": 7})),
            json!({"conditions": ready, "imageCount": 1, "nodes": 3, "warmNodes": 2, "failed": 4}),
            vec![
                ("Images", json!(1)),
                ("Nodes", json!(3)),
                ("Warm", json!(2)),
                ("Failing", json!(4)),
                ("Ready", json!("True")),
                ("Gate", json!(true)),
                ("Priority", json!(7)),
                ("Message", json!("2 of 3 nodes")),
            ],
        ),
        (
            object("Upstream", "hub", json!({"registry": "docker.io", "credential": {"secretName": "hub"}})),
            json!({"conditions": ready, "endpoints": [{"url": "https://a.example", "available": false, "message": "refused", "lastAsked": TIME}]}),
            vec![
                ("Registry", json!("docker.io")),
                ("Ready", json!("True")),
                ("Available", json!("True")),
                ("Shared", json!(false)),
                ("Message", json!("answers")),
            ],
        ),
        (
            object("CachePolicy", "default", json!({"cleanup": {"mode": "DryRun"}})),
            json!({"conditions": ready, "images": 12, "bytes": 1}),
            vec![
                ("Ready", json!("True")),
                ("Freshness", json!("5m")),
                ("Cleanup", json!("DryRun")),
                ("Unused For", json!("14d")),
                ("Images", json!(12)),
            ],
        ),
        (
            object("CachedImage", "nginx", json!({"image": "docker.io/library/nginx:1.27"})),
            json!({
                "digest": digest(), "bytes": 100_000_000_000_u64, "platforms": ["linux/amd64"], "pods": 3, "lastUsed": TIME, "expires": TIME,
                "held": {"registry": true, "nodes": 2, "nodeNames": ["node-1", "node-2"]},
            }),
            vec![
                ("Image", json!("docker.io/library/nginx:1.27")),
                ("Pods", json!(3)),
                ("Nodes", json!(2)),
                ("Registry", json!(true)),
                ("Bytes", json!(100_000_000_000_u64)),
                ("Last Used", json!(true)),
                ("Digest", json!(digest())),
                ("Expires", json!(TIME)),
            ],
        ),
        (
            object("NodeCache", "node-1", Value::Null),
            json!({
                "conditions": ready, "present": 5, "wanted": 4, "warm": 3, "failed": 1, "bytes": {"images": 10, "store": 20},
                "lastCleanup": {"time": TIME, "removed": 1, "freedBytes": 7, "images": [{"image": "a", "bytes": 7, "reason": "Unused"}]},
            }),
            vec![
                ("Ready", json!("True")),
                ("Present", json!(5)),
                ("Wanted", json!(4)),
                ("Warm", json!(3)),
                ("Failed", json!(1)),
                ("Bytes", json!(10)),
                ("Store", json!(20)),
                ("Cleanup", json!(true)),
            ],
        ),
    ]
}

/// `kubectl` explains fields, and finds kinds by their short names and together.
pub fn kubectl_knows_the_kinds(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    for (field, said) in [
        ("ic.spec.images", "Images with their registry and a tag or digest"),
        ("ups.spec.credential.secretName", "A Secret in larder's own namespace"),
        ("cpol.spec.cleanup.unusedFor", "no container has used it for so long"),
        ("ci.status.held.registry", "Larder's registry has all of it"),
        ("nc.status.images.state", "its turn has not come"),
    ] {
        // The descriptions are published a little after the kinds.
        let mut last = String::new();
        let waited = wait_for(&format!("kubectl explains {field}"), PATIENCE, || {
            last = kubectl.run(&["explain", field]).unwrap_or_else(|error| format!("{error:#}"));
            let words: Vec<_> = last.split_whitespace().collect();
            Ok(words.join(" ").contains(said).then_some(()))
        });
        waited.with_context(|| format!("it said last: {last}"))?;
    }
    let cache = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"images": ["ghcr.io/a/b:1"]},
    });
    kubectl.apply(&cache.to_string())?;
    let all = kubectl.run(&["get", "larder", "-A", "-o", "name"])?;
    ensure!(all.trim() == "imagecache.larder.dev/web", "{all}");
    Ok(())
}
