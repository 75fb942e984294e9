//! Real clients pull through larder what real registries have, and get what they would get from those.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use oci::Digest;
use programs::{Paths, Program};
use scenarios::{
    Client, Guard, Images, Larder, Origin, Software, docker_config, image_programs, push_image, push_images, run,
};
use tempfile::TempDir;

/// An origin with images, and a larder in front of it.
struct Scene {
    paths: Paths,
    origin: Origin,
    images: Images,
    larder: Larder,
    work: TempDir,
}

impl Scene {
    fn new(software: Software) -> anyhow::Result<Scene> {
        let paths = image_programs()?;
        let origin = Origin::start(software, Guard::Open)?;
        let images = push_images(&origin, "team/app")?;
        let larder = Larder::builder().upstream("origin.test", &[&origin.url()], "").start()?;
        Ok(Scene { paths, origin, images, larder, work: tempfile::tempdir()? })
    }

    /// The repository as larder's clients name it.
    fn name(&self) -> String {
        format!("{}/origin.test/team/app", self.larder.host())
    }

    fn program(&self, program: Program) -> Command {
        let mut command = Command::new(self.paths.get(program));
        command.env("DOCKER_CONFIG", self.work.path()).env("HOME", self.work.path()).current_dir(self.work.path());
        command
    }

    /// Does it cold, and again when everything is there and the origin is not.
    fn twice(mut self, pull: impl Fn(&Scene, &str) -> anyhow::Result<()>) -> anyhow::Result<()> {
        pull(&self, "cold")?;
        self.origin.kill();
        pull(&self, "warm")?;
        assert_eq!(self.larder.metric("larder_upstream_requests_total", &[("result", "error")]), 0.0);
        Ok(())
    }
}

/// The digests of the blobs in an OCI layout, each of which has the bytes of its name.
fn blobs_of(layout: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut digests = BTreeSet::new();
    for entry in fs::read_dir(layout.join("blobs/sha256"))? {
        let path = entry?.path();
        let digest = Digest::sha256(&fs::read(&path)?).to_string();
        assert_eq!(Some(digest.trim_start_matches("sha256:")), path.file_name().and_then(|name| name.to_str()));
        digests.insert(digest);
    }
    Ok(digests)
}

/// Every digest that can be reached from a manifest, itself included, read from the origin without larder.
fn reachable(origin: &str, repository: &str, top: &str) -> anyhow::Result<BTreeSet<String>> {
    let mut client = Client::connect(origin.parse()?)?;
    let accept = ["oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.v2"]
        .map(|kind| format!("application/vnd.{kind}+json"))
        .join(", ");
    let (mut found, mut waiting) = (BTreeSet::new(), vec![top.to_owned()]);
    while let Some(digest) = waiting.pop() {
        let target = format!("/v2/{repository}/manifests/{digest}");
        let manifest: serde_json::Value =
            serde_json::from_slice(&client.ask("GET", &target, &[("Accept", &accept)])?.body)?;
        found.insert(digest);
        let list = |name: &str| manifest[name].as_array().cloned().unwrap_or_default();
        let digest = |descriptor: &serde_json::Value| descriptor["digest"].as_str().map(str::to_owned);
        waiting.extend(list("manifests").iter().filter_map(digest));
        found.extend(list("layers").iter().chain([&manifest["config"]]).filter_map(digest));
    }
    Ok(found)
}

// T-05
fn crane_validates_and_pulls(software: Software) -> anyhow::Result<()> {
    Scene::new(software)?.twice(|scene, round| {
        for (tag, digest) in scene.images.tags() {
            let reference = format!("{}:{tag}", scene.name());
            let crane = |words: &[&str]| run(scene.program(Program::Crane).arg("--insecure").args(words));
            assert_eq!(crane(&["digest", &reference])?.trim(), digest, "{round}, {tag}");
            // Every layer is read, unpacked and held against the configuration.
            let said = crane(&["validate", "--remote", &reference])?;
            assert!(said.contains("PASS"), "{round}, {tag}: {said}");
            let layout = scene.work.path().join(format!("crane-{round}-{tag}"));
            crane(&["pull", "--format", "oci", &reference, &layout.display().to_string()])?;
            assert!(blobs_of(&layout)?.contains(digest), "{round}, {tag}");
        }
        Ok(())
    })
}

#[test]
fn crane_validates_and_pulls_from_distribution() -> anyhow::Result<()> {
    crane_validates_and_pulls(Software::Distribution)
}

#[test]
fn crane_validates_and_pulls_from_debians_registry() -> anyhow::Result<()> {
    crane_validates_and_pulls(Software::Debian)
}

#[test]
fn skopeo_copies_all_platforms() -> anyhow::Result<()> {
    let scene = Scene::new(Software::Distribution)?;
    let wanted = reachable(&scene.origin.host(), "team/app", &scene.images.multi)?;
    scene.twice(|scene, round| {
        for (tag, digest) in scene.images.tags() {
            let folder = scene.work.path().join(format!("skopeo-{round}-{tag}"));
            let mut skopeo = Command::new("skopeo");
            skopeo.args(["--insecure-policy", "copy", "--quiet", "--all", "--src-tls-verify=false"]);
            // Debian's skopeo writes an index anew, without the fields that it does not know, wherever it comes from.
            if tag != "multi" {
                skopeo.arg("--preserve-digests");
            }
            skopeo.args([format!("docker://{}:{tag}", scene.name()), format!("oci:{}:copy", folder.display())]);
            run(&mut skopeo)?;
            let copied = blobs_of(&folder)?;
            if tag == "multi" {
                assert!(wanted.iter().all(|part| part == digest || copied.contains(part)), "{round}: {copied:?}");
            } else {
                assert!(copied.contains(digest), "{round}, {tag}: {copied:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn oras_discovers_and_copies_referrers() -> anyhow::Result<()> {
    Scene::new(Software::Distribution)?.twice(|scene, round| {
        let Images { multi, sbom, signature, .. } = &scene.images;
        let reference = format!("{}:multi", scene.name());
        let oras = |words: &[&str]| run(scene.program(Program::Oras).args(words));
        let found = oras(&["discover", "--plain-http", "--format", "json", &reference])?;
        let found: serde_json::Value = serde_json::from_str(&found)?;
        let first = &found["referrers"][0];
        assert!(first["reference"].as_str().is_some_and(|name| name.ends_with(sbom.as_str())), "{round}: {found}");
        assert_eq!(first["artifactType"], "application/vnd.test.sbom", "{round}");
        let second = &first["referrers"][0];
        assert!(
            second["reference"].as_str().is_some_and(|name| name.ends_with(signature.as_str())),
            "{round}: {found}"
        );
        let other = ["discover", "--plain-http", "--format", "json", "--artifact-type", "application/vnd.test.other"];
        let other: serde_json::Value = serde_json::from_str(&oras(&[&other[..], &[&reference]].concat())?)?;
        assert!(other["referrers"].as_array().is_none_or(Vec::is_empty), "{round}: {other}");

        let layout = scene.work.path().join(format!("oras-{round}"));
        let to = format!("{}:copy", layout.display());
        oras(&["copy", "--recursive", "--no-tty", "--from-plain-http", "--to-oci-layout", &reference, &to])?;
        let copied = blobs_of(&layout)?;
        assert!([multi, sbom, signature].iter().all(|digest| copied.contains(*digest)), "{round}: {copied:?}");
        Ok(())
    })
}

#[test]
fn regctl_copies_referrers() -> anyhow::Result<()> {
    Scene::new(Software::Distribution)?.twice(|scene, round| {
        let Images { multi, sbom, signature, .. } = &scene.images;
        let regctl = |words: &[&str]| {
            let host = format!("reg={},tls=disabled", scene.larder.host());
            run(scene.program(Program::Regctl).args(["--host", &host]).args(words))
        };
        let reference = format!("{}:multi", scene.name());
        let layout = scene.work.path().join(format!("regctl-{round}"));
        regctl(&["image", "copy", "--referrers", &reference, &format!("ocidir://{}:copy", layout.display())])?;
        let copied = blobs_of(&layout)?;
        assert!([multi, sbom, signature].iter().all(|digest| copied.contains(*digest)), "{round}: {copied:?}");
        Ok(())
    })
}

#[test]
fn an_origin_with_tls_is_asked_over_tls() -> anyhow::Result<()> {
    image_programs()?;
    let origin = Origin::start_tls(Software::Distribution, Guard::Open)?;
    let digest = push_image(&origin, "team/app:1", false)?;
    let ca = origin.ca().expect("it speaks TLS").display().to_string();
    let upstream = format!(
        "[[upstream]]\nregistry = \"origin.test\"\n[[upstream.endpoint]]\nurl = {:?}\nca = {ca:?}",
        origin.url()
    );
    let larder = Larder::builder().config(&upstream).start()?;
    let work = tempfile::tempdir()?;
    let copy = |larder: &Larder, to: &str| {
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"])
            .arg(format!("docker://{}/origin.test/team/app:1", larder.host()))
            .arg(format!("oci:{}:1", work.path().join(to).display())))
    };
    copy(&larder, "trusted")?;
    assert!(blobs_of(&work.path().join("trusted"))?.contains(&digest));

    let doubting = Larder::builder().upstream("origin.test", &[&origin.url()], "").start()?;
    assert!(copy(&doubting, "doubted").is_err(), "nobody vouches for the origin's certificate");
    Ok(())
}

/// Docker's engine asks a mirror of `registry-mirrors` as if it were Docker Hub: no registry in the path, and no `ns`.
#[test]
fn docker_finds_its_images_without_naming_a_registry() -> anyhow::Result<()> {
    let mut origin = Origin::start(Software::Debian, Guard::Open)?;
    let images = push_images(&origin, "library/app")?;
    let larder = Larder::builder().upstream("docker.io", &[&origin.url()], "").start()?;
    let agent =
        ("User-Agent", "docker/28.0.0 go/go1.23 os/linux arch/amd64 UpstreamClient(Docker-Client/28.0.0 (linux))");
    let accept = (
        "Accept",
        "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, \
         application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/json",
    );
    for round in ["cold", "warm"] {
        let mut client = larder.client()?;
        assert_eq!(client.ask("GET", "/v2/", &[agent])?.status, 200);
        for (tag, digest) in images.tags() {
            let head = client.ask("HEAD", &format!("/v2/library/app/manifests/{tag}"), &[agent, accept])?;
            assert_eq!(head.header("docker-content-digest"), Some(digest), "{round}, {tag}");
            let top = client.ask("GET", &format!("/v2/library/app/manifests/{digest}"), &[agent, accept])?;
            assert_eq!((top.status, top.digest().as_str()), (200, digest), "{round}, {tag}");
            let mut manifest: serde_json::Value = serde_json::from_slice(&top.body)?;
            if let Some(child) = manifest["manifests"][0]["digest"].as_str() {
                let child = client.ask("GET", &format!("/v2/library/app/manifests/{child}"), &[agent, accept])?;
                manifest = serde_json::from_slice(&child.body)?;
            }
            for blob in manifest["layers"].as_array().expect("images have layers").iter().chain([&manifest["config"]]) {
                let digest = blob["digest"].as_str().expect("descriptors have digests");
                let answer = client.ask("GET", &format!("/v2/library/app/blobs/{digest}"), &[agent])?;
                assert_eq!((answer.status, answer.digest().as_str()), (200, digest), "{round}, {tag}");
            }
        }
        origin.kill();
    }
    // The same content under its whole name.
    assert_eq!(larder.get("/v2/docker.io/library/app/manifests/oci")?.digest(), images.oci);
    assert_eq!(larder.get("/v2/library/app/manifests/oci?ns=docker.io")?.digest(), images.oci);
    Ok(())
}

/// What became of a pull by skopeo, with these credentials or none.
fn pull(larder: &Larder, name: &str, credentials: Option<(&str, &str)>) -> anyhow::Result<BTreeSet<String>> {
    let work = tempfile::tempdir()?;
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
    match credentials {
        Some((user, password)) => skopeo.args(["--src-creds", &format!("{user}:{password}")]),
        None => skopeo.arg("--src-no-creds"),
    };
    skopeo.arg(format!("docker://{}/origin.test/{name}", larder.host()));
    run(skopeo.arg(format!("oci:{}:1", work.path().join("copy").display())))?;
    blobs_of(&work.path().join("copy"))
}

fn private_images_want_the_clients_credentials(software: Software, guard: Guard) -> anyhow::Result<()> {
    let paths = image_programs()?;
    let mut origin = Origin::start(software, guard)?;
    let digest = push_image(&origin, "team/private:1", true)?;
    let token_host = origin.token_host().map(|host| format!("token_hosts = [{host:?}]")).unwrap_or_default();
    let larder = Larder::builder()
        .config("[access]\nlogin = true")
        .upstream("origin.test", &[&origin.url()], &token_host)
        .start()?;
    let right = Some((Origin::USER, Origin::PASSWORD));
    let refused = |round: &str, credentials: Option<(&str, &str)>| {
        let error = pull(&larder, "team/private:1", credentials).expect_err(round).to_string();
        // A credential that the origin refuses is `DENIED`, so that no client takes larder for one that wants a login.
        let words =
            if credentials.is_some() { ["denied", "denied"] } else { ["unauthorized", "authentication required"] };
        assert!(words.iter().any(|word| error.contains(word)), "{round}: {error}");
    };

    refused("nobody has pulled it yet", None);
    refused("a wrong password", Some((Origin::USER, "wrong")));
    assert!(pull(&larder, "team/private:1", right)?.contains(&digest));
    refused("it is in the store now", None);
    refused("it is in the store now, and the password is wrong", Some((Origin::USER, "wrong")));
    refused("a user whom the origin does not know", Some(("nobody", Origin::PASSWORD)));
    let by_digest = larder.get(&format!("/v2/origin.test/team/private/manifests/{digest}"))?;
    assert_eq!(by_digest.status, 401, "knowing the digest is not enough: {}", by_digest.text());

    // Another client, which reads Docker's own file.
    let reference = format!("{}/origin.test/team/private:1", larder.host());
    let config = docker_config(&larder.host(), Origin::USER, Origin::PASSWORD)?;
    let crane = |folder: &Path| {
        run(Command::new(paths.get(Program::Crane)).env("DOCKER_CONFIG", folder).args([
            "--insecure",
            "digest",
            &reference,
        ]))
    };
    assert_eq!(crane(config.path())?.trim(), digest);
    let nothing = tempfile::tempdir()?;
    assert!(crane(nothing.path()).is_err());

    origin.kill();
    assert!(pull(&larder, "team/private:1", right)?.contains(&digest), "who was let in stays so without the origin");
    refused("nobody else without the origin", None);
    assert!(pull(&larder, "team/private:1", Some((Origin::USER, "wrong"))).is_err());
    let log = larder.log();
    assert!(!log.contains(Origin::PASSWORD), "the password is in the log:\n{log}");
    Ok(())
}

#[test]
fn private_images_of_an_origin_with_passwords() -> anyhow::Result<()> {
    private_images_want_the_clients_credentials(Software::Distribution, Guard::Basic)
}

#[test]
fn private_images_of_debians_registry_with_passwords() -> anyhow::Result<()> {
    private_images_want_the_clients_credentials(Software::Debian, Guard::Basic)
}

#[test]
fn private_images_of_an_origin_with_tokens() -> anyhow::Result<()> {
    private_images_want_the_clients_credentials(Software::Distribution, Guard::Token)
}

#[test]
fn private_images_of_debians_registry_with_tokens() -> anyhow::Result<()> {
    private_images_want_the_clients_credentials(Software::Debian, Guard::Token)
}

#[test]
fn public_images_of_an_origin_with_tokens_need_no_credentials() -> anyhow::Result<()> {
    image_programs()?;
    let mut origin = Origin::start(Software::Distribution, Guard::Token)?;
    let digest = push_image(&origin, "public/app:1", true)?;
    let token_hosts = format!("token_hosts = [{:?}]", origin.token_host().expect("it has a token service"));
    let larder = Larder::builder().upstream("origin.test", &[&origin.url()], &token_hosts).start()?;
    let issued = origin.tokens_issued();
    assert!(pull(&larder, "public/app:1", None)?.contains(&digest));
    assert_eq!(origin.tokens_issued() - issued, 1, "one token is enough for a whole pull");
    origin.kill();
    assert!(pull(&larder, "public/app:1", None)?.contains(&digest));
    Ok(())
}

#[test]
fn larders_own_credential_opens_what_it_is_shared_for() -> anyhow::Result<()> {
    image_programs()?;
    for guard in [Guard::Basic, Guard::Token] {
        let origin = Origin::start(Software::Distribution, guard)?;
        let digest = push_image(&origin, "team/private:1", true)?;
        let secret = tempfile::tempdir()?;
        let file = secret.path().join("password");
        fs::write(&file, Origin::PASSWORD)?;
        let token_hosts = origin.token_host().map(|host| format!("token_hosts = [{host:?}]\n")).unwrap_or_default();
        let credential = format!(
            "{token_hosts}credential = {{ username = {:?}, password_file = {:?} }}",
            Origin::USER,
            file.display().to_string()
        );
        let shared = Larder::builder()
            .upstream("origin.test", &[&origin.url()], &format!("shared = true\n{credential}"))
            .start()?;
        assert!(pull(&shared, "team/private:1", None)?.contains(&digest), "{guard:?}");
        let kept = Larder::builder().upstream("origin.test", &[&origin.url()], &credential).start()?;
        assert!(pull(&kept, "team/private:1", None).is_err(), "{guard:?}");
    }
    Ok(())
}
