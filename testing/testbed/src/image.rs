//! Images made on the fly: of any size, with any number of layers, for any platforms, compressible or not.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::tar::{self, Kind};

pub(crate) const BUSYBOX: &str = "/bin/busybox";
/// The commands that the images of tests may use. (The `-T` of Debian's `wget` dies with a segmentation fault.)
const APPLETS: &[&str] = &[
    "awk", "cat", "echo", "false", "grep", "head", "httpd", "ip", "ls", "md5sum", "nc", "nslookup", "ping", "printf",
    "sh", "sleep", "true", "wget",
];
const CHUNK: usize = 64 << 10;

/// An image to be made. By default it has busybox, so that it runs anywhere, and it sleeps.
///
/// Equal descriptions give equal digests, in every run.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<Layer>,
    platforms: Vec<String>,
    command: Vec<String>,
    seed: u64,
    annotations: Vec<(String, String)>,
}

/// A layer of an [`Image`].
#[derive(Debug, Clone)]
pub struct Layer(Content);

#[derive(Debug, Clone)]
enum Content {
    Busybox,
    Random { size: u64 },
    Text { size: u64 },
    Files(Vec<(String, u32, Vec<u8>)>),
}

impl Layer {
    /// One file of that many bytes that no compression makes smaller.
    #[must_use]
    pub const fn random(size: u64) -> Self {
        Self(Content::Random { size })
    }

    /// One file of that many bytes of text, which shrinks to a small part.
    #[must_use]
    pub const fn text(size: u64) -> Self {
        Self(Content::Text { size })
    }

    /// One file with that content. Programs need the mode 0o755.
    #[must_use]
    pub fn file(path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self(Content::Files(vec![(path.trim_start_matches('/').to_owned(), mode, content.into())]))
    }

    /// A program of this machine, at `path`, with the libraries that it is linked with.
    ///
    /// # Errors
    ///
    /// It or one of its libraries cannot be read.
    pub fn program(source: &Path, path: &str) -> Result<Self> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let mut files = vec![(path.trim_start_matches('/').to_owned(), 0o755, read(source)?)];
        // It fails for programs that are linked with nothing.
        let listed = Command::new("ldd").arg(source).output().context("cannot run ldd")?;
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
                files.push((library.trim_start_matches('/').to_owned(), 0o755, read(Path::new(library))?));
            }
        }
        Ok(Self(Content::Files(files)))
    }
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

impl Image {
    /// An image that runs and sleeps.
    #[must_use]
    pub fn new() -> Self {
        Self { layers: vec![Layer(Content::Busybox)], ..Self::empty() }
    }

    /// An image without any layer.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            layers: Vec::new(),
            platforms: vec![format!("linux/{}", host_architecture())],
            command: ["/bin/busybox", "sleep", "2147483647"].map(str::to_owned).into(),
            seed: 0,
            annotations: Vec::new(),
        }
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// The platforms, as `os/architecture` or `os/architecture/variant`. More than one make an index.
    #[must_use]
    pub fn platforms<T: Into<String>>(mut self, platforms: impl IntoIterator<Item = T>) -> Self {
        self.platforms = platforms.into_iter().map(Into::into).collect();
        self
    }

    /// What it runs.
    #[must_use]
    pub fn command<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// Makes the random and text layers differ from those of images with another seed.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Adds an annotation to the manifests.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Writes it as an OCI image layout into an empty folder.
    ///
    /// # Errors
    ///
    /// The folder cannot be written, or busybox is missing.
    pub fn write(&self, folder: &Path) -> Result<Written> {
        fs::create_dir_all(folder.join("blobs/sha256"))?;
        let mut written = Written { digest: String::new(), layers: Vec::new() };
        let mut manifests = Vec::new();
        for platform in &self.platforms {
            let mut descriptor = self.write_manifest(folder, platform, &mut written.layers)?;
            descriptor["platform"] = platform_of(platform);
            manifests.push(descriptor);
        }
        let top = if let [only] = &manifests[..] {
            only.clone()
        } else {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
            write_json(folder, INDEX, &index)?
        };
        written.digest = top["digest"].as_str().context("descriptors have digests")?.to_owned();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]});
        fs::write(folder.join("index.json"), index.to_string())?;
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(written)
    }

    fn write_manifest(&self, folder: &Path, platform: &str, all: &mut Vec<Blob>) -> Result<Value> {
        let mut layers = Vec::new();
        let mut unpacked = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let seed = mix(self.seed
                ^ mix(number as u64)
                ^ platform.bytes().fold(7, |seed, byte| mix(seed ^ u64::from(byte))));
            let (blob, diff_id) = write_layer(folder, layer, seed)?;
            layers.push(json!({"mediaType": LAYER, "digest": blob.digest, "size": blob.size}));
            unpacked.push(diff_id);
            if !all.contains(&blob) {
                all.push(blob);
            }
        }
        let mut config = platform_of(platform);
        config["config"] = json!({"Cmd": self.command, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]});
        config["rootfs"] = json!({"type": "layers", "diff_ids": unpacked});
        let config = write_json(folder, CONFIG, &config)?;
        let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        for (key, value) in &self.annotations {
            manifest["annotations"][key] = json!(value);
        }
        write_json(folder, MANIFEST, &manifest)
    }
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What became of an [`Image`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The digest of its index, or of its manifest where it has one platform.
    pub digest: String,
    /// Every different layer.
    pub layers: Vec<Blob>,
}

/// A blob as registries know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:` and the hash in hex.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

fn write_layer(folder: &Path, layer: &Layer, seed: u64) -> Result<(Blob, String)> {
    let unfinished = folder.join("unfinished");
    let file = BufWriter::new(File::create(&unfinished)?);
    // Compressing what does not compress would be most of the work of making an image.
    let level = if matches!(layer.0, Content::Random { .. }) { Compression::none() } else { Compression::fast() };
    let mut out = Hashing::new(GzEncoder::new(Hashing::new(file), level));
    write_tar(&mut out, &layer.0, seed)?;
    let (gzip, diff_id, _) = out.finish();
    let (mut file, digest, size) = gzip.finish()?.finish();
    file.flush()?;
    let blob = Blob { digest, size };
    fs::rename(&unfinished, blob_path(folder, &blob.digest))?;
    Ok((blob, diff_id))
}

fn write_tar(out: &mut impl Write, content: &Content, seed: u64) -> Result<()> {
    match content {
        Content::Busybox => {
            let program =
                fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}: install busybox-static"))?;
            for name in ["bin", "etc", "tmp", "var"] {
                tar::header(out, &format!("{name}/"), 0o755, &Kind::Folder)?;
            }
            tar::header(out, "bin/busybox", 0o755, &Kind::File { size: program.len() as u64 })?;
            out.write_all(&program)?;
            tar::pad(out, program.len() as u64)?;
            for name in APPLETS {
                tar::header(out, &format!("bin/{name}"), 0o777, &Kind::Symlink { target: "busybox" })?;
            }
        }
        Content::Files(files) => {
            for (path, mode, content) in files {
                tar::header(out, path, *mode, &Kind::File { size: content.len() as u64 })?;
                out.write_all(content)?;
                tar::pad(out, content.len() as u64)?;
            }
        }
        Content::Random { size } => {
            write_made(out, seed, *size, |state, chunk| {
                for word in chunk.chunks_exact_mut(8) {
                    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    word.copy_from_slice(&mix(*state).to_le_bytes());
                }
            })?;
        }
        Content::Text { size } => {
            write_made(out, seed, *size, |state, chunk| {
                for line in chunk.chunks_mut(64) {
                    *state = state.wrapping_add(1);
                    let text = format!("{:016x} the quick brown fox jumps over the lazy dog, twice\n", *state);
                    let length = line.len().min(text.len());
                    line[..length].copy_from_slice(&text.as_bytes()[..length]);
                    line[length..].fill(b'.');
                }
            })?;
        }
    }
    tar::end(out)?;
    Ok(())
}

fn write_made(out: &mut impl Write, seed: u64, size: u64, mut make: impl FnMut(&mut u64, &mut [u8])) -> Result<()> {
    tar::header(out, &format!("data-{seed:016x}"), 0o644, &Kind::File { size })?;
    let mut state = seed;
    let mut chunk = vec![0; CHUNK];
    let mut left = size;
    while left > 0 {
        make(&mut state, &mut chunk);
        let now = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        out.write_all(&chunk[..now])?;
        left -= now as u64;
    }
    tar::pad(out, size)?;
    Ok(())
}

fn write_json(folder: &Path, media_type: &str, value: &Value) -> Result<Value> {
    let bytes = value.to_string().into_bytes();
    let digest = digest_of(Sha256::new_with_prefix(&bytes));
    fs::write(blob_path(folder, &digest), &bytes)?;
    Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
}

fn blob_path(folder: &Path, digest: &str) -> std::path::PathBuf {
    folder.join("blobs").join(digest.replace(':', "/"))
}

fn platform_of(platform: &str) -> Value {
    let mut words = platform.split('/');
    let mut value = json!({"os": words.next(), "architecture": words.next()});
    if let Some(variant) = words.next() {
        value["variant"] = json!(variant);
    }
    value
}

/// This machine's architecture, by the name that images use.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The mixing step of splitmix64.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn digest_of(hash: Sha256) -> String {
    hash.finalize().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Passes bytes on and keeps their hash and number.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, digest_of(self.hash), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
