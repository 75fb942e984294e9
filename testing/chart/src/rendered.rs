use anyhow::{Context, Result};
use serde_json::Value;
use testbed::{Helm, larder};

/// What the chart comes to with these arguments, for a release `larder` in the namespace `larder`.
///
/// # Errors
/// The values are refused, or a template fails.
pub fn template(helm: &Helm, arguments: &[&str]) -> Result<String> {
    let chart = larder::chart();
    let chart = chart.to_str().context("its path is text")?;
    let words = ["template", "larder", chart, "--namespace", larder::NAMESPACE, "--kube-version", "1.37"];
    helm.run(&[&words, arguments].concat())
}

/// The objects of a stream of YAML.
///
/// # Errors
/// It is no YAML.
pub fn documents(yaml: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
    Ok(all.into_iter().filter(|object| !object.is_null()).collect())
}
