//! What is there after larder was killed, or the power went, at any moment.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use faulty::{Fault, Image, Kind, Place, Rule, Upstream};
use rustix::process::Signal;
use scenarios::{Ending, Larder, Volume, ext4_image, scrub, wait_for};

/// Images of three layers and one shared by two each.
const IMAGES: usize = 24;

fn images(up: &Upstream) -> Vec<Image> {
    let sizes: [usize; 3] = [3_000, 300_000, 1_500_000];
    (0..IMAGES).map(|n| up.image(&format!("app/{}", n % 6), &*format!("v{n}"), &sizes, n as u64 / 2)).collect()
}

fn repository(n: usize) -> String {
    format!("/v2/up.test/app/{}", n % 6)
}

/// Numbers that nobody can foresee, printed so that a failure can be looked into.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        println!("dice {seed}");
        Dice(seed | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What larder has said, by its metrics, to be done with: from then on it must be true for ever.
#[derive(Default)]
struct Acknowledged(Mutex<HashSet<usize>>);

impl Acknowledged {
    fn all(&self) -> Vec<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// Pulls image after image until larder is gone or the test says so.
fn pull(larder: &Larder, images: &[Image], next: &AtomicUsize, done: &Acknowledged, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let n = next.fetch_add(1, Ordering::Relaxed) % images.len();
        if pull_one(larder, &images[n], n).is_err() {
            return;
        }
        // With no fill on its way, what was pulled is kept.
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let Ok(metrics) = larder.admin("/metrics") else { return };
            if metrics.is_complete() && metrics.text().lines().any(|line| line == "larder_fills_running 0") {
                break;
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
            assert!(Instant::now() < end, "fills never end");
        }
        done.0.lock().unwrap_or_else(PoisonError::into_inner).insert(n);
    }
}

fn pull_one(larder: &Larder, image: &Image, n: usize) -> anyhow::Result<()> {
    let mut client = larder.client()?;
    let manifest = client.ask("GET", &format!("{}/manifests/v{n}", repository(n)), &[])?;
    anyhow::ensure!(manifest.is_complete(), "cut");
    assert_eq!((manifest.status, manifest.digest()), (200, image.digest.clone()), "{}", manifest.text());
    for layer in &image.layers {
        let blob = client.ask("GET", &format!("{}/blobs/{layer}", repository(n)), &[])?;
        if blob.is_complete() && blob.status == 200 {
            assert_eq!(blob.digest(), *layer, "a complete and wrong blob");
        } else {
            anyhow::bail!("cut");
        }
    }
    Ok(())
}

/// Looks at every file of a store that nobody serves.
fn assert_whole(store: &Path) {
    let report = scrub(store).unwrap();
    assert_eq!(report["quarantined"], serde_json::json!([]), "{report}");
    assert_eq!(report["resealed"], 0, "{report}");
    let records = fs::read_dir(store.join("repositories/up.test/app")).into_iter().flatten().flatten();
    for tag in records.flat_map(|entry| fs::read_dir(entry.path().join("_tags")).into_iter().flatten().flatten()) {
        let text = fs::read_to_string(tag.path()).unwrap();
        let record: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{tag:?}: {e}: {text:?}"));
        assert!(record["digest"].as_str().is_some_and(|digest| digest.len() == 71), "{text}");
    }
}

fn leftovers(store: &Path) -> usize {
    fs::read_dir(store.join("ingest")).map_or(0, Iterator::count)
}

// D-01
#[tokio::test(flavor = "multi_thread")]
async fn whatever_larder_was_at_when_it_was_killed_all_that_is_there_is_whole() {
    let up = Upstream::start().await.unwrap();
    let images = images(&up);
    // Small enough that eviction runs as well, at every other pull.
    let config = "[store]\nbudget = \"12MB\"\n[freshness]\ndefault = \"0s\"";
    let mut larder = Larder::in_front_of("up.test", &up).config(config).log("info").start().unwrap();
    let (mut dice, next) = (Dice::new(), AtomicUsize::new(0));
    for round in 0..50 {
        let acknowledged = Acknowledged::default();
        let moment = Duration::from_millis(dice.below(120));
        // Tags move between two images of the same repository all the time.
        let (n, m) = (dice.below(6) as usize, dice.below(4) as usize * 6);
        up.move_tag(&format!("app/{n}"), "moving", &images[n + m].digest);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| pull(&larder, &images, &next, &acknowledged, &stop));
            }
            scope.spawn(|| while larder.get(&format!("/v2/up.test/app/{n}/manifests/moving")).is_ok() {});
            std::thread::sleep(moment);
            larder.signal(Signal::KILL);
        });
        larder = larder.restart().unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(leftovers(larder.store()), 0, "round {round}: half of something is left");
        assert_whole(larder.store());
        let moved = larder.get(&format!("/v2/up.test/app/{n}/manifests/moving")).unwrap();
        assert_eq!(moved.digest(), images[n + m].digest, "round {round}");
    }
    assert!(larder.metric("larder_store_budget_bytes", &[]) == 12e6);
}

// D-01
#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_before_a_kill_is_served_after_it_without_the_origin() {
    let up = Upstream::start().await.unwrap();
    let images = images(&up);
    let mut dice = Dice::new();
    let mut larder = Larder::in_front_of("up.test", &up).log("info").start().unwrap();
    let next = AtomicUsize::new(0);
    let acknowledged = Acknowledged::default();
    for _ in 0..8 {
        let moment = Duration::from_millis(20 + dice.below(150));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| pull(&larder, &images, &next, &acknowledged, &stop));
            }
            std::thread::sleep(moment);
            larder.signal(Signal::KILL);
        });
        larder = larder.restart().unwrap();
        wait_for("something was acknowledged", || {
            if acknowledged.all().is_empty() {
                let stop = AtomicBool::new(false);
                let n = next.load(Ordering::Relaxed) % images.len();
                std::thread::scope(|scope| {
                    scope.spawn(|| pull(&larder, &images[..=n], &AtomicUsize::new(n), &acknowledged, &stop));
                    std::thread::sleep(Duration::from_millis(50));
                    stop.store(true, Ordering::Relaxed);
                });
            }
            !acknowledged.all().is_empty()
        });
        up.refuse().await;
        for n in acknowledged.all() {
            pull_one(&larder, &images[n], n).unwrap_or_else(|error| panic!("image {n} was kept and is gone: {error}"));
        }
        up.accept().await.unwrap();
    }
}

// D-03
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_killed_larder_go_on_where_they_were() {
    let up = Upstream::start().await.unwrap();
    let (size, seed) = (8_000_000, 7);
    let cold = up.generated_blob("app", size, seed);
    let warm = up.generated_blob("app", size, seed + 1);
    up.rule(
        Rule::on(Kind::Blob)
            .get()
            .reference(&cold)
            .fault(Fault::Hold { at: Place::Fraction(0.5), gate: "half".into() }),
    );
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let target = |digest: &str| format!("/v2/up.test/app/blobs/{digest}");
    assert_eq!(larder.get(&target(&warm)).unwrap().digest(), warm);
    wait_for("the blob is kept", || larder.metric("larder_fills_total", &[("result", "kept")]) == 1.0);

    // Twenty clients in the middle of a body, half of them of a blob on its way.
    let mut streams = Vec::new();
    for n in 0..20 {
        let digest = if n % 2 == 0 { &cold } else { &warm };
        let mut client = larder.client().unwrap();
        client.send("GET", &target(digest), &[]).unwrap();
        assert_eq!(client.head().unwrap().0, 200);
        let mut body = Vec::new();
        client.read(&mut body, 1_000_000 + n).unwrap();
        assert_eq!(body.len(), 1_000_000 + n);
        streams.push((client, body, digest.clone()));
    }
    up.clear_rules();
    let larder = larder.restart().unwrap();
    up.open_gate("half");
    for (mut client, mut body, digest) in streams {
        // What was on the wire still comes; then there is an end, and it is not that of the blob.
        while matches!(client.read(&mut body, 1 << 20), Ok(1..)) {}
        assert!((body.len() as u64) < size, "the whole blob came");
        let range = format!("bytes={}-", body.len());
        let rest = larder.ask("GET", &target(&digest), &[("Range", &range)]).unwrap();
        assert_eq!((rest.status, rest.ending), (206, Ending::Complete), "{range}");
        body.extend_from_slice(&rest.body);
        assert_eq!(oci::Digest::sha256(&body).to_string(), digest);
    }
}

/// Stops a process, and waits until none of its threads is in the middle of a system call.
fn freeze(larder: &Larder) {
    larder.signal(Signal::STOP);
    wait_for("every thread is stopped", || {
        let threads = fs::read_dir(format!("/proc/{}/task", larder.pid())).unwrap().flatten();
        threads
            .map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default())
            .all(|stat| stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T')))
    });
}

// D-02
#[tokio::test(flavor = "multi_thread")]
async fn whatever_larder_was_at_when_the_power_went_what_it_acknowledged_is_there() {
    let up = Upstream::start().await.unwrap();
    let images = images(&up);
    // In memory, where a copy takes a moment and no other disk is waited for.
    let work = Volume::tmpfs("size=300m").unwrap();
    let disk = work.path().join("disk.img");
    ext4_image(&disk, 96 << 20, &["-E", "lazy_itable_init=1"]).unwrap();
    // Nothing is written of the kernel's own accord: what is there was asked for by fsync.
    let volume = Volume::image(&disk, "commit=600").unwrap();
    let mut dice = Dice::new();
    let (next, acknowledged) = (AtomicUsize::new(0), Acknowledged::default());
    for round in 0..16 {
        // The store is empty at every other round, so that its first files are among what may be lost.
        if round % 2 == 0 {
            let _ = fs::remove_dir_all(volume.store());
            acknowledged.0.lock().unwrap().clear();
        }
        let builder = Larder::in_front_of("up.test", &up).config("[freshness]\ndefault = \"0s\"").log("info");
        let larder = builder.store(&volume.store()).start().unwrap();
        let snapshot = work.path().join("snapshot.img");
        let stop = AtomicBool::new(false);
        let kept = std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| pull(&larder, &images, &next, &acknowledged, &stop));
            }
            std::thread::sleep(Duration::from_millis(dice.below(200)));
            let kept = acknowledged.all();
            println!("round {round}: {} kept", kept.len());
            freeze(&larder);
            fs::copy(&disk, &snapshot).unwrap();
            larder.signal(Signal::KILL);
            stop.store(true, Ordering::Relaxed);
            kept
        });
        drop(larder);
        let after = Volume::image(&snapshot, "commit=600").unwrap();
        if !kept.is_empty() || after.store().join("larder-store.json").exists() {
            assert_whole(&after.store());
        }
        let builder = Larder::in_front_of("up.test", &up).log("info").store(&after.store());
        let larder = builder.start().unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(leftovers(larder.store()), 0, "round {round}");
        up.refuse().await;
        for n in &kept {
            pull_one(&larder, &images[*n], *n)
                .unwrap_or_else(|error| panic!("round {round}: image {n} was kept and is gone: {error}"));
        }
        up.accept().await.unwrap();
        pull_one(&larder, &images[0], 0).unwrap();
    }
}

// D-01
#[tokio::test(flavor = "multi_thread")]
async fn the_very_first_start_can_be_killed_too() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("app/0", "v0", &[100_000], 1);
    let mut dice = Dice::new();
    for round in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let mut process = std::process::Command::new(Larder::binary())
            .args(["registry", "--listen", "127.0.0.1:0", "--metrics", "off", "--store"])
            .arg(&store)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(dice.below(30_000)));
        process.kill().unwrap();
        process.wait().unwrap();
        let larder = Larder::in_front_of("up.test", &up).store(&store).start();
        let larder = larder.unwrap_or_else(|error| panic!("round {round}: {error}"));
        pull_one(&larder, &image, 0).unwrap();
    }
}
