//! A cluster is given larder by helm, goes on to the next version while images are pulled, and is as it was when it is gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nodes::metric;
use programs::Program;
use serde_json::json;
use testbed::larder::{self, NAMESPACE};
use testbed::{Cluster, ClusterSpec, Helm, Image, Layer, Node, NodeSpec, has_condition, wait_for, with_cluster};

const PATIENCE: Duration = Duration::from_secs(180);

/// What somebody had set before larder came.
const OWN: &str =
    "# ours\nserver = \"https://ghcr.io\"\n\n[host.\"https://mirror.internal\"]\n  capabilities = [\"pull\"]\n";

/// Pulls that are ready for whoever asks while the version changes.
const PULLS: usize = 60;

#[test]
fn install_upgrade_and_uninstall() -> Result<()> {
    let nodes = ["node-1", "node-2"].map(|name| NodeSpec::new(name).etc("containerd/certs.d/ghcr.io/hosts.toml", OWN));
    let spec = ClusterSpec::new("chart").with_nodes(nodes).programs(&[Program::Helm]);
    with_cluster(&spec, |cluster| {
        larder::push(cluster, &["1", "2"])?;
        let image = |seed| Image::new().seed(seed).layer(Layer::random(4 << 20));
        for number in 0..PULLS {
            cluster.origin("docker.io")?.push(&format!("library/app-{number}:1"), &image(number as u64))?;
        }
        let before = files_of_runtimes(cluster)?;
        anyhow::ensure!(before.iter().all(|files| !files.is_empty()), "nothing could be restored");

        release(cluster, "1")?;
        is_pulled_through(cluster)?;
        is_kept_ready(cluster)?;
        an_upstream_is_heeded(cluster)?;
        let doctor = ["-n", NAMESPACE, "exec", "ds/larder-node", "--", "larder", "doctor"];
        let told = cluster.kubectl().run(&[&doctor[..], &["--config", "/etc/larder/config/larder.toml"]].concat())?;
        anyhow::ensure!(told.contains("every pull of this machine goes through larder"), "{told}");
        tags_are_asked_of_the_registry(cluster)?;
        the_registry_is_told_what_is_in_use(cluster)?;
        people_are_told(cluster)?;
        certificates_come_back(cluster)?;
        only_these_ports_are_open(cluster)?;

        upgraded_while_pulling(cluster)?;
        all_are_of(cluster, "2")?;
        wait_for("the nodes are pointed at larder again", PATIENCE, || {
            let now = files_of_runtimes(cluster)?;
            Ok(now.iter().all(|files| files.keys().any(|file| file.ends_with("_default/hosts.toml"))).then_some(()))
        })?;

        let helm = Helm::new()?.at(cluster.kubectl().config());
        helm.run(&["uninstall", "larder", "--namespace", NAMESPACE, "--wait", "--timeout", "3m"])?;
        wait_for("no pod is left", PATIENCE, || {
            let pods = cluster.kubectl().json(&["get", "pods", "-n", NAMESPACE])?;
            Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })?;
        assert_eq!(files_of_runtimes(cluster)?, before, "the runtimes' files are not as they were");
        cluster.origin("docker.io")?.push("library/after:1", &image(1000))?;
        for node in cluster.nodes() {
            node.crictl(&["pull", "docker.io/library/after:1"])?;
        }
        Ok(())
    })
}

fn release(cluster: &Cluster, tag: &str) -> Result<()> {
    larder::release(cluster, tag, &["node.grace=5,registry.grace=5,log.filter=debug"])
}

/// One image on both nodes: from the origin once, and by the way of the mirrors.
fn is_pulled_through(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        wait_for("the node knows the other one", PATIENCE, || {
            Ok((metric(node.machine(), "larder_peers", &[])? >= 1.0).then_some(()))
        })?;
    }
    let origin = cluster.origin("docker.io")?;
    let pushed = origin.push("library/first:1", &Image::new().seed(500).layer(Layer::random(8 << 20)))?;
    for node in cluster.nodes() {
        node.crictl(&["pull", "docker.io/library/first:1"])?;
        let served = metric(node.machine(), "larder_served_bytes_total", &[])?;
        assert!(served > 8e6, "{}: {served} bytes came by the mirror", node.name());
    }
    for layer in &pushed.layers {
        let gets = origin
            .requests()?
            .iter()
            .filter(|request| request.is_blob_get() && request.path.ends_with(&layer.digest))
            .count();
        assert_eq!(gets, 1, "{}", layer.digest);
    }
    Ok(())
}

/// What an ImageCache wants is on both nodes, and its status says so.
fn is_kept_ready(cluster: &Cluster) -> Result<()> {
    cluster.origin("docker.io")?.push("library/wanted:1", &Image::new().seed(600).layer(Layer::random(2 << 20)))?;
    let wanted = json!({
        "apiVersion": "larder.dev/v1alpha1",
        "kind": "ImageCache",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"images": ["docker.io/library/wanted:1"]},
    });
    cluster.kubectl().apply(&wanted.to_string())?;
    wait_for("the ImageCache is warm on both nodes", PATIENCE, || {
        let cache = cluster.kubectl().json(&["get", "imagecache", "web"])?;
        Ok((has_condition(&cache, "Warm") && cache["status"]["warmNodes"] == 2).then_some(()))
    })?;
    for node in cluster.nodes() {
        node.crictl(&["inspecti", "docker.io/library/wanted:1"])?;
    }
    Ok(())
}

/// An Upstream and a Secret open a private registry to pods without one, and the Upstream's status says how it is.
fn an_upstream_is_heeded(cluster: &Cluster) -> Result<()> {
    let origin = cluster.origin("registry.private.example")?;
    origin.push("acme/shared:1", &Image::new().seed(650).layer(Layer::random(2 << 20)))?;
    let image = "registry.private.example/acme/shared:1";
    let node = &cluster.nodes()[0];
    anyhow::ensure!(node.crictl(&["pull", image]).is_err(), "nobody has shared it yet");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "private", "namespace": NAMESPACE},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": origin.docker_config()},
    });
    cluster.kubectl().apply(&secret.to_string())?;
    let upstream = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "Upstream", "metadata": {"name": "private"},
        "spec": {"registry": "registry.private.example", "credential": {"secretName": "private", "shared": true}},
    });
    cluster.kubectl().apply(&upstream.to_string())?;
    wait_for("the Upstream is in use and its endpoint answers", PATIENCE, || {
        let upstream = cluster.kubectl().json(&["get", "upstream", "private"])?;
        Ok((has_condition(&upstream, "Ready") && has_condition(&upstream, "Available")).then_some(()))
    })?;
    wait_for("what is shared is pulled", PATIENCE, || Ok(node.crictl(&["pull", image]).ok())).map(drop)
}

/// The controller asks the registry what tags mean, by the address for nodes and with the certificates that it has made itself.
fn tags_are_asked_of_the_registry(cluster: &Cluster) -> Result<()> {
    let controllers = "app.kubernetes.io/component=controller";
    wait_for("the registry has told the controller what a tag means", PATIENCE, || {
        let pods = cluster.kubectl().json(&["get", "pods", "-n", NAMESPACE, "-l", controllers])?;
        let names = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
        let mut asked = names.filter_map(|name| {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}:7442/proxy/metrics");
            cluster.kubectl().run(&["get", "--raw", &path]).ok()
        });
        let answered =
            |metrics: String| metrics.contains("larder_upstream_requests_total{upstream=\"registry\",code=\"200\"}");
        Ok(asked.any(answered).then_some(()))
    })
}

/// The controller tells the registry what is in use, with the certificate that it has made for itself, and hears what is there.
fn the_registry_is_told_what_is_in_use(cluster: &Cluster) -> Result<()> {
    let mut last = serde_json::Value::Null;
    let waited = wait_for("the image is known, and that the registry has it", PATIENCE, || {
        let all = cluster.kubectl().json(&["get", "cachedimages"])?;
        let mut images = all["items"].as_array().into_iter().flatten();
        last = images.find(|one| one["spec"]["image"] == "docker.io/library/wanted:1").cloned().unwrap_or_default();
        let status = &last["status"];
        let known = status["wantedBy"] == json!(["default/web"]) && status["held"]["nodes"] == 2;
        Ok((known && status["held"]["registry"] == true).then_some(()))
    });
    waited.with_context(|| format!("{last:#}"))
}

/// The command line, as larder's own and as a plugin of kubectl.
fn people_are_told(cluster: &Cluster) -> Result<()> {
    let config = cluster.kubectl().config();
    let larder = |args: &[&str]| -> Result<(Option<i32>, String)> {
        let output = Command::new(larder::binary()).args(args).env("KUBECONFIG", config).output()?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok((output.status.code(), text.concat()))
    };
    let json = |args: &[&str]| -> Result<serde_json::Value> {
        let (code, text) = larder(&[args, &["-o", "json"]].concat())?;
        anyhow::ensure!(code == Some(0), "{args:?}: {text}");
        serde_json::from_str(&text).with_context(|| text)
    };
    cluster.origin("docker.io")?.push("library/asked:1", &Image::new().seed(700).layer(Layer::random(2 << 20)))?;
    let (code, text) = larder(&["warm", "asked:1", "-n", "default", "--wait", "--timeout", "2m"])?;
    assert!(code == Some(0) && text.contains("2 of 2 images ready on 2 nodes"), "{code:?}: {text}");
    let (code, text) = larder(&["warm", "gone:1", "-n", "default", "--wait", "--timeout", "2m"])?;
    assert!(code == Some(1) && text.contains("ImageNotFound"), "{code:?}: {text}");

    // Nothing is waited for where nothing can come.
    let (code, text) =
        larder(&["warm", "asked:1", "-n", "default", "--name", "nowhere", "--node-selector", "pool=none", "--wait"])?;
    assert!(code == Some(1) && text.contains("no node is selected"), "{code:?}: {text}");
    let (code, text) = larder(&["warm", "-n", "default", "--refresh", "asked-1"])?;
    assert_eq!(code, Some(0), "{text}");

    let rows = json(&["images", "library/asked"])?;
    assert_eq!((&rows[0]["warm"], &rows[0]["wantedBy"][0]), (&json!(2), &json!("default/asked-1")), "{rows}");
    let rows = json(&["nodes"])?;
    assert_eq!((&rows[1]["node"], &rows[1]["ready"]), (&json!("node-2"), &json!("True")), "{rows}");
    let (_, text) = larder(&["nodes", "node-1"])?;
    assert!(text.contains("docker.io/library/asked:1") && text.contains("ImageNotFound"), "{text}");
    let whys = json(&["why", "asked:1", "--node", "node-1"])?;
    assert_eq!(whys["nodes"][0]["from"], "Runtime", "{whys}");
    // What only one node has comes to the other from there.
    cluster.origin("docker.io")?.push("library/single:1", &Image::new().seed(701).layer(Layer::random(2 << 20)))?;
    cluster.node("node-1")?.crictl(&["pull", "docker.io/library/single:1"])?;
    wait_for("it is known that node-1 has it", PATIENCE, || {
        Ok((json(&["why", "single:1"])?["nodes"][1]["from"] == "Nodes").then_some(()))
    })?;
    let (code, text) = larder(&["clean", "--dry-run"])?;
    assert!(code == Some(0) && text.contains("mode: DryRun"), "{code:?}: {text}");

    let folder = tempfile::TempDir::new()?;
    std::os::unix::fs::symlink(larder::binary(), folder.path().join("kubectl-larder"))?;
    let mut path = vec![folder.path().to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let output =
        cluster.kubectl().command().args(["larder", "nodes"]).env("PATH", std::env::join_paths(path)?).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("NODE ") && text.contains("node-2"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    cluster.kubectl().run(&["delete", "imagecache", "gone-1", "nowhere"])?;
    Ok(())
}

/// What somebody deletes of the certificates is there again.
fn certificates_come_back(cluster: &Cluster) -> Result<()> {
    let authority = || cluster.kubectl().json(&["get", "secret", "larder-authority", "-n", NAMESPACE]);
    let before = authority()?["data"].clone();
    cluster.kubectl().run(&["delete", "secret", "larder-nodes", "-n", NAMESPACE])?;
    wait_for("the nodes' certificate is there again", PATIENCE, || {
        let secret = cluster.kubectl().json(&["get", "secret", "larder-nodes", "-n", NAMESPACE]);
        Ok(secret.is_ok_and(|secret| secret["data"]["tls.key"].is_string()).then_some(()))
    })?;
    assert_eq!(authority()?["data"], before, "the authority was made anew");
    Ok(())
}

/// The mirror and the metrics on the loopback address, other nodes at the node's own, and nothing at all addresses. S-36
fn only_these_ports_are_open(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let listed = node.machine().run(&["ss", "-Hltn"])?;
        let mut open: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
        open.retain(|address| {
            ["7439", "7440", "7441", "5000", "5001", "5002"].iter().any(|port| address.ends_with(&format!(":{port}")))
        });
        open.sort_unstable();
        let peers = format!("{}:7440", node.machine().address());
        let mut expected = ["127.0.0.1:7439", "127.0.0.1:7441", &peers];
        expected.sort_unstable();
        assert_eq!(open, expected, "{listed}");
    }
    Ok(())
}

fn upgraded_while_pulling(cluster: &Cluster) -> Result<()> {
    let (done, next, pulled) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let pull = |node: &Node| -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let name = format!("docker.io/library/app-{}:1", number % PULLS);
            if number >= PULLS {
                // All have been pulled: once more, as if they were new.
                node.crictl(&["rmi", &name]).ok();
            }
            node.crictl(&["pull", &name]).with_context(|| format!("{} on {}", name, node.name()))?;
            pulled.fetch_add(1, Ordering::Relaxed);
            if done.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    };
    std::thread::scope(|scope| {
        let pulling: Vec<_> = cluster.nodes().iter().map(|node| scope.spawn(|| pull(node))).collect();
        let upgraded = release(cluster, "2");
        done.store(true, Ordering::Relaxed);
        for thread in pulling {
            thread.join().expect("it does not panic")?;
        }
        upgraded
    })?;
    let pulled = pulled.into_inner();
    assert!(pulled > 4, "only {pulled} pulls went on meanwhile");
    println!("{pulled} pulls while larder was replaced");
    Ok(())
}

fn all_are_of(cluster: &Cluster, tag: &str) -> Result<()> {
    wait_for("all pods are of the new version", PATIENCE, || {
        let pods = cluster.kubectl().json(&["get", "pods", "-n", NAMESPACE])?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let image = format!("{}:{tag}", larder::image());
        let new = pods.iter().filter(|pod| pod["spec"]["containers"][0]["image"] == image.as_str()).count();
        // The registry, two agents and two controllers.
        Ok((new == pods.len() && new == 5).then_some(()))
    })
}

/// All that is where the runtime of each node looks for registries.
fn files_of_runtimes(cluster: &Cluster) -> Result<Vec<BTreeMap<PathBuf, Vec<u8>>>> {
    cluster.nodes().iter().map(|node| files_below(&node.machine().path("/etc/containerd/certs.d"))).collect()
}

fn files_below(root: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(root)?.to_owned();
            if path.is_dir() {
                // That it is there counts too.
                files.insert(name.join(""), Vec::new());
                folders.push(path);
            } else {
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(files)
}
