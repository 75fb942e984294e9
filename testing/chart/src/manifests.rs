use anyhow::Result;
use testbed::{Helm, larder};

use crate::template;

/// What a manifest says of helm, which did not install it.
const OF_HELM: [&str; 2] = ["app.kubernetes.io/managed-by: Helm", "helm.sh/chart: "];

/// All that a cluster is given, for those who have no helm: the namespace, the definitions of custom resources, and the chart with its
/// default values.
///
/// # Errors
/// A template fails.
pub fn manifests(helm: &Helm) -> Result<String> {
    let mut text = format!(
        "# Made from chart/larder by `INSTA_UPDATE=always cargo test --workspace --test rendered`; do not edit.
# docs/install.md tells how to install it, and how nodes are restored before it is taken away.
---
apiVersion: v1
kind: Namespace
metadata:
  name: {}
  labels:
    # Agents need the host's network and some of its folders.
    pod-security.kubernetes.io/enforce: privileged
",
        larder::NAMESPACE
    );
    for line in template(helm, &["--include-crds"])?.lines() {
        if !OF_HELM.iter().any(|label| line.trim_start().starts_with(label)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}
