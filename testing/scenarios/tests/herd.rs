//! Many clients at once for what is not there yet, and blobs that are very large.
#![allow(clippy::unwrap_used, reason = "a test fails where it must, and says what it has")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use faulty::{Fault, Kind, Place, Rule, Source, Upstream};
use oci::{Algorithm, Hasher};
use scenarios::{Client, Larder, noise, wait_for};

const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(30);

fn blob(digest: &str) -> String {
    format!("/v2/up.test/library/a/blobs/{digest}")
}

fn manifest(reference: &str) -> String {
    format!("/v2/up.test/library/a/manifests/{reference}")
}

fn hold(at: u64, gate: &str) -> Fault {
    Fault::Hold { at: Place::Offset(at), gate: gate.into() }
}

/// Asks for a blob and reads the head of the answer.
#[track_caller]
fn begin(larder: &Larder, digest: &str) -> Client {
    let mut client = larder.client().unwrap();
    client.send("GET", &blob(digest), &[]).unwrap();
    let (status, _) = client.head().unwrap();
    assert_eq!(status, 200);
    client
}

/// Reads what `right` says comes next, and nothing else.
#[track_caller]
fn expect(client: &mut Client, right: &[u8]) {
    let mut piece = Vec::new();
    for part in right.chunks(MIB) {
        piece.clear();
        client.read(&mut piece, part.len()).unwrap();
        assert!(piece == part, "wrong bytes, or {} of {}", piece.len(), part.len());
    }
}

//
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_cost_one_download_and_little_memory() {
    let up = Upstream::start().await.unwrap();
    let right = noise(64 * MIB, 1);
    let digest = up.blob("library/a", right.clone());
    up.cap(Some(50_000_000 / 8));
    up.rule(Rule::on(Kind::Blob).get().fault(hold(MIB as u64, "go")));
    let larder = Larder::in_front_of("up.test", &up).log("info").start().unwrap();
    let begun = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..200)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = begin(&larder, &digest);
                    expect(&mut client, &right[..4096]);
                    begun.fetch_add(1, Ordering::Relaxed);
                    expect(&mut client, &right[4096..]);
                })
            })
            .collect();
        // Everybody has the first bytes long before the upstream has sent the last ones.
        wait_for("the first bytes to be everywhere", || {
            begun.load(Ordering::Relaxed) == 200 || clients.iter().any(|client| client.is_finished())
        });
        up.open_gate("go");
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    assert_eq!(up.blob_gets(&digest), 1);
    assert!(up.count("HEAD", Kind::Blob) <= 1);
    assert_eq!(up.bytes_sent(&digest), right.len() as u64);
    let peak = larder.resident_at_most();
    assert!(peak < 150_000_000, "{} MiB", peak >> 20);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_herd_goes_on_when_the_client_that_began_it_is_gone() {
    let up = Upstream::start().await.unwrap();
    let right = noise(16 * MIB, 2);
    let digest = up.blob("library/a", right.clone());
    up.rule(Rule::on(Kind::Blob).get().fault(hold(MIB as u64, "go")));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let mut first = begin(&larder, &digest);
    expect(&mut first, &right[..1000]);
    let mut others: Vec<Client> = (0..8).map(|_| begin(&larder, &digest)).collect();
    drop(first);
    wait_for("the first to be gone", || larder.metric("larder_streams", &[]) == 8.0);
    up.open_gate("go");
    others.iter_mut().for_each(|client| expect(client, &right));
    assert_eq!(up.blob_gets(&digest), 1);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_holds_up_nobody() {
    let up = Upstream::start().await.unwrap();
    let right = noise(64 * MIB, 3);
    let digest = up.blob("library/a", right.clone());
    up.rule(Rule::on(Kind::Blob).get().fault(hold(MIB as u64, "go")));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    // They begin the fill, and do not read on.
    let mut slow: Vec<Client> = (0..10).map(|_| begin(&larder, &digest)).collect();
    let mut fast = begin(&larder, &digest);
    let before = larder.resident();
    up.open_gate("go");
    expect(&mut fast, &right);
    wait_for("the blob to be kept", || larder.metric("larder_fills_total", &[("result", "kept")]) == 1.0);
    let grown = larder.resident_at_most().saturating_sub(before);
    assert!(grown < 100 * MIB as u64, "{} MiB for ten clients that wait", grown >> 20);
    expect(&mut begin(&larder, &digest), &right);
    slow.iter_mut().for_each(|client| expect(client, &right));
    assert_eq!(up.blob_gets(&digest), 1);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_herd_for_what_fails_is_answered_and_costs_few_tries() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 16], 4);
    up.rule(Rule::any().fault(Fault::status(500)).fault(Fault::HoldHeaders("go".into())));
    let larder = Larder::in_front_of("up.test", &up).config("[limits]\nconnections = 500").start().unwrap();
    for path in [blob(&image.layers[0]), manifest("latest")] {
        up.shut_gate("go");
        up.clear_log();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..60)
                .map(|_| {
                    let (larder, path) = (&larder, &path);
                    scope.spawn(move || {
                        let answer = larder.get(path).unwrap();
                        assert!([502, 503].contains(&answer.status), "{}", answer.status);
                        assert!(answer.is_complete() && answer.error_code().is_some());
                    })
                })
                .collect();
            wait_for("all to have asked", || larder.metric("larder_connections", &[]) >= 60.0);
            up.open_gate("go");
            clients.into_iter().for_each(|client| client.join().unwrap());
        });
        // One question with its three repetitions; a second one if some came after the failure was forgotten.
        let tries = up.log().len();
        assert!(tries <= 8, "{tries} tries for {path}");
    }
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_three_gigabytes_streams_through_and_is_kept() {
    let up = Upstream::start().await.unwrap();
    let size = 3 << 30;
    let digest = up.generated_blob("library/a", size, 5);
    let larder = Larder::in_front_of("up.test", &up).log("info").start().unwrap();
    let before = larder.resident();
    for _ in 0..2 {
        let mut client = begin(&larder, &digest);
        let (mut hasher, mut left, mut piece) = (Hasher::new(Algorithm::Sha256), size, Vec::new());
        while left > 0 {
            piece.clear();
            let read = client.read(&mut piece, left.min(MIB as u64) as usize).unwrap();
            assert_ne!(read, 0, "{left} bytes are missing");
            hasher.update(&piece);
            left -= read as u64;
        }
        assert_eq!(hasher.finish().to_string(), digest);
        wait_for("the blob to be kept", || larder.metric("larder_fills_total", &[("result", "kept")]) == 1.0);
    }
    assert_eq!(up.blob_gets(&digest), 1);
    let grown = larder.resident_at_most().saturating_sub(before);
    assert!(grown < 100 * MIB as u64, "{} MiB", grown >> 20);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn every_byte_of_ten_gigabytes_leaves_as_it_comes() {
    let up = Upstream::start().await.unwrap();
    let source = Source::generated(10 << 30, 6);
    // Its true digest is not needed: nobody waits for the end.
    let digest = oci::Digest::sha256(b"ten gigabytes").to_string();
    up.blob_as("library/a", &digest, source.clone());
    let stops: [u64; 4] = [1, MIB as u64, 100 * MIB as u64, 400 * MIB as u64];
    let mut rule = Rule::on(Kind::Blob).get();
    for stop in stops {
        rule = rule.fault(hold(stop, &format!("at-{stop}")));
    }
    up.rule(rule);
    let larder = Larder::in_front_of("up.test", &up).log("info").start().unwrap();
    let mut client = larder.client().unwrap();
    client.send("GET", &blob(&digest), &[]).unwrap();
    let (status, headers) = client.head().unwrap();
    assert_eq!(status, 200);
    assert!(headers.contains(&("content-length".into(), (10u64 << 30).to_string())));
    let mut at = 0;
    for stop in stops {
        assert!(up.wait_at_gate(&format!("at-{stop}"), 1, LONG).await);
        // While the upstream stands still, the client gets all that it has sent.
        while at < stop {
            for part in source.slices(at, (stop - at).min(MIB as u64)) {
                expect(&mut client, &part);
                at += part.len() as u64;
            }
        }
        up.open_gate(&format!("at-{stop}"));
    }
    assert_eq!(up.blob_gets(&digest), 1);
}
