//! A node's mirror in front of a registry of larder, in front of an origin: who asks whom, and what happens when one is gone.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::time::Instant;

use faulty::{Auth, Fault, Kind, Rule, Upstream};
use scenarios::{Larder, basic, wait_for};

fn blob(digest: &str) -> String {
    format!("/v2/team/app/blobs/{digest}?ns=up.test")
}

fn manifest(tag: &str) -> String {
    format!("/v2/team/app/manifests/{tag}?ns=up.test")
}

/// An origin with an image, a registry in front of it, and nodes in front of that.
async fn cluster(nodes: usize) -> anyhow::Result<(Upstream, faulty::Image, Larder, Vec<Larder>)> {
    let up = Upstream::start().await?;
    let image = up.image("team/app", "1", &[300_000, 2_000_000], 1);
    let registry = Larder::in_front_of("up.test", &up).start()?;
    let nodes = (0..nodes).map(|_| node(&up, &registry)).collect::<anyhow::Result<_>>()?;
    Ok((up, image, registry, nodes))
}

fn node(up: &Upstream, registry: &Larder) -> anyhow::Result<Larder> {
    let front = format!("[node]\nregistry = \"http://{}\"", registry.host());
    Larder::in_front_of("up.test", up).node().config(&front).start()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origin_sends_once_what_all_nodes_want() -> anyhow::Result<()> {
    let (up, image, _registry, nodes) = cluster(3).await?;
    std::thread::scope(|scope| {
        for node in &nodes {
            scope.spawn(|| {
                let top = node.get(&manifest("1")).unwrap();
                assert_eq!((top.status, top.digest()), (200, image.digest.clone()));
                for layer in &image.layers {
                    let answer = node.get(&blob(layer)).unwrap();
                    assert_eq!((answer.status, answer.digest()), (200, layer.clone()));
                }
            });
        }
    });
    for layer in &image.layers {
        let asked = up.log().iter().filter(|request| request.path.contains(layer) && request.method == "GET").count();
        assert_eq!(asked, 1, "{layer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_registry_the_origin_is_asked() -> anyhow::Result<()> {
    let (up, image, mut registry, nodes) = cluster(1).await?;
    registry.kill();
    assert_eq!(nodes[0].get(&manifest("1"))?.digest(), image.digest);
    assert_eq!(nodes[0].get(&blob(&image.layers[1]))?.digest(), image.layers[1]);
    assert!(up.log().iter().any(|request| request.kind == Kind::Blob));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_origin_the_registry_is_enough_for_a_node_that_never_pulled() -> anyhow::Result<()> {
    let (up, image, registry, nodes) = cluster(1).await?;
    assert_eq!(nodes[0].get(&manifest("1"))?.status, 200);
    for layer in &image.layers {
        assert_eq!(nodes[0].get(&blob(layer))?.status, 200);
    }
    let late = node(&up, &registry)?;
    up.rules(vec![Rule::any().fault(Fault::status(500))]);
    assert_eq!(late.get(&manifest("1"))?.digest(), image.digest);
    for layer in &image.layers {
        assert_eq!(late.get(&blob(layer))?.digest(), *layer);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_of_the_registry_is_not_asked_again_of_the_origin() -> anyhow::Result<()> {
    let (up, _, _registry, nodes) = cluster(1).await?;
    let answer = nodes[0].get(&manifest("missing"))?;
    assert_eq!((answer.status, answer.error_code().as_deref()), (404, Some("MANIFEST_UNKNOWN")));
    let asked = up.log().iter().filter(|request| request.path.ends_with("/missing")).count();
    assert_eq!(asked, 1, "by the registry alone");
    Ok(())
}

// S-01, S-03
#[tokio::test(flavor = "multi_thread")]
async fn private_images_are_for_those_whom_the_origin_lets_in() -> anyhow::Result<()> {
    let (up, image, _registry, nodes) = cluster(2).await?;
    up.auth(Auth::Basic);
    up.account("ann", "secret", &["team/app"]);
    let ann = [("Authorization", &*basic("ann", "secret"))];
    let eve = [("Authorization", &*basic("eve", "guess"))];
    for node in &nodes {
        // What makes containerd send the pod's own secret.
        let answer = node.get(&manifest("1"))?;
        assert_eq!(answer.status, 401);
        assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Basic ")));
        assert_eq!(node.ask("GET", &manifest("1"), &eve)?.status, 403);
        assert_eq!(node.ask("GET", &manifest("1"), &ann)?.digest(), image.digest);
        for layer in &image.layers {
            assert_eq!(node.ask("GET", &blob(layer), &ann)?.digest(), *layer);
            assert_eq!(node.get(&blob(layer))?.status, 401, "it is in the store now");
            assert_eq!(node.ask("GET", &blob(layer), &eve)?.status, 403);
        }
        assert!(!node.log().contains("secret"));
    }
    Ok(())
}

// P-14
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_waits_no_longer_than_it_was_told() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    up.image("team/app", "1", &[1000], 1);
    up.rules(vec![Rule::any().fault(Fault::Hang)]);
    let node = Larder::in_front_of("up.test", &up).node().config("[node]\nanswer = \"300ms\"").start()?;
    let begun = Instant::now();
    let answer = node.get(&manifest("1"))?;
    assert!(matches!(answer.status, 503 | 504), "{}", answer.status);
    assert!(begun.elapsed().as_secs() < 5, "long before the origin's own deadline");
    up.rules(vec![]);
    wait_for("the image can be had again", || node.get(&manifest("1")).is_ok_and(|answer| answer.status == 200));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_runtime_is_told_to_wait_for_a_limit() -> anyhow::Result<()> {
    let (up, _, _registry, nodes) = cluster(1).await?;
    up.rules(vec![Rule::any().fault(Fault::status(429))]);
    let answer = nodes[0].get(&manifest("1"))?;
    assert_eq!(answer.status, 503, "containerd asks five times at once after a 429, and goes on after this");
    Ok(())
}
