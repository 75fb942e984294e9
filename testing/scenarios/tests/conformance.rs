//! The conformance suite of the distribution specification reads through larder what registries have that are larder's upstreams.

use std::path::Path;
use std::process::Command;

use programs::Program;
use scenarios::{Guard, Images, Larder, Origin, Software, push_images, run};

/// What the suite reads: everything that a pull and a look at referrers need.
struct Data {
    tags: String,
    manifests: String,
    blobs: String,
    referrers: String,
}

impl Data {
    /// The blobs are those of the manifests of `oci`, `docker` and `zstd`, asked from the origin itself.
    fn of(images: &Images, origin: &str, repository: &str) -> anyhow::Result<Data> {
        let mut blobs = Vec::new();
        for digest in [&images.oci, &images.docker, &images.zstd, &images.sbom] {
            let mut client = scenarios::Client::connect(origin.parse()?)?;
            let accept =
                "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
            let answer = client.ask("GET", &format!("/v2/{repository}/manifests/{digest}"), &[("Accept", accept)])?;
            let manifest: serde_json::Value = serde_json::from_slice(&answer.body)?;
            let layers = manifest["layers"].as_array().into_iter().flatten();
            for blob in layers.chain([&manifest["config"]]).filter_map(|descriptor| descriptor["digest"].as_str()) {
                if !blobs.iter().any(|other| other == blob) {
                    blobs.push(blob.to_owned());
                }
            }
        }
        let tags: Vec<_> = images.tags().iter().map(|(tag, _)| *tag).collect();
        Ok(Data {
            tags: tags.join(" "),
            manifests: [&images.oci, &images.docker, &images.zstd, &images.multi, &images.sbom, &images.signature]
                .map(String::as_str)
                .join(" "),
            blobs: blobs.join(" "),
            referrers: format!("{} {}", images.multi, images.sbom),
        })
    }
}

/// Runs the workflow of the suite that `filter` names, for both versions of the specification. Nothing may fail or be skipped.
fn conforms(suite: &Path, larder: &Larder, repository: &str, data: &Data, filter: &str) -> anyhow::Result<()> {
    for version in ["1.1", "dev"] {
        let results = tempfile::tempdir()?;
        let text = run(Command::new(suite)
            .current_dir(results.path())
            .env_clear()
            .env("OCI_VERSION", version)
            .env("OCI_REGISTRY", larder.host())
            .env("OCI_TLS", "disabled")
            .env("OCI_REPO1", repository)
            .env("OCI_REPO2", format!("{repository}-other"))
            .env("OCI_RESULTS_DIR", results.path())
            .env("OCI_FILTER_TEST", format!("OCI Conformance Test/{filter}"))
            .env("OCI_API_PUSH", "false")
            // The suite does not look at the answers for manifests whose bytes it does not know, and then says that the header is
            // missing: `every_manifest_is_named` looks instead.
            .env("OCI_API_MANIFESTS_DIGEST_HEADER", "false")
            .env("OCI_API_TAGS_DELETE", "false")
            .env("OCI_API_MANIFESTS_DELETE", "false")
            .env("OCI_API_BLOBS_DELETE", "false")
            .env("OCI_RO_DATA_TAGS", &data.tags)
            .env("OCI_RO_DATA_MANIFESTS", &data.manifests)
            .env("OCI_RO_DATA_BLOBS", &data.blobs)
            .env("OCI_RO_DATA_REFERRERS", &data.referrers))?;
        let count = |of: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(of));
            line.and_then(|rest| rest.trim_start_matches(['.', ':', ' ']).parse::<u64>().ok())
        };
        // The exit code says nothing: a configuration that the suite does not understand ends it with 0.
        assert!(text.contains("OCI Conformance Result: Pass"), "{version}, {filter}:\n{text}");
        let bad = ["FAIL", "Skip", "Error"].map(count);
        assert_eq!(bad, [Some(0); 3], "{version}, {filter}:\n{text}");
        assert!(count("Pass").is_some_and(|passed| passed > 0), "{version}, {filter}: nothing was tested:\n{text}");
    }
    every_manifest_is_named(larder, repository, data)
}

/// The digest stands in the answers for manifests, by tag and by digest, and is that of the bytes.
fn every_manifest_is_named(larder: &Larder, repository: &str, data: &Data) -> anyhow::Result<()> {
    let mut client = larder.client()?;
    for reference in data.tags.split(' ').chain(data.manifests.split(' ')) {
        let target = format!("/v2/{repository}/manifests/{reference}");
        let got = client.ask("GET", &target, &[])?;
        let head = client.ask("HEAD", &target, &[])?;
        assert_eq!((got.status, head.status), (200, 200), "{reference}: {}", got.text());
        let digest = got.digest();
        assert!(!reference.starts_with("sha256:") || reference == digest, "{reference} has the bytes of {digest}");
        for answer in [&got, &head] {
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "{reference}");
            assert_eq!(answer.header("content-length"), Some(got.body.len().to_string().as_str()), "{reference}");
            assert_eq!(answer.header("content-type"), got.header("content-type"), "{reference}");
        }
    }
    Ok(())
}

// T-03
fn reads_cold_warm_and_without_the_origin(software: Software) -> anyhow::Result<()> {
    let suite = programs::ensure(&[Program::Conformance])?;
    let suite = suite.get(Program::Conformance);
    let mut origin = Origin::start(software, Guard::Open)?;
    let images = push_images(&origin, "conformance/images")?;
    let data = Data::of(&images, &origin.host(), "conformance/images")?;
    let larder = Larder::builder().upstream("origin.test", &[&origin.url()], "").start()?;
    let repository = "origin.test/conformance/images";

    conforms(suite, &larder, repository, &data, "read-only")?;
    conforms(suite, &larder, repository, &data, "ping")?;
    // Lists of what there is nothing of.
    conforms(suite, &larder, repository, &data, "empty")?;

    let asked = origin.requests().len();
    conforms(suite, &larder, repository, &data, "read-only")?;
    assert_eq!(origin.requests()[asked..], [""; 0], "what is warm costs the origin nothing");

    origin.kill();
    conforms(suite, &larder, repository, &data, "read-only")
}

#[test]
fn reads_what_distribution_has() -> anyhow::Result<()> {
    reads_cold_warm_and_without_the_origin(Software::Distribution)
}

#[test]
fn reads_what_debians_registry_has() -> anyhow::Result<()> {
    reads_cold_warm_and_without_the_origin(Software::Debian)
}

/// The registries above list referrers under a tag; this one has the API for it.
#[tokio::test(flavor = "multi_thread")]
async fn reads_what_a_registry_with_referrers_has() -> anyhow::Result<()> {
    let suite = programs::ensure(&[Program::Conformance])?;
    let suite = suite.get(Program::Conformance);
    let up = faulty::Upstream::start().await?;
    let image = up.image("a/b", "one", &[100_000, 5_000_000], 1);
    up.image("a/b", "two", &[6_000], 2);
    up.image("a/b", "three", &[6_001], 3);
    let sbom = up.artifact("a/b", "application/vnd.test.sbom", &image, "contents");
    let larder = Larder::in_front_of("up.test", &up).start()?;
    let data = Data {
        tags: "one two three".into(),
        manifests: format!("{} {}", image.digest, sbom.digest),
        blobs: format!("{} {} {}", image.layers.join(" "), image.config, sbom.layers[0]),
        referrers: image.digest.clone(),
    };

    conforms(suite, &larder, "up.test/a/b", &data, "read-only")?;
    let asked = up.log().len();
    conforms(suite, &larder, "up.test/a/b", &data, "read-only")?;
    assert_eq!(up.log().len(), asked, "what is warm costs the origin nothing");
    drop(up);
    conforms(suite, &larder, "up.test/a/b", &data, "read-only")
}
