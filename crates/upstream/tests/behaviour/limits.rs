use std::time::Duration;

use cache::{Authority, FailureKind};
use faulty::{Fault, Kind, Place, Rule};
use futures_util::future::join_all;
use upstream::Limits;

use crate::bench::{Bench, SIZE, ask};

const ANYBODY: Authority = Authority::Anonymous;

#[tokio::test]
async fn so_many_requests_at_a_time() {
    let bench = Bench::with(|settings| settings.upstreams[0].limits.concurrency = Some(2)).await;
    bench.up.rule(Rule::on(Kind::Blob).fault(Fault::Hold { at: Place::Byte(1000), gate: "g".into() }));
    let (ask, layer) = (ask(&ANYBODY), bench.layer());
    let first = bench.source.blob(&ask, &layer, 0, None).await.unwrap();
    let second = bench.source.blob(&ask, &layer, 0, None).await.unwrap();
    // Bodies count as long as they last.
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Timeout));
    assert_eq!(bench.requests(Kind::Manifest), 0);
    let (waiting, ()) = tokio::join!(bench.manifest(&ANYBODY), async { drop(first) });
    assert_eq!(waiting, Ok(()));
    drop(second);
}

#[tokio::test]
async fn so_many_requests_in_a_second() {
    let bench = Bench::with(|settings| {
        settings.upstreams[0].limits.requests_per_second = Some(2.0);
        settings.deadlines.queue = Duration::from_millis(1600);
    })
    .await;
    let outcomes = join_all((0..10).map(|_| bench.manifest(&ANYBODY))).await;
    let passed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    // Two at once, and what the queue's 1.6 s make room for.
    assert_eq!(passed, 5);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(FailureKind::Timeout))));
    assert_eq!(bench.requests(Kind::Manifest), 5);
}

#[tokio::test]
async fn so_many_bytes_in_a_second() {
    let bench = Bench::with(|settings| {
        let limits = &mut settings.upstreams[0].limits;
        *limits = Limits { bytes_per_second: Some(400_000), ..Limits::default() };
    })
    .await;
    let started = tokio::time::Instant::now();
    let bodies = join_all((0..2).map(|_| bench.blob(&ANYBODY))).await;
    assert!(bodies.iter().all(|body| body.as_ref().unwrap().len() == SIZE));
    // 600 kB, of which 100 kB are the burst and the last chunk of each is not waited for.
    assert!(started.elapsed() >= Duration::from_millis(500));
}
