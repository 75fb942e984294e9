//! What a real API server makes of the chart: it takes all objects, accounts may do what they need and nothing else, and pods are as
//! safe as their namespaces ask.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chart::{documents, template};
use programs::Program;
use serde_json::{Value, json};
use testbed::{Cluster, ClusterSpec, Helm, larder, wait_for, with_cluster};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn it_is_taken_and_safe() -> Result<()> {
    with_cluster(&ClusterSpec::new("chart-server").nodes(0).programs(&[Program::Helm]), |cluster| {
        let helm = Helm::new()?.at(cluster.kubectl().config());
        let crds = larder::chart().join("crds");
        cluster.kubectl().run(&["apply", "--server-side", "-f", crds.to_str().context("a path")?])?;
        cluster.kubectl().run(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
        cluster.kubectl().run(&["create", "namespace", "larder"])?;

        every_object_is_taken(cluster, &helm)?;
        let objects = documents(&template(&helm, &[])?)?;
        let without_pods = |object: &&Value| !["Deployment", "DaemonSet"].iter().any(|kind| object["kind"] == *kind);
        let rest: Vec<&Value> = objects.iter().filter(without_pods).collect();
        wait_for("the objects are there", PATIENCE, || Ok(cluster.kubectl().apply(&list(&rest)).ok()))?;
        accounts_may_do_what_they_need(cluster)?;
        agents_write_their_own_node_only(cluster)?;
        pods_are_as_safe_as_asked(cluster, &objects)
    })
}

fn list<T: serde::Serialize>(items: &[T]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn every_object_is_taken(cluster: &Cluster, helm: &Helm) -> Result<()> {
    // Those of users, which values name and helm does not make.
    for namespace in ["shop", "team"] {
        cluster.kubectl().run(&["create", "namespace", namespace])?;
    }
    for values in [None, Some("without-controller"), Some("everything"), Some("k3s"), Some("nodes-only")] {
        let file = values.map(|name| format!("{}/values/{name}.yaml", env!("CARGO_MANIFEST_DIR")));
        let arguments: Vec<&str> = file.iter().flat_map(|file| ["--values", file]).collect();
        let mut objects = documents(&template(helm, &arguments)?)?;
        // The kinds of the Prometheus operator are not there.
        objects.retain(|object| object["apiVersion"] != "monitoring.coreos.com/v1");
        dry_run(cluster, &list(&objects)).with_context(|| format!("{values:?}"))?;
    }
    dry_run(cluster, &fs::read_to_string(larder::manifests())?).context("the plain manifests")
}

/// Has the API server check objects as if they were applied, with its warnings taken for mistakes.
fn dry_run(cluster: &Cluster, objects: &str) -> Result<()> {
    let mut command = cluster.kubectl().command();
    command.args(["apply", "--server-side", "--dry-run=server", "--warnings-as-errors", "-f", "-"]);
    fed(&mut command, objects)
}

/// Runs a command with these objects as its input; the error is what it complained about.
fn fed(command: &mut Command, objects: &str) -> Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("it was asked for")?.write_all(objects.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

// S-34
fn accounts_may_do_what_they_need(cluster: &Cluster) -> Result<()> {
    for account in ["node", "registry", "controller"] {
        let mut lines = BTreeSet::new();
        for namespace in ["larder", "default"] {
            let who = format!("--as=system:serviceaccount:larder:larder-{account}");
            let text = cluster.kubectl().run(&["auth", "can-i", "--list", "--no-headers", "-n", namespace, &who])?;
            for line in text.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                // What every account may: ask what it may, and look where the API server is.
                if line.contains("[/") || line.contains("selfsubject") || line.contains("clustertrustbundles") {
                    continue;
                }
                lines.insert(format!("{namespace}: {}", words.join(" ")));
            }
        }
        let text = lines.into_iter().collect::<Vec<_>>().join("\n");
        assert!(!text.contains('*'), "{account} may do anything to something:\n{text}");
        let secrets_of_users = text.lines().find(|line| line.starts_with("default: secrets"));
        assert!(secrets_of_users.is_none(), "{account} may see secrets of other namespaces:\n{text}");
        let makes = |line: &&str| {
            line.contains(": pods") && ["create", "patch", "update"].iter().any(|verb| line.contains(verb))
        };
        assert_eq!(text.lines().find(makes), None, "{account} may make pods:\n{text}");
        assert!(account != "node" || !text.contains(" secrets"), "agents may see secrets:\n{text}");
        insta::assert_snapshot!(format!("rights_of_{account}"), text);
    }
    Ok(())
}

/// By the token of an agent, which names its node.
fn agents_write_their_own_node_only(cluster: &Cluster) -> Result<()> {
    let cache = |node: &str| {
        json!({"apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": node}}).to_string()
    };
    let write = |of: &str, node: &str| -> Result<()> {
        let mut command = cluster.kubectl().command();
        command.args(["create", "--dry-run=server", "-f", "-", "--as=system:serviceaccount:larder:larder-node"]);
        command.args([
            "--as-group=system:serviceaccounts",
            "--as-group=system:authenticated",
            &format!("--as-user-extra=authentication.kubernetes.io/node-name={of}"),
        ]);
        fed(&mut command, &cache(node))
    };
    write("node-1", "node-1")?;
    wait_for("the policy counts", PATIENCE, || Ok(write("node-1", "node-2").is_err().then_some(())))?;
    let error = write("node-1", "node-2").expect_err("it is another node's").to_string();
    assert!(error.contains("the agent of node-1 writes no NodeCache of node-2"), "{error}");
    write("node-1", "node-1")
}

// S-35
fn pods_are_as_safe_as_asked(cluster: &Cluster, objects: &[Value]) -> Result<()> {
    for level in ["restricted", "baseline", "privileged"] {
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        cluster.kubectl().run(&["label", "--overwrite", "namespace", "larder", &label])?;
        for (kind, name) in [("Deployment", "registry"), ("Deployment", "controller"), ("DaemonSet", "node")] {
            let found = objects
                .iter()
                .find(|object| object["kind"] == kind && object["metadata"]["name"] == format!("larder-{name}"));
            let template = &found.context("it is in the chart")?["spec"]["template"];
            let mut pod =
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
            pod["metadata"]["name"] = json!(name);
            pod["metadata"]["namespace"] = json!("larder");
            let taken = dry_run(cluster, &pod.to_string());
            match (name, level) {
                ("node", "baseline") => {
                    let error = taken.expect_err("it needs the host").to_string();
                    insta::assert_snapshot!("what_an_agent_needs_beyond_baseline", error);
                }
                ("node", "restricted") => assert!(taken.is_err()),
                _ => taken.with_context(|| format!("{name} in a namespace that is {level}"))?,
            }
        }
    }
    Ok(())
}
