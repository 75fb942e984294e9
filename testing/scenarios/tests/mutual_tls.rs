//! Nodes and a registry that know each other by certificates: who gets in, who is believed, and who may have what then.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use faulty::{Auth, Upstream};
use rustix::process::Signal;
use scenarios::{Authority, Builder, Client, Larder, basic, wait_for};

fn blob(digest: &str) -> String {
    format!("/v2/team/app/blobs/{digest}?ns=up.test")
}

fn manifest(tag: &str) -> String {
    format!("/v2/team/app/manifests/{tag}?ns=up.test")
}

/// A registry that has an address for nodes, and certificates of an authority.
fn registry(up: &Upstream, certificates: &Path) -> Builder {
    let certificates = certificates.display();
    Larder::in_front_of("up.test", up)
        .config(&format!("[registry.nodes]\nlisten = \"127.0.0.1:0\"\ncertificates = \"{certificates}\""))
}

/// The address for nodes, which the log tells.
fn for_nodes(registry: &Larder) -> SocketAddr {
    let log = registry.log();
    let told = log.split_once(" nodes=").map(|(_, rest)| rest).unwrap();
    told.split_whitespace().next().unwrap().parse().unwrap()
}

/// A node that asks `registry` and nobody else before the origin; its tags are never fresh.
fn node(up: &Upstream, registry: SocketAddr, certificates: &Path) -> Builder {
    let certificates = certificates.display();
    Larder::in_front_of("up.test", up).node().config(&format!(
        "[node]\nregistry = \"https://{registry}\"\nregistry_certificates = \"{certificates}\"\n[freshness]\ndefault = \"0s\""
    ))
}

/// How often a node has asked the origin, and how often the registry gave it nothing.
fn without_registry(node: &Larder) -> (f64, f64) {
    let asked = node.metric("larder_upstream_requests_total", &[("upstream", "up.test")]);
    (asked, node.metric("larder_upstream_errors_total", &[("upstream", "registry")]))
}

fn refused(registry: &Larder, reason: &str) -> f64 {
    registry.metric("larder_handshakes_failed_total", &[("listener", "nodes"), ("reason", reason)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_pulls_through_the_registry_that_knows_it() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("team/app", "1", &[300_000, 9_000_000], 1);
    let authority = Authority::new()?;
    let registry = registry(&up, &authority.folder("registry")).start()?;
    let node = node(&up, for_nodes(&registry), &authority.folder("node")).start()?;
    assert_eq!(node.get(&manifest("1"))?.digest(), image.digest);
    for layer in &image.layers {
        assert_eq!(node.get(&blob(layer))?.digest(), *layer);
        assert_eq!(up.blob_gets(layer), 1);
    }
    assert_eq!(without_registry(&node), (0.0, 0.0));
    let sum: u64 = [300_000, 9_000_000].iter().sum();
    assert!(node.metric("larder_fetched_bytes_total", &[("source", "registry")]) >= sum as f64);
    for (larder, setting) in [(&registry, "registry.nodes.certificates"), (&node, "node.registry_certificates")] {
        let expires = larder.metric("larder_certificate_expires_timestamp_seconds", &[("setting", setting)]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
        assert!((300.0..366.0).contains(&((expires - now) / 86400.0)), "{setting}: {expires}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_alone_says_what_is_in_use() -> anyhow::Result<()> {
    const PATH: &str = "/larder/v1alpha1/images";
    let up = Upstream::start().await?;
    let image = up.image("team/app", "1", &[300_000], 1);
    let authority = Authority::new()?;
    let registry = registry(&up, &authority.folder("registry")).start()?;
    let address = for_nodes(&registry);
    let list = r#"{"images": [{"image": "up.test/team/app:1", "keep": true}, {"image": "up.test/team/other:1"}]}"#;
    let by = |who: &str| authority.connect(address, Some(&authority.folder(who)));

    assert_eq!(by("node")?.put(PATH, list)?.status, 403);
    assert_eq!(by("node")?.ask("GET", PATH, &[])?.status, 403);
    assert_eq!(registry.client()?.put(PATH, list)?.status, 404);
    assert_eq!(by("controller")?.ask("GET", PATH, &[])?.status, 405);
    assert_eq!(by("controller")?.put(PATH, "[")?.status, 400);
    assert_eq!(by("controller")?.put(PATH, &" ".repeat((8 << 20) + 1000))?.status, 413);
    let kept = registry.store().join("keep.json");
    assert!(!kept.exists(), "somebody was believed");

    // It may have what a node may, and is told what is here.
    let mut controller = by("controller")?;
    assert_eq!(controller.ask("GET", &manifest("1"), &[])?.status, 200);
    let held = |answer: scenarios::Answer| -> serde_json::Value { serde_json::from_slice(&answer.body).unwrap() };
    let told = held(controller.put(PATH, list)?);
    assert_eq!((&told[0]["digest"], &told[0]["whole"]), (&image.digest.as_str().into(), &false.into()), "{told}");
    assert_eq!((&told[1]["whole"], &told[1]["bytes"]), (&false.into(), &0.into()), "{told}");
    assert!(kept.exists());
    // A list as another version of larder may send it.
    let newer = r#"{"new": 1, "images": [{"image": "up.test/team/app:1", "keep": true, "new": 2}]}"#;
    assert_eq!(controller.put(PATH, newer)?.status, 200);
    assert!(controller.put(PATH, list)?.body.len() > 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_a_node_gets_in() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    up.image("team/app", "1", &[1000], 1);
    let (authority, other) = (Authority::new()?, Authority::new()?);
    let registry = registry(&up, &authority.folder("registry")).start()?;
    let address = for_nodes(&registry);
    let target = manifest("1");
    let ask = |shown: Option<&Path>| authority.connect(address, shown)?.ask("GET", &target, &[]);

    assert_eq!(ask(Some(&authority.folder("node")))?.status, 200);
    let begun = Instant::now();
    for (shown, reason, alert) in [
        (None, "no_certificate", "CertificateRequired"),
        (Some(other.folder("node")), "unknown_authority", "UnknownCA"),
        (Some(authority.folder("registry")), "wrong_role", "BadCertificate"),
    ] {
        for _ in 0..20 {
            let error = format!("{:#}", ask(shown.as_deref()).expect_err(reason));
            assert!(error.contains(alert), "{reason}: {error}");
        }
        assert_eq!(refused(&registry, reason), 20.0, "{reason}");
        let log = registry.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("WARN") && line.contains(reason)).collect();
        let most = 1 + begun.elapsed().as_secs() as usize / 10;
        assert!((1..=most).contains(&lines.len()), "{lines:#?}");
    }
    assert!(registry.log().contains("not valid for name \"larder-node\""), "{}", registry.log());

    // Without TLS there is nothing to be had either.
    assert!(Client::connect(address)?.ask("GET", &target, &[]).is_err());
    assert_eq!(refused(&registry, "protocol"), 1.0);
    // Whoever only looks whether somebody listens is no news.
    drop(std::net::TcpStream::connect(address)?);
    wait_for("the look is counted", || refused(&registry, "closed") == 1.0);
    assert!(!registry.log().lines().any(|line| line.contains("WARN") && line.contains("closed")));

    assert_eq!(ask(Some(&authority.folder("node")))?.status, 200);
    assert_eq!(registry.get(&target)?.status, 200, "the address for other clients is as it was");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_not_taken_for_a_registry() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("team/app", "1", &[1000], 1);
    let authority = Authority::new()?;
    let folder = authority.folder("node");
    // One that shares with others shows them its certificate, which is a node's.
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let posing = Larder::in_front_of("up.test", &up).node().config(&format!(
        "[node.peers]\nname = \"a\"\nlisten = \"{free}\"\ncertificates = \"{}\"\nmembers = [{{ name = \"a\", address = \"{free}\" }}]",
        folder.display()
    ));
    let _posing = posing.start()?;
    let node = node(&up, free, &folder).start()?;
    assert_eq!(node.get(&manifest("1"))?.digest(), image.digest, "by way of the origin");
    let said = |line: &&str| line.contains("WARN") && line.contains("the larder registry gives nothing");
    let lines = node.log().lines().filter(said).map(str::to_owned).collect::<Vec<_>>();
    let told = |words: &[&str]| lines.len() == 1 && words.iter().all(|words| lines[0].contains(words));
    assert!(told(&["for another name: it is for larder-node", "larder certs --registry"]), "{}", node.log());
    assert!(node.metric("larder_upstream_requests_total", &[("upstream", "registry")]) == 0.0);
    Ok(())
}

// S-01, S-03
#[tokio::test(flavor = "multi_thread")]
async fn being_a_node_gives_no_right_to_private_images() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("team/app", "1", &[300_000], 1);
    up.auth(Auth::Basic);
    up.account("ann", "secret", &["team/app"]);
    let authority = Authority::new()?;
    let registry = registry(&up, &authority.folder("registry")).start()?;
    let address = for_nodes(&registry);
    let nodes = [(); 2].map(|()| node(&up, address, &authority.folder("node")).start().unwrap());
    let ann = [("Authorization", &*basic("ann", "secret"))];
    let eve = [("Authorization", &*basic("eve", "guess"))];
    for node in &nodes {
        assert_eq!(node.get(&manifest("1"))?.status, 401);
        assert_eq!(node.ask("GET", &manifest("1"), &eve)?.status, 403);
        assert_eq!(node.ask("GET", &manifest("1"), &ann)?.digest(), image.digest);
        assert_eq!(node.ask("GET", &blob(&image.layers[0]), &ann)?.digest(), image.layers[0]);
        assert_eq!(node.get(&blob(&image.layers[0]))?.status, 401);
        assert_eq!(node.ask("GET", &blob(&image.layers[0]), &eve)?.status, 403);
        assert_eq!(without_registry(node).0, 0.0, "the registry's no is enough");
    }
    // Nor does a node that asks by itself, now that the registry has the image.
    for target in [manifest("1"), manifest(&image.digest), blob(&image.layers[0])] {
        let mut client = authority.connect(address, Some(&authority.folder("node")))?;
        assert_eq!(client.ask("GET", &target, &[])?.status, 401, "{target}");
        assert_eq!(client.ask("GET", &target, &eve)?.status, 403, "{target}");
        assert_eq!(client.ask("GET", &target, &ann)?.status, 200, "{target}");
    }
    for larder in nodes.iter().chain([&registry]) {
        assert!(!larder.log().contains("secret"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_the_private_images_that_image_caches_want_and_no_others() -> anyhow::Result<()> {
    const PATH: &str = "/larder/v1alpha1/wanted";
    let up = Upstream::start().await?;
    let image = up.image("team/app", "1", &[300_000], 1);
    up.auth(Auth::Basic);
    up.account("ann", "S3NT1NEL", &["team/app"]);
    let authority = Authority::new()?;
    let registry = registry(&up, &authority.folder("registry")).start()?;
    let address = for_nodes(&registry);
    let by = |who: &str| authority.connect(address, Some(&authority.folder(who)));
    let asked = |who: &str, purpose: &str| -> anyhow::Result<u16> {
        Ok(by(who)?.ask("GET", &manifest(&image.digest), &[("larder-prefetch", purpose)])?.status)
    };
    let list = |user: &str, runtime: bool| {
        format!(
            r#"{{"repositories": [{{"name": "up.test/team/app", "logins": [{{"username": "{user}", "password": "S3NT1NEL", "runtime": {runtime}}}]}}]}}"#
        )
    };
    // Nobody has said that anybody wants it, or who may say so has not.
    assert_eq!(asked("node", "store")?, 401);
    assert_eq!(by("node")?.put(PATH, &list("ann", true))?.status, 403);
    assert_eq!(registry.client()?.put(PATH, &list("ann", true))?.status, 404);
    for bad in ["[", r#"{"repositories": [{"name": "S3NT1NEL"}]}"#, r#"{"repositories": 1}"#] {
        let answer = by("controller")?.put(PATH, bad)?;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("S3NT1NEL"));
    }
    assert_eq!(asked("node", "store")?, 401);

    assert_eq!(by("controller")?.put(PATH, &list("ann", false))?.status, 200);
    wait_for("what was refused is asked for again", || asked("node", "store").unwrap() == 200);
    assert_eq!(asked("node", "runtime")?, 403, "it is for the store only");
    assert_eq!(asked("node", "all")?, 401, "there is no such purpose");
    assert_eq!(by("node")?.ask("GET", &manifest(&image.digest), &[])?.status, 401);
    let header = [("larder-prefetch", "store")];
    assert_eq!(registry.client()?.ask("GET", &manifest(&image.digest), &header)?.status, 401, "nobody is known there");
    assert_eq!(by("node")?.ask("GET", &blob(&image.layers[0]), &header)?.digest(), image.layers[0]);

    assert_eq!(by("controller")?.put(PATH, &list("ann", true))?.status, 200);
    wait_for("what was refused is asked for again", || asked("node", "runtime").unwrap() == 200);
    // With another credential it is no longer given, though it was.
    assert_eq!(by("controller")?.put(PATH, &list("eve", true))?.status, 200);
    assert_eq!(asked("node", "store")?, 403);
    assert_eq!(by("controller")?.put(PATH, r#"{"repositories": []}"#)?.status, 200);
    assert_eq!(asked("node", "store")?, 401);
    assert!(!registry.log().contains("S3NT1NEL"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_registry_the_origin_is_asked_in_time() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("team/app", "1", &[300_000], 1);
    let (authority, other) = (Authority::new()?, Authority::new()?);
    let mut registry = registry(&up, &authority.folder("registry")).start()?;
    let address = for_nodes(&registry);
    let whole = |node: &Larder, why: &str| -> anyhow::Result<()> {
        let begun = Instant::now();
        assert_eq!(node.get(&manifest("1"))?.digest(), image.digest, "{why}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "{why}: {took:?}");
        assert_eq!(node.get(&blob(&image.layers[0]))?.digest(), image.layers[0], "{why}");
        assert!(without_registry(node).0 > 0.0, "{why}");
        Ok(())
    };
    // One that the registry does not let in.
    whole(&node(&up, address, &other.folder("node")).start()?, "a foreign node")?;
    // One that says nothing: connections wait in its kernel.
    registry.signal(Signal::STOP);
    whole(&node(&up, address, &authority.folder("node")).start()?, "a registry that hangs")?;
    registry.kill();
    whole(&node(&up, address, &authority.folder("node")).start()?, "a registry that is gone")
}

/// Asks until what is waited for has happened, and once more; nothing may fail meanwhile. Each request begins with a
/// handshake, since no connection is left of the one before.
fn ask_until(node: &Larder, registry: &Larder, what: &str, mut condition: impl FnMut() -> bool) {
    let mut done = false;
    wait_for(what, || {
        wait_for("the connection ends", || registry.metric("larder_connections", &[]) == 0.0);
        assert_eq!(node.get(&manifest("1")).unwrap().status, 200, "{what}");
        std::mem::replace(&mut done, condition())
    });
}

fn taken(larder: &Larder) -> usize {
    larder.log().matches("took new certificates").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_authorities_change_without_one_failed_request() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    up.image("team/app", "1", &[1000], 1);
    let (old, new) = (Authority::new()?, Authority::new()?);
    let (of_registry, of_node) = (old.folder("registry"), old.folder("node"));
    let registry = registry(&up, &of_registry).config("[limits]\nkeep_alive = \"200ms\"").start()?;
    let address = for_nodes(&registry);
    let node = node(&up, address, &of_node).start()?;
    let kept = tempfile::tempdir()?;
    for file in ["tls.crt", "tls.key"] {
        fs::copy(of_node.join(file), kept.path().join(file))?;
    }
    let ask =
        |authority: &Authority, shown: &Path| authority.connect(address, Some(shown))?.ask("GET", &manifest("1"), &[]);
    assert_eq!(ask(&old, kept.path())?.status, 200);

    // First both learn of the new authority, then each gets a certificate of it, then the old authority goes.
    let both = old.certificate()? + &new.certificate()?;
    fs::write(of_registry.join("ca.crt"), &both)?;
    fs::write(of_node.join("ca.crt"), &both)?;
    ask_until(&node, &registry, "both learn of the new authority", || taken(&registry) >= 1 && taken(&node) >= 1);
    for (name, folder) in [("registry", &of_registry), ("node", &of_node)] {
        for file in ["tls.key", "tls.crt"] {
            fs::copy(new.folder(name).join(file), folder.join(file))?;
        }
    }
    ask_until(&node, &registry, "both have new certificates", || taken(&registry) >= 2 && taken(&node) >= 2);
    fs::write(of_registry.join("ca.crt"), new.certificate()?)?;
    fs::write(of_node.join("ca.crt"), new.certificate()?)?;
    ask_until(&node, &registry, "the old authority is forgotten", || taken(&registry) >= 3 && taken(&node) >= 3);
    assert_eq!(without_registry(&node), (0.0, 0.0));

    // The new certificates are in use, and the old ones of none.
    assert_eq!(ask(&new, &new.folder("node"))?.status, 200);
    assert!(format!("{:#}", ask(&new, kept.path()).unwrap_err()).contains("UnknownCA"));
    assert!(format!("{:#}", ask(&old, &new.folder("node")).unwrap_err()).contains("UnknownIssuer"));
    Ok(())
}
