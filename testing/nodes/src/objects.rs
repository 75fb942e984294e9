use anyhow::Result;
use serde_json::{Value, json};
use testbed::Kubectl;

/// Makes a Node that is only an object, of the pool `web`, with these taints.
///
/// # Errors
/// The API server refuses it.
pub fn make_node(kubectl: &Kubectl, name: &str, taints: &Value) -> Result<()> {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": "web"}}, "spec": {"taints": taints},
    });
    kubectl.apply(&node.to_string())
}

/// The keys of a node's taints.
///
/// # Errors
/// There is no such node.
pub fn taints(kubectl: &Kubectl, node: &str) -> Result<Vec<String>> {
    let node = kubectl.json(&["get", "node", node])?;
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    Ok(taints.iter().filter_map(|taint| taint["key"].as_str().map(str::to_owned)).collect())
}

/// Writes what the agent of a node would that is well and has these images in these states.
///
/// # Errors
/// The API server refuses it.
pub fn tell(kubectl: &Kubectl, node: &str, images: &[(&str, &str)]) -> Result<()> {
    let object = json!({"apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": node}});
    kubectl.apply(&object.to_string())?;
    let images: Vec<_> = images.iter().map(|(image, state)| json!({"image": image, "state": state})).collect();
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "Working", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status = json!({"status": {"conditions": [ready], "images": images}}).to_string();
    kubectl.run(&["patch", "nodecache", node, "--subresource=status", "--type=merge", "-p", &status]).map(drop)
}
