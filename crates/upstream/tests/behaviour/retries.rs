use std::time::Duration;

use cache::{Authority, FailureKind};
use faulty::{BlackHole, Fault, Kind, Rule, Upstream, http_date};
use upstream::{BreakerSettings, Endpoint, RetrySettings};

use crate::bench::{Bench, ask, at, client, settings, source, tag};

const ANYBODY: Authority = Authority::Anonymous;

#[tokio::test]
async fn what_fails_a_few_times_is_asked_again() {
    let bench = Bench::start().await;
    for fault in [Fault::status(500), Fault::status(502), Fault::status(503), Fault::Reset, Fault::Close] {
        bench.up.rules(vec![Rule::on(Kind::Manifest).times(3).fault(fault.clone())]);
        bench.up.clear_log();
        assert_eq!(bench.manifest(&ANYBODY).await, Ok(()), "{fault:?}");
        assert_eq!(bench.requests(Kind::Manifest), 4, "{fault:?}");
    }
    assert_eq!(bench.metric(r#"larder_upstream_retries_total{upstream="origin.example"}"#), "15");
}

#[tokio::test]
async fn what_fails_always_is_given_up() {
    let bench = Bench::start().await;
    bench.fault(Fault::status(500));
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Unavailable));
    assert_eq!(bench.requests(Kind::Manifest), 4);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_is_no_failure() {
    let bench = Bench::with(|settings| settings.retries.count = 1).await;
    for _ in 0..5 {
        assert_eq!(bench.manifest(&ANYBODY).await, Ok(()));
        bench.up.drop_connections();
    }
}

#[tokio::test]
async fn a_429_is_honoured_in_all_its_forms() {
    let date = http_date(Duration::from_secs(30));
    for (value, least, most) in [
        (Some("20"), 20, 20),
        (Some(date.as_str()), 28, 30),
        (None, 5, 5),
        (Some("1e99"), 5, 5),
        (Some("-5"), 5, 5),
        (Some("0"), 1, 1),
        (Some("999999999"), 3600, 3600),
    ] {
        let bench = Bench::start().await;
        bench.fault(Fault::too_many(value));
        let Err(FailureKind::RateLimited { retry_after }) = bench.manifest(&ANYBODY).await else { panic!("{value:?}") };
        assert!((least..=most).contains(&retry_after.as_secs()), "{value:?}: {retry_after:?}");
        // Nothing is asked meanwhile, of nothing.
        for _ in 0..3 {
            assert!(matches!(bench.blob(&ANYBODY).await, Err(FailureKind::RateLimited { .. })), "{value:?}");
        }
        assert_eq!(bench.up.log().len(), 1, "{value:?}");
        // Others may ask.
        bench.up.clear_rules();
        assert_eq!(bench.manifest(&client("u", "p")).await, Ok(()));
    }
}

#[tokio::test]
async fn after_a_429_has_run_out_it_is_asked_again() {
    let bench = Bench::start().await;
    bench.up.rule(Rule::any().times(1).fault(Fault::too_many(Some("1"))));
    assert!(bench.manifest(&ANYBODY).await.is_err());
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while bench.manifest(&ANYBODY).await.is_err() {
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bench.up.log().len(), 2);
}

#[tokio::test]
async fn docker_hubs_quota_is_shown() {
    let bench = Bench::start().await;
    bench.up.docker_hub_limit(100);
    bench.manifest(&ANYBODY).await.unwrap();
    bench.source.head_manifest(&ask(&ANYBODY), &tag("latest")).await.unwrap();
    assert_eq!(bench.metric(r#"larder_upstream_ratelimit_limit{upstream="origin.example"}"#), "100");
    assert_eq!(bench.metric(r#"larder_upstream_ratelimit_remaining{upstream="origin.example"}"#), "99");
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_left_alone_and_found_again() {
    let bench = Bench::with(|settings| {
        settings.breaker =
            BreakerSettings { failures: 5, pause: Duration::from_millis(300), longest: Duration::from_millis(300) };
    })
    .await;
    bench.up.refuse().await;
    for _ in 0..2 {
        assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Unavailable));
    }
    let open = || bench.metric(r#"larder_upstream_breaker_open{upstream="origin.example"}"#);
    assert_eq!(open(), "1");
    let error = bench.source.manifest(&ask(&ANYBODY), &tag("latest")).await.err().unwrap();
    assert!(error.reason.contains("left alone"), "{error}");
    bench.up.accept().await.unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while bench.manifest(&ANYBODY).await.is_err() {
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(open(), "0");
}

#[tokio::test]
async fn a_black_hole_is_given_up_in_time_and_then_costs_nothing() {
    let hole = BlackHole::start().await.unwrap();
    let up = Upstream::start().await.unwrap();
    let mut upstream = at(&up);
    upstream.endpoints = vec![Endpoint::new(format!("http://{}", hole.addr()))];
    let mut settings = settings(upstream);
    settings.breaker.failures = 2;
    let source = source(settings);
    for _ in 0..2 {
        let error = source.manifest(&ask(&ANYBODY), &tag("latest")).await.err().unwrap();
        assert_eq!(error.kind, FailureKind::Timeout);
    }
    let error = source.manifest(&ask(&ANYBODY), &tag("latest")).await.err().unwrap();
    assert_eq!(error.kind, FailureKind::Unavailable);
}

#[tokio::test]
async fn retries_end_with_the_whole_answers_deadline() {
    let bench = Bench::with(|settings| {
        settings.retries = RetrySettings { count: 1000, pause: Duration::from_millis(50) };
        settings.deadlines.answer = Duration::from_millis(500);
    })
    .await;
    bench.fault(Fault::status(503));
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Timeout));
}
