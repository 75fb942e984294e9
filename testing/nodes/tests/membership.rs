//! Nodes know each other by the EndpointSlices of a Service: whoever comes, moves and goes, and through every outage of the API server.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nodes::KUBECONFIG;
use serde_json::{Value, json};
use testbed::{Cluster, ClusterSpec, Image, Launch, Layer, Machine, NodeSpec, Process, wait_for, with_cluster};

const FOLLOW: &str = env!("CARGO_BIN_EXE_follow");
/// Pauses between attempts grow to twenty seconds, and a silent connection is given up within a minute.
const PATIENCE: Duration = Duration::from_secs(180);

const ACCOUNT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: larder, namespace: larder}
";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: larder-peers, namespace: larder}
spec:
  clusterIP: None
  ports: [{name: peers, port: 7440}]
";

/// As the log tells the reader to do it.
const RULE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: larder, namespace: larder}
rules: [{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: larder, namespace: larder}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: larder}
subjects: [{kind: ServiceAccount, name: larder, namespace: larder}]
";

/// Somebody who follows the list.
struct Follower(Arc<Process>);

impl Follower {
    fn start(machine: &Machine, name: &str) -> Result<Follower> {
        let launch = Launch::new(FOLLOW).arg("larder/larder-peers").env("KUBECONFIG", KUBECONFIG);
        Ok(Follower(machine.spawn(name, launch)?))
    }

    fn log(&self) -> Result<String> {
        fs::read_to_string(self.0.log()).context("there is no log")
    }

    /// All lists so far.
    fn lists(&self) -> Result<Vec<Value>> {
        Ok(said(&self.log()?, "nodes"))
    }

    /// What hinders it now, if anything does.
    fn lost(&self) -> Result<Option<String>> {
        Ok(said(&self.log()?, "lost").last().and_then(Value::as_str).map(str::to_owned))
    }

    fn await_list(&self, expected: &Value) -> Result<()> {
        let mut last = None;
        let waited = wait_for(&format!("the list is {expected}"), PATIENCE, || {
            self.0.require_running()?;
            last = self.lists()?.pop();
            Ok((last.as_ref() == Some(expected)).then_some(()))
        });
        waited.with_context(|| format!("the last list is {last:?}"))
    }

    fn await_lost(&self, what: &str) -> Result<String> {
        wait_for(&format!("it tells of {what:?}"), PATIENCE, || {
            self.0.require_running()?;
            Ok(self.lost()?.filter(|why| why.contains(what)))
        })
    }

    fn await_found(&self) -> Result<()> {
        wait_for("it follows the list", PATIENCE, || {
            self.0.require_running()?;
            let log = said(&self.log()?, "lost");
            Ok(log.last().is_some_and(Value::is_null).then_some(()))
        })
    }
}

/// What was printed under a key, in its order.
fn said(log: &str, key: &str) -> Vec<Value> {
    // The last line may still be being written.
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|mut line| line.get_mut(key).map(Value::take)).collect()
}

/// A slice of the Service, with nodes and their addresses.
fn slice(name: &str, family: &str, nodes: &[(&str, &str)]) -> String {
    let endpoints = nodes.iter().map(|(node, address)| json!({"addresses": [address], "nodeName": node, "zone": "z"}));
    with_endpoints(name, family, endpoints.collect())
}

fn with_endpoints(name: &str, family: &str, endpoints: Value) -> String {
    let labels =
        json!({"kubernetes.io/service-name": "larder-peers", "endpointslice.kubernetes.io/managed-by": "test"});
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "larder", "labels": labels},
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": "metrics", "port": 9090}, {"name": "peers", "port": 7440}],
    })
    .to_string()
}

fn list(nodes: &[(&str, &str)]) -> Value {
    let entries = nodes.iter().map(|(node, address)| ((*node).to_owned(), json!([address, "z"])));
    Value::Object(entries.collect())
}

#[test]
fn a_node_follows_the_list_and_keeps_it_through_outages() -> Result<()> {
    with_cluster(&ClusterSpec::new("membership").nodes(0), |cluster| {
        let kubectl = cluster.kubectl();
        let machine = cluster.internet();
        kubectl.run(&["create", "namespace", "larder"])?;
        kubectl.apply(ACCOUNT)?;
        kubectl.apply(SERVICE)?;
        nodes::act_as(cluster, machine, "larder", KUBECONFIG)?;
        let follower = Follower::start(machine, "follow")?;

        // Not allowed: said once, with what to do.
        let why = follower.await_lost("system:serviceaccount:larder:larder")?;
        assert!(
            why.contains("apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]"),
            "{why}"
        );
        wait_for("it tries again and again", PATIENCE, || {
            Ok((follower.log()?.matches("could not follow").count() >= 2).then_some(()))
        })?;
        let warnings = follower.log()?.lines().filter(|line| line.contains("WARN")).count();
        assert_eq!(warnings, 1, "{}", follower.log()?);
        kubectl.apply(RULE)?;
        follower.await_found()?;

        // Nodes come, move and go.
        kubectl.apply(&slice("one", "IPv4", &[("a", "10.1.0.1"), ("b", "10.1.0.2")]))?;
        kubectl.apply(&slice("six", "IPv6", &[("c", "fd00::3")]))?;
        follower.await_list(&list(&[("a", "10.1.0.1:7440"), ("b", "10.1.0.2:7440"), ("c", "[fd00::3]:7440")]))?;
        kubectl.apply(&slice("one", "IPv4", &[("a", "10.1.0.1"), ("b", "10.1.0.9")]))?;
        follower.await_list(&list(&[("a", "10.1.0.1:7440"), ("b", "10.1.0.9:7440"), ("c", "[fd00::3]:7440")]))?;
        let ending =
            json!({"addresses": ["10.1.0.9"], "nodeName": "b", "conditions": {"ready": false, "terminating": true}});
        let staying = json!({"addresses": ["10.1.0.1"], "nodeName": "a", "zone": "z"});
        kubectl.apply(&with_endpoints("one", "IPv4", json!([staying, ending])))?;
        follower.await_list(&list(&[("a", "10.1.0.1:7440"), ("c", "[fd00::3]:7440")]))?;
        kubectl.run(&["delete", "endpointslice", "-n", "larder", "six"])?;
        follower.await_list(&list(&[("a", "10.1.0.1:7440")]))?;
        // That of another Service is none of it.
        kubectl.apply(&slice("other", "IPv4", &[("d", "10.1.0.4")]).replace("larder-peers", "another"))?;
        let before = follower.lists()?;

        // The API server dies and comes back: nothing is forgotten, nothing missed.
        let server = cluster.control().machine().process("kube-apiserver")?;
        server.kill()?;
        follower.await_lost("")?;
        assert_eq!(follower.lists()?, before);
        server.start_again()?;
        changed_once_it_answers(cluster, &[("a", "10.1.0.1"), ("e", "10.1.0.5")])?;
        follower.await_list(&list(&[("a", "10.1.0.1:7440"), ("e", "10.1.0.5:7440")]))?;
        follower.await_found()?;

        // The way to it breaks without a word, while it goes on.
        cluster.control().link().cut()?;
        follower.await_lost("")?;
        cluster.control().link().mend()?;
        changed_once_it_answers(cluster, &[("a", "10.1.0.1"), ("f", "10.1.0.6")])?;
        follower.await_list(&list(&[("a", "10.1.0.1:7440"), ("f", "10.1.0.6:7440")]))?;
        follower.await_found()?;

        // It does not know us any more, until there is another token.
        kubectl.run(&["delete", "serviceaccount", "-n", "larder", "larder"])?;
        kubectl.apply(ACCOUNT)?;
        server.kill()?;
        server.start_again()?;
        follower.await_lost("401")?;
        nodes::act_as(cluster, machine, "larder", KUBECONFIG)?;
        changed_once_it_answers(cluster, &[("a", "10.1.0.1"), ("g", "10.1.0.7")])?;
        follower.await_list(&list(&[("a", "10.1.0.1:7440"), ("g", "10.1.0.7:7440")]))?;
        follower.await_found()?;

        let warnings: Vec<_> =
            follower.log()?.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect();
        assert!(warnings.iter().all(|line| line.contains("cannot follow the list of nodes")), "{warnings:?}");
        let lists = follower.lists()?;
        let first = lists.iter().position(|list| list.get("a").is_some()).context("a was there")?;
        assert!(lists[first..].iter().all(|list| list.get("a").is_some()), "a was there all the time: {lists:?}");
        Ok(())
    })
}

fn changed_once_it_answers(cluster: &Cluster, nodes: &[(&str, &str)]) -> Result<()> {
    let objects = slice("one", "IPv4", nodes);
    wait_for("the API server takes changes", PATIENCE, || Ok(cluster.kubectl().apply(&objects).ok()))
}

/// Pods on the network of their nodes, which are their own list.
const PODS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: larder, namespace: larder}
spec:
  selector: {matchLabels: {app: larder}}
  template:
    metadata: {labels: {app: larder}}
    spec:
      serviceAccountName: larder
      hostNetwork: true
      nodeSelector: {larder: 'yes'}
      containers:
      - name: larder
        image: quay.io/acme/follow:1
        command: [/follow, larder/larder-peers]
        ports: [{name: peers, containerPort: 7440}]
";

#[test]
fn pods_find_each_other_as_a_service_account() -> Result<()> {
    let node = |name, zone| NodeSpec::new(name).zone(zone).label("larder", "yes");
    let spec = ClusterSpec::new("membership-pods").with_nodes([node("node-1", "east"), node("node-2", "west")]);
    with_cluster(&spec, |cluster| {
        let kubectl = cluster.kubectl();
        let image = Image::new().layer(Layer::program(Path::new(FOLLOW), "/follow")?);
        cluster.origin("quay.io")?.push("acme/follow:1", &image)?;
        kubectl.run(&["create", "namespace", "larder"])?;
        for objects in [ACCOUNT, RULE, &SERVICE.replace("spec:", "spec:\n  selector: {app: larder}"), PODS] {
            kubectl.apply(objects)?;
        }
        kubectl.await_ready_pods("larder", "app=larder", 2, PATIENCE)?;
        let nodes: BTreeMap<&str, Value> = cluster
            .nodes()
            .iter()
            .zip(["east", "west"])
            .map(|(node, zone)| (node.name(), json!([format!("{}:7440", node.machine().address()), zone])))
            .collect();
        for node in nodes.keys() {
            await_list_of(cluster, node, &json!(nodes))?;
        }
        kubectl.run(&["label", "node", "node-2", "larder-"])?;
        await_list_of(cluster, "node-1", &json!({"node-1": nodes["node-1"]}))
    })
}

/// Waits until the pod on a node has that list.
fn await_list_of(cluster: &Cluster, node: &str, expected: &Value) -> Result<()> {
    let kubectl = cluster.kubectl();
    let field = format!("--field-selector=spec.nodeName={node}");
    let pods = kubectl.json(&["get", "pods", "-n", "larder", &field])?;
    let pod = pods["items"][0]["metadata"]["name"].as_str().context("no pod is there")?.to_owned();
    let mut log = String::new();
    let waited = wait_for(&format!("{pod} has the list {expected}"), PATIENCE, || {
        log = kubectl.run(&["logs", "-n", "larder", &pod])?;
        Ok((said(&log, "nodes").last() == Some(expected)).then_some(()))
    });
    waited.with_context(|| log)
}
