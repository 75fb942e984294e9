//! A cluster of three nodes runs what it pulls from its own internet.

use std::time::Duration;

use anyhow::Result;
use testbed::{ClusterSpec, Image, Layer, PRIVATE_PASSWORD, PRIVATE_USER, with_cluster};

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn three_nodes_run_a_public_and_a_private_image() -> Result<()> {
    with_cluster(&ClusterSpec::new("smoke").nodes(3).progress(true), |cluster| {
        let public = Image::new().layer(Layer::random(4 << 20)).layer(Layer::text(4 << 20));
        let pushed = cluster.origin("docker.io")?.push("library/app:1", &public)?;
        cluster
            .origin("registry.private.example")?
            .push("team/secret:1", &Image::new().layer(Layer::random(1 << 20)))?;

        let kubectl = cluster.kubectl();
        kubectl.apply(&daemon_set("public", "docker.io/library/app:1"))?;
        kubectl.run(&[
            "create",
            "secret",
            "docker-registry",
            "pull",
            "--docker-server=registry.private.example",
            &format!("--docker-username={PRIVATE_USER}"),
            &format!("--docker-password={PRIVATE_PASSWORD}"),
        ])?;
        kubectl.apply(&daemon_set("private", "registry.private.example/team/secret:1"))?;
        kubectl.await_ready_pods("default", "app=public", 3, PATIENCE)?;
        kubectl.await_ready_pods("default", "app=private", 3, PATIENCE)?;

        let requests = cluster.origin("docker.io")?.requests()?;
        // The first layer is busybox, which a node may also have got with the private image.
        for layer in &pushed.layers[1..] {
            let pulls = requests.iter().filter(|request| {
                request.is_blob_get()
                    && request.path.contains(&layer.digest)
                    && request.agent.starts_with("containerd/")
            });
            assert_eq!(pulls.count(), 3, "each node takes each layer from the origin once: {}", layer.digest);
        }
        let traffic = cluster.internet_link().traffic()?;
        assert!(traffic.sent > 3 * (4 << 20), "the random layer went to three nodes: {traffic:?}");
        Ok(())
    })
}

fn daemon_set(name: &str, image: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      imagePullSecrets: [{{name: pull}}]
      containers: [{{name: main, image: '{image}'}}]
"
    )
}
