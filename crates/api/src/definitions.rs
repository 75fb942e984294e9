use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{CachePolicy, CachedImage, ImageCache, NodeCache, Upstream};

/// What tells the API server of a kind.
pub type Definition = CustomResourceDefinition;

/// All kinds, those that people write first.
///
/// The schemas are those of the types with what the API server wants otherwise: nothing is null (what is not given is left out),
/// numbers are of formats that it knows, and descriptions are not broken into lines.
pub fn definitions() -> Vec<Definition> {
    let derived = [Upstream::crd(), CachePolicy::crd(), ImageCache::crd(), CachedImage::crd(), NodeCache::crd()];
    derived.into_iter().map(finished).collect()
}

fn finished(definition: Definition) -> Definition {
    let mut value = serde_json::to_value(definition).expect("a definition is plain data");
    for version in value["spec"]["versions"].as_array_mut().into_iter().flatten() {
        finish(&mut version["schema"]["openAPIV3Schema"]);
    }
    serde_json::from_value(value).expect("only fields that a definition has were changed")
}

fn finish(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("nullable");
    object.remove("title");
    if object.get("default").is_some_and(Value::is_null) {
        object.remove("default");
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(format) = object.get_mut("format") {
        match format.as_str() {
            Some("uint8" | "uint16" | "uint32") => *format = "int32".into(),
            Some("uint64") => *format = "int64".into(),
            _ => {}
        }
    }
    if let Some(Value::String(text)) = object.get_mut("description") {
        let paragraphs: Vec<_> = text.split("\n\n").map(|paragraph| paragraph.trim().replace('\n', " ")).collect();
        *text = paragraphs.join("\n\n");
    }
    for (_, property) in object.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        finish(property);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            finish(inner);
        }
    }
}
