//! What a tag is believed to be, and for how long: while it moves, goes away, or may no longer be read.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use faulty::{Auth, Image, Kind, OCI_MANIFEST, Upstream};
use scenarios::{Answer, Builder, Larder, wait_for, wait_for_some};

const ALWAYS_ASK: &str = "[freshness]\ndefault = \"0s\"";

fn manifest(reference: &str) -> String {
    format!("/v2/up.test/library/a/manifests/{reference}")
}

fn blob(digest: &str) -> String {
    format!("/v2/up.test/library/a/blobs/{digest}")
}

fn is_stale(answer: &Answer) -> bool {
    answer.header("warning").is_some_and(|warning| warning.starts_with("299 "))
}

#[track_caller]
fn assert_is(answer: &Answer, image: &Image) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.body, image.bytes);
    assert_eq!(answer.header("docker-content-digest"), Some(&*image.digest));
    assert_eq!(answer.header("content-type"), Some(&*image.media_type));
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_gone_is_not_found_but_its_image_is() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 12], 1);
    let larder = Larder::in_front_of("up.test", &up).config(ALWAYS_ASK).start().unwrap();
    assert_is(&larder.get(&manifest("latest")).unwrap(), &image);
    up.delete("library/a", "latest");
    let gone = larder.get(&manifest("latest")).unwrap();
    assert_eq!((gone.status, gone.error_code()), (404, Some("MANIFEST_UNKNOWN".into())));
    assert_is(&larder.get(&manifest(&image.digest)).unwrap(), &image);
    up.delete("library/a", &image.digest);
    assert_is(&larder.get(&manifest(&image.digest)).unwrap(), &image);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_gone_is_served_where_the_upstream_says_so() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 12], 2);
    let larder = Larder::builder()
        .upstream("up.test", &[&up.url()], "on_not_found = \"serve\"")
        .config(ALWAYS_ASK)
        .start()
        .unwrap();
    let fresh = larder.get(&manifest("latest")).unwrap();
    assert!(!is_stale(&fresh));
    up.delete("library/a", "latest");
    let gone = larder.get(&manifest("latest")).unwrap();
    assert_is(&gone, &image);
    assert!(is_stale(&gone));
    assert_eq!(larder.get(&manifest("never-there")).unwrap().status, 404);
}

fn with_credential(up: &Upstream, more: &str) -> Builder {
    let more = format!("shared = true\ncredential = {{ username = \"robot\", password_env = \"PASSWORD\" }}\n{more}");
    Larder::builder().upstream("up.test", &[&up.url()], &more).env("PASSWORD", "right").config(ALWAYS_ASK)
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_may_no_longer_be_read_is_denied_and_not_served_from_before() {
    for (mode, gone) in [(Auth::Basic, false), (Auth::Basic, true), (Auth::Bearer, false), (Auth::Bearer, true)] {
        let up = Upstream::start().await.unwrap();
        let image = up.image("library/a", "latest", &[1 << 12], 3);
        up.auth(mode);
        up.account("robot", "right", &["library/*"]);
        let larder = with_credential(&up, "").start().unwrap();
        assert_is(&larder.get(&manifest("latest")).unwrap(), &image);
        assert_eq!(larder.metric("larder_access_decisions_total", &[("decision", "own_refused")]), 0.0);
        match gone {
            true => up.remove_account("robot"),
            false => up.revoke("robot", "library/a"),
        }
        let answer = larder.get(&manifest("latest")).unwrap();
        assert_eq!((answer.status, answer.error_code()), (403, Some("DENIED".into())), "{mode:?} {gone}");
        assert_eq!(answer.header("www-authenticate"), None, "the client's credential would not help");
        assert!(
            larder.metric("larder_access_decisions_total", &[("decision", "own_refused")]) > 0.0,
            "{mode:?} {gone}"
        );
    }
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_may_no_longer_be_read_is_served_where_the_upstream_says_so() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 12], 4);
    up.auth(Auth::Basic);
    up.account("robot", "right", &["library/*"]);
    let larder = with_credential(&up, "on_denied = \"serve\"").start().unwrap();
    assert_is(&larder.get(&manifest("latest")).unwrap(), &image);
    up.revoke("robot", "library/a");
    let answer = larder.get(&manifest("latest")).unwrap();
    assert_is(&answer, &image);
    assert!(is_stale(&answer));
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_no_longer_public_asks_for_the_clients_credential() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 12], 5);
    up.auth(Auth::Bearer);
    up.account("reader", "secret", &["library/*"]);
    up.public("library/*");
    let larder = Larder::in_front_of("up.test", &up).config(ALWAYS_ASK).start().unwrap();
    assert_is(&larder.get(&manifest("latest")).unwrap(), &image);
    up.private("library/*");
    let nobody = larder.get(&manifest("latest")).unwrap();
    assert_eq!((nobody.status, nobody.error_code()), (401, Some("UNAUTHORIZED".into())));
    assert!(nobody.header("www-authenticate").is_some_and(|value| value.starts_with("Basic ")));
    // reader:secret
    let reader = [("Authorization", "Basic cmVhZGVyOnNlY3JldA==")];
    assert_is(&larder.ask("GET", &manifest("latest"), &reader).unwrap(), &image);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_believed_for_as_long_as_its_pattern_says() {
    let up = Upstream::start().await.unwrap();
    let tags = ["now", "soon", "later", "v1"];
    let one = up.image("library/a", None, &[1 << 12], 6);
    let two = up.image("library/a", None, &[1 << 12], 7);
    tags.iter().for_each(|tag| up.move_tag("library/a", tag, &one.digest));
    let patterns = "[freshness]\ndefault = \"0s\"\npatterns = [
        { match = \"*:soon\", for = \"2s\" },
        { match = \"*:later\", for = \"1h\" },
        { match = \"*:v*\", for = \"immutable\" },
    ]";
    let larder = Larder::in_front_of("up.test", &up).config(patterns).start().unwrap();
    for tag in tags {
        assert_is(&larder.get(&manifest(tag)).unwrap(), &one);
    }

    // Unchanged: a question costs a HEAD, and none is asked within the time.
    let gets = up.count("GET", Kind::Manifest);
    let heads = |tag: &str| up.log().iter().filter(|one| one.method == "HEAD" && one.reference == tag).count();
    for _ in 0..10 {
        for tag in ["now", "later", "v1"] {
            assert_is(&larder.get(&manifest(tag)).unwrap(), &one);
        }
    }
    assert_eq!((heads("now"), heads("later"), heads("v1")), (10, 0, 0));
    assert_eq!(up.count("GET", Kind::Manifest), gets);

    tags.iter().for_each(|tag| up.move_tag("library/a", tag, &two.digest));
    assert_is(&larder.get(&manifest("now")).unwrap(), &two);
    assert_is(&larder.get(&manifest("later")).unwrap(), &one);
    assert_is(&larder.get(&manifest("v1")).unwrap(), &one);
    let moved = wait_for_some("the time to be over", || {
        larder.get(&manifest("soon")).ok().filter(|answer| answer.body != one.bytes)
    });
    assert_is(&moved, &two);
    let asked: Vec<u64> =
        up.log().iter().filter(|request| request.reference == "soon").map(|request| request.start_us).collect();
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= 2_000_000), "asked within the time: {asked:?}");

    // For ever is also without the upstream, and after a restart.
    up.delete("library/a", "v1");
    up.refuse().await;
    let larder = larder.restart().unwrap();
    let answer = larder.get(&manifest("v1")).unwrap();
    assert_is(&answer, &one);
    assert!(!is_stale(&answer));
}

/// Removes the images below an index, or brings them back.
fn children(up: &Upstream, images: &[Image], there: bool) {
    for image in images {
        match there {
            true => drop(up.manifest("library/a", None, OCI_MANIFEST, image.bytes.clone())),
            false => drop(up.delete("library/a", &image.digest)),
        }
    }
}

//
#[tokio::test(flavor = "multi_thread")]
async fn who_pulls_while_a_tag_moves_gets_one_image_or_none() {
    let up = Upstream::start().await.unwrap();
    let side = |seed: u64| {
        let images = [seed, seed + 1].map(|seed| up.image("library/a", None, &[1 << 12, 1 << 14], seed));
        let index = up.index("library/a", None, &[("linux/amd64", &images[0]), ("linux/arm64", &images[1])]);
        (index, images)
    };
    let (a, b) = (side(10), side(20));
    up.move_tag("library/a", "latest", &a.0.digest);
    let larder = Larder::in_front_of("up.test", &up).config(ALWAYS_ASK).start().unwrap();
    let (done, whole) = (AtomicBool::new(false), AtomicUsize::new(0));

    // Gives whether the image came whole; what comes at all must be right.
    let pull = || {
        let fetch = |path: String, digest: &str| {
            let answer = larder.get(&path).unwrap();
            assert!([200, 404, 502].contains(&answer.status), "{} {}", answer.status, answer.text());
            if answer.status == 200 {
                assert!(answer.is_complete() && answer.digest() == digest, "not what its digest says");
            }
            answer.status == 200
        };
        let answer = larder.get(&manifest("latest")).unwrap();
        if answer.status != 200 {
            assert!([404, 502].contains(&answer.status), "{}", answer.status);
            return false;
        }
        let side = [&a, &b].into_iter().find(|(index, _)| index.bytes == answer.body).expect("one of the two");
        assert_eq!(answer.header("docker-content-digest"), Some(&*side.0.digest), "a head and a body of two images");
        side.1.iter().all(|image| {
            fetch(manifest(&image.digest), &image.digest)
                && image.layers.iter().chain([&image.config]).all(|digest| fetch(blob(digest), digest))
        })
    };
    std::thread::scope(|scope| {
        let pulling: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..30 {
                        whole.fetch_add(usize::from(pull()), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (new, old) in [(&b, &a), (&a, &b)] {
                    children(&up, &new.1, true);
                    up.move_tag("library/a", "latest", &new.0.digest);
                    children(&up, &old.1, false);
                    std::thread::yield_now();
                }
            }
        });
        let ended: Vec<_> = pulling.into_iter().map(|one| one.join()).collect();
        done.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|one| one.unwrap());
    });

    children(&up, &b.1, true);
    up.move_tag("library/a", "latest", &b.0.digest);
    wait_for("the image that is there in the end", || {
        larder.get(&manifest("latest")).is_ok_and(|answer| answer.body == b.0.bytes) && pull()
    });
}
