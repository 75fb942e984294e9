//! Whatever somebody writes, the API server refuses it with words or the types can read it. K-13

use anyhow::{Context as _, Result, bail, ensure};
use api::{CachePolicy, ImageCache, Upstream};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use resources::{LARGE, specs};
use serde_json::{Value, json};

use crate::client::{Server, object};

/// How many objects of each kind are tried.
const CASES: usize = 250;

pub fn what_is_taken_can_be_read(server: &Server) -> Result<()> {
    for kind in ["ImageCache", "CachePolicy", "Upstream"] {
        let (specs, mut runner) = (specs(kind)?, TestRunner::deterministic());
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..CASES {
            let spec = specs.new_tree(&mut runner).map_err(|why| anyhow::anyhow!("{why}"))?.current();
            let given = object(kind, "default", spec);
            match server.try_create(&given) {
                Ok(answer) => {
                    read(kind, &answer).with_context(|| format!("it was taken: {}", beginning(&given)))?;
                    taken += 1;
                }
                Err(error) => {
                    ensure!(is_told(&error), "{error:?} is said of {}", beginning(&given));
                    refused += 1;
                }
            }
        }
        println!("of {kind}, {taken} were taken and {refused} refused");
        ensure!(taken > CASES / 10 && refused > CASES / 10, "{kind}: {taken} taken, {refused} refused");
    }
    Ok(())
}

/// As large as the API server takes anything.
pub fn what_is_too_large_is_refused(server: &Server) -> Result<()> {
    let images: Vec<String> =
        (0..LARGE / 100).map(|number| format!("quay.io/{}:{number:0>30}", "a".repeat(60))).collect();
    for (kind, spec, why) in [
        ("ImageCache", json!({ "images": images }), "must have at most 500 items"),
        ("ImageCache", json!({"images": ["quay.io/a:1"], "unknown": "a".repeat(LARGE)}), "unknown field"),
        ("ImageCache", json!({"images": [format!("quay.io/{}:1", "a".repeat(LARGE))]}), "Too long"),
        ("CachePolicy", json!({"retention": {"pins": images}}), "must have at most 500 items"),
        (
            "Upstream",
            json!({"registry": "ghcr.io", "endpoints": [{"url": "https://a.example", "ca": "A".repeat(LARGE)}]}),
            "Too long",
        ),
    ] {
        match server.try_create(&object(kind, "default", spec)) {
            Ok(_) => bail!("a {kind} of 1 MiB was taken that is to be refused: {why}"),
            Err(error) => {
                let told: String = error.chars().take(1000).collect();
                ensure!(error.contains(why), "{kind}: {told}");
            }
        }
    }
    Ok(())
}

fn read(kind: &str, object: &Value) -> Result<()> {
    let object = object.clone();
    match kind {
        "ImageCache" => drop(serde_json::from_value::<ImageCache>(object)?),
        "CachePolicy" => drop(serde_json::from_value::<CachePolicy>(object)?),
        "Upstream" => drop(serde_json::from_value::<Upstream>(object)?),
        other => bail!("no type for {other}"),
    }
    Ok(())
}

/// Whether it is an answer of the API server that says what is wrong.
fn is_told(error: &str) -> bool {
    !error.starts_with("no answer")
        && (error.contains("spec") || error.contains("metadata") || error.contains("strict decoding"))
}

fn beginning(object: &Value) -> String {
    object.to_string().chars().take(1500).collect()
}
