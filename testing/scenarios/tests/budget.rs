//! What the store holds: once per digest, within its budget, the oldest going first.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use faulty::{Fault, Kind, Place, Rule, Upstream};
use scenarios::{Larder, wait_for};

const MB: u64 = 1_000_000;

fn blob(repository: &str, digest: &str) -> String {
    format!("/v2/up.test/{repository}/blobs/{digest}")
}

fn path_of(store: &Path, digest: &str) -> PathBuf {
    store.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

fn kept(larder: &Larder) -> f64 {
    larder.metric("larder_fills_total", &[("result", "kept")])
}

fn settle(larder: &Larder) {
    wait_for("no fill is on its way", || {
        larder.admin("/metrics").is_ok_and(|answer| answer.text().lines().any(|line| line == "larder_fills_running 0"))
    });
}

#[track_caller]
fn assert_served(larder: &Larder, repository: &str, digest: &str) {
    let answer = larder.get(&blob(repository, digest)).unwrap();
    assert_eq!((answer.status, answer.is_complete()), (200, true), "{}", answer.text());
    assert_eq!(answer.digest(), digest);
}

/// Bytes of all blobs on the disk.
fn held(store: &Path) -> u64 {
    let blobs = fs::read_dir(store.join("blobs/sha256")).into_iter().flatten().flatten();
    blobs.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

/// Says when a blob was last used, without waiting for that time.
fn used(larder: &Larder, digest: &str, seconds_ago: u64) {
    let file = fs::File::open(path_of(larder.store(), digest)).unwrap();
    let then = SystemTime::now() - Duration::from_secs(seconds_ago);
    file.set_times(fs::FileTimes::new().set_accessed(then)).unwrap();
}

fn there(larder: &Larder, digests: &[String]) -> Vec<bool> {
    digests.iter().map(|digest| path_of(larder.store(), digest).exists()).collect()
}

// G-01
#[tokio::test(flavor = "multi_thread")]
async fn two_clients_at_once_make_one_file() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", 3 * MB, 1);
    let hold = Fault::Hold { at: Place::Fraction(0.5), gate: "half".into() };
    up.rule(Rule::on(Kind::Blob).get().fault(hold));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut client = larder.client().unwrap();
            client.send("GET", &blob("app", &digest), &[]).unwrap();
            assert_eq!(client.head().unwrap().0, 200, "both are answered while the blob is on its way");
            let digest = &digest;
            scope.spawn(move || {
                let mut body = Vec::new();
                client.read(&mut body, 3 * MB as usize).unwrap();
                assert_eq!(oci::Digest::sha256(&body).to_string(), *digest);
            });
        }
        up.open_gate("half");
    });
    settle(&larder);
    assert_eq!((up.blob_gets(&digest), kept(&larder)), (1, 1.0));
    assert_eq!(held(larder.store()), 3 * MB);
    assert_eq!(fs::read_dir(larder.store().join("ingest")).unwrap().count(), 0);
}

// G-01
#[tokio::test(flavor = "multi_thread")]
async fn two_repositories_at_once_make_one_file() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("a", 3 * MB, 1);
    up.generated_blob("b", 3 * MB, 1);
    up.rule(Rule::on(Kind::Blob).get().fault(Fault::Hold { at: Place::Fraction(0.5), gate: "half".into() }));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    std::thread::scope(|scope| {
        for repository in ["a", "b"] {
            let (larder, digest) = (&larder, &digest);
            scope.spawn(move || assert_served(larder, repository, digest));
        }
        wait_for("both are on their way", || larder.metric("larder_fills_running", &[]) == 2.0);
        up.open_gate("half");
    });
    settle(&larder);
    assert_eq!(held(larder.store()), 3 * MB);
    assert_eq!(fs::read_dir(larder.store().join("ingest")).unwrap().count(), 0);
    wait_for("it is counted once", || larder.metric("larder_store_bytes", &[]) == 3e6);
    up.refuse().await;
    for repository in ["a", "b"] {
        assert_served(&larder, repository, &digest);
    }
}

// G-07
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_two_repositories_is_fetched_once_and_outlives_one_of_them() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("a", MB, 1);
    up.generated_blob("b", MB, 1);
    // Whether a repository is public is asked at every request.
    let larder = Larder::in_front_of("up.test", &up).config("[access]\npublic = \"0s\"").start().unwrap();
    assert_served(&larder, "a", &digest);
    settle(&larder);
    assert_served(&larder, "b", &digest);
    settle(&larder);
    assert_eq!((up.blob_gets(&digest), held(larder.store())), (1, MB));

    assert!(up.delete("a", &digest));
    for _ in 0..2 {
        let gone = larder.get(&blob("a", &digest)).unwrap();
        assert_eq!((gone.status, gone.error_code().as_deref()), (404, Some("BLOB_UNKNOWN")));
        assert_eq!(larder.ask("HEAD", &blob("a", &digest), &[]).unwrap().status, 404);
        assert_served(&larder, "b", &digest);
    }
    assert_eq!(up.blob_gets(&digest), 1);
}

// G-07
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_never_had_a_blob_does_not_get_it_from_another_one() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("b", MB, 1);
    up.generated_blob("a", MB, 2);
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    for _ in 0..2 {
        assert_eq!(larder.get(&blob("a", &digest)).unwrap().status, 404);
        assert_served(&larder, "b", &digest);
        settle(&larder);
        assert_eq!(larder.get(&blob("a", &digest)).unwrap().status, 404);
        assert_eq!(larder.ask("HEAD", &blob("a", &digest), &[]).unwrap().status, 404);
    }
}

// G-07
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_dropped_is_dropped_for_all_and_comes_back_for_each() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("a", MB, 1);
    up.generated_blob("b", MB, 1);
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    for repository in ["a", "b"] {
        assert_served(&larder, repository, &digest);
        settle(&larder);
    }
    fs::remove_file(path_of(larder.store(), &digest)).unwrap();
    for repository in ["a", "b"] {
        assert_served(&larder, repository, &digest);
        settle(&larder);
    }
    assert_eq!(up.blob_gets(&digest), 2);
}

// G-09
#[tokio::test(flavor = "multi_thread")]
async fn above_the_budget_what_was_used_longest_ago_goes_down_to_the_low_water() {
    let up = Upstream::start().await.unwrap();
    let larder = Larder::in_front_of("up.test", &up).config("[store]\nbudget = \"20MB\"").start().unwrap();
    let blobs: Vec<String> = (0..20).map(|seed| up.generated_blob("app", MB, seed)).collect();
    for digest in &blobs {
        assert_served(&larder, "app", digest);
        settle(&larder);
    }
    assert_eq!(held(larder.store()), 20 * MB, "up to its budget all stays");
    // The order of use is not that of arrival.
    for (n, digest) in blobs.iter().enumerate() {
        used(&larder, digest, 1000 + (n as u64 * 7) % 20 * 10);
    }
    let mut by_age: Vec<usize> = (0..20).collect();
    by_age.sort_by_key(|n| std::cmp::Reverse((n * 7) % 20));

    let new = up.generated_blob("app", MB, 100);
    assert_served(&larder, "app", &new);
    settle(&larder);
    wait_for("the store is at its low water", || held(larder.store()) <= 19 * MB);
    assert_eq!(held(larder.store()), 19 * MB, "and not below it");
    let there = there(&larder, &blobs);
    for (age, n) in by_age.iter().enumerate() {
        assert_eq!(there[*n], age >= 2, "blob {n}, the {age}th by age");
    }
    assert!(path_of(larder.store(), &new).exists());
    // What went is fetched again.
    assert_served(&larder, "app", &blobs[by_age[0]]);
    assert_eq!(up.blob_gets(&blobs[by_age[0]]), 2);
}

// G-09
#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_smaller_budget_drops_what_is_too_much() {
    let up = Upstream::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let start = |budget: &str| {
        let config = format!("[store]\nbudget = {budget:?}");
        Larder::in_front_of("up.test", &up).store(folder.path()).config(&config).start().unwrap()
    };
    let larder = start("100MB");
    let blobs: Vec<String> = (0..10).map(|seed| up.generated_blob("app", MB, seed)).collect();
    for digest in &blobs {
        assert_served(&larder, "app", digest);
    }
    settle(&larder);
    for (n, digest) in blobs.iter().enumerate() {
        used(&larder, digest, 1000 - n as u64);
    }
    drop(larder);
    let larder = start("5MB");
    let left = [false, false, false, false, false, false, true, true, true, true];
    wait_for("it is within its budget, with the newest left", || there(&larder, &blobs) == left);
    wait_for("it is told", || larder.metric("larder_evictions_total", &[]) == 6.0);
    assert_eq!(larder.metric("larder_evicted_bytes_total", &[]), 6e6);
}

// G-09
#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_budget_passes_through_and_drops_nothing() {
    let up = Upstream::start().await.unwrap();
    let (small, large) = (up.generated_blob("app", 2 * MB, 1), up.generated_blob("app", 6 * MB, 2));
    let larder = Larder::in_front_of("up.test", &up).config("[store]\nbudget = \"5MB\"").start().unwrap();
    assert_served(&larder, "app", &small);
    settle(&larder);
    for _ in 0..3 {
        assert_served(&larder, "app", &large);
        settle(&larder);
    }
    assert_eq!(there(&larder, &[small.clone(), large]), [true, false]);
    assert_served(&larder, "app", &small);
    assert_eq!(up.blob_gets(&small), 1);
    assert_eq!(larder.metric("larder_evictions_total", &[]), 0.0);
    assert_eq!(larder.metric("larder_fills_total", &[("result", "passed")]), 3.0);
}

// G-09
#[tokio::test(flavor = "multi_thread")]
async fn everything_hot_and_more_than_fits_is_served_within_the_budget() {
    let up = Upstream::start().await.unwrap();
    let larder = Larder::in_front_of("up.test", &up).config("[store]\nbudget = \"10MB\"").start().unwrap();
    let blobs: Vec<String> = (0..16).map(|seed| up.generated_blob("app", MB, seed)).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !stop.load(Ordering::Relaxed) {
                most = most.max(held(larder.store()));
                std::thread::yield_now();
            }
            most
        });
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (larder, blobs) = (&larder, &blobs);
                scope.spawn(move || {
                    for round in 0..60 {
                        assert_served(larder, "app", &blobs[(client * 5 + round * 3) % blobs.len()]);
                    }
                })
            })
            .collect();
        let results: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        stop.store(true, Ordering::Relaxed);
        let most = watch.join().unwrap();
        assert!(results.iter().all(Result::is_ok));
        // Four fills at a time may be under way.
        let log = || larder.log().lines().filter(|line| line.contains("evict")).collect::<Vec<_>>().join("\n");
        assert!(most <= 14 * MB, "{most} bytes\n{}", log());
    });
    settle(&larder);
    wait_for("the store is within its budget", || held(larder.store()) <= 10 * MB);
    wait_for("and says so", || larder.metric("larder_store_bytes", &[]) == held(larder.store()) as f64);
    assert_eq!(scenarios::scrub(larder.store()).unwrap()["quarantined"], serde_json::json!([]));
}

// G-09
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_being_sent_is_sent_to_its_end() {
    let up = Upstream::start().await.unwrap();
    let larder = Larder::in_front_of("up.test", &up).config("[store]\nbudget = \"24MB\"").start().unwrap();
    let slow = up.generated_blob("app", 20 * MB, 1);
    assert_served(&larder, "app", &slow);
    settle(&larder);
    let mut client = larder.client().unwrap();
    client.send("GET", &blob("app", &slow), &[]).unwrap();
    client.head().unwrap();
    let mut body = Vec::new();
    client.read(&mut body, 100_000).unwrap();
    used(&larder, &slow, 10_000);
    for seed in 2..12 {
        assert_served(&larder, "app", &up.generated_blob("app", MB, seed));
        settle(&larder);
    }
    assert!(path_of(larder.store(), &slow).exists(), "it is the oldest, and somebody reads it");
    client.read(&mut body, 20 * MB as usize - 100_000).unwrap();
    assert_eq!(oci::Digest::sha256(&body).to_string(), slow);
    drop(client);
    used(&larder, &slow, 10_000);
    wait_for("it goes when nobody reads it any more", || {
        let seed = 1000 + up.log().len() as u64;
        assert_served(&larder, "app", &up.generated_blob("app", MB, seed));
        settle(&larder);
        !path_of(larder.store(), &slow).exists()
    });
}

// G-09
#[tokio::test(flavor = "multi_thread")]
async fn pinned_images_stay_whole_whatever_comes() {
    let up = Upstream::start().await.unwrap();
    let pinned = up.image("base", "v1", &[2_000_000, 1_000_000], 1);
    let config = "pins = [\"up.test/base:v1\"]\n[store]\nbudget = \"5MB\"";
    let larder = Larder::in_front_of("up.test", &up).config(config).start().unwrap();
    let pull = |larder: &Larder| {
        let manifest = larder.get("/v2/up.test/base/manifests/v1").unwrap();
        assert_eq!(manifest.digest(), pinned.digest);
        for digest in pinned.layers.iter().chain([&pinned.config]) {
            assert_served(larder, "base", digest);
        }
        settle(larder);
    };
    pull(&larder);
    let all: Vec<String> = pinned.layers.iter().chain([&pinned.config, &pinned.digest]).cloned().collect();
    for digest in &all {
        used(&larder, digest, 100_000);
    }
    let larder = larder.restart().unwrap();
    for seed in 10..30 {
        assert_served(&larder, "app", &up.generated_blob("app", MB, seed));
        settle(&larder);
    }
    assert_eq!(there(&larder, &all), [true; 4]);
    let before = up.log().len();
    pull(&larder);
    assert_eq!(up.log().len(), before, "all of it is in the store");
    assert!(held(larder.store()) <= 5 * MB, "{}", held(larder.store()));
}

// G-09
#[tokio::test(flavor = "multi_thread")]
async fn pins_above_the_budget_leave_everything_else_passing_through() {
    let up = Upstream::start().await.unwrap();
    let pinned = up.image("base", "v1", &[4_000_000], 1);
    let config = "pins = [\"up.test/base:v1\"]\n[store]\nbudget = \"4MB\"";
    let larder = Larder::in_front_of("up.test", &up).config(config).start().unwrap();
    assert_eq!(larder.get("/v2/up.test/base/manifests/v1").unwrap().digest(), pinned.digest);
    assert_served(&larder, "base", &pinned.layers[0]);
    settle(&larder);
    let larder = larder.restart().unwrap();
    for seed in 10..20 {
        let digest = up.generated_blob("app", MB, seed);
        for _ in 0..2 {
            assert_served(&larder, "app", &digest);
        }
        settle(&larder);
    }
    wait_for("only what is pinned stays", || held(larder.store()) < 5 * MB);
    assert!(path_of(larder.store(), &pinned.layers[0]).exists());
    let before = up.blob_gets(&pinned.layers[0]);
    assert_served(&larder, "base", &pinned.layers[0]);
    assert_eq!(up.blob_gets(&pinned.layers[0]), before);
}
