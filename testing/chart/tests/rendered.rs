//! What helm makes of the chart.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use chart::{documents, manifests, template};
use serde_json::Value;
use testbed::{Helm, larder};

/// Files of values that say something else than the defaults, by name.
const VALUES: [&str; 4] = ["without-controller", "everything", "k3s", "nodes-only"];

fn values(name: &str) -> String {
    format!("{}/values/{name}.yaml", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn helm_finds_no_fault() -> Result<()> {
    let helm = Helm::new()?;
    let chart = larder::chart();
    let chart = chart.to_str().context("its path is text")?;
    let lint = |more: &[&str]| helm.run(&[&["lint", "--strict", "--kube-version", "1.37", chart], more].concat());
    lint(&[])?;
    for name in VALUES {
        lint(&["--values", &values(name)]).with_context(|| name.to_owned())?;
    }
    Ok(())
}

#[test]
fn it_is_rendered_as_before() -> Result<()> {
    let helm = Helm::new()?;
    insta::assert_snapshot!("defaults", template(&helm, &[])?);
    for name in VALUES {
        let rendered = template(&helm, &["--values", &values(name)]).with_context(|| name.to_owned())?;
        // The dashboard is a file of its own.
        let without = rendered.split("  larder.json: |").next().unwrap_or_default();
        let shown = if name == "everything" { without.to_owned() + &after_dashboard(&rendered) } else { rendered };
        insta::assert_snapshot!(name, shown);
    }
    Ok(())
}

fn after_dashboard(rendered: &str) -> String {
    let (_, dashboard) = rendered.split_once("  larder.json: |").unwrap_or_default();
    dashboard.split_once("\n---\n").map(|(_, rest)| format!("  larder.json: ...\n---\n{rest}")).unwrap_or_default()
}

/// The file for those without helm is what the chart comes to; `INSTA_UPDATE=always` writes it anew, as it does snapshots.
#[test]
fn plain_manifests_are_current() -> Result<()> {
    let file = larder::manifests();
    let made = manifests(&Helm::new()?)?;
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        fs::write(&file, &made)?;
    }
    let kept = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    assert!(kept == made, "{} is not what the chart comes to: write it anew with INSTA_UPDATE=always", file.display());
    Ok(())
}

/// kubectl makes objects in their order, and takes away by their label what is not to outlive an uninstall.
#[test]
fn plain_manifests_do_without_helm() -> Result<()> {
    let made = manifests(&Helm::new()?)?;
    assert!(!made.contains("Helm") && !made.contains("helm.sh"), "it names helm as who manages objects");
    let objects = documents(&made)?;
    let kind = |object: &Value| object["kind"].as_str().unwrap_or_default().to_owned();
    let first: Vec<String> = objects.iter().map(kind).take_while(|kind| !kind.contains("PriorityClass")).collect();
    let crds = fs::read_dir(larder::chart().join("crds"))?.count();
    assert_eq!(first, [vec!["Namespace".to_owned()], vec!["CustomResourceDefinition".to_owned(); crds]].concat());
    for object in objects {
        let label = &object["metadata"]["labels"]["app.kubernetes.io/instance"];
        let stays = ["Namespace", "CustomResourceDefinition"].contains(&kind(&object).as_str());
        assert_eq!(label == "larder", !stays, "{} {}", kind(&object), object["metadata"]["name"]);
    }
    Ok(())
}

#[test]
fn values_that_cannot_be_meant_are_refused() -> Result<()> {
    let helm = Helm::new()?;
    for (set, why) in [
        ("node.distribution=docker", "node/distribution"),
        ("registry.replicas=2", "each registry needs a store of its own"),
        ("node.mirrorPort=70000", "node/mirrorPort"),
        ("regsitry.enabled=false", "regsitry"),
        ("image.digest=sha256:abc", "image/digest"),
        ("registry.persistence.size=many", "registry/persistence/size"),
        ("node.hostPath=/", "node/hostPath"),
        ("certificates.nodes=own", "must be of one authority"),
    ] {
        let error = template(&helm, &["--set", set]).expect_err(set).to_string();
        assert!(error.contains(why), "{set}: {error}");
    }
    Ok(())
}

/// Every value has its place in the schema, which knows no others.
#[test]
fn the_schema_has_each_value() -> Result<()> {
    let schema: Value = serde_json::from_str(&fs::read_to_string(larder::chart().join("values.schema.json"))?)?;
    let values = documents(&fs::read_to_string(larder::chart().join("values.yaml"))?)?.remove(0);
    let mut unknown = Vec::new();
    compare("", &schema, &values, &mut unknown);
    assert_eq!(unknown, Vec::<String>::new());
    Ok(())
}

fn compare(path: &str, schema: &Value, value: &Value, unknown: &mut Vec<String>) {
    let (Some(known), Some(table)) = (schema["properties"].as_object(), value.as_object()) else { return };
    for (key, value) in table {
        match known.get(key) {
            Some(schema) => compare(&format!("{path}/{key}"), schema, value, unknown),
            None => unknown.push(format!("{path}/{key} is not in the schema")),
        }
    }
    for key in known.keys().filter(|key| !table.contains_key(*key) && *key != "global") {
        unknown.push(format!("{path}/{key} has no default"));
    }
}

#[test]
fn settings_are_those_that_larder_knows() -> Result<()> {
    let helm = Helm::new()?;
    let dir = tempfile::TempDir::new()?;
    for name in [None, Some("everything"), Some("without-controller"), Some("nodes-only")] {
        let file = name.map(values);
        let arguments: Vec<&str> = file.iter().flat_map(|file| ["--values", file]).collect();
        let objects = documents(&template(&helm, &arguments)?)?;
        for role in ["registry", "node"] {
            let of_role = |object: &&Value| {
                object["kind"] == "ConfigMap" && object["metadata"]["name"] == format!("larder-{role}")
            };
            let Some(object) = objects.iter().find(of_role) else { continue };
            let text = object["data"]["larder.toml"].as_str().context("it has a configuration")?;
            check(role, text, dir.path()).with_context(|| format!("{name:?}, {role}:\n{text}"))?;
        }
    }
    Ok(())
}

/// Has the program look at a configuration, with certificates and passwords of this test in the place of those that pods have mounted.
fn check(role: &str, text: &str, dir: &Path) -> Result<()> {
    let certs = dir.join("certs");
    if !certs.exists() {
        let made = std::process::Command::new(nodes::binary())
            .args(["certs", "nodes", "--registry", "registry", "--dir"])
            .arg(&certs)
            .output()?;
        anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(dir.join("password"), "only-for-tests")?;
    }
    let own = |path: &Path| path.display().to_string();
    let text = text
        .replace("/etc/larder/peers", &own(&certs.join("nodes")))
        .replace("/etc/larder/registry", &own(&certs.join("registry")))
        .replace("/etc/larder/tls", &own(&certs.join("registry")))
        .replace("/etc/larder/credentials/ghcr", &own(&dir.join("password")));
    let file = dir.join("larder.toml");
    fs::write(&file, text)?;
    let mut command = std::process::Command::new(nodes::binary());
    command.args([role, "--check", "--config"]).arg(&file);
    if role == "node" {
        command
            .env("LARDER_REGISTRY", "https://10.0.0.1:5002")
            .env("LARDER_PEERS", "10.0.0.2:7440")
            .env("NODE_NAME", "a");
    }
    let output = command.output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Rules and dashboard ask for nothing that no part of larder counts.
#[test]
fn metrics_are_those_that_larder_has() -> Result<()> {
    let workspace = larder::chart().ancestors().nth(2).context("it is in the workspace")?.to_owned();
    let mut known = BTreeSet::from(["larder_build_info".to_owned()]);
    for (file, prefix) in [
        ("crates/cache/src/metrics.rs", "larder_"),
        ("crates/serve/src/metrics.rs", "larder_"),
        ("crates/peers/src/exchange/metrics.rs", "larder_"),
        ("crates/upstream/src/metrics.rs", "larder_upstream_"),
        ("crates/node/src/prefetch/metrics.rs", "larder_"),
        ("crates/controller/src/metrics.rs", "larder_controller_"),
        ("larder/src/identities.rs", "larder_"),
    ] {
        let source = fs::read_to_string(workspace.join(file))?;
        for call in source
            .split(".register(")
            .chain(source.split(".register_with_unit("))
            .chain(source.split(".encode_descriptor("))
        {
            let Some(name) = call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) else {
                continue;
            };
            let call = call.split(';').next().unwrap_or_default();
            let unit = if call.contains("Unit::Bytes") {
                "_bytes"
            } else if call.contains("Unit::Seconds") {
                "_seconds"
            } else {
                ""
            };
            for suffix in ["", "_total", "_bucket"] {
                known.insert(format!("{prefix}{name}{unit}{suffix}"));
            }
        }
    }
    let mut asked = BTreeSet::new();
    for file in ["dashboards/larder.json", "templates/metrics/rules.yaml"] {
        let text = fs::read_to_string(larder::chart().join(file))?;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        asked.extend(words.filter(|word| word.starts_with("larder_")).map(str::to_owned));
    }
    assert!(asked.len() > 15, "{asked:?}");
    assert_eq!(asked.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
    Ok(())
}
