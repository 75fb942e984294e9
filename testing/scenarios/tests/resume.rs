//! Blobs whose bodies stop in the middle, clients that leave in the middle, and ranges of blobs that are on their way.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::time::Duration;

use faulty::{Ending, Fault, Kind, Place, Rule, Upstream};
use scenarios::{Answer, Larder, noise, wait_for};

/// The end of a blob that leaves only when all of it is verified.
const HELD_BACK: usize = 64 << 10;
const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(30);

fn blob(digest: &str) -> String {
    format!("/v2/up.test/library/a/blobs/{digest}")
}

fn gets() -> Rule {
    Rule::on(Kind::Blob).get()
}

fn hold(at: usize) -> Fault {
    Fault::Hold { at: Place::Offset(at as u64), gate: "go".into() }
}

/// The `Range` headers of the GETs for a blob, in their order.
fn ranges(up: &Upstream, digest: &str) -> Vec<Option<String>> {
    let get = |request: &faulty::Request| request.method == "GET" && request.reference == digest;
    up.log().iter().filter(|request| get(request)).map(|request| request.range().map(str::to_owned)).collect()
}

#[track_caller]
fn assert_right(answer: &Answer, right: &[u8]) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.is_complete(), "{:?} after {} bytes", answer.ending, answer.body.len());
    assert!(answer.body == right, "wrong bytes");
}

fn settle(larder: &Larder) {
    wait_for("the end of the fill", || larder.metric("larder_fills_running", &[]) == 0.0);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_goes_on_where_it_stopped() {
    let up = Upstream::start().await.unwrap();
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    for (seed, how) in [(1, Ending::Fin), (2, Ending::Reset)] {
        let right = noise(4 * MIB, seed);
        let digest = up.blob("library/a", right.clone());
        up.rules(vec![gets().times(1).fault(Fault::cut_half(how))]);
        assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
        let ranges = ranges(&up, &digest);
        assert_eq!(ranges.len(), 2, "{ranges:?}");
        let from = ranges[1].as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: usize = from.unwrap_or_else(|| panic!("no open range: {ranges:?}"));
        // A reset may take what the kernel had not handed over.
        assert!(from == 2 * MIB || how == Ending::Reset && (1..2 * MIB).contains(&from), "{from}");
        settle(&larder);
        assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
        assert_eq!(up.blob_gets(&digest), 2, "it was kept");
    }
    assert_eq!(larder.metric("larder_fill_resumes_total", &[]), 2.0);
}

// bytes that come late are no reason to stop, as long as some come.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_again_and_again_but_goes_forward_arrives() {
    let up = Upstream::start().await.unwrap();
    let right = noise(40 * MIB, 3);
    let digest = up.blob("library/a", right.clone());
    let cut = Fault::Cut { at: Place::Byte(9 * MIB as u64), how: Ending::Fin };
    up.rule(gets().fault(cut));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
    assert_eq!(up.blob_gets(&digest), 5);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_always_breaks_off_at_one_place_is_given_up() {
    let up = Upstream::start().await.unwrap();
    let right = noise(4 * MIB, 4);
    let digest = up.blob("library/a", right.clone());
    let half = 2 * MIB;
    up.rule(gets().fault(Fault::Cut { at: Place::Offset(half as u64), how: Ending::Fin }));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let answer = larder.get(&blob(&digest)).unwrap();
    assert!(!answer.is_complete());
    if answer.status == 200 {
        assert!(answer.body.len() <= half && right.starts_with(&answer.body), "{} bytes", answer.body.len());
    }
    settle(&larder);
    let tries = up.blob_gets(&digest);
    assert!((2..=6).contains(&tries), "{tries} tries");
    assert_eq!(larder.metric("larder_fills_total", &[("result", "kept")]), 0.0);
    let head = larder.ask("HEAD", &blob(&digest), &[]).unwrap();
    assert_eq!(head.header("content-length"), Some("4194304"), "what is there of it is not taken for the whole");

    up.clear_rules();
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_ignores_ranges_is_put_up_with() {
    let up = Upstream::start().await.unwrap();
    let right = noise(4 * MIB, 5);
    let digest = up.blob("library/a", right.clone());
    up.rules(vec![gets().times(1).fault(Fault::cut_half(Ending::Fin)), gets().fault(Fault::IgnoreRange)]);
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
    assert_eq!(up.blob_gets(&digest), 2);
    assert_eq!(larder.metric("larder_fill_prefixes_discarded_total", &[]), 1.0);
}

// an answer that begins elsewhere than it says is caught by the digest.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_lies_about_a_range_is_caught() {
    let up = Upstream::start().await.unwrap();
    let right = noise(4 * MIB, 6);
    let digest = up.blob("library/a", right.clone());
    up.rules(vec![gets().times(1).fault(Fault::cut_half(Ending::Fin)), gets().fault(Fault::ShiftRange(-7))]);
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let answer = larder.get(&blob(&digest)).unwrap();
    assert!(!answer.is_complete() || answer.status == 502);
    assert!(answer.body.len() + HELD_BACK <= right.len());
    settle(&larder);
    up.clear_rules();
    // The only source was wrong, and is left alone for a moment.
    wait_for("the source to be asked again", || larder.get(&blob(&digest)).is_ok_and(|answer| answer.status == 200));
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_goes_on_elsewhere_and_hinders_nothing_else() {
    let (up, mirror) = (Upstream::start().await.unwrap(), Upstream::start().await.unwrap());
    let right = noise(4 * MIB, 7);
    let digest = up.blob("library/a", right.clone());
    let other = noise(MIB, 8);
    let cached = up.blob("library/a", other.clone());
    mirror.mirror_of(&up);
    let larder = Larder::builder()
        .upstream("up.test", &[&up.url(), &mirror.url()], "")
        .config("[deadlines]\nidle = \"2s\"")
        .start()
        .unwrap();
    assert_right(&larder.get(&blob(&cached)).unwrap(), &other);
    settle(&larder);

    // Nobody opens this gate.
    up.rule(gets().reference(&digest).fault(hold(2 * MIB)));
    let mut client = larder.client().unwrap();
    client.send("GET", &blob(&digest), &[]).unwrap();
    assert!(up.wait_at_gate("go", 1, LONG).await);
    let hits = larder.metric("larder_lookups_total", &[("kind", "blob"), ("outcome", "hit")]);
    for _ in 0..50 {
        assert_right(&larder.get(&blob(&cached)).unwrap(), &other);
    }
    assert_eq!(larder.metric("larder_lookups_total", &[("kind", "blob"), ("outcome", "hit")]), hits + 50.0);
    assert_right(&client.answer("GET").unwrap(), &right);
    assert_eq!(ranges(&mirror, &digest), [Some(format!("bytes={}-", 2 * MIB))]);
    assert_eq!(up.blob_gets(&cached), 1);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_asked_for_again_where_there_is_one_source() {
    let up = Upstream::start().await.unwrap();
    let right = noise(4 * MIB, 9);
    let digest = up.blob("library/a", right.clone());
    up.rule(gets().times(1).fault(hold(2 * MIB)));
    let larder = Larder::in_front_of("up.test", &up).config("[deadlines]\nidle = \"1s\"").start().unwrap();
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
    assert_eq!(ranges(&up, &digest), [None, Some(format!("bytes={}-", 2 * MIB))]);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_fill_goes_on_when_all_clients_have_left() {
    let up = Upstream::start().await.unwrap();
    let right = noise(8 * MIB, 10);
    let digest = up.blob("library/a", right.clone());
    up.rule(gets().fault(hold(MIB)));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| larder.client().unwrap()).collect();
    for client in &mut clients {
        client.send("GET", &blob(&digest), &[]).unwrap();
        assert_eq!(client.head().unwrap().0, 200);
        let mut body = Vec::new();
        client.read(&mut body, 1000).unwrap();
        assert_eq!(body, right[..1000]);
    }
    drop(clients);
    wait_for("the clients to be gone", || larder.metric("larder_streams", &[]) == 0.0);
    up.open_gate("go");
    settle(&larder);
    assert_eq!(larder.metric("larder_fills_total", &[("result", "kept")]), 1.0);
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
    assert_eq!(up.blob_gets(&digest), 1);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_nobody_waits_for_and_that_fails_leaves_nothing_behind() {
    let up = Upstream::start().await.unwrap();
    let right = noise(8 * MIB, 11);
    let digest = up.blob("library/a", right.clone());
    up.rule(gets().fault(hold(MIB)).fault(Fault::FlipBit(1)));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let mut client = larder.client().unwrap();
    client.send("GET", &blob(&digest), &[]).unwrap();
    assert_eq!(client.head().unwrap().0, 200);
    drop(client);
    up.open_gate("go");
    settle(&larder);
    assert_eq!(larder.metric("larder_fills_total", &[("result", "failed")]), 1.0);
    assert_eq!(larder.metric("larder_store_bytes", &[]), 0.0);
    up.clear_rules();
    // The only source was wrong, and is left alone for a moment.
    wait_for("the source to be asked again", || larder.get(&blob(&digest)).is_ok_and(|answer| answer.status == 200));
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_blob_on_its_way_are_exact_and_cost_one_download() {
    let up = Upstream::start().await.unwrap();
    let right = noise(4 * MIB, 12);
    let digest = up.blob("library/a", right.clone());
    let front = 2 * MIB;
    up.rule(gets().fault(hold(front)));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let size = right.len();
    let check = |answer: &Answer, first: usize, last: usize| {
        assert_eq!(answer.status, 206);
        assert!(answer.is_complete());
        assert_eq!(answer.header("content-range"), Some(&*format!("bytes {first}-{last}/{size}")));
        assert_eq!(answer.header("content-length"), Some(&*(last + 1 - first).to_string()));
        assert!(answer.body == right[first..=last], "wrong bytes of {first}-{last}");
    };
    let ask = |range: &str| {
        let mut client = larder.client().unwrap();
        client.send("GET", &blob(&digest), &[("Range", range)]).unwrap();
        client
    };

    // On a miss, while the download stands still.
    check(&ask("bytes=100-199").answer("GET").unwrap(), 100, 199);
    check(&ask(&format!("bytes={}-{}", front - 100, front - 1)).answer("GET").unwrap(), front - 100, front - 1);
    // Begun behind, across and beyond the front; answered as the bytes come.
    let mut across = ask(&format!("bytes={}-{}", front - 100, front + 99));
    let mut beyond = ask(&format!("bytes={}-", 3 * MIB));
    let mut suffix = ask("bytes=-500");
    let mut last = ask(&format!("bytes={}-{}", size - 1, size + 1000));
    let across_head = across.head().unwrap();
    let mut multiple = ask("bytes=0-9,20-29");
    let nothing = ask(&format!("bytes={size}-")).answer("GET").unwrap();
    assert_eq!(nothing.status, 416);
    assert_eq!(nothing.header("content-range"), Some(&*format!("bytes */{size}")));
    up.open_gate("go");
    check(&across.rest("GET", across_head).unwrap(), front - 100, front + 99);
    check(&beyond.answer("GET").unwrap(), 3 * MIB, size - 1);
    check(&suffix.answer("GET").unwrap(), size - 500, size - 1);
    check(&last.answer("GET").unwrap(), size - 1, size - 1);
    assert_right(&multiple.answer("GET").unwrap(), &right);

    settle(&larder);
    check(&ask("bytes=-1").answer("GET").unwrap(), size - 1, size - 1);
    assert_eq!(ranges(&up, &digest), [None], "one download of the whole");
}

//
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_wrong_blob_is_not_to_be_had_by_range_either() {
    let up = Upstream::start().await.unwrap();
    let right = noise(MIB, 13);
    let digest = up.blob("library/a", right.clone());
    up.rule(gets().fault(hold(MIB / 2)).fault(Fault::FlipBit(1)));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let mut client = larder.client().unwrap();
    client.send("GET", &blob(&digest), &[("Range", "bytes=-500")]).unwrap();
    let head = client.head().unwrap();
    assert_eq!(head.0, 206);
    up.open_gate("go");
    let answer = client.rest("GET", head).unwrap();
    assert!(!answer.is_complete());
    assert!(answer.body.is_empty(), "{} unverified bytes left", answer.body.len());
}
