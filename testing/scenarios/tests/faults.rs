//! What comes of an upstream that sends wrong bytes or heads, fails, or is not there.
#![allow(clippy::unwrap_used, reason = "a test fails where it must, and says what it has")]

use std::path::Path;
use std::time::Duration;

use faulty::{Auth, BlackHole, Ending, Fault, Kind, Place, Rule, Tls, TokenSettings, Upstream};
use scenarios::{Answer, Builder, Larder, noise, wait_for, wait_for_some};

/// The end of a blob that leaves only when all of it is verified.
const HELD_BACK: usize = 64 << 10;
const LONG: Duration = Duration::from_secs(30);

fn blob(digest: &str) -> String {
    format!("/v2/up.test/library/a/blobs/{digest}")
}

fn manifest(reference: &str) -> String {
    format!("/v2/up.test/library/a/manifests/{reference}")
}

fn gets() -> Rule {
    Rule::on(Kind::Blob).get()
}

fn mismatches(larder: &Larder) -> f64 {
    larder.metric("larder_digest_mismatch_total", &[("source", "origin")])
}

#[track_caller]
fn assert_right(answer: &Answer, right: &[u8]) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.is_complete(), "{:?} after {} bytes", answer.ending, answer.body.len());
    assert!(answer.body == right, "wrong bytes");
}

/// Asks for a blob, opens the gate when the head is there, and asserts that the end never comes.
#[track_caller]
fn assert_given_up(larder: &Larder, up: &Upstream, digest: &str, most: usize) -> Answer {
    let mut client = larder.client().unwrap();
    client.send("GET", &blob(digest), &[]).unwrap();
    let head = client.head().unwrap();
    assert_eq!(head.0, 200);
    up.open_gate("go");
    let answer = client.rest("GET", head).unwrap();
    assert!(!answer.is_complete(), "a wrong blob was given as a whole one");
    assert!(answer.body.len() + HELD_BACK <= most, "{} of {most} bytes left", answer.body.len());
    wait_for("the end of the fill", || larder.metric("larder_fills_running", &[]) == 0.0);
    answer
}

fn hold() -> Fault {
    Fault::Hold { at: Place::Fraction(0.5), gate: "go".into() }
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_with_a_wrong_bit_is_never_given_whole_nor_kept() {
    let up = Upstream::start().await.unwrap();
    let right = noise(1 << 20, 1);
    let digest = up.blob("library/a", right.clone());
    up.rule(gets().fault(Fault::FlipBit(1)).fault(hold()));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();

    let answer = assert_given_up(&larder, &up, &digest, right.len());
    assert!(right.starts_with(&answer.body));
    assert_eq!(mismatches(&larder), 1.0);
    assert_eq!(larder.metric("larder_fills_total", &[("result", "kept")]), 0.0);
    assert_eq!(larder.metric("larder_store_bytes", &[]), 0.0, "something was kept");

    // The only source was wrong, and is left alone for a moment.
    up.clear_rules();
    wait_for("the source to be asked again", || larder.get(&blob(&digest)).is_ok_and(|answer| answer.status == 200));
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
    assert_eq!(up.blob_gets(&digest), 2, "the right bytes came from the upstream");
    assert_eq!(mismatches(&larder), 1.0);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_small_blob_with_a_wrong_bit_gives_no_byte() {
    let up = Upstream::start().await.unwrap();
    let right = noise(1000, 2);
    let digest = up.blob("library/a", right.clone());
    up.rule(gets().fault(Fault::FlipBit(1000)).fault(hold()));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let mut client = larder.client().unwrap();
    client.send("GET", &blob(&digest), &[]).unwrap();
    assert!(up.wait_at_gate("go", 1, LONG).await);
    up.open_gate("go");
    let answer = client.answer("GET").unwrap();
    assert!(answer.status == 502 || answer.status == 200 && answer.body.is_empty() && !answer.is_complete());
    assert_eq!(mismatches(&larder), 1.0);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_one_endpoint_are_replaced_by_the_next_ones() {
    let (bad, good) = (Upstream::start().await.unwrap(), Upstream::start().await.unwrap());
    let right = noise(1 << 20, 3);
    let digest = bad.blob("library/a", right.clone());
    good.mirror_of(&bad);
    bad.rule(gets().fault(Fault::FlipBit(1)));
    let larder = Larder::builder().upstream("up.test", &[&bad.url(), &good.url()], "").start().unwrap();
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
    assert_eq!((bad.blob_gets(&digest), good.blob_gets(&digest)), (1, 1));
    assert_eq!(mismatches(&larder), 1.0);
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
    assert_eq!((bad.blob_gets(&digest), good.blob_gets(&digest)), (1, 1), "the right bytes were kept");
}

// whoever has a wrong byte already cannot be helped, but is told; everybody else is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_byte_that_has_left_ends_that_answer_only() {
    let (bad, good) = (Upstream::start().await.unwrap(), Upstream::start().await.unwrap());
    let right = noise(2 << 20, 4);
    let digest = bad.blob("library/a", right.clone());
    good.mirror_of(&bad);
    // The bit is in the first quarter; the gate is in the middle.
    bad.rule(gets().fault(Fault::FlipBit(15 << 17)).fault(hold()));
    let larder = Larder::builder().upstream("up.test", &[&bad.url(), &good.url()], "").start().unwrap();
    let mut early = larder.client().unwrap();
    early.send("GET", &blob(&digest), &[]).unwrap();
    let head = early.head().unwrap();
    let mut body = Vec::new();
    early.read(&mut body, 1 << 20).unwrap();
    assert!(!right.starts_with(&body), "the wrong byte has left");
    let mut late = larder.client().unwrap();
    late.send("GET", &blob(&digest), &[("Range", "bytes=0-99")]).unwrap();
    let late_head = late.head().unwrap();
    bad.open_gate("go");
    let length = head.1.iter().find(|(name, _)| name == "content-length").unwrap().1.parse::<usize>().unwrap();
    let left = length - body.len();
    let rest = early.read(&mut body, left);
    assert!(rest.is_err() || body.len() < length, "a wrong blob was given as a whole one");
    let late = late.rest("GET", late_head).unwrap();
    assert_eq!((late.status, &late.body[..]), (206, &right[..100]));
    wait_for("the end of the fill", || larder.metric("larder_fills_running", &[]) == 0.0);
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
    assert_eq!(good.blob_gets(&digest), 1);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_trickle_gives_its_place_to_the_next_endpoint() {
    let (slow, good) = (Upstream::start().await.unwrap(), Upstream::start().await.unwrap());
    let right = noise(256 << 10, 5);
    let digest = slow.blob("library/a", right.clone());
    good.mirror_of(&slow);
    slow.rule(gets().fault(Fault::Trickle(1)));
    // The only place among requests at a time has to be given back for the next endpoint to be asked at all.
    let larder = Larder::builder()
        .upstream("up.test", &[&slow.url(), &good.url()], "limits = { concurrency = 1 }")
        .start()
        .unwrap();
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
    assert!(good.log().iter().any(|request| request.range().is_some()), "it went on from where it was");
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_is_believed_when_its_digest_is_right() {
    let up = Upstream::start().await.unwrap();
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    for (seed, framing) in [(6, Fault::NoContentLength), (7, Fault::UntilClose)] {
        let right = noise(1 << 20, seed);
        let digest = up.blob("library/a", right.clone());
        up.rules(vec![gets().fault(framing.clone())]);
        assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
        wait_for("the blob to be kept", || larder.metric("larder_fills_running", &[]) == 0.0);
        let again = larder.get(&blob(&digest)).unwrap();
        assert_right(&again, &right);
        assert_eq!(again.header("content-length"), Some("1048576"));
        assert_eq!(up.blob_gets(&digest), 1, "{framing:?}");

        let wrong = up.blob("library/a", noise(1 << 20, seed + 100));
        up.shut_gate("go");
        up.rules(vec![gets().fault(framing).fault(Fault::FlipBit(1)).fault(hold())]);
        assert_given_up(&larder, &up, &wrong, 1 << 20);
    }
    assert_eq!(mismatches(&larder), 2.0);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_length_than_said_is_given_up() {
    let up = Upstream::start().await.unwrap();
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    for (seed, off) in [(8, 100), (9, -100)] {
        let right = noise(1 << 20, seed);
        let digest = up.blob("library/a", right.clone());
        up.shut_gate("go");
        up.rules(vec![gets().fault(Fault::WrongLength(off)).fault(hold())]);
        let said = (right.len() as i64 + off) as usize;
        let answer = assert_given_up(&larder, &up, &digest, said);
        assert!(right.starts_with(&answer.body));
        up.clear_rules();
        wait_for("a source to be asked again", || larder.get(&blob(&digest)).is_ok_and(|answer| answer.status == 200));
        assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
    }
}

//
#[tokio::test(flavor = "multi_thread")]
async fn two_different_lengths_are_a_bad_gateway() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 20], 10);
    up.rule(Rule::any().get().fault(Fault::TwoLengths(1)));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    assert_eq!(larder.get(&blob(&image.layers[0])).unwrap().status, 502);
    assert_eq!(larder.get(&manifest("latest")).unwrap().status, 502);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_not_what_its_digest_says_is_a_bad_gateway() {
    let up = Upstream::start().await.unwrap();
    let one = up.image("library/a", "one", &[1 << 12], 11);
    let two = up.image("library/a", "two", &[1 << 12], 12);
    let larder = Larder::in_front_of("up.test", &up).config("[freshness]\ndefault = \"0s\"").start().unwrap();
    assert_eq!(larder.get(&manifest("one")).unwrap().digest(), one.digest);

    for (seed, fault) in [(33, Fault::OtherBytes), (34, Fault::WrongDigestHeader(None))] {
        let tag = format!("t{seed}");
        let image = up.image("library/a", &*tag, &[1 << 12], seed);
        up.rules(vec![Rule::on(Kind::Manifest).get().fault(fault.clone())]);
        let before = mismatches(&larder);
        for reference in [&image.digest, &tag] {
            let answer = larder.get(&manifest(reference)).unwrap();
            assert_eq!(answer.status, 502, "{fault:?} {reference}");
            assert_ne!(answer.body, image.bytes);
        }
        assert_eq!(mismatches(&larder), before + 2.0);
    }

    // A tag that is known stays what it was.
    up.move_tag("library/a", "one", &two.digest);
    let answer = larder.get(&manifest("one")).unwrap();
    assert_eq!((answer.status, answer.digest()), (200, one.digest.clone()));
    assert!(answer.header("warning").is_some_and(|warning| warning.starts_with("299 ")));

    // Nothing of it was kept.
    up.clear_rules();
    let moved = wait_for_some("the tag's new image", || {
        larder.get(&manifest("one")).ok().filter(|answer| answer.header("warning").is_none())
    });
    assert_eq!((moved.status, moved.digest()), (200, two.digest.clone()));
    assert_eq!(moved.body, two.bytes);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_without_a_digest_gets_one() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 12], 13);
    up.rule(Rule::any().fault(Fault::NoDigestHeader));
    let larder = Larder::in_front_of("up.test", &up).config("[freshness]\ndefault = \"0s\"").start().unwrap();
    for (method, reference) in [("GET", "latest"), ("GET", "latest"), ("HEAD", "latest"), ("GET", &*image.digest)] {
        let answer = larder.ask(method, &manifest(reference), &[]).unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("docker-content-digest"), Some(&*image.digest), "{method} {reference}");
        assert_eq!(method == "GET", answer.body == image.bytes);
    }
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_few_server_errors_are_not_seen() {
    let up = Upstream::start().await.unwrap();
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    for (seed, code) in [(14, 500), (15, 502), (16, 503)] {
        let tag = format!("t{code}");
        let image = up.image("library/a", &*tag, &[1 << 12], seed);
        up.rules(vec![
            Rule::on(Kind::Manifest).times(3).fault(Fault::status(code)),
            gets().times(3).fault(Fault::status(code)),
        ]);
        up.clear_log();
        let answer = larder.get(&manifest(&tag)).unwrap();
        assert_eq!((answer.status, answer.digest()), (200, image.digest.clone()), "{code}");
        assert_eq!(up.count("GET", Kind::Manifest), 4);
        let layer = larder.get(&blob(&image.layers[0])).unwrap();
        assert_eq!((layer.status, layer.digest()), (200, image.layers[0].clone()), "{code}");
        assert_eq!(up.blob_gets(&image.layers[0]), 4);
    }
}

//
#[tokio::test(flavor = "multi_thread")]
async fn server_errors_that_stay_give_the_last_answer_or_a_bad_gateway() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "known", &[1 << 12], 17);
    up.move_tag("library/a", "new", &image.digest);
    let larder = Larder::in_front_of("up.test", &up).config("[freshness]\ndefault = \"0s\"").start().unwrap();
    assert_eq!(larder.get(&manifest("known")).unwrap().status, 200);
    up.rule(Rule::any().fault(Fault::status(503)));
    up.clear_log();
    let stale = larder.get(&manifest("known")).unwrap();
    assert_eq!((stale.status, stale.digest()), (200, image.digest.clone()));
    assert!(stale.header("warning").is_some_and(|warning| warning.starts_with("299 ")));
    assert_eq!(up.log().len(), 4, "tried three times more");
    let unknown = larder.get(&manifest("new")).unwrap();
    assert!([502, 503].contains(&unknown.status), "{}", unknown.status);
    assert_eq!(larder.metric("larder_stale_answers_total", &[]), 1.0);
}

/// A store with the tag `known` of this upstream in it, and its image.
fn warm_store(folder: &Path, up: &Upstream, seed: u64) -> faulty::Image {
    let image = up.image("library/a", "known", &[1 << 20], seed);
    let larder = Larder::in_front_of("up.test", up).store(folder).start().unwrap();
    assert_eq!(larder.get(&manifest("known")).unwrap().status, 200);
    let layer = larder.get(&blob(&image.layers[0])).unwrap();
    assert_eq!(layer.digest(), image.layers[0]);
    wait_for("the layer to be kept", || larder.metric("larder_fills_running", &[]) == 0.0);
    image
}

/// The known tag is served with a warning, its layer as ever, and what is unknown with `status`.
#[track_caller]
fn assert_bridges(what: &str, builder: Builder, folder: &Path, image: &faulty::Image, status: &[u16]) -> Larder {
    let short = "[freshness]\ndefault = \"0s\"\n[deadlines]\nconnect = \"1s\"\nheaders = \"2s\"\nanswer = \"4s\"";
    let larder = builder.config(short).store(folder).start().unwrap();
    let answer = larder.get(&manifest("known")).unwrap();
    assert_eq!((answer.status, answer.digest()), (200, image.digest.clone()), "{what}");
    assert!(answer.header("warning").is_some_and(|warning| warning.starts_with("299 ")), "{what}");
    let by_digest = larder.get(&manifest(&image.digest)).unwrap();
    assert_eq!((by_digest.status, &by_digest.body[..]), (200, &image.bytes[..]), "{what}");
    let layer = larder.get(&blob(&image.layers[0])).unwrap();
    assert_eq!((layer.status, layer.digest()), (200, image.layers[0].clone()), "{what}");
    let unknown = larder.get(&manifest("unknown")).unwrap();
    assert!(status.contains(&unknown.status), "{what}: {} {}", unknown.status, unknown.text());
    assert!(unknown.error_code().is_some(), "{what}");
    larder
}

//
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_not_there_is_bridged() {
    let up = Upstream::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let image = warm_store(&store, &up, 18);

    up.rule(Rule::connections().fault(Fault::Reset));
    assert_bridges("reset", Larder::in_front_of("up.test", &up), &store, &image, &[502]);
    up.rules(vec![Rule::connections().fault(Fault::Close)]);
    assert_bridges("closed", Larder::in_front_of("up.test", &up), &store, &image, &[502]);
    up.refuse().await;
    assert_bridges("refused", Larder::in_front_of("up.test", &up), &store, &image, &[502]);

    // Longer than a name may be, so that no name server is asked.
    let nowhere = format!("http://{}.test", "n".repeat(64));
    assert_bridges("name", Larder::builder().upstream("up.test", &[&nowhere], ""), &store, &image, &[502]);

    let tls = Upstream::start_tls(Tls::trusted()).await.unwrap();
    tls.rule(Rule::connections().fault(Fault::TlsAlert(80)));
    assert_bridges("alert", Larder::in_front_of("up.test", &tls), &store, &image, &[502]);
    tls.clear_rules();
    assert_bridges("untrusted", Larder::in_front_of("up.test", &tls), &store, &image, &[502]);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_left_alone_after_a_while_and_hinders_nothing_else() {
    let up = Upstream::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let image = warm_store(&store, &up, 19);
    let hole = BlackHole::start().await.unwrap();
    let url = format!("http://{}", hole.addr());
    let builder = Larder::builder().upstream("up.test", &[&url], "");
    let larder = assert_bridges("black hole", builder, &store, &image, &[502, 504]);

    // Five in a row open the breaker; what is in the store is served all the while.
    let layer = blob(&image.layers[0]);
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..5)
            .map(|n| {
                let larder = &larder;
                scope.spawn(move || larder.get(&manifest(&format!("unknown-{n}"))).unwrap().status)
            })
            .collect();
        while !asking.iter().all(|one| one.is_finished()) {
            let answer = larder.get(&layer).unwrap();
            assert_eq!((answer.status, answer.digest()), (200, image.layers[0].clone()));
        }
        for one in asking {
            assert!([502, 504].contains(&one.join().unwrap()));
        }
    });
    assert_eq!(larder.metric("larder_upstream_breaker_open", &[("upstream", "up.test")]), 1.0);
    // Nobody waits for an endpoint that is left alone.
    let timeouts = || larder.metric("larder_upstream_errors_total", &[("reason", "timeout")]);
    let before = timeouts();
    let answer = larder.get(&manifest("known")).unwrap();
    assert_eq!((answer.status, answer.digest()), (200, image.digest.clone()));
    assert_eq!(timeouts(), before);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn no_failure_of_a_private_upstream_looks_like_not_found() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 12], 20);
    up.auth(Auth::Basic);
    up.account("robot", "right", &["library/*"]);
    up.account("guest", "guest", &[]);
    let start = |user: &str, password: &str| {
        let credential = format!("shared = true\ncredential = {{ username = {user:?}, password_env = \"PASSWORD\" }}");
        Larder::builder()
            .upstream("up.test", &[&up.url()], &credential)
            .env("PASSWORD", password)
            .config("[deadlines]\nheaders = \"2s\"")
            .start()
            .unwrap()
    };
    let both = |larder: &Larder| {
        let (one, two) = (larder.get(&manifest("latest")).unwrap(), larder.get(&blob(&image.layers[0])).unwrap());
        assert_eq!(one.error_code(), two.error_code());
        assert_eq!(one.status, two.status, "{}", two.text());
        (one.status, one.error_code().unwrap_or_default())
    };
    let denied = (403, "DENIED".to_owned());
    assert_eq!(both(&start("robot", "wrong")), denied, "larder's own credential is wrong");
    assert_eq!(both(&start("guest", "guest")), denied, "it may not");
    for (fault, status) in
        [(Fault::status(500), 502), (Fault::status(503), 502), (Fault::Hang, 504), (Fault::status(403), 403)]
    {
        up.rules(vec![Rule::any().fault(fault.clone())]);
        assert_eq!(both(&start("robot", "right")).0, status, "{fault:?}");
    }
    up.clear_rules();
    assert_eq!(both(&start("robot", "right")).0, 200);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_sufficient_credential_is_challenged_or_denied() {
    for mode in [Auth::Basic, Auth::Bearer] {
        let up = Upstream::start().await.unwrap();
        let image = up.image("library/a", "latest", &[1 << 12], 21);
        up.auth(mode);
        up.account("reader", "secret", &["library/*"]);
        let larder = Larder::in_front_of("up.test", &up).start().unwrap();
        let paths = [manifest("latest"), manifest(&image.digest), blob(&image.layers[0])];
        for path in &paths {
            let nobody = larder.get(path).unwrap();
            assert_eq!((nobody.status, nobody.error_code()), (401, Some("UNAUTHORIZED".into())), "{mode:?} {path}");
            assert!(nobody.header("www-authenticate").is_some_and(|value| value.starts_with("Basic ")));
            // reader:wrong
            let wrong = larder.ask("GET", path, &[("Authorization", "Basic cmVhZGVyOndyb25n")]).unwrap();
            assert_eq!((wrong.status, wrong.error_code()), (403, Some("DENIED".into())), "{mode:?} {path}");
        }
        for path in &paths {
            // reader:secret
            let right = larder.ask("GET", path, &[("Authorization", "Basic cmVhZGVyOnNlY3JldA==")]).unwrap();
            assert_eq!(right.status, 200, "{mode:?} {path}");
        }
    }
}

//
#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_without_the_credential() {
    let (up, cdn) = (Upstream::start().await.unwrap(), Upstream::start().await.unwrap());
    let right = noise(1 << 20, 22);
    let digest = up.blob("library/a", right.clone());
    cdn.mirror_of(&up);
    up.auth(Auth::Basic);
    up.account("robot", "right", &["*"]);
    up.rule(gets().fault(Fault::redirect(&format!("{}{{path}}?signature=S3NT1NEL-url", cdn.url()))));
    let more = format!(
        "shared = true\ncredential = {{ username = \"robot\", password_env = \"PASSWORD\" }}\nredirect_hosts = [{:?}]",
        cdn.host()
    );
    let larder = Larder::builder().upstream("up.test", &[&up.url()], &more).env("PASSWORD", "right").start().unwrap();
    assert_right(&larder.get(&blob(&digest)).unwrap(), &right);
    assert!(up.log().iter().any(|request| request.authorization().is_some()), "the upstream itself gets it");
    let seen = cdn.log();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].authorization(), seen[0].header("cookie")), (None, None));
    assert_eq!(seen[0].query, "signature=S3NT1NEL-url");
    assert!(!larder.log().contains("S3NT1NEL"), "a query's secret is in the log");
}

//
#[tokio::test(flavor = "multi_thread")]
async fn redirects_that_lead_nowhere_are_a_bad_gateway() {
    let up = Upstream::start().await.unwrap();
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let ask = |seed: u64, fault: Fault| {
        let right = noise(1 << 16, seed);
        let digest = up.blob("library/a", right.clone());
        up.rules(vec![gets().fault(fault)]);
        let answer = larder.get(&blob(&digest)).unwrap();
        (answer.status, up.blob_gets(&digest))
    };
    assert_eq!(ask(23, Fault::RedirectChain(10)), (200, 11));
    assert_eq!(ask(24, Fault::RedirectChain(11)), (502, 11));
    assert_eq!(ask(25, Fault::RedirectLoop), (502, 1));
    assert_eq!(ask(26, Fault::redirect("ftp://127.0.0.1/x")), (502, 1));
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_from_https_to_http_is_refused() {
    let up = Upstream::start_tls(Tls::trusted()).await.unwrap();
    let plain = Upstream::start().await.unwrap();
    let right = noise(1 << 16, 27);
    let digest = up.blob("library/a", right.clone());
    plain.mirror_of(&up);
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, up.ca_pem()).unwrap();
    let toml = format!(
        "[[upstream]]\nregistry = \"up.test\"\nredirect_hosts = [{:?}]\n[[upstream.endpoint]]\nurl = {:?}\nca = {ca:?}",
        plain.host(),
        up.url()
    );
    let larder = Larder::builder().config(&toml).start().unwrap();
    up.rule(gets().times(1).fault(Fault::redirect(&format!("{}{{path}}", plain.url()))));
    assert_eq!(larder.get(&blob(&digest)).unwrap().status, 502);
    assert_eq!(plain.connections(), 0);
    let answer = wait_for_some("the failure to be forgotten", || {
        larder.get(&blob(&digest)).ok().filter(|answer| answer.status == 200)
    });
    assert_right(&answer, &right);
}

fn bearer(up: &Upstream, settings: TokenSettings) {
    up.auth(Auth::Bearer);
    up.public("*");
    up.tokens(settings);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn one_token_is_fetched_for_all_who_need_it() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 12; 8], 28);
    bearer(&up, TokenSettings::default());
    up.rule(Rule::on(Kind::Token).fault(Fault::HoldHeaders("token".into())));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..48)
            .map(|n| {
                let (larder, digest) = (&larder, &image.layers[n % 8]);
                scope.spawn(move || {
                    let answer = larder.get(&blob(digest)).unwrap();
                    assert_eq!((answer.status, &answer.digest()), (200, digest));
                })
            })
            .collect();
        wait_for("all the questions to be there", || up.count("HEAD", Kind::Blob) == 8);
        up.open_gate("token");
        asking.into_iter().for_each(|one| one.join().unwrap());
    });
    assert_eq!(up.token_fetches(), 1);
    assert_eq!(larder.metric("larder_upstream_token_fetches_total", &[("upstream", "up.test")]), 1.0);

    // One that is not accepted any more is replaced once.
    up.expire_tokens();
    assert_eq!(larder.get(&manifest("latest")).unwrap().status, 200);
    assert_eq!(up.token_fetches(), 2);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_token_service_says_of_its_tokens_they_are_used() {
    for expires_in in [Some(0), None, Some(1), Some(-5), Some(i64::MAX)] {
        let up = Upstream::start().await.unwrap();
        let image = up.image("library/a", "latest", &[1 << 12; 4], 29);
        bearer(&up, TokenSettings { expires_in, ..TokenSettings::default() });
        let larder = Larder::in_front_of("up.test", &up).start().unwrap();
        assert_eq!(larder.get(&manifest("latest")).unwrap().status, 200, "{expires_in:?}");
        for layer in &image.layers {
            assert_eq!(larder.get(&blob(layer)).unwrap().digest(), *layer, "{expires_in:?}");
        }
        assert!(up.token_fetches() <= 5, "{} tokens for {expires_in:?}", up.token_fetches());
    }
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_runs_out_in_the_middle_of_a_blob_is_replaced() {
    let up = Upstream::start().await.unwrap();
    let right = noise(1 << 20, 30);
    let digest = up.blob("library/a", right.clone());
    bearer(&up, TokenSettings::default());
    let cut = Fault::Cut { at: Place::Fraction(0.75), how: Ending::Fin };
    up.rule(gets().times(1).fault(hold()).fault(cut));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let mut client = larder.client().unwrap();
    client.send("GET", &blob(&digest), &[]).unwrap();
    assert!(up.wait_at_gate("go", 1, LONG).await);
    let before = up.token_fetches();
    up.expire_tokens();
    up.open_gate("go");
    assert_right(&client.answer("GET").unwrap(), &right);
    assert_eq!(up.token_fetches(), before + 1);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_never_accepted_do_not_make_a_loop() {
    let up = Upstream::start().await.unwrap();
    up.image("library/a", "latest", &[1 << 12], 31);
    bearer(&up, TokenSettings { lifetime_ms: 0, ..TokenSettings::default() });
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let answer = larder.get(&manifest("latest")).unwrap();
    assert_eq!(answer.status, 401);
    assert!(up.token_fetches() <= 2, "{} tokens", up.token_fetches());
    assert!(up.count("GET", Kind::Manifest) <= 3, "{} tries", up.count("GET", Kind::Manifest));
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_that_fails_is_a_bad_gateway() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 12], 32);
    bearer(&up, TokenSettings::default());
    let larder = Larder::in_front_of("up.test", &up)
        .config("[freshness]\ndefault = \"0s\"\n[deadlines]\nheaders = \"2s\"")
        .start()
        .unwrap();
    up.rule(Rule::on(Kind::Token).fault(Fault::status(500)));
    assert_eq!(larder.get(&manifest("latest")).unwrap().status, 502);
    assert_eq!(up.count("GET", Kind::Token), 2, "tried once more");
    up.rules(vec![Rule::on(Kind::Token).fault(Fault::Hang)]);
    assert_eq!(larder.get(&blob(&image.layers[0])).unwrap().status, 504);
    up.clear_rules();
    let answer = wait_for_some("the failure to be forgotten", || {
        larder.get(&manifest("latest")).ok().filter(|answer| answer.status == 200)
    });
    assert_eq!(answer.digest(), image.digest);

    // What is known is served while no token is to be had.
    up.expire_tokens();
    up.rule(Rule::on(Kind::Token).fault(Fault::status(500)));
    let stale = larder.get(&manifest("latest")).unwrap();
    assert_eq!((stale.status, stale.digest()), (200, image.digest));
    assert!(stale.header("warning").is_some());
}
