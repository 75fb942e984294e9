//! Real containerds pull through larder, set up as `docs/clients.md` says, and get what the origin has.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::Context;
use programs::Program;
use rcgen::{CertificateParams, KeyPair};
use scenarios::{Containerd, Guard, Larder, Origin, Release, Software, docker_config, run};
use tempfile::TempDir;
use testbed::{Image, Layer};

const GUIDE: &str = include_str!("../../../docs/clients.md");
/// The image of the guide's examples.
const ALPINE: &str = "docker.io/library/alpine:3.20";
/// An image of the registry that has a folder of its own in the guide.
const APP: &str = "registry.example:8443/team/app:1";
const LARGE: u64 = 66 << 20;

/// The example in the guide that has this line, without its indentation.
fn example(line: &str) -> String {
    let lines: Vec<&str> = GUIDE.lines().collect();
    let at = lines.iter().position(|text| text.trim_start() == line).unwrap_or_else(|| panic!("no example has {line}"));
    let rest = lines[at..].iter().take_while(|text| text.is_empty() || text.starts_with("    "));
    let rest: Vec<&str> = rest.map(|text| text.strip_prefix("    ").unwrap_or(text)).collect();
    // Another example may follow the next empty line, with the comment that names its file.
    let end = rest.iter().skip(1).position(|text| text.starts_with("# /")).map_or(rest.len(), |next| next + 1);
    rest[..end].join("\n")
}

/// The command line in the guide that begins so.
fn command(start: &str) -> String {
    let line = GUIDE.lines().map(str::trim).find(|line| line.starts_with(start));
    line.unwrap_or_else(|| panic!("no example begins with {start}")).to_owned()
}

/// `/etc/containerd/config.toml`.
fn daemon_config(release: Release) -> String {
    example(match release {
        Release::V1_7 => "# /etc/containerd/config.toml, containerd 1.7",
        Release::V2_4 => "# /etc/containerd/config.toml, containerd 2",
    })
}

/// The `hosts.toml` for every registry.
fn every_registry(larder: &Larder) -> String {
    example("# /etc/containerd/certs.d/_default/hosts.toml").replace("127.0.0.1:5000", &larder.host())
}

/// An origin with an image of three layers for two platforms, and a larder that calls it docker.io and registry.example.
struct Scene {
    origin: Origin,
    larder: Larder,
    /// The digest of the index.
    digest: String,
    /// Every digest that a node of this machine's platform needs.
    needed: BTreeSet<String>,
    /// The manifest and the configuration of another platform.
    others: BTreeSet<String>,
}

impl Scene {
    fn new(guard: Guard) -> anyhow::Result<Scene> {
        let origin = Origin::start(Software::Distribution, guard)?;
        let folder = TempDir::new()?;
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let image = Image::new()
            .layer(Layer::text(4 << 20))
            .layer(Layer::random(LARGE))
            .platforms([format!("linux/{architecture}"), "linux/s390x".to_owned()]);
        let digest = image.write(folder.path())?.digest;
        push(&origin, &folder, &digest, &["library/alpine:3.20", "team/app:1"])?;
        let (needed, others) = parts(&folder, &digest)?;
        // Index, manifest, configuration and layers; manifest and configuration.
        assert_eq!((needed.len(), others.len()), (6, 2));
        let url = origin.url();
        let trusted = origin.token_host().map_or(String::new(), |host| format!("token_hosts = [{host:?}]"));
        let names = ["docker.io", "registry.example:8443"];
        let larder = names.iter().fold(Larder::builder(), |larder, name| larder.upstream(name, &[&url], &trusted));
        Ok(Scene { larder: larder.start()?, origin, digest, needed, others })
    }

    /// A containerd that asks larder for every registry.
    fn containerd(&self, release: Release, config: &str) -> anyhow::Result<Containerd> {
        let config = format!("{}\n{config}", daemon_config(release));
        let hosts = every_registry(&self.larder);
        Containerd::start(
            release,
            &[("containerd/config.toml", &config), ("containerd/certs.d/_default/hosts.toml", &hosts)],
        )
    }

    /// Pulls with a containerd of its own, cold, and with another when everything is in larder and the origin is gone.
    fn twice(mut self, release: Release, config: &str, namespace: &str, pull: &str) -> anyhow::Result<Larder> {
        for round in ["cold", "warm"] {
            let containerd = self.containerd(release, config)?;
            containerd.run(pull).with_context(|| self.larder.log())?;
            self.check(&containerd, namespace, ALPINE)?;
            if round == "cold" {
                self.assert_asked_once();
                self.origin.kill();
            }
        }
        self.assert_no_errors()?;
        Ok(self.larder)
    }

    /// The image is the origin's, all of it, and runs.
    fn check(&self, containerd: &Containerd, namespace: &str, name: &str) -> anyhow::Result<()> {
        let images = containerd.run(&format!("ctr --namespace {namespace} images ls"))?;
        let line = images.lines().find(|line| line.split_whitespace().next() == Some(name)).context(images.clone())?;
        assert!(line.contains(&self.digest), "{line}");
        let mut wanted = self.needed.clone();
        // `ctr` takes what describes the other platforms as well.
        if namespace == "default" {
            wanted.extend(self.others.iter().cloned());
        }
        assert_eq!(containerd.blobs()?, wanted);
        // By its status: `ctr` may miss what a container prints that ends at once.
        let trial = "[ $(ls -d /data-* | grep -c .) = 2 ] && exit 42";
        // Containers of one name would share a control group, whose hierarchy all tests see.
        let id = format!("trial-{}", self.larder.address().port());
        containerd.run(&format!(
            "ctr --namespace {namespace} run --rm --cgroup '' {name} {id} /bin/busybox sh -c '{trial}'; [ $? = 42 ]"
        ))?;
        Ok(())
    }

    /// Larder has taken each blob and each manifest from the origin once, whole; the index it has by its tag.
    fn assert_asked_once(&self) {
        let requests = self.origin.requests();
        for digest in self.needed.iter().filter(|digest| **digest != self.digest) {
            let asked: Vec<_> = requests
                .iter()
                .filter(|line| line.starts_with("GET ") && line.contains(digest) && line.contains("\"larder/"))
                .collect();
            assert!(asked.len() == 1 && asked[0].contains("\" 200 "), "{digest}: {asked:#?}");
        }
    }

    /// No client had a 5xx.
    fn assert_no_errors(&self) -> anyhow::Result<()> {
        let metrics = self.larder.admin("/metrics")?.text();
        let failed: Vec<_> = metrics.lines().filter(|line| line.contains("code=\"5")).collect();
        assert!(failed.is_empty(), "{failed:?}\n{}", self.larder.log());
        assert!(!self.larder.log().contains(" ERROR "), "{}", self.larder.log());
        Ok(())
    }
}

/// Pushes an OCI layout's image under several names.
fn push(origin: &Origin, layout: &TempDir, digest: &str, names: &[&str]) -> anyhow::Result<()> {
    let paths = programs::ensure(&[Program::Oras])?;
    let login = docker_config(&origin.host(), Origin::USER, Origin::PASSWORD)?;
    for name in names {
        let mut oras = Command::new(paths.get(Program::Oras));
        oras.env("DOCKER_CONFIG", login.path()).args(["copy", "--no-tty", "--to-plain-http", "--from-oci-layout"]);
        run(oras.args([format!("{}@{digest}", layout.path().display()), format!("{}/{name}", origin.host())]))?;
    }
    Ok(())
}

/// What belongs to the first platform of an index in a layout, and the manifest and configuration of the others.
fn parts(layout: &TempDir, index: &str) -> anyhow::Result<(BTreeSet<String>, BTreeSet<String>)> {
    let read = |digest: &str| -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_slice(&fs::read(layout.path().join("blobs").join(digest.replace(':', "/")))?)?)
    };
    let digest_of = |descriptor: &serde_json::Value| descriptor["digest"].as_str().unwrap().to_owned();
    let manifests = read(index)?["manifests"].as_array().context("an index has manifests")?.clone();
    let (mut needed, mut others) = (BTreeSet::from([index.to_owned()]), BTreeSet::new());
    for (number, manifest) in manifests.iter().map(digest_of).enumerate() {
        let content = read(&manifest)?;
        let about = [digest_of(&content["config"]), manifest];
        if number == 0 {
            needed.extend(content["layers"].as_array().context("a manifest has layers")?.iter().map(digest_of));
            needed.extend(about);
        } else {
            others.extend(about);
        }
    }
    Ok((needed, others))
}

// T-09
#[test]
fn ctr_pulls_as_the_guide_says() -> anyhow::Result<()> {
    let pull = command("ctr images pull");
    Scene::new(Guard::Open)?.twice(Release::V2_4, "", "default", &pull).map(drop)
}

// T-09
#[test]
fn ctr_pulls_itself_what_containerd_1_7_runs() -> anyhow::Result<()> {
    let pull = command("ctr images pull").replace("pull", "pull --local");
    Scene::new(Guard::Open)?.twice(Release::V1_7, "", "default", &pull).map(drop)
}

// T-09
#[test]
fn crictl_pulls_as_the_guide_says() -> anyhow::Result<()> {
    Scene::new(Guard::Open)?.twice(Release::V2_4, "", "k8s.io", &command("crictl pull")).map(drop)
}

// T-09
#[test]
fn crictl_pulls_with_containerd_1_7_as_the_guide_says() -> anyhow::Result<()> {
    Scene::new(Guard::Open)?.twice(Release::V1_7, "", "k8s.io", &command("crictl pull")).map(drop)
}

/// Many ranges of one blob at once, by way of containerd's transfer service and of its CRI plugin.
const RANGES: &str = r#"
[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_downloads = 6
  concurrent_layer_fetch_buffer = 4194304
[plugins."io.containerd.cri.v1.images"]
  max_concurrent_downloads = 6
  concurrent_layer_fetch_buffer = 4194304
"#;

fn partial_answers(larder: &Larder) -> f64 {
    larder.metric("larder_requests_total", &[("endpoint", "blob"), ("code", "206")])
}

// T-09
#[test]
fn ctr_pulls_in_parallel_ranges_and_the_origin_sends_each_blob_once() -> anyhow::Result<()> {
    let larder = Scene::new(Guard::Open)?.twice(Release::V2_4, RANGES, "default", &command("ctr images pull"))?;
    assert!(partial_answers(&larder) > 16.0, "it asked for ranges: {}", larder.log());
    Ok(())
}

// T-09
#[test]
fn crictl_pulls_in_parallel_ranges_and_the_origin_sends_each_blob_once() -> anyhow::Result<()> {
    let larder = Scene::new(Guard::Open)?.twice(Release::V2_4, RANGES, "k8s.io", &command("crictl pull"))?;
    assert!(partial_answers(&larder) > 16.0, "it asked for ranges: {}", larder.log());
    Ok(())
}

/// The credential opens the image, warm and cold, and nothing else does.
fn private_images_need_their_credential(release: Release, guard: Guard) -> anyhow::Result<()> {
    let mut scene = Scene::new(guard)?;
    let credential = format!("{}:{}", Origin::USER, Origin::PASSWORD);
    let refused = |scene: &Scene, round: &str| -> anyhow::Result<()> {
        let containerd = scene.containerd(release, "")?;
        for words in ["", "--creds eve:guess"] {
            let answer = containerd.run(&format!("crictl pull {words} {ALPINE}"));
            assert!(answer.is_err(), "{round} {words}: {answer:?}");
            assert_eq!(containerd.blobs()?, BTreeSet::new(), "{round} {words}");
        }
        Ok(())
    };
    refused(&scene, "cold")?;
    for round in ["cold", "warm"] {
        let containerd = scene.containerd(release, "")?;
        containerd.run(&format!("crictl pull --creds {credential} {ALPINE}")).with_context(|| scene.larder.log())?;
        scene.check(&containerd, "k8s.io", ALPINE)?;
        let containerd = scene.containerd(release, "")?;
        let local = if release == Release::V1_7 { "--local" } else { "" };
        let hosts = "--hosts-dir /etc/containerd/certs.d";
        containerd.run(&format!("ctr images pull {local} {hosts} --user {credential} {ALPINE}"))?;
        scene.check(&containerd, "default", ALPINE)?;
        refused(&scene, round)?;
        if round == "cold" {
            scene.assert_asked_once();
            scene.origin.kill();
        }
    }
    assert!(!scene.larder.log().contains(Origin::PASSWORD));
    Ok(())
}

// T-09, S-01
#[test]
fn private_images_need_their_credential_with_basic_authentication() -> anyhow::Result<()> {
    private_images_need_their_credential(Release::V2_4, Guard::Basic)
}

// T-09, S-01
#[test]
fn private_images_need_their_credential_with_tokens() -> anyhow::Result<()> {
    private_images_need_their_credential(Release::V1_7, Guard::Token)
}

/// A registry's own folder: through larder while that is there, and from the registry when it is gone.
fn one_registry_goes_through_larder(release: Release) -> anyhow::Result<()> {
    let mut scene = Scene::new(Guard::Open)?;
    let hosts = example("# /etc/containerd/certs.d/registry.example:8443/hosts.toml")
        .replace("https://registry.example:8443", &scene.origin.url())
        .replace("127.0.0.1:5000", &scene.larder.host());
    let files = [
        ("containerd/config.toml", &*daemon_config(release)),
        ("containerd/certs.d/registry.example:8443/hosts.toml", &hosts),
    ];
    let containerd = Containerd::start(release, &files)?;
    containerd.run(&format!("crictl pull {APP}"))?;
    scene.check(&containerd, "k8s.io", APP)?;
    let direct = |scene: &Scene| scene.origin.requests().iter().filter(|line| line.contains("ns=")).count();
    assert_eq!(direct(&scene), 0, "{:#?}", scene.origin.requests());
    scene.assert_asked_once();
    scene.assert_no_errors()?;

    scene.larder.kill();
    let containerd = Containerd::start(release, &files)?;
    containerd.run(&format!("crictl pull {APP}"))?;
    scene.check(&containerd, "k8s.io", APP)?;
    assert!(direct(&scene) > 0, "containerd names the registry to a server of another name");
    Ok(())
}

// T-09
#[test]
fn one_registry_goes_through_larder_with_containerd_2_4() -> anyhow::Result<()> {
    one_registry_goes_through_larder(Release::V2_4)
}

// T-09
#[test]
fn one_registry_goes_through_larder_with_containerd_1_7() -> anyhow::Result<()> {
    one_registry_goes_through_larder(Release::V1_7)
}

/// What larder does not serve costs one request, and comes from the registry.
#[test]
fn an_excluded_registry_is_asked_itself() -> anyhow::Result<()> {
    let scene = Scene::new(Guard::Open)?;
    let larder = Larder::builder().config("exclude = [\"registry.example:8443\"]").start()?;
    let hosts = example("# /etc/containerd/certs.d/registry.example:8443/hosts.toml")
        .replace("https://registry.example:8443", &scene.origin.url())
        .replace("127.0.0.1:5000", &larder.host());
    let containerd = Containerd::start(
        Release::V2_4,
        &[
            ("containerd/config.toml", &daemon_config(Release::V2_4)),
            ("containerd/certs.d/registry.example:8443/hosts.toml", &hosts),
        ],
    )?;
    containerd.run(&format!("crictl pull {APP}"))?;
    scene.check(&containerd, "k8s.io", APP)
}

// T-09
#[test]
fn larder_with_tls_is_trusted_as_the_guide_says() -> anyhow::Result<()> {
    let scene = Scene::new(Guard::Open)?;
    let folder = TempDir::new()?;
    let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("certificate.pem"));
    let pair = KeyPair::generate()?;
    let pem = CertificateParams::new(vec!["larder.example".to_owned()])?.self_signed(&pair)?.pem();
    fs::write(&key, pair.serialize_pem())?;
    fs::write(&certificate, &pem)?;
    let larder = Larder::builder()
        .config(&format!("[tls]\ncert = {certificate:?}\nkey = {key:?}"))
        .upstream("docker.io", &[&scene.origin.url()], "")
        .start()?;
    let port = larder.address().port();
    let hosts = example("[host.\"https://larder.example:5000\"]").replace(":5000", &format!(":{port}"));
    let containerd = Containerd::start(
        Release::V2_4,
        &[
            ("containerd/config.toml", &daemon_config(Release::V2_4)),
            ("containerd/certs.d/_default/hosts.toml", &hosts),
            ("containerd/larder-ca.pem", &pem),
        ],
    )?;
    containerd.run(&command("crictl pull")).with_context(|| larder.log())?;
    scene.check(&containerd, "k8s.io", ALPINE)
}
