use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testbed::{Cluster, Machine, has_condition, wait_for};

/// Where a node's larder finds the way to the API server.
pub const KUBECONFIG: &str = "/etc/larder/kubeconfig";

const PATIENCE: Duration = Duration::from_secs(60);

/// The line of docs/node.md before the rules of RBAC that agents need.
const BEFORE_RULES: &str = "What the agents may do, and no more:";

/// What gives agents the rights of their ClusterRole.
const BINDING: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: larder-node}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: larder-node}
subjects: [{kind: ServiceAccount, name: larder-node, namespace: larder}]
";

/// Installs the chart's custom resource definitions, and waits until they are in force.
///
/// # Errors
/// The API server refuses one.
pub fn install_definitions(cluster: &Cluster) -> Result<()> {
    let folder = workspace().join("chart/larder/crds").display().to_string();
    cluster.kubectl().run(&["apply", "--server-side", "-f", &folder])?;
    for plural in ["imagecaches", "nodecaches", "cachepolicies", "cachedimages", "upstreams"] {
        let name = format!("{plural}.larder.dev");
        wait_for(&format!("{name} is in force"), PATIENCE, || {
            let found = cluster.kubectl().json(&["get", "crd", &name])?;
            Ok(has_condition(&found, "Established").then_some(()))
        })?;
    }
    Ok(())
}

/// Makes the account of agents, with the rights that the documentation says, and no others.
///
/// # Errors
/// The documentation has none, or the API server refuses them.
pub fn make_account(cluster: &Cluster) -> Result<()> {
    make_service_account(cluster, "larder-node")?;
    cluster.kubectl().apply(BINDING)?;
    cluster.kubectl().apply(&documented_role()?)
}

/// Makes an account of the namespace `larder`, and that too.
pub(crate) fn make_service_account(cluster: &Cluster, name: &str) -> Result<()> {
    let account = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: larder}}}}\n---\n\
         {{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: larder}}}}\n"
    );
    cluster.kubectl().apply(&account)
}

/// Lets who is on a machine be that account, by a kubeconfig at [`KUBECONFIG`].
///
/// # Errors
/// The account is not there.
pub fn give_account(cluster: &Cluster, machine: &Machine) -> Result<()> {
    act_as(cluster, machine, "larder-node", KUBECONFIG)
}

/// Lets who is on a machine be an account of the namespace `larder`, by a kubeconfig at this path.
///
/// # Errors
/// The account is not there.
pub fn act_as(cluster: &Cluster, machine: &Machine, account: &str, kubeconfig: &str) -> Result<()> {
    let token = cluster.kubectl().run(&["create", "token", account, "-n", "larder"])?;
    let server = json!({
        "server": cluster.server(), "certificate-authority": "/etc/ssl/certs/ca-certificates.crt",
    });
    write_kubeconfig(machine, kubeconfig, &server, &json!({"token": token.trim()}))
}

/// Writes a kubeconfig for who is on a machine: of this cluster, and as this user.
pub(crate) fn write_kubeconfig(machine: &Machine, path: &str, cluster: &Value, user: &Value) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "larder",
        "contexts": [{"name": "larder", "context": {"cluster": "here", "user": "larder"}}],
        "clusters": [{"name": "here", "cluster": cluster}],
        "users": [{"name": "larder", "user": user}],
    });
    machine.write(path, &config.to_string())
}

/// The objects of docs/controller.md by which the controller's account has its rights.
///
/// # Errors
/// The documentation has none.
pub fn controller_rights() -> Result<String> {
    let page = fs::read_to_string(workspace().join("docs/controller.md"))?;
    let block = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    block.map(str::to_owned).context("docs/controller.md has the rights")
}

/// The objects of docs/configuration.md by which the account of a registry that heeds Upstreams has its rights.
///
/// # Errors
/// The documentation has none.
pub fn registry_rights() -> Result<String> {
    let page = fs::read_to_string(workspace().join("docs/configuration.md"))?;
    let block = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    block.map(str::to_owned).context("docs/configuration.md has the rights")
}

/// The ClusterRole of docs/node.md.
fn documented_role() -> Result<String> {
    let page = fs::read_to_string(workspace().join("docs/node.md"))?;
    let (_, after) = page.split_once(BEFORE_RULES).with_context(|| format!("docs/node.md says {BEFORE_RULES:?}"))?;
    let block = after.lines().skip_while(|line| line.is_empty()).map_while(|line| line.strip_prefix("    "));
    Ok(block.collect::<Vec<_>>().join("\n"))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("testing/nodes is in it").to_owned()
}
