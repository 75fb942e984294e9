//! What larder writes for the runtime of a node, and that nothing of it is left when it goes.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use nodes::{Agent, binary};
use testbed::{ClusterSpec, Image, Layer, Node, NodeSpec, Runtime, with_cluster};

/// Everything below a folder, by its path there: bytes of files, `None` for folders, and modes.
type Tree = BTreeMap<String, (Option<Vec<u8>>, u32)>;

fn tree(folder: &Path) -> Result<Tree> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            let mode = entry.metadata()?.permissions().mode();
            let bytes = if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
                None
            } else {
                Some(std::fs::read(entry.path())?)
            };
            found.insert(entry.path().strip_prefix(folder)?.display().to_string(), (bytes, mode));
        }
    }
    Ok(found)
}

fn larder(node: &Node, words: &[&str]) -> Result<String> {
    node.machine().run(&[&[&*binary().display().to_string()], words].concat())
}

const ADOPTED: &str = "# ours
server = \"https://quay.io\"

[host.\"https://quay.io\"]
  capabilities = [\"pull\", \"resolve\"] # as agreed
";

#[test]
fn uninstall_leaves_the_runtimes_files_as_they_were() -> Result<()> {
    let spec = ClusterSpec::new("hosts").with_nodes([
        NodeSpec::new("new").etc("containerd/certs.d/quay.io/hosts.toml", ADOPTED),
        NodeSpec::new("old").runtime(Runtime::Containerd17).etc("containerd/certs.d/quay.io/hosts.toml", ADOPTED),
    ]);
    with_cluster(&spec, |cluster| {
        cluster.origin("quay.io")?.push("acme/app:1", &Image::new().layer(Layer::random(1 << 20)))?;
        cluster.origin("docker.io")?.push("library/app:1", &Image::new().seed(1).layer(Layer::random(1 << 20)))?;
        for node in cluster.nodes() {
            let certs_d = node.machine().path("/etc/containerd/certs.d");
            let before = tree(&certs_d)?;
            let agent = Agent::start(node, "")?;
            assert_ne!(tree(&certs_d)?, before);
            for image in ["quay.io/acme/app:1", "docker.io/library/app:1"] {
                node.crictl(&["pull", image])?;
            }
            let log = agent.log()?;
            for name in ["quay.io/acme/app", "docker.io/library/app"] {
                assert!(log.contains(&format!("image={name}@")), "{name} was pulled through larder");
            }
            assert!(larder(node, &["doctor"])?.contains("every pull of this machine goes through larder"));

            agent.process().kill()?;
            assert!(larder(node, &["doctor"]).is_err(), "something is to be done");
            larder(node, &["node", "--uninstall"])?;
            assert_eq!(tree(&certs_d)?, before, "on {}", node.name());
            larder(node, &["node", "--uninstall"])?;
            assert_eq!(tree(&certs_d)?, before, "nothing happens the second time");
            node.crictl(&["rmi", "quay.io/acme/app:1"])?;
            node.crictl(&["pull", "quay.io/acme/app:1"])?;
        }
        Ok(())
    })
}
