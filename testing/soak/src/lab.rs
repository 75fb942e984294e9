//! The cluster, larder on it, the two origins and what they have.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use faulty::{Auth, Tls, TokenSettings, Upstream};
use programs::Program;
use serde_json::{Value, json};
use testbed::{Cluster, ClusterSpec, Image, Kubectl, Layer, Node, NodeSpec, OriginSpec, Runtime, larder, wait_for};

use crate::plan::{COMES_AND_GOES, HAS_DISK, NODES, Need, name};

/// The registry host of the second origin, which is under the control of this program.
pub const SECOND: &str = "registry.faulty.example";
/// Where pods and ImageCaches are.
pub const NAMESPACE: &str = "soak";
/// A password that is to be seen nowhere.
pub const PASSWORD: &str = "dont-tell-3f9c1e77";
/// The account of that password, which may read `team/*` of the second origin.
pub const USER: &str = "team";
/// An account of the second origin that may not read it.
const STRANGER: (&str, &str) = ("stranger", "nothing-here");

/// How many images there are of each kind, and how many tags that move.
const PUBLIC: u64 = 40;
const OPEN: u64 = 20;
const PRIVATE: u64 = 20;
/// The number of tags that move.
pub const MOVING: usize = 3;

/// An image that pods use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Its reference.
    pub reference: String,
    /// Which origin has it.
    pub origin: Need,
    /// Whether it needs a pull secret.
    pub private: bool,
}

/// The cluster and its origins.
pub struct Lab {
    cluster: RwLock<Cluster>,
    /// The second origin.
    pub second: Upstream,
    /// All images but those of tags that move.
    pub images: Vec<Used>,
    /// What each of the tags that move means.
    moved: Mutex<Vec<String>>,
    seeds: AtomicU64,
}

impl Lab {
    /// Starts all of it.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(name: &str) -> Result<Lab> {
        let spec = ClusterSpec::new(name)
            .with_nodes((0..NODES).map(node_spec))
            .origin(OriginSpec::served_by_test(SECOND))
            .programs(&[Program::Helm])
            .progress(true);
        let cluster = Cluster::start(&spec)?;
        let second = serve_second(&cluster)?;
        let lab = Lab {
            cluster: RwLock::new(cluster),
            second,
            images: images(),
            moved: Mutex::new(vec![String::new(); MOVING]),
            seeds: AtomicU64::new(1),
        };
        lab.push_all()?;
        lab.install()?;
        Ok(lab)
    }

    /// The cluster, but for its changes.
    pub fn cluster(&self) -> RwLockReadGuard<'_, Cluster> {
        self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster, to take nodes away and add them.
    pub fn change(&self) -> RwLockWriteGuard<'_, Cluster> {
        self.cluster.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> Kubectl {
        self.cluster().kubectl().clone()
    }

    /// What the API server says to a `kubectl get`, soon or never.
    ///
    /// # Errors
    /// It does not answer within seconds.
    pub fn get(&self, words: &[&str]) -> Result<Value> {
        self.kubectl().json(&[&["--request-timeout=8s", "get"], words].concat())
    }

    /// Does something with a node. One that is being replaced is waited for.
    ///
    /// # Errors
    /// It does not join within a minute and a half, or what is done fails.
    pub fn on<T>(&self, node: usize, act: impl FnOnce(&Node) -> Result<T>) -> Result<T> {
        let there = || Ok(self.cluster().node(&name(node)).is_ok().then_some(()));
        wait_for(&format!("{} is there", name(node)), Duration::from_secs(90), there)?;
        act(self.cluster().node(&name(node))?)
    }

    /// Has a tag of the first origin mean a new image.
    ///
    /// # Errors
    /// The origin does not take it.
    pub fn move_tag(&self, number: usize) -> Result<()> {
        let seed = 10_000 + self.seeds.fetch_add(1, Ordering::Relaxed);
        let image = Image::new().seed(seed).layer(Layer::random(2 << 20));
        let written = self.cluster().origin("docker.io")?.push(&format!("library/moving-{number}:1"), &image)?;
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)[number] = written.digest;
        Ok(())
    }

    /// What the tags that move mean.
    pub fn moved(&self) -> Vec<(String, String)> {
        let moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        moved.into_iter().enumerate().map(|(number, digest)| (moving(number), digest)).collect()
    }

    fn push_all(&self) -> Result<()> {
        let cluster = self.cluster();
        let first = cluster.origin("docker.io")?;
        thread::scope(|scope| {
            let lane = |lane: u64| {
                scope.spawn(move || {
                    (lane..PUBLIC)
                        .step_by(2)
                        .try_for_each(|seed| first.push(&format!("library/app-{seed}:1"), &image(seed)).map(drop))
                })
            };
            let lanes = [lane(0), lane(1)];
            lanes.into_iter().try_for_each(|lane| lane.join().expect("no push panics"))
        })?;
        (0..OPEN).try_for_each(|seed| put(&self.second, &format!("open/app-{seed}"), &image(1000 + seed)))?;
        (0..PRIVATE).try_for_each(|seed| put(&self.second, &format!("team/app-{seed}"), &image(2000 + seed)))?;
        drop(cluster);
        (0..MOVING).try_for_each(|number| self.move_tag(number))
    }

    fn install(&self) -> Result<()> {
        let cluster = self.cluster();
        let kubectl = cluster.kubectl();
        kubectl.run(&["create", "namespace", NAMESPACE])?;
        larder::push(&cluster, &["1"])?;
        let core = "registry.nodeSelector.soak=core,controller.nodeSelector.soak=core";
        let values = format!("node.grace=2,registry.grace=2,controller.pullSecrets.namespaces={{{NAMESPACE}}}");
        larder::release(&cluster, "1", &[core, &values])?;
        for (secret, user, password) in
            [("right", USER, PASSWORD), ("wrong", USER, "not-this"), ("stranger", STRANGER.0, STRANGER.1)]
        {
            let login = json!({"auths": {SECOND: {"username": user, "password": password}}}).to_string();
            let object = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": NAMESPACE},
                "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": login},
            });
            kubectl.apply(&object.to_string())?;
        }
        let policy = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "CachePolicy", "metadata": {"name": "default"},
            "spec": {
                "freshness": {"default": "20s"},
                "cleanup": {"unusedFor": "1m", "minimumAge": "30s", "interval": "1m"},
            },
        });
        kubectl.apply(&policy.to_string())
    }

    /// The folders on a node in which larder's agent and registry keep blobs.
    ///
    /// # Errors
    /// The node is gone.
    pub fn stores(&self, node: usize) -> Result<Vec<PathBuf>> {
        self.on(node, |node| {
            let pods = node.machine().path("/var/lib/kubelet/pods");
            let volumes = fs::read_dir(pods).into_iter().flatten().flatten();
            let volumes = volumes.map(|pod| pod.path().join("volumes/kubernetes.io~empty-dir"));
            Ok(volumes.chain([node.machine().path("/var/lib/larder-node")]).filter(|path| path.exists()).collect())
        })
    }

    /// Ends the cluster; its logs stay if `failed`.
    ///
    /// # Errors
    /// Something of it is left.
    pub fn end(self, failed: bool) -> Result<()> {
        let cluster = self.cluster.into_inner().unwrap_or_else(PoisonError::into_inner);
        if failed {
            cluster.failed();
        }
        cluster.end()
    }
}

/// What a node is to be like.
#[must_use]
pub fn node_spec(node: usize) -> NodeSpec {
    let zone = if node < 3 { "zone-a" } else { "zone-b" };
    let spec = NodeSpec::new(&name(node)).zone(zone);
    match node {
        0 => spec.label("soak", "core"),
        1 => spec.label("soak", "core").runtime(Runtime::Containerd17),
        HAS_DISK => spec.disk(1 << 30),
        COMES_AND_GOES => spec.taint("larder.dev/warming", "NoSchedule"),
        _ => spec,
    }
}

/// The reference of a tag that moves.
#[must_use]
pub fn moving(number: usize) -> String {
    format!("docker.io/library/moving-{number}:1")
}

fn images() -> Vec<Used> {
    let of = |reference: String, origin, private| Used { reference, origin, private };
    let public = (0..PUBLIC).map(|number| of(format!("docker.io/library/app-{number}:1"), Need::First, false));
    let open = (0..OPEN).map(|number| of(format!("{SECOND}/open/app-{number}:1"), Need::Second, false));
    let private = (0..PRIVATE).map(|number| of(format!("{SECOND}/team/app-{number}:1"), Need::Second, true));
    public.chain(open).chain(private).collect()
}

/// An image that runs, of 1 to 8 MiB.
fn image(seed: u64) -> Image {
    Image::new().seed(seed).layer(Layer::random((1 + seed % 8) << 20))
}

fn serve_second(cluster: &Cluster) -> Result<Upstream> {
    let origin = cluster.origin(SECOND)?;
    let (certificate, key) = origin.certificate();
    let tls = Tls::given(&fs::read_to_string(certificate)?, &fs::read_to_string(key)?);
    let address = SocketAddr::from((origin.address(), 443));
    let second = cluster.internet().in_network(|| Upstream::open(address, Some(tls)))??;
    second.auth(Auth::Bearer);
    // By its name, and not by its address, for which it has no certificate.
    second.tokens(TokenSettings { realm: Some(format!("https://{SECOND}/token")), ..TokenSettings::default() });
    second.public("open/*");
    second.account(USER, PASSWORD, &["team/*"]);
    second.account(STRANGER.0, STRANGER.1, &["elsewhere/*"]);
    Ok(second)
}

/// Puts an image of the testbed into the second origin, under the tag `1`.
fn put(second: &Upstream, repository: &str, image: &Image) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let written = image.write(folder.path())?;
    let read = |digest: &str| blob(folder.path(), digest);
    let manifest = read(&written.digest)?;
    let parsed: Value = serde_json::from_slice(&manifest)?;
    let layers = parsed["layers"].as_array().context("it has layers")?;
    for part in layers.iter().chain([&parsed["config"]]) {
        second.blob(repository, read(part["digest"].as_str().context("it has a digest")?)?);
    }
    second.manifest(repository, "1", parsed["mediaType"].as_str().context("it has a type")?, manifest);
    Ok(())
}

fn blob(layout: &Path, digest: &str) -> Result<Vec<u8>> {
    let name = digest.strip_prefix("sha256:").context("a digest is sha256")?;
    Ok(fs::read(layout.join("blobs/sha256").join(name))?)
}
