//! Routes: statuses, headers and codes.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

mod support;

use std::io::Write;
use std::sync::Arc;

use base64::Engine as _;
use cache::{DocumentQuery, FailureKind};
use serve::{Admin, Port};
use support::{Client, Fixture, noise};
use tokio_util::sync::CancellationToken;

const NOT_THERE: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn basic(text: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

#[test]
fn manifests_have_all_headers_in_both_forms() {
    let fixture = Fixture::new();
    let text = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    let digest = fixture.origin.tag("1.0", text);
    let mut client = fixture.connect();
    let etag = format!("\"{digest}\"");
    for (target, ns, keep) in [
        ("/v2/reg.test/a/b/manifests/1.0".to_owned(), None, "private, no-cache"),
        ("/v2/a/b/manifests/1.0?ns=reg.test".to_owned(), Some("reg.test"), "private, no-cache"),
        (format!("/v2/a/b/manifests/{digest}?ns=reg.test"), Some("reg.test"), "private, max-age=31536000, immutable"),
    ] {
        for method in ["GET", "HEAD"] {
            let reply = client.ask(method, &target, &[]);
            assert_eq!(reply.status, 200, "{target}");
            for (name, value) in [
                ("docker-content-digest", Some(digest.to_string().as_str())),
                ("content-length", Some(text.len().to_string().as_str())),
                ("content-type", Some("application/vnd.oci.image.manifest.v1+json")),
                ("docker-distribution-api-version", Some("registry/2.0")),
                ("x-content-type-options", Some("nosniff")),
                ("oci-namespace", ns),
                ("etag", Some(&etag)),
                ("cache-control", Some(keep)),
                ("warning", None),
            ] {
                assert_eq!(reply.header(name), value, "{name} of {method} {target}");
            }
            assert_eq!(reply.text(), if method == "GET" { text } else { "" });
        }
        let reply = client.get(&target, &[("If-None-Match", &format!("\"x\", W/{etag}"))]);
        assert_eq!((reply.status, reply.header("etag")), (304, Some(&*etag)));
        let reply = client.get(&target, &[("Range", "bytes=2-5")]);
        assert_eq!((reply.status, reply.text()), (206, &text[2..6]));
    }
}

#[test]
fn blobs_have_all_headers_and_a_head_fetches_nothing() {
    let fixture = Fixture::new();
    let digest = fixture.origin.blob(noise(100_000));
    let target = format!("/v2/a/b/blobs/{digest}?ns=reg.test");
    let mut client = fixture.connect();
    for method in ["HEAD", "GET"] {
        let reply = client.ask(method, &target, &[]);
        assert_eq!(reply.status, 200);
        for (name, value) in [
            ("docker-content-digest", digest.to_string().as_str()),
            ("content-length", "100000"),
            ("content-type", "application/octet-stream"),
            ("accept-ranges", "bytes"),
            ("oci-namespace", "reg.test"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{name} of {method}");
        }
        if method == "HEAD" {
            assert_eq!(fixture.number("larder_fills_running"), 0.0);
        }
    }
    let reply = client.ask("GET", &target, &[("If-None-Match", &format!("\"{digest}\""))]);
    assert_eq!(reply.status, 304);
    let reply = client.ask("HEAD", &target, &[("Range", "bytes=0-9")]);
    assert_eq!((reply.status, reply.header("content-length")), (206, Some("10")));
}

#[test]
fn refusals_have_a_code_of_the_specification() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let (long, tag) = ("a".repeat(256), "t".repeat(129));
    for (target, status, code) in [
        ("/", 404, "NAME_UNKNOWN"),
        ("/metrics", 404, "NAME_UNKNOWN"),
        ("/v2/_catalog", 404, "NAME_UNKNOWN"),
        ("/v2/_catalog?n=1000000000", 404, "NAME_UNKNOWN"),
        ("/v2/alpine/manifests/3", 404, "NAME_UNKNOWN"),
        ("/v2/other.test/a/manifests/3", 404, "NAME_UNKNOWN"),
        ("/v2/reg.test/a/manifests/none", 404, "MANIFEST_UNKNOWN"),
        (&format!("/v2/reg.test/a/manifests/{NOT_THERE}"), 404, "MANIFEST_UNKNOWN"),
        (&format!("/v2/reg.test/a/blobs/{NOT_THERE}"), 404, "BLOB_UNKNOWN"),
        ("/v2/reg.test/a/blobs/uploads/1", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("/v2/reg.test/a/../b/manifests/x", 400, "NAME_INVALID"),
        ("/v2/reg.test/%2e%2e/manifests/x", 400, "NAME_INVALID"),
        ("/v2/reg.test/a%2fb/manifests/x", 400, "NAME_INVALID"),
        ("/v2/reg.test//manifests/x", 400, "NAME_INVALID"),
        ("/v2/reg.test/A/manifests/x", 400, "NAME_INVALID"),
        (&format!("/v2/reg.test/{long}/tags/list"), 400, "NAME_INVALID"),
        ("/v2/a/manifests/x?ns=good@evil", 400, "NAME_INVALID"),
        ("/v2/a/manifests/x?ns=", 400, "NAME_INVALID"),
        ("/v2/a/manifests/x?ns=reg.test&ns=reg.test", 400, "NAME_INVALID"),
        ("/v2/reg.test/a/blobs/sha256:../../etc/passwd", 404, "NAME_UNKNOWN"),
        ("/v2/reg.test/a/blobs/sha256:", 400, "DIGEST_INVALID"),
        ("/v2/reg.test/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
        ("/v2/reg.test/a/manifests/sha256:baddigeststring", 400, "DIGEST_INVALID"),
        (&format!("/v2/reg.test/a/blobs/{NOT_THERE}0"), 400, "DIGEST_INVALID"),
        (&format!("/v2/reg.test/a/blobs/{}", NOT_THERE.to_uppercase()), 400, "DIGEST_INVALID"),
        ("/v2/reg.test/a/referrers/latest", 400, "DIGEST_INVALID"),
        ("/v2/reg.test/a/manifests/.x", 400, "MANIFEST_INVALID"),
        (&format!("/v2/reg.test/a/manifests/{tag}"), 400, "MANIFEST_INVALID"),
        ("/v2/reg.test/a/tags/list?n=-1", 400, "UNSUPPORTED"),
        ("/v2/reg.test/a/tags/list?n=1e9", 400, "UNSUPPORTED"),
    ] {
        let reply = client.get(target, &[]);
        assert_eq!((reply.status, reply.code()), (status, code), "{target}");
        assert_eq!(reply.header("content-type"), Some("application/json"), "{target}");
        let head = client.ask("HEAD", target, &[]);
        assert_eq!((head.status, head.body.len()), (status, 0), "{target}");
    }
    let reply = client.get("/v2/alpine/manifests/3", &[]);
    assert!(reply.text().contains("docker.io/library/alpine"), "says what to do: {}", reply.text());
}

#[test]
fn what_the_origin_suffers_is_told() {
    let second = std::time::Duration::from_millis(1001);
    for (kind, status, code, wait) in [
        (FailureKind::Unavailable, 502, "UNKNOWN", None),
        (FailureKind::Invalid, 502, "UNKNOWN", None),
        (FailureKind::Timeout, 504, "UNKNOWN", None),
        (FailureKind::Denied, 403, "DENIED", None),
        (FailureKind::RateLimited { retry_after: second }, 429, "TOOMANYREQUESTS", Some("2")),
    ] {
        let fixture = Fixture::new();
        *fixture.origin.down.lock().unwrap() = Some(kind);
        let reply = fixture.connect().get("/v2/reg.test/a/b/manifests/1", &[]);
        assert_eq!((reply.status, reply.code(), reply.header("retry-after")), (status, code, wait), "{kind:?}");
    }
}

#[test]
fn writes_are_refused() {
    let fixture = Fixture::new();
    for (method, target) in [
        ("PUT", "/v2/reg.test/a/manifests/1".to_owned()),
        ("DELETE", "/v2/reg.test/a/manifests/1".to_owned()),
        ("DELETE", format!("/v2/a/blobs/{NOT_THERE}?ns=reg.test")),
        ("POST", "/v2/reg.test/a/blobs/uploads/".to_owned()),
        ("PATCH", "/v2/reg.test/a/blobs/uploads/1".to_owned()),
        ("OPTIONS", "/v2/".to_owned()),
        ("BREW", "/v2/reg.test/a/tags/list".to_owned()),
    ] {
        let mut client = fixture.connect();
        // A small body is read, and the connection goes on.
        client.send(method, &target, &[("Content-Length", "1000")]);
        client.stream.write_all(&[b'x'; 1000]).unwrap();
        let reply = client.reply();
        assert_eq!((reply.status, reply.code()), (405, "UNSUPPORTED"), "{method} {target}");
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
        assert_eq!(client.get("/v2/", &[]).status, 200);
    }
    let mut client = fixture.connect();
    client.send("PUT", "/v2/reg.test/a/manifests/1", &[("Content-Length", "5000000000")]);
    let _ = client.stream.write_all(&[b'x'; 300_000]);
    assert_eq!((client.reply().status, client.ended()), (405, true));
    let mut client = fixture.connect();
    client.send("PUT", "/v2/reg.test/a/manifests/1", &[("Content-Length", "10"), ("Expect", "100-continue")]);
    assert_eq!((client.reply().status, client.ended()), (405, true));
}

#[test]
fn credentials_are_checked_and_guessing_is_slowed() {
    let fixture = Fixture::with(|settings| {
        settings.limits.refusals = 5;
        settings.realm = "the larder".to_owned();
    });
    let digest = fixture.origin.tag("1", r#"{"schemaVersion":2}"#);
    let mut client = fixture.connect();
    let target = format!("/v2/reg.test/private/x/manifests/{digest}");
    let challenge = Some("Basic realm=\"the larder\", charset=\"UTF-8\"");
    let reply = client.get(&target, &[]);
    assert_eq!((reply.status, reply.code()), (401, "UNAUTHORIZED"));
    assert!(reply.text().contains("login = true"), "{}", reply.text());
    assert_eq!(reply.header("www-authenticate"), challenge);
    let right = basic("me:right");
    assert_eq!(client.get(&target, &[("Authorization", &right)]).status, 200);
    let reply = client.get(&target, &[("Authorization", "Bearer abc")]);
    assert_eq!((reply.status, reply.header("www-authenticate")), (401, challenge));
    let mut statuses = vec![];
    for guess in 0..50 {
        statuses.push(client.get(&target, &[("Authorization", &basic(&format!("me:{guess}")))]).status);
    }
    let refused = statuses.iter().take_while(|status| matches!(status, 401 | 403)).count();
    assert!(refused >= 4 && statuses.contains(&429), "{statuses:?}");
    let reply = client.get(&target, &[("Authorization", &basic("me:guess"))]);
    if reply.status == 429 {
        assert_eq!((reply.code(), reply.header("retry-after")), ("TOOMANYREQUESTS", Some("1")));
    }
    // Who sends none is not meant.
    assert_eq!(client.get("/v2/", &[]).status, 200);
    assert_eq!(client.get(&format!("/v2/reg.test/a/b/manifests/{digest}"), &[]).status, 200);
}

#[test]
fn lists_are_paged_at_the_clients_own_address() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    *fixture.origin.next.lock().unwrap() = Some("n=1&last=x".to_owned());
    for (target, link) in [
        ("/v2/reg.test/a/b/tags/list?n=1", "</v2/reg.test/a/b/tags/list?n=1&last=x>; rel=\"next\""),
        ("/v2/a/b/tags/list?ns=reg.test&n=1", "</v2/a/b/tags/list?n=1&last=x&ns=reg.test>; rel=\"next\""),
    ] {
        let reply = client.get(target, &[]);
        assert_eq!((reply.status, reply.header("link")), (200, Some(link)));
        let next = link[1..].split('>').next().unwrap();
        assert_eq!(client.get(next, &[]).status, 200);
        let asked = fixture.origin.lists.lock().unwrap().last().cloned();
        assert_eq!(asked, Some(DocumentQuery::Tags { n: Some(1), last: Some("x".to_owned()) }));
    }
    let none = client.get("/v2/reg.test/a/b/tags/list?n=0", &[]);
    assert_eq!((none.status, none.header("link"), none.text()), (200, None, r#"{"name":"a/b","tags":[]}"#));
    assert_eq!(client.get("/v2/reg.test/a/b/tags/list?n=1000000000", &[]).status, 200);
    let asked = fixture.origin.lists.lock().unwrap().last().cloned();
    assert_eq!(asked, Some(DocumentQuery::Tags { n: Some(10_000), last: None }));

    *fixture.origin.next.lock().unwrap() = Some("artifactType=a%2Fb%2Bjson&token=y".to_owned());
    let target = format!("/v2/a/b/referrers/{NOT_THERE}?artifactType=a%2Fb%2Bjson&ns=reg.test");
    let reply = client.get(&target, &[]);
    assert_eq!((reply.status, reply.header("oci-filters-applied")), (200, Some("artifactType")));
    let link = reply.header("link").unwrap().to_owned();
    assert_eq!(client.get(link[1..].split('>').next().unwrap(), &[]).status, 200);
    let asked = fixture.origin.lists.lock().unwrap().last().cloned();
    let (artifact_type, page) = (Some("a/b+json".to_owned()), Some("token=y".to_owned()));
    let digest = NOT_THERE.parse().unwrap();
    assert_eq!(asked, Some(DocumentQuery::Referrers { digest, artifact_type, page }));
}

#[test]
fn the_admin_port_tells_of_itself() {
    let fixture = Fixture::new();
    assert_eq!(fixture.connect().get("/v2/", &[]).text(), "{}");
    let runtime = fixture.runtime.as_ref().unwrap();
    let (cancel, ill) = (CancellationToken::new(), CancellationToken::new());
    let is_ill = ill.clone();
    let ready = move || if is_ill.is_cancelled() { Err("the disk is gone".to_owned()) } else { Ok(()) };
    let port = runtime.block_on(async { Port::take("127.0.0.1:0".parse().unwrap()) });
    let admin = Admin::new(port.unwrap(), fixture.numbers.clone(), ready);
    let mut client = Client::new(admin.local_addr());
    let ended = runtime.spawn(admin.run(cancel.clone()));
    assert_eq!(client.get("/healthz", &[]).status, 200);
    assert_eq!(client.get("/readyz", &[]).status, 200);
    ill.cancel();
    let reply = client.get("/readyz", &[]);
    assert_eq!((reply.status, reply.text()), (503, "the disk is gone\n"));
    assert_eq!(client.get("/healthz", &[]).status, 200);
    let text = client.get("/metrics", &[]).text().to_owned();
    let line = r#"larder_requests_total{endpoint="ping",method="GET",code="200",outcome="none"} 1"#;
    assert!(text.contains(line) && text.ends_with("# EOF\n"), "{text}");
    assert!(text.contains("larder_served_bytes_total{endpoint=\"ping\"} 2"), "{text}");
    assert!(text.contains("larder_request_duration_seconds_count{endpoint=\"ping\"} 1"), "{text}");
    assert_eq!(client.get("/v2/", &[]).status, 404);
    assert_eq!(client.ask("POST", "/healthz", &[]).status, 405);
    cancel.cancel();
    support::wait_for("the admin port closes", || ended.is_finished());
    assert!(Arc::strong_count(&fixture.numbers) <= 2);
}
