use cache::{Authority, DocumentQuery, FailureKind};
use faulty::{Ending, Fault, Kind, Place, Rule};
use oci::{Digest, MANIFEST_TYPES, MediaType};

use crate::bench::{Bench, REPO, SIZE, ask, drain, fetch, tag};

const ANYBODY: Authority = Authority::Anonymous;

#[tokio::test]
async fn what_a_registry_has() {
    let bench = Bench::start().await;
    let ask = ask(&ANYBODY);
    let digest: Digest = bench.image.digest.parse().unwrap();

    let head = bench.source.head_manifest(&ask, &tag("latest")).await.unwrap();
    assert_eq!((head.digest, head.size), (Some(digest), Some(bench.image.bytes.len() as u64)));
    assert_eq!(head.media_type, Some(MediaType::OCI_MANIFEST));
    let manifest = bench.source.manifest(&ask, &tag(&bench.image.digest)).await.unwrap();
    assert_eq!((manifest.bytes, manifest.digest), (bench.image.bytes.clone(), Some(digest)));
    assert_eq!(bench.source.head_blob(&ask, &bench.layer()).await.unwrap().size, Some(SIZE as u64));
    assert_eq!(fetch(&*bench.source, &ask, &bench.layer()).await.unwrap().len(), SIZE);

    let log = bench.up.log();
    assert!(log.iter().all(|request| request.authorization().is_none() && request.query.is_empty()));
    assert!(log.iter().all(|request| request.header("accept-encoding") == Some("identity")));
    assert!(log.iter().all(|request| request.header("user-agent").unwrap().starts_with("larder/")));
    assert_eq!(log[0].header("accept"), Some(MANIFEST_TYPES));
    assert_eq!(log[3].range(), None);
    assert_eq!(bench.up.connections(), 1);
    let received: u64 =
        bench.metric(r#"larder_upstream_received_bytes_total{upstream="origin.example"}"#).parse().unwrap();
    assert_eq!(received, (SIZE + bench.image.bytes.len()) as u64);
    assert_eq!(bench.metric(r#"larder_upstream_requests_total{upstream="origin.example",code="200"}"#), "4");
}

#[tokio::test]
async fn a_range_of_a_blob() {
    let bench = Bench::start().await;
    let (ask, layer) = (ask(&ANYBODY), bench.layer());
    let body = bench.source.blob(&ask, &layer, 1000, None).await.unwrap();
    assert_eq!((body.offset, body.size), (1000, Some(SIZE as u64)));
    assert_eq!(drain(body).await, (SIZE - 1000, Ok(())));
    assert_eq!(bench.up.log()[0].range(), Some("bytes=1000-"));

    bench.fault(Fault::IgnoreRange);
    let body = bench.source.blob(&ask, &layer, 1000, None).await.unwrap();
    assert_eq!((body.offset, body.size), (0, Some(SIZE as u64)));

    bench.up.clear_rules();
    let beyond = bench.source.blob(&ask, &layer, SIZE as u64, None).await.err().unwrap();
    assert_eq!(beyond.kind, FailureKind::Invalid);
    let partial = |range: &str| {
        let head = "HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n";
        bench.fault(Fault::Raw(format!("{head}{range}\r\n12345")));
        bench.source.blob(&ask, &layer, 1000, None)
    };
    for range in [
        "Content-Range: bytes 999-1003/2000\r\n",
        "Content-Range: bytes 1000-1004/1000\r\n",
        "Content-Range: nonsense\r\n",
        "",
    ] {
        assert_eq!(partial(range).await.err().unwrap().kind, FailureKind::Invalid, "{range}");
    }
    let body = partial("Content-Range: bytes 1000-1004/*\r\n").await.unwrap();
    assert_eq!((body.offset, body.size), (1000, None));
    assert_eq!(drain(body).await, (5, Ok(())));
}

#[tokio::test]
async fn lengths_that_are_missing_or_wrong() {
    let bench = Bench::start().await;
    let ask = ask(&ANYBODY);
    for fault in [Fault::NoContentLength, Fault::UntilClose] {
        bench.fault(fault);
        let body = bench.source.blob(&ask, &bench.layer(), 0, None).await.unwrap();
        assert_eq!(body.size, None);
        assert_eq!(drain(body).await, (SIZE, Ok(())));
    }
    bench.fault(Fault::WrongLength(10));
    let body = bench.source.blob(&ask, &bench.layer(), 0, None).await.unwrap();
    assert_eq!(drain(body).await, (SIZE, Err(FailureKind::Unavailable)));
    bench.fault(Fault::WrongLength(-10));
    let body = bench.source.blob(&ask, &bench.layer(), 0, None).await.unwrap();
    assert_eq!(drain(body).await, (SIZE - 10, Ok(())));
    bench.fault(Fault::TwoLengths(10));
    assert_eq!(bench.blob(&ANYBODY).await, Err(FailureKind::Invalid));
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Invalid));
}

#[tokio::test]
async fn bodies_that_end_early_stall_or_trickle() {
    let bench = Bench::start().await;
    let ask = ask(&ANYBODY);
    for how in [Ending::Fin, Ending::Reset] {
        bench.fault(Fault::cut_half(how));
        let body = bench.source.blob(&ask, &bench.layer(), 0, None).await.unwrap();
        assert_eq!(drain(body).await, (SIZE / 2, Err(FailureKind::Unavailable)));
        assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Unavailable));
    }
    bench.fault(Fault::Stall { at: Place::Fraction(0.5), ms: None });
    let body = bench.source.blob(&ask, &bench.layer(), 0, None).await.unwrap();
    assert_eq!(drain(body).await, (SIZE / 2, Err(FailureKind::Timeout)));
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Timeout));
    bench.fault(Fault::Trickle(20));
    let body = bench.source.blob(&ask, &bench.layer(), 0, None).await.unwrap();
    let (length, end) = drain(body).await;
    assert!(length < 1000, "{length}");
    assert_eq!(end, Err(FailureKind::Timeout));
    assert_eq!(bench.metric(r#"larder_upstream_errors_total{upstream="origin.example",reason="timeout"}"#), "3");
}

#[tokio::test]
async fn heads_that_do_not_come_or_do_not_end() {
    let bench = Bench::start().await;
    for (fault, kind) in [
        (Fault::Hang, FailureKind::Timeout),
        (Fault::DelayHeaders(60_000), FailureKind::Timeout),
        (Fault::SlowHeaders(100), FailureKind::Timeout),
        (Fault::HugeHeader(200_000), FailureKind::Invalid),
        (Fault::ManyHeaders(1000), FailureKind::Invalid),
        (Fault::Raw("SSH-2.0-OpenSSH_9.9\r\n".into()), FailureKind::Invalid),
    ] {
        bench.fault(fault.clone());
        assert_eq!(bench.manifest(&ANYBODY).await, Err(kind), "{fault:?}");
    }
}

#[tokio::test]
async fn what_is_too_long_is_not_read() {
    let bench = Bench::start().await;
    for fault in [Fault::Huge(5_000_000_000), Fault::Endless] {
        bench.fault(fault.clone());
        bench.up.clear_log();
        assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Invalid), "{fault:?}");
        let tags = DocumentQuery::Tags { n: None, last: None };
        let error = bench.source.document(&ask(&ANYBODY), &tags).await.err().unwrap();
        assert_eq!(error.kind, FailureKind::Invalid, "{fault:?}");
        let closed = |log: &[faulty::Request]| log.len() == 2 && log.iter().all(|request| request.end_us.is_some());
        assert!(bench.up.wait_for(closed, std::time::Duration::from_secs(10)).await);
        assert!(bench.up.log().iter().all(|request| request.bytes < 64 << 20));
    }
    // Exactly the limit is fine.
    bench.fault(Fault::Huge(oci::MANIFEST_LIMIT as u64));
    assert!(bench.source.manifest(&ask(&ANYBODY), &tag("latest")).await.is_ok());
    bench.fault(Fault::Huge(oci::MANIFEST_LIMIT as u64 + 1));
    assert!(bench.source.manifest(&ask(&ANYBODY), &tag("latest")).await.is_err());
}

#[tokio::test]
async fn encoded_content_and_web_pages_are_refused() {
    let bench = Bench::start().await;
    for fault in [Fault::Gzip, Fault::GzipBomb(1 << 30)] {
        bench.fault(fault);
        assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Invalid));
        assert_eq!(bench.blob(&ANYBODY).await, Err(FailureKind::Invalid));
    }
    bench.fault(Fault::Html);
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Invalid));
    bench.fault(Fault::RemoveHeader("Content-Type".into()));
    let manifest = bench.source.manifest(&ask(&ANYBODY), &tag("latest")).await.unwrap();
    assert_eq!(manifest.media_type, MediaType::OCI_MANIFEST);
}

#[tokio::test]
async fn statuses() {
    let bench = Bench::with(|settings| settings.breaker.failures = 100).await;
    for (code, kind) in [
        (400, FailureKind::Invalid),
        (401, FailureKind::Unauthorized),
        (403, FailureKind::Denied),
        (404, FailureKind::NotFound),
        (405, FailureKind::Invalid),
        (500, FailureKind::Unavailable),
        (503, FailureKind::Unavailable),
        (204, FailureKind::Invalid),
        (206, FailureKind::Invalid),
        (304, FailureKind::Invalid),
    ] {
        bench.fault(Fault::status(code));
        assert_eq!(bench.manifest(&ANYBODY).await, Err(kind), "{code}");
        assert_eq!(bench.blob(&ANYBODY).await, Err(kind), "{code}");
        let head = bench.source.head_manifest(&ask(&ANYBODY), &tag("latest")).await;
        assert_eq!(head.err().unwrap().kind, kind, "{code}");
    }
    let missing = bench.metric(r#"larder_upstream_errors_total{upstream="origin.example",reason="not_found"}"#);
    assert_eq!(missing, "3");
}

#[tokio::test]
async fn lists_page_by_page() {
    let bench = Bench::start().await;
    let ask = ask(&ANYBODY);
    for tag in ["b", "c"] {
        bench.up.move_tag(REPO, tag, &bench.image.digest);
    }
    let tags = |last: Option<&str>| DocumentQuery::Tags { n: Some(2), last: last.map(str::to_owned) };
    let first = bench.source.document(&ask, &tags(None)).await.unwrap();
    assert_eq!(first.next.as_deref(), Some("n=2&last=c"));
    assert_eq!(first.media_type, MediaType::JSON);
    let second = bench.source.document(&ask, &tags(Some("c"))).await.unwrap();
    assert_eq!((second.next, second.bytes), (None, format!(r#"{{"name":"{REPO}","tags":["latest"]}}"#).into()));

    bench.up.artifact(REPO, "application/x-sbom", &bench.image, "sbom");
    let referrers = DocumentQuery::Referrers {
        digest: bench.image.digest.parse().unwrap(),
        artifact_type: Some("application/x-sbom".into()),
        page: None,
    };
    let list = bench.source.document(&ask, &referrers).await.unwrap();
    assert_eq!(list.filters_applied.as_deref(), Some("artifactType"));
    assert_eq!((list.media_type, list.next), (MediaType::OCI_INDEX, None));
    bench.up.rule(Rule::on(Kind::Referrers).fault(Fault::EndlessLinks));
    assert_eq!(bench.source.document(&ask, &referrers).await.unwrap().next.as_deref(), Some("page=1"));
}

#[tokio::test]
async fn a_call_that_is_dropped_ends_its_request() {
    let bench = Bench::start().await;
    // More than the kernel takes before anybody reads it.
    let large = bench.up.generated_blob(REPO, 64 << 20, 1).parse().unwrap();
    let body = bench.source.blob(&ask(&ANYBODY), &large, 0, None).await.unwrap();
    drop(body);
    let ended = |log: &[faulty::Request]| log.iter().all(|request| request.end_us.is_some() && !request.complete);
    assert!(bench.up.wait_for(ended, std::time::Duration::from_secs(10)).await);
}
