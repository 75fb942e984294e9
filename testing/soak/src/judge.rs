//! What must hold all the time, and what must when everything is quiet again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use faulty::Kind;
use k8s_openapi::jiff::fmt::strtime;
use oci::Digest;
use serde_json::Value;
use testbed::{Node, has_condition, wait_for};

use crate::lab::{Lab, NAMESPACE, PASSWORD, USER};
use crate::plan::{NODES, Need, name};
use crate::processes::{self, Role};
use crate::report::Journal;
use crate::windows::Windows;

const BEAT: Duration = Duration::from_secs(10);
/// When nothing is wrong any more, all must be as it is said to be within this time. A pull that failed is tried again after five
/// minutes at most, and the status follows within seconds.
const SETTLES: Duration = Duration::from_secs(330);
/// What a quiet process may have, in MiB and in descriptors.
const SIZES: [(Role, u64, usize); 3] = [(Role::Node, 96, 200), (Role::Registry, 128, 200), (Role::Controller, 96, 200)];
/// How often the origins may send each blob, on average.
const ONCE: f64 = 1.25;
/// After an outage of the registry, nodes ask the origins for so long, and an origin that failed may be passed over.
const RECOVERS: Duration = Duration::from_secs(40);

/// Looks at nodes and processes until `over`.
pub fn watch(lab: &Lab, over: &AtomicBool, windows: &Windows, journal: &Journal) {
    let mut most: BTreeMap<Role, (u64, usize)> = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        for node in 0..NODES {
            let needs = [Need::Node(node)];
            if let Ok(Some(gone)) = lab.on(node, used_and_gone)
                && windows.undisturbed(began, &needs)
            {
                journal.breach(format!("{}: containers run of {gone}, which is gone", name(node)));
            }
        }
        for process in processes::all(lab.cluster().name()).unwrap_or_default() {
            if let Some((bytes, descriptors)) = process.size() {
                let most = most.entry(process.role).or_default();
                *most = (most.0.max(bytes), most.1.max(descriptors));
            }
        }
        thread::sleep(BEAT);
    }
    for (role, (bytes, descriptors)) in most {
        journal.figure(&format!("most of a {role:?}"), format!("{} MiB, {descriptors} descriptors", bytes >> 20));
    }
}

/// An image of a container that runs and that the runtime does not have.
fn used_and_gone(node: &Node) -> Result<Option<String>> {
    let running = |node: &Node| -> Result<HashMap<String, String>> {
        let list: Value = serde_json::from_str(&node.crictl(&["ps", "-o", "json"])?)?;
        let containers = list["containers"].as_array().cloned().unwrap_or_default();
        let one =
            |container: &Value| Some((container["id"].as_str()?.to_owned(), container["imageId"].as_str()?.to_owned()));
        Ok(containers.iter().filter_map(one).collect())
    };
    let before = running(node)?;
    let there = ids(node)?;
    let after = running(node)?;
    let gone =
        before.iter().find(|(id, image)| after.contains_key(*id) && !image.is_empty() && !there.contains(*image));
    Ok(gone.map(|(_, image)| image.clone()))
}

fn images(node: &Node) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(&node.crictl(&["images", "-o", "json"])?)?;
    Ok(list["images"].as_array().cloned().unwrap_or_default())
}

fn ids(node: &Node) -> Result<HashSet<String>> {
    Ok(images(node)?.iter().filter_map(|image| image["id"].as_str().map(str::to_owned)).collect())
}

type Check = fn(&Lab, &Journal) -> Result<()>;

/// Everything that must hold when nothing is wrong any more.
pub fn verdict(lab: &Lab, windows: &Windows, journal: &Journal) {
    let began = Instant::now();
    match settled(lab) {
        Ok(()) => journal.figure("until all was as said", format!("{:.0} s", began.elapsed().as_secs_f64())),
        Err(error) => journal.breach(format!("status and truth differ: {error:#}")),
    }
    let checks: [(&str, Check); 3] = [
        ("the bytes of the runtimes", bytes_are_right),
        ("the processes", processes_are_small),
        ("the secret", nothing_tells_the_secret),
    ];
    for (what, check) in checks {
        if let Err(error) = check(lab, journal) {
            journal.breach(format!("{what}: {error:#}"));
        }
    }
    if let Err(error) = origins_were_asked_once(lab, windows, journal) {
        journal.breach(format!("the origins: {error:#}"));
    }
}

/// Waits until the statuses of all ImageCaches, the NodeCaches and what the runtimes have agree, and nothing is missing.
fn settled(lab: &Lab) -> Result<()> {
    let mut last = None;
    let waited = wait_for("all is as it is said to be", SETTLES, || {
        thread::sleep(Duration::from_millis(500));
        last = agrees(lab).err();
        Ok(last.is_none().then_some(()))
    });
    waited.map_err(|error| last.unwrap_or(error))
}

fn agrees(lab: &Lab) -> Result<()> {
    let nodes = lab.get(&["nodes"])?;
    let nodes: Vec<&Value> = nodes["items"].as_array().into_iter().flatten().collect();
    ensure!(nodes.len() == NODES, "there are {} nodes", nodes.len());
    for node in &nodes {
        let waits = node["spec"]["taints"].to_string().contains("larder.dev/warming");
        ensure!(has_condition(node, "Ready") && !waits, "{} is not ready, or still waits", node["metadata"]["name"]);
    }
    let pods = lab.get(&["pods", "-n", testbed::larder::NAMESPACE])?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        ensure!(has_condition(pod, "Ready"), "{} is not ready", pod["metadata"]["name"]);
    }
    let caches = lab.get(&["imagecaches", "-n", NAMESPACE])?;
    let caches: Vec<&Value> = caches["items"].as_array().into_iter().flatten().collect();
    ensure!(!caches.is_empty(), "there is no ImageCache");
    for cache in &caches {
        let called = &cache["metadata"]["name"];
        let current = cache["status"]["observedGeneration"] == cache["metadata"]["generation"];
        ensure!(current && has_condition(cache, "Warm"), "ImageCache {called}: {}", cache["status"]);
        let selected = if cache["spec"]["nodeSelector"].is_null() { NODES } else { 2 };
        ensure!(cache["status"]["warmNodes"] == selected, "ImageCache {called}: {}", cache["status"]);
    }
    let moved: HashMap<String, String> = lab.moved().into_iter().collect();
    for number in 0..NODES {
        let told = lab.get(&["nodecache", &name(number)])?;
        ensure!(has_condition(&told, "Ready"), "NodeCache {}: {}", name(number), told["status"]["conditions"]);
        let there = lab.on(number, images)?;
        for cache in &caches {
            let zone = &cache["spec"]["nodeSelector"]["topology.kubernetes.io/zone"];
            if !zone.is_null() && number < 3 {
                continue;
            }
            for wanted in cache["spec"]["images"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let said = told["status"]["images"].as_array().into_iter().flatten();
                let said = said.clone().find(|one| one["image"] == wanted);
                let said = said.with_context(|| format!("{} says nothing of {wanted}", name(number)))?;
                ensure!(said["state"] == "Warm", "{} says of {wanted}: {said}", name(number));
                let has = there.iter().find(|image| {
                    image["repoTags"].as_array().into_iter().flatten().any(|tag| tag.as_str() == Some(wanted))
                });
                if said["private"] == true {
                    ensure!(said["reason"] == "InStore", "{} says of {wanted}: {said}", name(number));
                    continue;
                }
                let has = has.with_context(|| format!("{} does not have {wanted}", name(number)))?;
                if let Some(digest) = moved.get(wanted) {
                    let right = has["repoDigests"].to_string().contains(digest);
                    ensure!(right, "{} has {wanted} as {}, not as {digest}", name(number), has["repoDigests"]);
                }
            }
        }
    }
    Ok(())
}

/// Every blob of every runtime has its digest.
fn bytes_are_right(lab: &Lab, journal: &Journal) -> Result<()> {
    let mut count = 0;
    for number in 0..NODES {
        let blobs = "/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256";
        let folder = lab.on(number, |node| Ok(node.machine().path(blobs)))?;
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            // What is removed meanwhile was not wrong.
            let Ok(bytes) = fs::read(&path) else { continue };
            let digest = Digest::sha256(&bytes).to_string();
            let right = path.file_name().is_some_and(|file| digest.ends_with(&*file.to_string_lossy()));
            ensure!(right, "{} has other bytes: {digest}", path.display());
            count += 1;
        }
    }
    ensure!(count > NODES, "the runtimes have nothing");
    journal.figure("blobs of the runtimes, all with their digests", count.to_string());
    Ok(())
}

fn processes_are_small(lab: &Lab, journal: &Journal) -> Result<()> {
    let found = processes::all(lab.cluster().name())?;
    for (role, mib, descriptors) in SIZES {
        let sizes: Vec<_> =
            found.iter().filter(|process| process.role == role).filter_map(processes::Process::size).collect();
        ensure!(!sizes.is_empty(), "there is no {role:?}");
        let most = (sizes.iter().map(|size| size.0 >> 20).max(), sizes.iter().map(|size| size.1).max());
        journal.figure(
            &format!("a quiet {role:?}, at most"),
            format!("{} MiB, {} descriptors", most.0.unwrap_or(0), most.1.unwrap_or(0)),
        );
        ensure!(most.0 <= Some(mib), "a {role:?} has {most:?} MiB and descriptors");
        ensure!(most.1 <= Some(descriptors), "a {role:?} has {most:?} MiB and descriptors");
    }
    Ok(())
}

/// Looks for the password, as it is and as it is sent, in all that larder writes and shows.
fn nothing_tells_the_secret(lab: &Lab, journal: &Journal) -> Result<()> {
    let login = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let secrets = [PASSWORD.as_bytes(), login.as_bytes()];
    let tells = |text: &[u8]| secrets.iter().any(|secret| text.windows(secret.len()).any(|part| part == *secret));
    let mut looked = 0;
    let kinds = "events,imagecaches,nodecaches,cachedimages,upstreams,cachepolicies,configmaps";
    let objects = lab.get(&[kinds, "-A"])?.to_string();
    ensure!(!tells(objects.as_bytes()), "an object has it");
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..NODES {
        lab.on(number, |node| {
            let metrics = node.machine().run(&["curl", "-s", "http://127.0.0.1:7441/metrics"])?;
            ensure!(metrics.contains("larder_"), "{} shows no metrics", name(number));
            ensure!(!tells(metrics.as_bytes()), "the metrics of {} have it", name(number));
            // Logs of larder's pods, and larder's files.
            for folder in fs::read_dir(node.machine().path("/var/log/pods"))?.flatten() {
                if folder.file_name().to_string_lossy().starts_with("larder_") {
                    below(&folder.path(), &mut files);
                }
            }
            below(&node.machine().path("/var/lib/larder-node"), &mut files);
            below(&node.machine().path("/etc/containerd"), &mut files);
            Ok(())
        })?;
        lab.stores(number)?.iter().for_each(|store| below(store, &mut files));
    }
    for file in files {
        // Layers are random bytes, and long.
        let small = fs::metadata(&file).is_ok_and(|metadata| metadata.len() < 1 << 20 || is_log(&file));
        if let (true, Ok(bytes)) = (small, fs::read(&file)) {
            ensure!(!tells(&bytes), "{} has it", file.display());
            looked += 1;
        }
    }
    journal.figure("files without the secret", looked.to_string());
    Ok(())
}

fn is_log(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "log")
}

fn below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => below(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

/// While the registry and the origins were well, the origins sent larder little more than each blob once.
fn origins_were_asked_once(lab: &Lab, windows: &Windows, journal: &Journal) -> Result<()> {
    let mut sent: HashMap<String, Sent> = HashMap::new();
    let mut count = |digest: &str, bytes: u64, need: Need, moment: SystemTime| {
        let sent = sent.entry(digest.to_owned()).or_default();
        sent.all += bytes;
        sent.largest = sent.largest.max(bytes);
        if windows.had(&[need, Need::Registry], moment, RECOVERS) {
            sent.undisturbed += bytes;
        }
    };
    for one in lab.cluster().origin("docker.io")?.requests()? {
        if one.is_blob_get() && one.status < 300 && one.agent.starts_with("larder/") {
            let moment = strtime::parse("%d/%b/%Y:%H:%M:%S %z", &one.time)?.to_timestamp()?;
            count(one.path.rsplit('/').next().unwrap_or_default(), one.bytes, Need::First, moment.into());
        }
    }
    for one in lab.second.log() {
        let larders = one.header("user-agent").is_some_and(|agent| agent.starts_with("larder/"));
        if larders && one.kind == Kind::Blob && one.method == "GET" && one.status < 300 {
            let moment = UNIX_EPOCH + Duration::from_millis(one.unix_ms);
            count(&one.reference, one.bytes, Need::Second, moment);
        }
    }
    let sum = |of: fn(&Sent) -> u64| sent.values().map(of).sum::<u64>() as f64;
    let (all, undisturbed, whole) = (sum(|one| one.all), sum(|one| one.undisturbed), sum(|one| one.largest));
    ensure!(whole > 0.0, "larder got nothing from them");
    journal.figure(
        "bytes that the origins sent larder, in blobs that it got",
        format!("{:.2} in all, {:.2} of them while registry and origins were well", all / whole, undisturbed / whole),
    );
    ensure!(undisturbed <= ONCE * whole, "the origins sent each blob {:.2} times", undisturbed / whole);
    Ok(())
}

/// The bytes of a blob that larder was sent.
#[derive(Default)]
struct Sent {
    all: u64,
    /// While nothing kept larder from asking once.
    undisturbed: u64,
    /// At once: its size, unless it only ever came in parts.
    largest: u64,
}
