//! The files that are made are those that would be made, and everything in the schemas has a bound and a meaning.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;

#[test]
fn what_is_checked_in_is_current() -> Result<()> {
    for file in resources::files()? {
        let path = resources::root().join(&file.path);
        let found = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        assert!(found == file.text, "{} is not current: cargo run -p resources", file.path.display());
    }
    Ok(())
}

#[test]
fn no_definition_of_another_time_is_left() -> Result<()> {
    let made: Vec<_> = resources::files()?.into_iter().map(|file| resources::root().join(file.path)).collect();
    for entry in fs::read_dir(resources::root().join("chart/larder/crds"))? {
        let path = entry?.path();
        assert!(made.contains(&path), "{} is not made any more: remove it", path.display());
    }
    Ok(())
}

#[test]
fn everything_has_a_bound_and_a_meaning() {
    for definition in api::definitions() {
        let definition = serde_json::to_value(definition).unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut wrong = Vec::new();
        // What there is of the object itself is the API server's.
        check("", schema, &mut wrong);
        assert!(wrong.is_empty(), "{}: {wrong:#?}", definition["metadata"]["name"]);
        for rule in definition.pointer("/spec/versions/0/additionalPrinterColumns").unwrap().as_array().unwrap() {
            assert!(rule["description"].is_string(), "{rule}");
        }
    }
}

fn check(path: &str, schema: &Value, wrong: &mut Vec<String>) {
    let mut require = |holds: bool, what: &str| {
        if !holds {
            wrong.push(format!("{path} {what}"));
        }
    };
    require(schema.get("nullable").is_none(), "may be null");
    match schema["type"].as_str() {
        Some("string") => {
            let bounded = schema["maxLength"].is_u64() || schema["enum"].is_array() || schema["format"] == "date-time";
            require(bounded, "has no longest length");
        }
        Some("array") => {
            require(schema["maxItems"].is_u64(), "has no most items");
            check(&format!("{path}[]"), &schema["items"], wrong);
        }
        Some("integer") => {
            let known = matches!(schema["format"].as_str(), Some("int32" | "int64"));
            require(known, "has a format that the API server does not know");
            require(schema["minimum"].is_number(), "has no least value");
        }
        Some("object") if schema["additionalProperties"].is_object() => {
            require(schema["maxProperties"].is_u64(), "has no most entries");
            check(&format!("{path}{{}}"), &schema["additionalProperties"], wrong);
        }
        Some("object" | "boolean") => {}
        other => require(false, &format!("is of type {other:?}")),
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if path.is_empty() && !matches!(name.as_str(), "spec" | "status") {
            continue;
        }
        if property["description"].as_str().is_none_or(str::is_empty) {
            wrong.push(format!("{path}.{name} has no description"));
        }
        check(&format!("{path}.{name}"), property, wrong);
    }
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        if rule["message"].as_str().is_none_or(str::is_empty) {
            wrong.push(format!("{path} has a rule without a message: {rule}"));
        }
    }
}
