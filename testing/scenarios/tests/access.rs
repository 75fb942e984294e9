//! Who may read what: what one client's credential brought in is not given to another.

use faulty::{Auth, Image, Kind, Upstream};
use scenarios::{Answer, Larder, basic, wait_for};

const REPO: &str = "/v2/up.test/private/app";

/// An upstream where Alice may read `private/app` and Bob may read `bob/app`, and nobody anything else.
async fn upstream(mode: Auth) -> anyhow::Result<(Upstream, Image)> {
    let up = Upstream::start().await?;
    let image = up.image("private/app", "1", &[200 << 10], 1);
    up.image("bob/app", "1", &[4 << 10], 2);
    up.auth(mode);
    up.account("alice", "wonderland", &["private/app"]);
    up.account("bob", "builder", &["bob/app"]);
    Ok((up, image))
}

fn get(larder: &Larder, target: &str, who: Option<&str>) -> anyhow::Result<Answer> {
    ask(larder, "GET", target, who)
}

fn ask(larder: &Larder, method: &str, target: &str, who: Option<&str>) -> anyhow::Result<Answer> {
    match who {
        Some(credential) => larder.ask(method, target, &[("Authorization", credential)]),
        None => larder.ask(method, target, &[]),
    }
}

/// All that can be asked of an image.
fn targets(repo: &str, image: &Image) -> Vec<String> {
    vec![
        format!("{repo}/manifests/1"),
        format!("{repo}/manifests/{}", image.digest),
        format!("{repo}/blobs/{}", image.config),
        format!("{repo}/blobs/{}", image.layers[0]),
        format!("{repo}/blobs/{}", image.digest),
        format!("{repo}/tags/list"),
        format!("{repo}/referrers/{}", image.digest),
    ]
}

#[track_caller]
fn assert_refused(answer: &Answer, what: &str) {
    assert!(matches!(answer.status, 401 | 403 | 404), "{what}: {} {}", answer.status, answer.text());
    assert!(answer.body.len() < 400, "{what}: a refusal of {} bytes", answer.body.len());
}

// S-01
#[tokio::test(flavor = "multi_thread")]
async fn what_one_client_may_read_no_other_gets() -> anyhow::Result<()> {
    for mode in [Auth::Basic, Auth::Bearer] {
        let (up, image) = upstream(mode).await?;
        let larder = Larder::in_front_of("up.test", &up).config("[limits]\nrefusals = 1000").start()?;
        let alice = basic("alice", "wonderland");
        let all = targets(REPO, &image);
        for target in &all {
            assert_eq!(get(&larder, target, Some(&alice))?.status, 200, "{mode:?} {target}");
        }
        let strangers = [
            None,
            Some(basic("bob", "builder")),
            Some(basic("alice", "wrong")),
            Some(basic("alice", "")),
            Some(basic("", "")),
            Some(basic("nobody", "wonderland")),
        ];
        for stranger in &strangers {
            for target in &all {
                for method in ["GET", "HEAD"] {
                    let answer = ask(&larder, method, target, stranger.as_deref())?;
                    assert_refused(&answer, &format!("{mode:?} {stranger:?} {method} {target}"));
                }
            }
        }
        // In a repository that Bob may read, the private content is not there.
        let bob = basic("bob", "builder");
        assert_eq!(get(&larder, "/v2/up.test/bob/app/manifests/1", Some(&bob))?.status, 200);
        for target in &targets("/v2/up.test/bob/app", &image)[1..5] {
            for method in ["GET", "HEAD"] {
                assert_eq!(ask(&larder, method, target, Some(&bob))?.status, 404, "{mode:?} {method} {target}");
            }
        }
        // And Alice, who caused all that to be asked, is not worse off.
        assert_eq!(get(&larder, &all[3], Some(&alice))?.digest(), image.layers[0]);
    }
    Ok(())
}

// S-01
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_tell_whether_something_is_there() -> anyhow::Result<()> {
    for mode in [Auth::Basic, Auth::Bearer] {
        let (up, image) = upstream(mode).await?;
        let larder = Larder::in_front_of("up.test", &up).config("[limits]\nrefusals = 1000").start()?;
        let alice = basic("alice", "wonderland");
        for target in &targets(REPO, &image) {
            assert_eq!(get(&larder, target, Some(&alice))?.status, 200);
        }
        let unknown = oci::Digest::sha256(b"in no repository").to_string();
        let bob = basic("bob", "builder");
        for who in [None, Some(bob.as_str())] {
            for (cached, absent) in [
                (format!("{REPO}/manifests/1"), format!("{REPO}/manifests/2")),
                (format!("{REPO}/manifests/{}", image.digest), format!("{REPO}/manifests/{unknown}")),
                (format!("{REPO}/blobs/{}", image.layers[0]), format!("{REPO}/blobs/{unknown}")),
                (format!("{REPO}/tags/list"), "/v2/up.test/private/other/tags/list".to_owned()),
                (
                    format!("/v2/up.test/bob/app/blobs/{}", image.layers[0]),
                    format!("/v2/up.test/bob/app/blobs/{unknown}"),
                ),
            ] {
                let (cached, absent) = (get(&larder, &cached, who)?, get(&larder, &absent, who)?);
                assert_eq!(cached.status, absent.status, "{mode:?} {who:?}: {} / {}", cached.text(), absent.text());
                assert_eq!(cached.text(), absent.text(), "{mode:?} {who:?}");
            }
        }
    }
    Ok(())
}

// S-01
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_opens_nothing_to_strangers() -> anyhow::Result<()> {
    let (up, image) = upstream(Auth::Bearer).await?;
    let larder = Larder::in_front_of("up.test", &up)
        .config("[limits]\nrefusals = 1000\n[access]\ngrant = \"1ms\"\n[freshness]\ndefault = \"0s\"")
        .start()?;
    let alice = basic("alice", "wonderland");
    let mut all = targets(REPO, &image);
    // The manifest as a blob, which this origin does not have: it would be asked at once, the grant being so short.
    all.remove(4);
    for target in &all {
        let answer = get(&larder, target, Some(&alice))?;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    }
    up.refuse().await;
    for target in &all {
        let answer = get(&larder, target, Some(&alice))?;
        assert_eq!(answer.status, 200, "a grant holds through an outage: {target} {}", answer.text());
        for stranger in [None, Some(basic("bob", "builder")), Some(basic("alice", "wrong"))] {
            let answer = get(&larder, target, stranger.as_deref())?;
            assert!(answer.status >= 400, "{stranger:?} {target}");
            assert!(answer.body.len() < 400);
            // Some clients show their credential only where it is asked for.
            assert_eq!(answer.header("www-authenticate").is_some(), stranger.is_none(), "{target} {}", answer.text());
        }
    }
    Ok(())
}

// S-03
#[tokio::test(flavor = "multi_thread")]
async fn who_lost_access_is_refused_once_the_grant_ran_out() -> anyhow::Result<()> {
    for mode in [Auth::Basic, Auth::Bearer] {
        let (up, image) = upstream(mode).await?;
        let larder = Larder::in_front_of("up.test", &up)
            .config("[limits]\nrefusals = 100000\n[access]\ngrant = \"300ms\"")
            .start()?;
        let alice = basic("alice", "wonderland");
        let all = targets(REPO, &image);
        for target in &all {
            assert_eq!(get(&larder, target, Some(&alice))?.status, 200, "{target}");
        }
        up.revoke("alice", "private/app");
        for target in &all {
            wait_for(&format!("the refusal of {target} ({mode:?})"), || {
                get(&larder, target, Some(&alice)).is_ok_and(|answer| answer.status != 200)
            });
            assert_refused(&get(&larder, target, Some(&alice))?, target);
        }
        // What was refused once is not given out when the origin can no longer be asked.
        up.refuse().await;
        for target in &all {
            let answer = get(&larder, target, Some(&alice))?;
            assert!(answer.status >= 400, "{target}: {}", answer.status);
        }
    }
    Ok(())
}

// S-03
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_no_longer_public_is_closed() -> anyhow::Result<()> {
    let (up, image) = upstream(Auth::Bearer).await?;
    up.public("private/app");
    let larder = Larder::in_front_of("up.test", &up).config("[access]\npublic = \"300ms\"").start()?;
    let all = targets(REPO, &image);
    for target in &all {
        assert_eq!(get(&larder, target, None)?.status, 200, "{target}");
    }
    up.private("private/app");
    for target in &all {
        wait_for(&format!("the refusal of {target}"), || {
            get(&larder, target, None).is_ok_and(|answer| answer.status == 401)
        });
    }
    up.refuse().await;
    for target in &all {
        assert!(get(&larder, target, None)?.status >= 400, "{target}");
    }
    let larder = larder.restart()?;
    for target in &all {
        assert!(get(&larder, target, None)?.status >= 400, "after a restart: {target}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstreams_own_credential_opens_private_images_only_where_it_is_shared() -> anyhow::Result<()> {
    let (up, image) = upstream(Auth::Bearer).await?;
    let start = |more: &str| {
        let credential = "credential = { username = \"alice\", password_env = \"UP_PASSWORD\" }";
        Larder::builder()
            .upstream("up.test", &[&up.url()], &format!("{credential}\n{more}"))
            .env("UP_PASSWORD", "wonderland")
            .start()
    };
    let closed = start("")?;
    for target in &targets(REPO, &image) {
        assert_eq!(get(&closed, target, None)?.status, 401, "{target}");
    }
    let shared = start("shared = true")?;
    for target in &targets(REPO, &image) {
        assert_eq!(get(&shared, target, None)?.status, 200, "{target}");
    }
    Ok(())
}

// S-01
#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_is_what_the_shared_credential_may_read_and_nothing_else_that_is_here() -> anyhow::Result<()> {
    for mode in [Auth::Basic, Auth::Bearer] {
        let (up, closed) = upstream(mode).await?;
        let open = up.image("shared/app", "1", &[200 << 10], 3);
        up.account("robot", "right", &["shared/*"]);
        let credential = "shared = true\ncredential = { username = \"robot\", password_env = \"UP_PASSWORD\" }";
        let larder = Larder::builder()
            .upstream("up.test", &[&up.url()], credential)
            .env("UP_PASSWORD", "right")
            .config("[limits]\nrefusals = 1000\n[freshness]\ndefault = \"0s\"")
            .start()?;
        let (alice, bob) = (basic("alice", "wonderland"), basic("bob", "builder"));
        let (open, closed) = (targets("/v2/up.test/shared/app", &open), targets(REPO, &closed));
        // The manifest as a blob, which this origin does not have, comes from the store.
        for target in &closed {
            assert_eq!(get(&larder, target, Some(&alice))?.status, 200, "{mode:?} {target}");
        }
        let clients = [None, Some(bob.as_str()), Some(alice.as_str())];
        let all = |target: &str, who: Option<&str>| -> anyhow::Result<()> {
            let is_open = open.iter().any(|one| one == target);
            for method in ["GET", "HEAD"] {
                let answer = ask(&larder, method, target, who)?;
                if is_open || who == Some(alice.as_str()) {
                    assert_eq!(answer.status, 200, "{mode:?} {who:?} {method} {target}: {}", answer.text());
                } else {
                    assert!(
                        matches!(answer.status, 401 | 403),
                        "{mode:?} {who:?} {method} {target}: {}",
                        answer.status
                    );
                    assert!(answer.body.len() < 400, "{} bytes", answer.body.len());
                }
            }
            Ok(())
        };
        for who in clients {
            for target in open.iter().chain(&closed) {
                all(target, who)?;
            }
        }
        up.refuse().await;
        for target in open.iter().chain(&closed) {
            all(target, None)?;
            all(target, Some(&alice))?;
        }
        for target in &open {
            all(target, Some(&bob))?;
        }
        for target in &closed {
            let answer = get(&larder, target, Some(&bob))?;
            assert!(answer.status >= 400 && answer.body.len() < 400, "{target}: {}", answer.status);
        }
    }
    Ok(())
}

// S-21
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_read_by_nobody_here_and_go_nowhere() -> anyhow::Result<()> {
    let (up, image) = upstream(Auth::Bearer).await?;
    up.public("bob/app");
    let larder = Larder::in_front_of("up.test", &up).config("[limits]\nrefusals = 1000").start()?;
    let alice = basic("alice", "wonderland");
    assert_eq!(get(&larder, &format!("{REPO}/manifests/1"), Some(&alice))?.status, 200);
    assert_eq!(get(&larder, "/v2/up.test/bob/app/manifests/1", None)?.status, 200);
    up.clear_log();

    // {"alg":"none"}, {"alg":"HS256","jwk":…}, {"alg":"RS256","jku":"http://127.0.0.1/"}; {"sub":"alice","access":…}
    let claims = "eyJzdWIiOiJhbGljZSIsImFjY2VzcyI6W3sidHlwZSI6InJlcG9zaXRvcnkiLCJuYW1lIjoicHJpdmF0ZS9hcHAifV19";
    let tokens = [
        format!("Bearer eyJhbGciOiJub25lIn0.{claims}."),
        format!("Bearer eyJhbGciOiJIUzI1NiIsImp3ayI6e319.{claims}.c2ln"),
        format!("Bearer eyJhbGciOiJSUzI1NiIsImprdSI6Imh0dHA6Ly8xMjcuMC4wLjEvIn0.{claims}.c2ln"),
        "Bearer ".to_owned(),
        "Bearer".to_owned(),
        "bearer YWxpY2U6d29uZGVybGFuZA==".to_owned(),
        "Digest username=\"alice\", realm=\"larder\"".to_owned(),
        "Negotiate YII=".to_owned(),
        "YWxpY2U6d29uZGVybGFuZA==".to_owned(),
        "Basic".to_owned(),
        "Basic not/base64=!".to_owned(),
        "Basic YWxpY2U=".to_owned(),
        format!("{}, Basic {}", "Bearer x", &alice[6..]),
        format!("Basic {}", "A".repeat(50 << 10)),
    ];
    for token in &tokens {
        for target in targets(REPO, &image).iter().chain(&["/v2/up.test/bob/app/manifests/1".to_owned()]) {
            let answer = get(&larder, target, Some(token))?;
            let shown = &token[..token.len().min(60)];
            assert_eq!(answer.status, 401, "{shown} {target}: {}", answer.text());
            assert_eq!(answer.error_code().as_deref(), Some("UNAUTHORIZED"), "{shown}");
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(challenge.starts_with("Basic realm="), "{shown}: {challenge}");
        }
    }
    let huge = format!("Bearer {}", "A".repeat(1 << 20));
    let answer = get(&larder, &format!("{REPO}/manifests/1"), Some(&huge))?;
    assert!(matches!(answer.status, 401 | 431), "{}", answer.status);
    assert_eq!(up.log().len(), 0, "no token causes a question to the origin");
    Ok(())
}

// S-22
#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_is_slowed_down_and_learns_nothing() -> anyhow::Result<()> {
    let (up, _) = upstream(Auth::Basic).await?;
    up.public("bob/app");
    let larder = Larder::in_front_of("up.test", &up).config("[limits]\nrefusals = 10").start()?;
    let target = format!("{REPO}/manifests/1");

    let no_such_user = get(&larder, &target, Some(&basic("nobody", "guess")))?;
    let wrong_password = get(&larder, &target, Some(&basic("alice", "guess")))?;
    assert_eq!((no_such_user.status, no_such_user.text()), (wrong_password.status, wrong_password.text()));
    assert!(matches!(wrong_password.status, 401 | 403));

    let started = std::time::Instant::now();
    let (mut refused, mut slowed) = (0, 0);
    let mut client = larder.client()?;
    for n in 0..2_000 {
        let answer = client.ask("GET", &target, &[("Authorization", &basic("alice", &format!("guess{n}")))])?;
        match answer.status {
            401 | 403 => refused += 1,
            429 => {
                slowed += 1;
                assert_eq!(answer.error_code().as_deref(), Some("TOOMANYREQUESTS"));
                let wait: u64 = answer.header("retry-after").unwrap_or_default().parse()?;
                assert!((1..=3600).contains(&wait), "{wait}");
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    let allowed = 10 + 2 + started.elapsed().as_secs();
    assert!(refused <= allowed, "{refused} guesses were looked at");
    assert!(slowed > 0);
    let asked = up.log().iter().filter(|request| request.authorization().is_some()).count();
    assert!(asked as u64 <= allowed + 2, "{asked} guesses went to the origin");
    // Who shows no credential is not concerned.
    assert_eq!(get(&larder, "/v2/up.test/bob/app/manifests/1", None)?.status, 200);
    Ok(())
}

// S-22
#[tokio::test(flavor = "multi_thread")]
async fn overlong_credentials_are_refused_before_anything_is_done_with_them() -> anyhow::Result<()> {
    let (up, _) = upstream(Auth::Basic).await?;
    let larder = Larder::in_front_of("up.test", &up).config("[limits]\nrefusals = 1000").start()?;
    for (user, password) in [(16 << 10, 17 << 10), (17 << 10, 1), (1, 40 << 10)] {
        let credential = basic(&"u".repeat(user), &"p".repeat(password));
        let answer = get(&larder, &format!("{REPO}/manifests/1"), Some(&credential))?;
        assert!(matches!(answer.status, 401 | 431), "{}", answer.status);
    }
    assert_eq!(up.log().len(), 0);
    // As long as cloud registries' tokens are, which are sent as passwords, is not too long.
    let token = "t".repeat(12 << 10);
    up.account("cloud", &token, &["private/app"]);
    assert_eq!(get(&larder, &format!("{REPO}/manifests/1"), Some(&basic("cloud", &token)))?.status, 200);
    Ok(())
}

// S-24
#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_images_is_on_the_port_for_clients_and_no_names_are_on_the_other() -> anyhow::Result<()> {
    let (up, image) = upstream(Auth::Bearer).await?;
    let larder = Larder::in_front_of("up.test", &up).start()?;
    let alice = basic("alice", "wonderland");
    for target in &targets(REPO, &image) {
        assert_eq!(get(&larder, target, Some(&alice))?.status, 200);
    }
    for target in [
        "/metrics",
        "/debug",
        "/debug/pprof/",
        "/debug/vars",
        "/healthz",
        "/readyz",
        "/admin",
        "/admin/purge",
        "/purge",
        "/config",
        "/",
        "/v2/../metrics",
        "/.git/config",
        "/v2/_catalog",
        "/v2/_catalog?n=1000000000",
        "/v2/_state",
    ] {
        for method in ["GET", "POST", "DELETE", "PURGE", "OPTIONS"] {
            let answer = larder.ask(method, target, &[])?;
            assert!((400..500).contains(&answer.status), "{method} {target}: {} {}", answer.status, answer.text());
            assert!(!answer.text().contains("private"), "{method} {target}: {}", answer.text());
        }
    }
    assert_eq!(larder.admin("/healthz")?.status, 200);
    assert_eq!(larder.admin("/readyz")?.status, 200);
    let metrics = larder.admin("/metrics")?.text();
    assert!(metrics.contains("larder_"));
    for name in ["private/app", "bob/app", &image.digest[7..], "alice", "bob"] {
        assert!(!metrics.contains(name), "{name} stands in the metrics");
    }
    for target in
        ["/", "/debug", "/debug/pprof/", "/config", "/metrics/../config", "/v2/", "/v2/up.test/bob/app/tags/list"]
    {
        assert_eq!(larder.admin(target)?.status, 404, "{target}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_asked_for_a_credential_where_one_may_help() -> anyhow::Result<()> {
    let (up, _) = upstream(Auth::Bearer).await?;
    let larder = Larder::in_front_of("up.test", &up).start()?;
    let answer = get(&larder, &format!("{REPO}/manifests/1"), None)?;
    assert_eq!((answer.status, answer.error_code().as_deref()), (401, Some("UNAUTHORIZED")));
    assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Basic realm=")));
    let answer = get(&larder, &format!("{REPO}/manifests/1"), Some(&basic("bob", "builder")))?;
    assert_eq!((answer.status, answer.error_code().as_deref()), (403, Some("DENIED")));
    let answer = get(&larder, &format!("{REPO}/manifests/1"), Some(&basic("alice", "wonderland")))?;
    assert_eq!(answer.status, 200);
    assert!(up.count("GET", Kind::Token) >= 2);
    Ok(())
}

/// The clients of a herd do not share what they may do.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ask_at_once_get_what_each_may_have() -> anyhow::Result<()> {
    let (up, image) = upstream(Auth::Bearer).await?;
    // All are in flight together: the origin answers none of them before the gate opens.
    up.rule(faulty::Rule::on(Kind::Blob).fault(faulty::Fault::HoldHeaders("gate".into())));
    let larder = Larder::in_front_of("up.test", &up).config("[limits]\nrefusals = 1000").start()?;
    let target = format!("{REPO}/blobs/{}", image.layers[0]);
    let (alice, bob) = (basic("alice", "wonderland"), basic("bob", "builder"));
    let answers = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for n in 0..30 {
            let who = [None, Some(alice.as_str()), Some(bob.as_str())][n % 3];
            let (larder, target) = (&larder, &target);
            threads.push((n % 3, scope.spawn(move || get(larder, target, who))));
        }
        wait_for("the answers to those that may not", || up.token_fetches() >= 3);
        up.open_gate("gate");
        threads.into_iter().map(|(who, thread)| (who, thread.join().expect("no panic"))).collect::<Vec<_>>()
    });
    for (who, answer) in answers {
        let answer = answer?;
        match who {
            1 => assert_eq!(answer.digest(), image.layers[0]),
            0 => assert_eq!(answer.status, 401),
            _ => assert!(matches!(answer.status, 401 | 403), "{}", answer.status),
        }
    }
    Ok(())
}
