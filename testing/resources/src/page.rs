//! The reference page: what each field of each kind is, and what is refused.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use api::Definition;
use serde_json::{Map, Value};

const BEGINNING: &str = "\
# Kubernetes API

The kinds of `larder.dev/v1alpha1`. What a field may hold is checked by the API server, and `kubectl explain` tells the same as this page.
`kubectl get larder -A` lists all of them.

System settings (`Upstream`, `CachePolicy`) and user settings (`ImageCache`) are different kinds, so that different people may edit them.
`CachedImage` and `NodeCache` say what there is; nobody writes them by hand.

A field that is `null` counts as left out, and nothing in a list may be `null`. **Lengths of time** are written `10s`, `5m`, `1h30m`, `7d`; **sizes** `64MiB`, `20GiB`,
`500GB`, or as Kubernetes does, `20Gi`; **images** with their registry and a tag or digest, `docker.io/library/nginx:1.27`.
";

/// The page about these kinds, as Markdown.
///
/// # Errors
///
/// A definition has no schema.
pub fn page(definitions: &[Definition]) -> Result<String> {
    let mut page = BEGINNING.to_owned();
    page.push_str("\n| kind | scope | short | |\n|---|---|---|---|\n");
    let definitions: Vec<_> = definitions.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    for definition in &definitions {
        let names = &definition["spec"]["names"];
        let (kind, scope) = (text(&names["kind"]), text(&definition["spec"]["scope"]));
        let scope = if scope == "Namespaced" { "namespace" } else { "cluster" };
        let description = text(&schema(definition)["description"]);
        let short = list(&names["shortNames"]);
        writeln!(page, "| [`{kind}`](#{}) | {scope} | {short} | {} |", kind.to_lowercase(), cell(description))?;
    }
    for definition in &definitions {
        about(&mut page, definition).with_context(|| format!("{}", definition["metadata"]["name"]))?;
    }
    Ok(page)
}

fn about(page: &mut String, definition: &Value) -> Result<()> {
    let schema = schema(definition);
    let kind = text(&definition["spec"]["names"]["kind"]);
    writeln!(page, "\n## {kind}\n\n{}\n", text(&schema["description"]))?;
    let mut refusals = Vec::new();
    for part in ["spec", "status"] {
        let Some(of) = schema["properties"].get(part) else { continue };
        let mut rows = Vec::new();
        fields(part, of, &mut rows, &mut refusals);
        writeln!(page, "| {part} | type | default | |\n|---|---|---|---|")?;
        for row in rows {
            writeln!(page, "{row}")?;
        }
        page.push('\n');
    }
    for rule in rules(schema) {
        refusals.push(format!("- {rule}"));
    }
    if !refusals.is_empty() {
        writeln!(page, "What is refused, and how:\n\n{}\n", refusals.join("\n"))?;
    }
    writeln!(page, "Columns of `kubectl get`, the last ones with `-o wide`:\n\n| column | |\n|---|---|")?;
    let mut columns: Vec<_> = definition["spec"]["versions"][0]["additionalPrinterColumns"]
        .as_array()
        .context("it has columns")?
        .iter()
        .collect();
    columns.sort_by_key(|column| column["priority"].as_i64().unwrap_or(0));
    for column in columns {
        writeln!(page, "| {} | {} |", text(&column["name"]), cell(text(&column["description"])))?;
    }
    Ok(())
}

/// Adds a row for each field below `path`, and a line for each rule.
fn fields(path: &str, schema: &Value, rows: &mut Vec<String>, refusals: &mut Vec<String>) {
    let required: Vec<&str> = array(&schema["required"]).iter().map(text).collect();
    refusals.extend(rules(schema).map(|rule| format!("- `{path}`: {rule}")));
    for (name, field) in properties(schema) {
        let path = format!("{path}.{name}");
        // Conditions are the same everywhere, and known from everywhere.
        let standard = name == "conditions";
        let default = match (field.get("default"), required.contains(&name.as_str())) {
            // What is in an object has its own defaults.
            (Some(Value::Object(_)), _) => String::new(),
            (Some(default), _) => format!("`{}`", written(default)),
            (None, true) => "required".to_owned(),
            (None, false) => String::new(),
        };
        let shown = path.split_once('.').map_or(path.as_str(), |(_, rest)| rest);
        rows.push(format!("| `{shown}` | {} | {default} | {} |", type_of(field), cell(text(&field["description"]))));
        if standard {
            continue;
        }
        // The rules of what a list or map holds are told with it.
        let (inner, suffix) = match (&field["items"], &field["additionalProperties"]) {
            (Value::Object(_), _) => (&field["items"], "[]"),
            (_, Value::Object(_)) => (&field["additionalProperties"], "{}"),
            _ => (field, ""),
        };
        if !suffix.is_empty() {
            refusals.extend(rules(field).map(|rule| format!("- `{path}`: {rule}")));
        }
        fields(&format!("{path}{suffix}"), inner, rows, refusals);
    }
}

fn rules(schema: &Value) -> impl Iterator<Item = &str> {
    array(&schema["x-kubernetes-validations"]).iter().map(|rule| text(&rule["message"]))
}

/// What a field holds, with its bounds.
fn type_of(field: &Value) -> String {
    let kind = text(&field["type"]);
    match kind {
        "array" => {
            let unique = if field["x-kubernetes-list-type"] == "set" { ", no two the same" } else { "" };
            format!("list of {}, {} {unique}", type_of(&field["items"]), range(field, ["minItems", "maxItems"]))
                .replace("  ", " ")
                .replace(" ,", ",")
                .trim_end()
                .to_owned()
        }
        "object" => match &field["additionalProperties"] {
            Value::Object(_) => format!("map of text to text, {}", range(field, ["minProperties", "maxProperties"])),
            _ => "object".to_owned(),
        },
        "integer" | "number" => {
            let range = range(field, ["minimum", "maximum"]);
            if range.is_empty() { kind.to_owned() } else { format!("{kind}, {range}") }
        }
        "string" if field["format"] == "date-time" => "time".to_owned(),
        "string" if field["enum"].is_array() => {
            let values: Vec<_> = array(&field["enum"]).iter().map(|value| format!("`{}`", text(value))).collect();
            values.join(", ")
        }
        "string" => "text".to_owned(),
        other => other.to_owned(),
    }
}

fn range(field: &Value, [least, most]: [&str; 2]) -> String {
    let number = |key| field[key].as_f64();
    match (number(least), number(most)) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (None, Some(most)) => format!("at most {most}"),
        (Some(least), None) if least > 0.0 => format!("at least {least}"),
        _ => String::new(),
    }
}

fn schema(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flat_map(Map::iter)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(written).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> String {
    array(value).iter().map(|value| format!("`{}`", text(value))).collect::<Vec<_>>().join(", ")
}

/// A text that does not end its cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace("\n\n", " ")
}
