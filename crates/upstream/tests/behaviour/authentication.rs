use cache::{Authority, Credential, FailureKind};
use faulty::{Auth, Fault, Kind, Rule, TokenField, TokenSettings, Upstream};
use futures_util::future::join_all;

use crate::bench::{Bench, REPO, ask, ask_for, client, tag};

const ANYBODY: Authority = Authority::Anonymous;

async fn guarded(auth: Auth) -> Bench {
    let bench = Bench::with(|settings| {
        settings.upstreams[0].credential = Some(Credential::new("own", "own-secret"));
    })
    .await;
    bench.up.auth(auth);
    bench.up.account("own", "own-secret", &[REPO]);
    bench.up.account("alice", "alice-secret", &[REPO]);
    bench.up.account("bob", "bob-secret", &["lib/b"]);
    bench
}

#[tokio::test]
async fn basic() {
    let bench = guarded(Auth::Basic).await;
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Unauthorized));
    assert_eq!(bench.up.log().len(), 1);
    assert_eq!(bench.manifest(&Authority::Own).await, Ok(()));
    assert_eq!(bench.manifest(&client("alice", "alice-secret")).await, Ok(()));
    assert_eq!(bench.manifest(&client("alice", "wrong")).await, Err(FailureKind::Unauthorized));
    assert_eq!(bench.manifest(&client("bob", "bob-secret")).await, Err(FailureKind::Denied));
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Unauthorized));
    // Once it is known how the registry asks, each takes one request.
    assert_eq!(bench.up.log().len(), 6);
    let sent: Vec<_> = bench.up.log().iter().map(|request| request.authorization().is_some()).collect();
    assert_eq!(sent, [false, true, true, true, true, false]);
}

#[tokio::test]
async fn public_repositories_behind_basic_need_no_credential() {
    let bench = guarded(Auth::Basic).await;
    bench.manifest(&Authority::Own).await.unwrap();
    bench.up.public(REPO);
    assert_eq!(bench.manifest(&ANYBODY).await, Ok(()));
}

#[tokio::test]
async fn bearer() {
    for field in [TokenField::Both, TokenField::Token, TokenField::AccessToken] {
        let bench = guarded(Auth::Bearer).await;
        bench.up.tokens(TokenSettings { field, ..TokenSettings::default() });
        assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Unauthorized));
        assert_eq!(bench.manifest(&Authority::Own).await, Ok(()));
        assert!(bench.blob(&Authority::Own).await.is_ok());
        assert_eq!(bench.manifest(&client("alice", "alice-secret")).await, Ok(()));
        assert_eq!(bench.manifest(&client("alice", "wrong")).await, Err(FailureKind::Unauthorized));
        assert_eq!(bench.manifest(&client("bob", "bob-secret")).await, Err(FailureKind::Unauthorized));
        let to_token_service = |request: &faulty::Request| request.kind == Kind::Token;
        for request in bench.up.log() {
            let basic = request.authorization().is_some_and(|header| header.starts_with("Basic "));
            assert!(!basic || to_token_service(&request));
        }
        assert_eq!(bench.metric(r#"larder_upstream_token_fetches_total{upstream="origin.example"}"#), "5");
    }
}

#[tokio::test]
async fn anonymous_tokens() {
    let bench = guarded(Auth::Bearer).await;
    bench.up.public("*");
    assert_eq!(bench.manifest(&ANYBODY).await, Ok(()));
    assert!(bench.blob(&ANYBODY).await.is_ok());
    // Another repository of the same registry goes out with its own token at once.
    let other = bench.source.manifest(&ask_for("lib/other", &ANYBODY), &tag("latest")).await;
    assert_eq!(other.err().unwrap().kind, FailureKind::NotFound);
    assert_eq!(bench.up.token_fetches(), 2);
    let log = bench.up.log();
    let unauthorized = log.iter().filter(|request| request.status == 401).count();
    assert_eq!(unauthorized, 1);
    assert!(log.iter().filter(|request| request.kind == Kind::Token).all(|request| request.authorization().is_none()));
    assert!(log.iter().any(|request| request.query.contains("scope=repository%3Alib%2Fother%3Apull")));
}

#[tokio::test]
async fn where_the_token_service_refuses_it_may_still_be_public() {
    let bench = guarded(Auth::Bearer).await;
    bench.up.tokens(TokenSettings { refuse_with: Some(403), ..TokenSettings::default() });
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Denied));
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Denied));
    bench.up.repo_auth(REPO, Auth::None);
    assert_eq!(bench.manifest(&ANYBODY).await, Ok(()));
    assert_eq!(bench.up.token_fetches(), 3);
}

#[tokio::test]
async fn many_at_once_fetch_one_token() {
    let bench = guarded(Auth::Bearer).await;
    bench.up.rule(Rule::on(Kind::Token).before_auth().fault(Fault::DelayHeaders(100)));
    let all = |count: usize| join_all((0..count).map(|_| bench.manifest(&Authority::Own)));
    assert!(all(50).await.iter().all(Result::is_ok));
    assert_eq!(bench.up.token_fetches(), 1);
    // All of its tokens end: one fetch more.
    bench.up.expire_tokens();
    assert!(all(50).await.iter().all(Result::is_ok));
    assert_eq!(bench.up.token_fetches(), 2);
}

#[tokio::test]
async fn a_token_that_is_never_good_is_fetched_twice_at_most() {
    for expires_in in [Some(0), Some(-1), Some(1), None] {
        let bench = guarded(Auth::Bearer).await;
        bench.up.tokens(TokenSettings { lifetime_ms: 0, expires_in, ..TokenSettings::default() });
        assert_eq!(bench.manifest(&Authority::Own).await, Err(FailureKind::Unauthorized));
        assert!(bench.up.token_fetches() <= 2);
        assert!(bench.requests(Kind::Manifest) <= 3);
    }
}

#[tokio::test]
async fn a_token_that_ran_out_is_renewed() {
    let bench = guarded(Auth::Bearer).await;
    for fetches in 1..4 {
        assert_eq!(bench.manifest(&Authority::Own).await, Ok(()));
        assert_eq!(bench.up.token_fetches(), fetches);
        bench.up.expire_tokens();
    }
}

#[tokio::test]
async fn a_token_service_in_trouble() {
    for (fault, kind, fetches) in [
        (Fault::status(500), FailureKind::Unavailable, 2),
        (Fault::Reset, FailureKind::Unavailable, 2),
        (Fault::Hang, FailureKind::Timeout, 1),
        (Fault::status(404), FailureKind::Invalid, 1),
        (Fault::Html, FailureKind::Invalid, 1),
        (Fault::Endless, FailureKind::Unavailable, 2),
        (Fault::redirect("http://127.0.0.1:1/"), FailureKind::Invalid, 1),
        (Fault::Status { code: 200, headers: vec![], body: "{}".into() }, FailureKind::Invalid, 1),
    ] {
        let bench = guarded(Auth::Bearer).await;
        bench.up.rule(Rule::on(Kind::Token).fault(fault.clone()));
        assert_eq!(bench.manifest(&Authority::Own).await, Err(kind), "{fault:?}");
        assert_eq!(bench.requests(Kind::Token), fetches, "{fault:?}");
        assert_eq!(bench.requests(Kind::Manifest), 1, "{fault:?}");
    }
    let bench = guarded(Auth::Bearer).await;
    bench.up.rule(Rule::on(Kind::Token).times(1).fault(Fault::status(500)));
    assert_eq!(bench.manifest(&Authority::Own).await, Ok(()));
    let bench = guarded(Auth::Bearer).await;
    bench.up.rule(Rule::on(Kind::Token).fault(Fault::too_many(Some("7"))));
    let limited = bench.manifest(&Authority::Own).await;
    assert_eq!(limited, Err(FailureKind::RateLimited { retry_after: std::time::Duration::from_secs(7) }));
    assert!(matches!(bench.manifest(&Authority::Own).await, Err(FailureKind::RateLimited { .. })));
    assert_eq!(bench.requests(Kind::Token), 1);
}

#[tokio::test]
async fn a_realm_elsewhere_gets_nothing() {
    let elsewhere = Upstream::start().await.unwrap();
    let port = elsewhere.addr().port();
    for realm in [
        format!("http://127.0.0.1:{port}/token"),
        format!("http://127.0.0.2:{port}/token"),
        format!("http://localhost:{port}/token"),
        format!("http://[::1]:{port}/token"),
        format!("http://2130706433:{port}/token"),
        format!("http://auth.example:{port}/token"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
        String::new(),
    ] {
        let bench = guarded(Auth::Bearer).await;
        bench.up.tokens(TokenSettings { realm: Some(realm.clone()), ..TokenSettings::default() });
        for authority in [ANYBODY, Authority::Own, client("alice", "alice-secret")] {
            assert_eq!(bench.manifest(&authority).await, Err(FailureKind::Invalid), "{realm}");
        }
        let with_user = format!("http://user:pass@{}/token", bench.up.host());
        bench.up.tokens(TokenSettings { realm: Some(with_user), ..TokenSettings::default() });
        assert_eq!(bench.manifest(&Authority::Own).await, Err(FailureKind::Invalid));
        assert_eq!(bench.requests(Kind::Token), 0);
        assert!(bench.up.log().iter().all(|request| request.authorization().is_none()));
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn challenges_that_are_no_use() {
    for (challenge, kind) in [
        (String::new(), FailureKind::Unauthorized),
        ("Negotiate".to_owned(), FailureKind::Unauthorized),
        ("Bearer realm=\"http".to_owned(), FailureKind::Unauthorized),
        (format!("Bearer realm=\"{}\"", "x".repeat(20_000)), FailureKind::Invalid),
        (format!("Bearer realm=\"{}\"", "x".repeat(200_000)), FailureKind::Invalid),
    ] {
        let bench = guarded(Auth::Bearer).await;
        bench.up.tokens(TokenSettings { challenge: Some(challenge), ..TokenSettings::default() });
        assert_eq!(bench.manifest(&Authority::Own).await, Err(kind));
        assert_eq!(bench.requests(Kind::Token), 0);
    }
}

#[tokio::test]
async fn a_token_service_on_another_host_that_is_listed() {
    let service = Upstream::start().await.unwrap();
    let host = service.host();
    let bench = Bench::with(|settings| {
        settings.upstreams[0].credential = Some(Credential::new("own", "own-secret"));
        settings.upstreams[0].token_hosts = vec![host];
    })
    .await;
    bench.up.auth(Auth::Bearer);
    bench.up.account("own", "own-secret", &[REPO]);
    service.token_service_for(&bench.up);
    assert_eq!(bench.manifest(&Authority::Own).await, Ok(()));
    assert_eq!(service.log().len(), 1);
    assert_eq!(bench.requests(Kind::Token), 0);
}

#[tokio::test]
async fn nobody_gets_what_another_may() {
    let bench = guarded(Auth::Bearer).await;
    let authorities = [Authority::Own, client("alice", "alice-secret"), client("bob", "bob-secret"), ANYBODY];
    for _ in 0..2 {
        for authority in &authorities {
            let allowed = matches!(authority, Authority::Own) || *authority == client("alice", "alice-secret");
            assert_eq!(bench.manifest(authority).await.is_ok(), allowed);
        }
    }
    bench.up.revoke("alice", REPO);
    assert_eq!(bench.manifest(&client("alice", "alice-secret")).await, Err(FailureKind::Unauthorized));
    assert_eq!(bench.manifest(&Authority::Own).await, Ok(()));
}

#[tokio::test]
async fn secrets_are_in_no_error() {
    for (auth, fault) in [(Auth::Basic, Fault::EchoRequest(403)), (Auth::Bearer, Fault::EchoRequest(400))] {
        let bench = guarded(auth).await;
        bench.up.tokens(TokenSettings { prefix: "sentinel-".into(), ..TokenSettings::default() });
        bench.up.rule(Rule::on(Kind::Manifest).fault(fault));
        let error = bench.source.manifest(&ask(&Authority::Own), &tag("latest")).await.err().unwrap();
        let text = format!("{error} {error:?}");
        for secret in ["own-secret", "sentinel", "b3duOm93bi1zZWNyZXQ="] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
