use cache::{Authority, Credential, FailureKind};
use faulty::{Auth, Fault, Kind, Rule, Tls, Upstream};

use crate::bench::{Bench, REPO, SIZE, ask, tag};

const ANYBODY: Authority = Authority::Anonymous;

/// A registry that needs a credential, and a second server that has the same content for everybody.
async fn with_cdn(auth: Auth) -> (Bench, Upstream) {
    let cdn = Upstream::start().await.unwrap();
    let host = cdn.host();
    let bench = Bench::with(|settings| {
        settings.upstreams[0].credential = Some(Credential::new("own", "own-secret"));
        settings.upstreams[0].allowed_hosts = vec![host];
    })
    .await;
    bench.up.auth(auth);
    bench.up.account("own", "own-secret", &[REPO]);
    cdn.mirror_of(&bench.up);
    (bench, cdn)
}

#[tokio::test]
async fn to_a_cdn_without_the_credential() {
    for auth in [Auth::Basic, Auth::Bearer] {
        for code in [301, 302, 303, 307, 308] {
            let (bench, cdn) = with_cdn(auth).await;
            let location = format!("{}{{path}}?X-Signature=secret", cdn.url());
            bench.up.rule(Rule::on(Kind::Blob).fault(Fault::Redirect { location, code }));
            assert_eq!(bench.blob(&Authority::Own).await.unwrap().len(), SIZE);
            let body = bench.source.blob(&ask(&Authority::Own), &bench.layer(), 1000, None).await.unwrap();
            assert_eq!(body.offset, 1000);
            let log = cdn.log();
            assert_eq!((log.len(), log[1].range()), (2, Some("bytes=1000-")));
            for request in log {
                assert!(request.authorization().is_none() && request.header("cookie").is_none());
                assert_eq!(request.query, "X-Signature=secret");
            }
        }
    }
}

#[tokio::test]
async fn there_and_back_the_credential_is_gone_for_good() {
    let (bench, cdn) = with_cdn(Auth::Basic).await;
    cdn.rule(Rule::on(Kind::Blob).fault(Fault::redirect(&format!("{}{{path}}?back", bench.up.url()))));
    bench.up.rule(Rule::on(Kind::Blob).times(1).fault(Fault::redirect(&format!("{}{{path}}", cdn.url()))));
    assert_eq!(bench.blob(&Authority::Own).await, Err(FailureKind::Unavailable));
    let back = bench.up.log().into_iter().find(|request| request.query == "back").unwrap();
    assert_eq!(back.authorization(), None);
}

#[tokio::test]
async fn on_the_same_server_with_the_credential() {
    let (bench, _cdn) = with_cdn(Auth::Basic).await;
    bench.up.rule(Rule::on(Kind::Blob).fault(Fault::RedirectChain(10)));
    assert_eq!(bench.blob(&Authority::Own).await.unwrap().len(), SIZE);
}

#[tokio::test]
async fn not_for_ever() {
    let bench = Bench::start().await;
    bench.fault(Fault::RedirectChain(10));
    assert!(bench.blob(&ANYBODY).await.is_ok());
    bench.fault(Fault::RedirectChain(11));
    assert_eq!(bench.blob(&ANYBODY).await, Err(FailureKind::Invalid));
    bench.up.clear_log();
    bench.fault(Fault::RedirectLoop);
    assert_eq!(bench.blob(&ANYBODY).await, Err(FailureKind::Invalid));
    assert_eq!(bench.up.log().len(), 1);
}

#[tokio::test]
async fn not_where_larder_may_not_go() {
    let elsewhere = Upstream::start().await.unwrap();
    let port = elsewhere.addr().port();
    let bench = Bench::start().await;
    elsewhere.mirror_of(&bench.up);
    for location in [
        format!("http://127.0.0.1:{port}{{path}}"),
        format!("http://localhost:{port}{{path}}"),
        format!("http://127.1:{port}{{path}}"),
        format!("http://0x7f000001:{port}{{path}}"),
        format!("http://0.0.0.0:{port}{{path}}"),
        format!("http://[::1]:{port}{{path}}"),
        format!("http://[::ffff:127.0.0.1]:{port}{{path}}"),
        format!("http://[64:ff9b::7f00:1]:{port}{{path}}"),
        format!("http://user@{}{{path}}", elsewhere.host()),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://10.0.0.1/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "ftp://127.0.0.1/".to_owned(),
        "http://".to_owned(),
    ] {
        bench.fault(Fault::redirect(&location));
        assert_eq!(bench.blob(&ANYBODY).await, Err(FailureKind::Invalid), "{location}");
        assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Invalid), "{location}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn not_from_https_to_http() {
    let plain = Upstream::start().await.unwrap();
    let host = plain.host();
    let up = Upstream::start_tls(Tls::trusted()).await.unwrap();
    let bench = Bench::over(up, |settings| settings.upstreams[0].allowed_hosts = vec![host]);
    plain.mirror_of(&bench.up);
    bench.fault(Fault::redirect(&format!("{}{{path}}", plain.url())));
    assert_eq!(bench.blob(&ANYBODY).await, Err(FailureKind::Invalid));
    assert_eq!(plain.connections(), 0);
}

#[tokio::test]
async fn what_the_cdn_says_is_not_what_the_registry_says() {
    let (bench, cdn) = with_cdn(Auth::None).await;
    bench.up.rule(Rule::on(Kind::Blob).fault(Fault::redirect(&format!("{}{{path}}?sig=secret", cdn.url()))));
    for (code, kind) in [
        (401, FailureKind::Unavailable),
        (403, FailureKind::Unavailable),
        (404, FailureKind::NotFound),
        (500, FailureKind::Unavailable),
    ] {
        cdn.rules(vec![Rule::any().fault(Fault::status(code))]);
        assert_eq!(bench.blob(&ANYBODY).await, Err(kind), "{code}");
    }
    // A failing CDN does not make the registry one that is left alone.
    for _ in 0..10 {
        assert_eq!(bench.blob(&ANYBODY).await, Err(FailureKind::Unavailable));
    }
    assert_eq!(bench.manifest(&ANYBODY).await, Ok(()));
    cdn.refuse().await;
    let error = bench.source.blob(&ask(&ANYBODY), &bench.layer(), 0, None).await.err().unwrap();
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(bench.source.head_manifest(&ask(&ANYBODY), &tag("latest")).await.is_ok());
}
