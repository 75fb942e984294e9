//! What larder does about the limits of an upstream: answers that there were too many requests, and quotas.
#![allow(clippy::unwrap_used, reason = "a test fails where it must, and says what it has")]

use std::time::Duration;

use faulty::{Auth, Fault, Image, Kind, Rule, Upstream};
use scenarios::{Answer, Larder, wait_for_some};

const ALWAYS_ASK: &str = "[freshness]\ndefault = \"0s\"";

fn manifest(reference: &str) -> String {
    format!("/v2/up.test/library/a/manifests/{reference}")
}

fn is_stale(answer: &Answer) -> bool {
    answer.header("warning").is_some_and(|warning| warning.starts_with("299 "))
}

#[track_caller]
fn assert_is(answer: &Answer, image: &Image) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.body, image.bytes);
}

#[track_caller]
fn assert_limited(answer: &Answer) -> u64 {
    assert_eq!((answer.status, answer.error_code()), (429, Some("TOOMANYREQUESTS".into())), "{}", answer.text());
    let wait = answer.header("retry-after").expect("says how long to wait").parse().expect("in seconds");
    assert!((1..=3600).contains(&wait), "{wait}");
    wait
}

//
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_asks_to_wait_is_left_alone() {
    let in_five = faulty::http_date(Duration::from_secs(5));
    let in_a_day = faulty::http_date(Duration::from_secs(86_400));
    for value in [Some("5"), Some(&*in_five), Some(&*in_a_day), Some("86400"), None, Some("1e99"), Some("-5")] {
        let (up, other) = (Upstream::start().await.unwrap(), Upstream::start().await.unwrap());
        let image = up.image("library/a", "known", &[1 << 12], 1);
        for tag in ["new", "newer"] {
            up.move_tag("library/a", tag, &image.digest);
        }
        other.mirror_of(&up);
        let larder = Larder::in_front_of("up.test", &up)
            .upstream("other.test", &[&other.url()], "")
            .config(ALWAYS_ASK)
            .start()
            .unwrap();
        assert_is(&larder.get(&manifest("known")).unwrap(), &image);
        up.rule(Rule::any().fault(Fault::too_many(value)));
        up.clear_log();

        let wait = assert_limited(&larder.get(&manifest("new")).unwrap());
        let least = if value.is_some_and(|value| value == "86400" || value == in_a_day) { 3599 } else { 1 };
        assert!(wait >= least, "{wait} for {value:?}");
        let stale = larder.get(&manifest("known")).unwrap();
        assert_is(&stale, &image);
        assert!(is_stale(&stale), "{value:?}");
        assert_limited(&larder.get(&manifest("newer")).unwrap());
        assert_limited(&larder.get("/v2/up.test/library/b/manifests/new").unwrap());
        assert_is(&larder.get(&manifest(&image.digest)).unwrap(), &image);
        assert_eq!(up.log().len(), 1, "asked again before the time for {value:?}");

        // Another host said nothing.
        assert_is(&larder.get("/v2/other.test/library/a/manifests/new").unwrap(), &image);
    }
}

//
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_asked_to_wait_is_asked_again_in_time() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 12], 2);
    up.rule(Rule::any().times(1).fault(Fault::too_many(Some("2"))));
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    assert_limited(&larder.get(&manifest("latest")).unwrap());
    let answer = wait_for_some("the time to be over", || {
        let answer = larder.get(&manifest("latest")).unwrap();
        if answer.status != 200 {
            assert_limited(&answer);
        }
        (answer.status == 200).then_some(answer)
    });
    assert_is(&answer, &image);
    let log = up.log();
    assert_eq!(log.len(), 2);
    assert!(log[1].start_us - log[0].start_us >= 2_000_000, "asked again before the time");
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_credential_is_not_held_to_the_limit_of_those_without() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("library/a", "latest", &[1 << 12], 3);
    up.auth(Auth::Bearer);
    up.account("reader", "secret", &["*"]);
    up.public("*");
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    up.rule(Rule::on(Kind::Manifest).times(1).fault(Fault::too_many(Some("60"))));
    assert_limited(&larder.get(&manifest("latest")).unwrap());
    // reader:secret
    let reader = [("Authorization", "Basic cmVhZGVyOnNlY3JldA==")];
    assert_is(&larder.ask("GET", &manifest("latest"), &reader).unwrap(), &image);
}

/// Docker Hub: public repositories behind anonymous tokens, pulls counted by GETs of manifests.
async fn docker_hub(limit: u64) -> Upstream {
    let up = Upstream::start().await.unwrap();
    up.auth(Auth::Bearer);
    up.public("*");
    up.docker_hub_limit(limit);
    up
}

fn heads(up: &Upstream) -> usize {
    up.count("HEAD", Kind::Manifest)
}

/// What Docker Hub counts: GETs of manifests that did not end with the challenge to fetch a token.
fn pulls(up: &Upstream) -> usize {
    let pull = |one: &&faulty::Request| one.method == "GET" && one.kind == Kind::Manifest && one.status != 401;
    up.log().iter().filter(pull).count()
}

//
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pulls_of_a_tag_cost_one_of_docker_hubs() {
    let up = docker_hub(100).await;
    let image = up.image("library/a", "latest", &[1 << 12], 4);
    let larder = Larder::in_front_of("up.test", &up).config(ALWAYS_ASK).start().unwrap();
    let mut client = larder.client().unwrap();
    for _ in 0..100 {
        let answer = client.ask("GET", &manifest("latest"), &[]).unwrap();
        assert_is(&answer, &image);
        assert!(!is_stale(&answer));
    }
    assert_eq!(pulls(&up), 1);
    assert_eq!(heads(&up), 99);
    assert_eq!(up.token_fetches(), 1);
    let quota = |name: &str| larder.metric(&format!("larder_upstream_ratelimit_{name}"), &[("upstream", "up.test")]);
    assert_eq!((quota("limit"), quota("remaining")), (100.0, 99.0));
}

//
#[tokio::test(flavor = "multi_thread")]
async fn within_a_tags_freshness_docker_hub_is_not_asked_at_all() {
    let up = docker_hub(100).await;
    let image = up.image("library/a", "latest", &[1 << 12], 5);
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let mut client = larder.client().unwrap();
    for _ in 0..100 {
        assert_is(&client.ask("GET", &manifest("latest"), &[]).unwrap(), &image);
    }
    assert_eq!((pulls(&up), heads(&up)), (1, 0));
}

//
#[tokio::test(flavor = "multi_thread")]
async fn when_few_pulls_are_left_tags_are_asked_for_less_often() {
    let up = docker_hub(10).await;
    let image = up.image("library/a", "latest", &[1 << 12], 6);
    let others: Vec<Image> = (0..10).map(|n| up.image("library/a", &*format!("t{n}"), &[1 << 12], 100 + n)).collect();
    let larder = Larder::in_front_of("up.test", &up).config(ALWAYS_ASK).start().unwrap();
    let latest = || larder.get(&manifest("latest")).unwrap();
    assert_is(&latest(), &image);
    for (n, other) in others[..7].iter().enumerate() {
        assert_is(&larder.get(&manifest(&format!("t{n}"))).unwrap(), other);
    }
    assert_is(&latest(), &image);
    assert_eq!(heads(&up), 1, "two are left: as ever");

    // One is left.
    assert_is(&larder.get(&manifest("t7")).unwrap(), &others[7]);
    for _ in 0..5 {
        let answer = latest();
        assert_is(&answer, &image);
        assert!(!is_stale(&answer));
    }
    assert_eq!(heads(&up), 1, "few are left, and nothing is asked that can wait");
    let marks = |text: &str| larder.log().lines().filter(|line| line.contains(text)).count();
    assert_eq!(marks("few pulls are left"), 1);
    assert_eq!(larder.metric("larder_upstream_ratelimit_remaining", &[("upstream", "up.test")]), 1.0);

    // A new window.
    up.docker_hub_limit(1000);
    assert_is(&larder.get(&manifest("t8")).unwrap(), &others[8]);
    assert_is(&latest(), &image);
    assert_eq!(heads(&up), 2, "enough are left again");
    assert_eq!(marks("enough pulls are left again"), 1);
}

//
#[tokio::test(flavor = "multi_thread")]
async fn when_no_pulls_are_left_what_is_known_is_served() {
    let up = docker_hub(1).await;
    let image = up.image("library/a", "latest", &[1 << 12], 7);
    up.image("library/a", "new", &[1 << 12], 8);
    let larder = Larder::in_front_of("up.test", &up).config(ALWAYS_ASK).start().unwrap();
    assert_is(&larder.get(&manifest("latest")).unwrap(), &image);
    assert_limited(&larder.get(&manifest("new")).unwrap());
    assert_is(&larder.get(&manifest("latest")).unwrap(), &image);
    assert_is(&larder.get(&manifest(&image.digest)).unwrap(), &image);
    assert_eq!(pulls(&up), 2);
}
