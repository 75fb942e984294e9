//! What the chart asks of a cluster is no more than it needs, whatever its values say.

use anyhow::{Context, Result, ensure};
use chart::{documents, template};
use serde_json::{Value, json};
use testbed::Helm;

/// Where an administrator asks for the pull secrets of all namespaces.
const EVERYWHERE: &str = "k3s";

/// What there is for each file of values, and for none.
fn all() -> Result<Vec<(&'static str, Vec<Value>)>> {
    let helm = Helm::new()?;
    let rendered = |name: &'static str| {
        let file = format!("{}/values/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let arguments: &[&str] = if name == "defaults" { &[] } else { &["--values", &file] };
        Ok((name, documents(&template(&helm, arguments)?)?))
    };
    ["defaults", "without-controller", "everything", EVERYWHERE, "nodes-only"].into_iter().map(rendered).collect()
}

fn of_kinds<'a>(objects: &'a [Value], kinds: &[&str]) -> Vec<&'a Value> {
    objects.iter().filter(|object| kinds.iter().any(|kind| object["kind"] == *kind)).collect()
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

// S-34; K-06: who may only read workloads and pods changes none, neither by itself nor as a webhook.
#[test]
fn no_right_is_for_everything_or_for_what_larder_never_does() -> Result<()> {
    for (values, objects) in all()? {
        let roles = of_kinds(&objects, &["Role", "ClusterRole"]);
        ensure!(!roles.is_empty(), "{values} has no rights");
        for role in roles {
            let name = role["metadata"]["name"].as_str().context("it has a name")?;
            for rule in role["rules"].as_array().into_iter().flatten() {
                let [groups, resources, verbs] = ["apiGroups", "resources", "verbs"].map(|key| words(&rule[key]));
                let told = || format!("{values}, {name}: {rule}");
                ensure!(!groups.iter().chain(&resources).chain(&verbs).any(|word| word.contains('*')), "{}", told());
                ensure!(!verbs.iter().any(|verb| ["escalate", "bind", "impersonate"].contains(verb)), "{}", told());
                let pods = resources.iter().any(|resource| *resource == "pods" || resource.starts_with("pods/"));
                ensure!(!pods || verbs.iter().all(|verb| ["get", "list", "watch"].contains(verb)), "{}", told());
                let makers = ["deployments", "daemonsets", "statefulsets", "replicasets", "jobs", "cronjobs"];
                let makes = resources.iter().any(|resource| makers.contains(resource));
                ensure!(!makes || verbs.iter().all(|verb| ["get", "list", "watch"].contains(verb)), "{}", told());
                if role["kind"] == "ClusterRole" && resources.contains(&"secrets") {
                    let asked = values == EVERYWHERE && name.ends_with("-pull-secrets");
                    ensure!(asked && verbs == ["get"], "secrets of all namespaces: {}", told());
                }
            }
        }
        agents_have_nothing_of_secrets(&objects).with_context(|| values)?;
        let webhooks = of_kinds(&objects, &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]);
        ensure!(webhooks.is_empty(), "{values}: {webhooks:?}");
    }
    Ok(())
}

fn agents_have_nothing_of_secrets(objects: &[Value]) -> Result<()> {
    let agents = of_kinds(objects, &["DaemonSet"]);
    let account = &agents.first().context("there are agents")?["spec"]["template"]["spec"]["serviceAccountName"];
    for binding in of_kinds(objects, &["RoleBinding", "ClusterRoleBinding"]) {
        if !binding["subjects"].as_array().into_iter().flatten().any(|subject| subject["name"] == *account) {
            continue;
        }
        let role = objects.iter().find(|object| {
            object["kind"] == binding["roleRef"]["kind"] && object["metadata"]["name"] == binding["roleRef"]["name"]
        });
        for rule in role.context("it is in the chart")?["rules"].as_array().into_iter().flatten() {
            let none = ["secrets", "configmaps", "pods", "leases", "serviceaccounts/token"];
            ensure!(!words(&rule["resources"]).iter().any(|resource| none.contains(resource)), "{rule}");
            ensure!(!words(&rule["verbs"]).contains(&"delete"), "{rule}");
        }
    }
    Ok(())
}

// S-35
#[test]
fn pods_are_confined_and_only_agents_see_the_host() -> Result<()> {
    for (values, objects) in all()? {
        for object in of_kinds(&objects, &["Deployment", "DaemonSet"]) {
            let (name, pod) = (&object["metadata"]["name"], &object["spec"]["template"]["spec"]);
            let told = format!("{values}, {name}");
            let is_agent = object["kind"] == "DaemonSet";
            ensure!(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "{told}: {pod:#}");
            ensure!(is_agent || pod["securityContext"]["runAsNonRoot"] == true, "{told}: {pod:#}");
            ensure!(pod["hostPID"].is_null() && pod["hostIPC"].is_null(), "{told}");
            ensure!(is_agent || pod["hostNetwork"].is_null(), "{told}");
            let containers =
                ["initContainers", "containers"].map(|key| pod[key].as_array().cloned().unwrap_or_default());
            for container in containers.concat() {
                let context = &container["securityContext"];
                ensure!(context["readOnlyRootFilesystem"] == true, "{told}: {context}");
                ensure!(context["allowPrivilegeEscalation"] == false, "{told}: {context}");
                ensure!(context["privileged"].is_null() || context["privileged"] == false, "{told}: {context}");
                ensure!(context["capabilities"] == json!({"drop": ["ALL"]}), "{told}: {context}");
            }
            let of_host: Vec<&Value> = pod["volumes"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|volume| !volume["hostPath"].is_null())
                .collect();
            ensure!(is_agent || of_host.is_empty(), "{told}: {of_host:?}");
            for volume in of_host {
                sees_what_it_needs(volume, pod).with_context(|| told.clone())?;
            }
        }
    }
    Ok(())
}

/// An agent writes into its own folder and into that of `hosts.toml`, and reads the runtime's settings, socket and content.
fn sees_what_it_needs(volume: &Value, pod: &Value) -> Result<()> {
    let name = volume["name"].as_str().context("it has a name")?;
    let mounts = pod["containers"][0]["volumeMounts"].as_array().context("it has mounts")?;
    let mount = mounts.iter().find(|mount| mount["name"] == name).context("it is mounted")?;
    match name {
        "state" | "hosts" => {}
        "settings" | "socket" | "content" => ensure!(mount["readOnly"] == true, "{mount}"),
        _ => anyhow::bail!("{volume} is more than it needs"),
    }
    let path = volume["hostPath"]["path"].as_str().context("it has a path")?;
    ensure!(path.matches('/').count() >= 2 && path != "/var/lib" && path != "/run/", "{path} is too much of the host");
    Ok(())
}

// S-36
#[test]
fn who_is_not_on_the_network_of_nodes_has_a_policy_and_agents_listen_where_they_must() -> Result<()> {
    for (values, objects) in all()? {
        let policies = of_kinds(&objects, &["NetworkPolicy"]);
        let deployments = of_kinds(&objects, &["Deployment"]);
        // One of the files says that there are to be none.
        ensure!(policies.len() == if values == "k3s" { 0 } else { deployments.len() }, "{values}: {}", policies.len());
        for policy in &policies {
            let selects = |one: &&&Value| one["spec"]["selector"] == policy["spec"]["podSelector"];
            let deployment =
                deployments.iter().find(selects).with_context(|| format!("{values}: nobody has {policy}"))?;
            ensure!(policy["spec"]["policyTypes"] == json!(["Ingress"]), "{policy}");
            let container = &deployment["spec"]["template"]["spec"]["containers"][0];
            let known: Vec<&Value> =
                container["ports"].as_array().into_iter().flatten().map(|port| &port["name"]).collect();
            let open = policy["spec"]["ingress"].as_array().context("somebody may come")?;
            for port in open.iter().flat_map(|rule| rule["ports"].as_array().into_iter().flatten()) {
                ensure!(known.contains(&&port["port"]), "{values}: {port} is no port of {container}");
            }
            ensure!(open.iter().all(|rule| !rule["ports"].is_null()), "{values}: all ports are open: {policy}");
        }
        for agents in of_kinds(&objects, &["DaemonSet"]) {
            agents_listen_where_they_must(agents, &objects).with_context(|| values)?;
        }
    }
    Ok(())
}

/// At the loopback address, and for other nodes and Prometheus at the node's own: never at all addresses.
fn agents_listen_where_they_must(agents: &Value, objects: &[Value]) -> Result<()> {
    let name = &agents["metadata"]["name"];
    let settings = objects.iter().find(|one| one["kind"] == "ConfigMap" && one["metadata"]["name"] == *name);
    let settings = settings.context("they have settings")?["data"]["larder.toml"].as_str().context("a file")?;
    ensure!(settings.contains("listen = \"127.0.0.1:"), "{settings}");
    let env = agents["spec"]["template"]["spec"]["containers"][0]["env"].as_array().context("it has an environment")?;
    let value = |key: &str| env.iter().find(|one| one["name"] == key).and_then(|one| one["value"].as_str());
    let metrics = value("LARDER_METRICS").context("they show how they are")?;
    // Prometheus comes to the node's own address, where it is asked for.
    let is_scraped =
        objects.iter().any(|object| ["ServiceMonitor", "PodMonitor"].iter().any(|kind| object["kind"] == *kind));
    ensure!(metrics.starts_with("127.0.0.1:") || (is_scraped && metrics.contains("$(NODE_IP)")), "{env:?}");
    // Where there are no other nodes to speak to, there is no such address.
    ensure!(value("LARDER_PEERS").is_none_or(|address| address.contains("$(NODE_IP)")), "{env:?}");
    let is_everywhere = |address: &str| ["0.0.0.0:", "[::]:", ":"].iter().any(|start| address.starts_with(start));
    ensure!(!env.iter().filter_map(|one| one["value"].as_str()).any(is_everywhere), "{env:?}");
    ensure!(!settings.contains("0.0.0.0") && !settings.contains("[::]"), "{settings}");
    Ok(())
}
