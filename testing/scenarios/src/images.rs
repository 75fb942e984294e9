use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use programs::{Paths, Program};

use crate::command::run;
use crate::origin::Origin;

/// What is in a repository that [`push_images`] has filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Digest of the tag `oci`: an OCI image of two gzip layers.
    pub oci: String,
    /// Digest of the tag `docker`: the same with Docker schema 2 manifests.
    pub docker: String,
    /// Digest of the tag `zstd`: the same with zstd layers.
    pub zstd: String,
    /// Digest of the tag `multi`: an OCI index of two platforms.
    pub multi: String,
    /// Digest of an artifact that refers to `multi`.
    pub sbom: String,
    /// Digest of an artifact that refers to `sbom`.
    pub signature: String,
}

impl Images {
    /// The tags, each with its digest.
    pub fn tags(&self) -> [(&'static str, &str); 4] {
        [("oci", &self.oci), ("docker", &self.docker), ("zstd", &self.zstd), ("multi", &self.multi)]
    }
}

/// The programs that make and copy images.
///
/// # Errors
/// They cannot be installed or built.
pub fn image_programs() -> anyhow::Result<Paths> {
    programs::debian(&["umoci", "skopeo"])?;
    programs::ensure(&[Program::Crane, Program::Oras, Program::Regctl])
}

/// Makes images with umoci and puts them in a repository of a plain origin, with skopeo, crane and oras.
///
/// # Errors
/// One of the programs fails.
pub fn push_images(origin: &Origin, repository: &str) -> anyhow::Result<Images> {
    let paths = image_programs()?;
    let work = tempfile::Builder::new().prefix("larder-images-").tempdir()?;
    let layout = work.path().join("layout");
    make_layout(work.path(), &layout)?;
    let name = format!("{}/{repository}", origin.host());
    let amd64 = format!("oci:{}:amd64", layout.display());
    // What is compressed already is pushed as it is, so zstd begins with layers that are not.
    let unpacked = format!("dir:{}", work.path().join("unpacked").display());
    run(Command::new("skopeo").args(["--insecure-policy", "copy", "--quiet", "--dest-decompress", &amd64, &unpacked]))?;
    for (from, tag, options) in [
        (&amd64, "oci", &["--format", "oci"][..]),
        (&amd64, "docker", &["--format", "v2s2"]),
        (&unpacked, "zstd", &["--format", "oci", "--dest-compress-format", "zstd"]),
        (&amd64, "amd64", &["--format", "oci"]),
        (&format!("oci:{}:arm64", layout.display()), "arm64", &["--format", "oci"]),
    ] {
        skopeo_push(from, &format!("docker://{name}:{tag}"), options)?;
    }
    let crane = || {
        let mut crane = Command::new(paths.get(Program::Crane));
        crane.env("DOCKER_CONFIG", work.path()).arg("--insecure");
        crane
    };
    let (amd64, arm64) = (format!("{name}:amd64"), format!("{name}:arm64"));
    run(crane().args(["index", "append", "-m", &amd64, "-m", &arm64, "-t", &format!("{name}:multi")]))?;
    let digest = |reference: &str| Ok::<_, anyhow::Error>(run(crane().args(["digest", reference]))?.trim().to_owned());
    let attach = |subject: &str, artifact_type: &str, file: &str| {
        fs::write(work.path().join(file), format!("what there is to say: {artifact_type}\n"))?;
        let mut oras = Command::new(paths.get(Program::Oras));
        oras.current_dir(work.path()).env("DOCKER_CONFIG", work.path()).args(["attach", "--plain-http", "--no-tty"]);
        oras.args(["--format", "go-template", "--template", "{{.digest}}", "--artifact-type", artifact_type]);
        anyhow::Ok(run(oras.args([subject, file]))?.trim().to_owned())
    };
    let multi = digest(&format!("{name}:multi"))?;
    let sbom = attach(&format!("{name}@{multi}"), "application/vnd.test.sbom", "sbom.json")?;
    let signature = attach(&format!("{name}@{sbom}"), "application/vnd.test.signature", "signature.json")?;
    Ok(Images {
        oci: digest(&format!("{name}:oci"))?,
        docker: digest(&format!("{name}:docker"))?,
        zstd: digest(&format!("{name}:zstd"))?,
        multi,
        sbom,
        signature,
    })
}

/// Puts one small image of two layers at `reference` (`host/repository:tag`), with credentials if the origin wants them.
/// Gives its digest.
///
/// # Errors
/// One of the programs fails.
pub fn push_image(origin: &Origin, name: &str, credentials: bool) -> anyhow::Result<String> {
    image_programs()?;
    let work = tempfile::Builder::new().prefix("larder-images-").tempdir()?;
    let layout = work.path().join("layout");
    make_layout(work.path(), &layout)?;
    let digest = work.path().join("digest");
    let digest_file = digest.display().to_string();
    let user = format!("{}:{}", Origin::USER, Origin::PASSWORD);
    let mut options = vec!["--format", "oci", "--digestfile", &digest_file];
    if credentials {
        options.extend(["--dest-creds", &user]);
    }
    let to = format!("docker://{}/{name}", origin.host());
    skopeo_push(&format!("oci:{}:amd64", layout.display()), &to, &options)?;
    Ok(fs::read_to_string(digest).context("skopeo wrote no digest")?.trim().to_owned())
}

fn skopeo_push(from: &str, to: &str, options: &[&str]) -> anyhow::Result<()> {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]).args(options);
    run(skopeo.args([from, to])).map(drop)
}

/// An OCI layout with the images `amd64` and `arm64`, of two gzip layers each.
fn make_layout(work: &Path, layout: &Path) -> anyhow::Result<()> {
    let umoci = |words: &[&str]| run(Command::new("umoci").args(words)).map(drop);
    let text: String =
        (0..20_000).map(|line| format!("{line}: the quick brown fox jumps over the lazy dog\n")).collect();
    fs::write(work.join("text"), text)?;
    umoci(&["init", "--layout", &layout.display().to_string()])?;
    for (seed, architecture) in [(1, "amd64"), (2, "arm64")] {
        let image = format!("{}:{architecture}", layout.display());
        fs::write(work.join("random"), random(1 << 20, seed))?;
        umoci(&["new", "--image", &image])?;
        for file in ["text", "random"] {
            umoci(&[
                "insert",
                "--rootless",
                "--image",
                &image,
                &work.join(file).display().to_string(),
                &format!("/{file}"),
            ])?;
        }
        umoci(&[
            "config",
            "--image",
            &image,
            "--os",
            "linux",
            "--architecture",
            architecture,
            "--config.cmd",
            "/text",
        ])?;
    }
    Ok(())
}

/// Bytes that do not compress and follow from `seed` (xorshift64).
fn random(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(size / 8).flatten().collect()
}
