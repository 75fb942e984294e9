//! What the distribution API says, where clients or upstreams do not keep to it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use faulty::{Auth, DOCKER_LIST, DOCKER_MANIFEST, Fault, Kind, OCI_INDEX, OCI_MANIFEST, Rule, Source, Upstream};
use scenarios::{Answer, Client, Larder, basic, wait_for};

/// The error codes of the distribution specification.
const CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];

/// More than this is not a matter of allocators and buffers.
const FLAT: u64 = 10 << 20;

#[track_caller]
fn assert_error(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    assert_eq!(answer.error_code().as_deref(), Some(code), "{what}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
    let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    for error in body["errors"].as_array().expect("a list of errors") {
        // The specification has no code for what is wrong with a server.
        let code = error["code"].as_str().unwrap_or_default();
        assert!(CODES.contains(&code) || status >= 500 && code == "UNKNOWN", "{what}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}: {error}");
    }
}

/// Waits until larder has given back what an answer took for a while: memory is not returned before it is used again.
#[track_caller]
fn assert_flat(larder: &Larder, before: u64) {
    wait_for(&format!("memory to be back at {before} bytes and a little"), || {
        let asked = larder.get("/v2/up.test/a/manifests/absent");
        asked.is_ok() && larder.resident() < before + FLAT
    });
}

/// All files of a store but those that are being written.
fn stored(larder: &Larder) -> BTreeSet<String> {
    let all = files(larder.store());
    all.into_iter().filter(|path| !path.contains("/ingest/")).collect()
}

/// All files below a folder.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => found.extend(files(&entry.path())),
            false => drop(found.insert(entry.path().display().to_string())),
        }
    }
    found
}

fn tags(answer: &Answer) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    list["tags"].as_array().expect("tags").iter().map(|tag| tag.as_str().expect("text").to_owned()).collect()
}

/// The target of `Link: <…>; rel="next"`.
fn next(answer: &Answer) -> Option<String> {
    let (target, relation) = answer.header("link")?.strip_prefix('<')?.split_once('>')?;
    assert!(relation.contains("rel=\"next\""), "{relation}");
    Some(target.to_owned())
}

// T-06
#[tokio::test(flavor = "multi_thread")]
async fn tags_come_in_pages() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("a/b", "t00", &[1000], 1);
    let all: Vec<String> = (0..25).map(|n| format!("t{n:02}")).collect();
    all.iter().for_each(|tag| up.move_tag("a/b", tag, &image.digest));
    let larder = Larder::in_front_of("up.test", &up).start()?;
    for (path, query) in [("/v2/up.test/a/b/tags/list", ""), ("/v2/a/b/tags/list", "&ns=up.test")] {
        let answer = larder.get(&format!("{path}?{query}"))?;
        assert_eq!((answer.status, tags(&answer)), (200, all.clone()));
        for n in [1, 7, 24, 25, 1000] {
            let (mut collected, mut target) = (Vec::new(), format!("{path}?n={n}{query}"));
            for _ in 0..30 {
                let answer = larder.get(&target)?;
                assert_eq!(answer.status, 200, "{target}: {}", answer.text());
                let page = tags(&answer);
                assert!(page.len() <= n);
                collected.extend(page);
                match next(&answer) {
                    // As the client reaches larder, not as larder reaches the upstream.
                    Some(more) => assert!(more.starts_with(path) && more.contains("n=") && more != target, "{more}"),
                    None => break,
                }
                target = next(&answer).expect("looked at before");
            }
            assert_eq!(collected, all, "in pages of {n}");
        }
        let answer = larder.get(&format!("{path}?n=0{query}"))?;
        assert_eq!((answer.status, tags(&answer).len(), next(&answer)), (200, 0, None));
        let answer = larder.get(&format!("{path}?n=5&last=t20{query}"))?;
        assert_eq!(tags(&answer), ["t21", "t22", "t23", "t24"]);
        let before = larder.resident();
        for n in ["1000000000", "99999999999999999999999999"] {
            let answer = larder.get(&format!("{path}?n={n}{query}"))?;
            assert_eq!((answer.status, tags(&answer)), (200, all.clone()));
        }
        assert_flat(&larder, before);
        for n in ["-1", "x", "1.5", "0x10", "", "+1", "%201"] {
            let answer = larder.get(&format!("{path}?n={n}{query}"))?;
            assert_eq!(answer.status, 400, "n={n}: {}", answer.text());
        }
    }
    let answer = larder.get("/v2/_catalog?n=1000000000")?;
    assert_error(&answer, 404, "NAME_UNKNOWN", "there is no catalog");
    Ok(())
}

// T-06
#[tokio::test(flavor = "multi_thread")]
async fn the_namespace_asked_for_is_told_in_the_answer() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("a", "1", &[1000], 1);
    let larder = Larder::in_front_of("up.test:5000", &up).start()?;
    for target in [
        "/v2/a/manifests/1".to_owned(),
        "/v2/a/manifests/absent".to_owned(),
        "/v2/a/tags/list".to_owned(),
        format!("/v2/a/blobs/{}", image.layers[0]),
        format!("/v2/a/referrers/{}", image.digest),
    ] {
        for method in ["GET", "HEAD"] {
            for ns in ["up.test:5000", "up.test%3A5000"] {
                let answer = larder.ask(method, &format!("{target}?ns={ns}"), &[])?;
                assert_eq!(answer.header("oci-namespace"), Some("up.test:5000"), "{method} {target}");
            }
        }
        assert_eq!(larder.get(&target.replace("/v2/", "/v2/up.test__5000/"))?.header("oci-namespace"), None);
    }
    Ok(())
}

// T-06
#[tokio::test(flavor = "multi_thread")]
async fn digests_of_both_algorithms_are_served() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let bytes: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    let blob = up.blob_sha512("a", bytes.clone());
    let image = up.image("a", "1", &[1000], 1);
    let long = Source::bytes(image.bytes.clone()).sha512();
    let larder = Larder::in_front_of("up.test", &up).start()?;
    for _ in 0..2 {
        let answer = larder.get(&format!("/v2/up.test/a/blobs/{blob}"))?;
        assert_eq!((answer.status, answer.header("docker-content-digest")), (200, Some(blob.as_str())));
        assert!(answer.body == bytes);
        let answer = larder.get(&format!("/v2/up.test/a/manifests/{long}"))?;
        assert_eq!((answer.status, answer.header("docker-content-digest")), (200, Some(long.as_str())));
        assert!(answer.body == image.bytes);
    }
    assert_eq!(up.blob_gets(&blob), 1);
    // Neither is taken for the other.
    up.blob_as("a", &Source::bytes("x").sha512(), Source::bytes("y"));
    let answer = larder.get(&format!("/v2/up.test/a/blobs/{}", Source::bytes("x").sha512()))?;
    assert!(answer.status >= 500 || !answer.is_complete(), "{} {:?}", answer.status, answer.ending);
    Ok(())
}

// T-07
#[tokio::test(flavor = "multi_thread")]
async fn errors_are_told_in_the_specifications_words() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("a", "1", &[1000], 1);
    up.image("private", "1", &[1000], 2);
    up.repo_auth("private", Auth::Basic);
    up.account("bob", "builder", &[]);
    let larder = Larder::in_front_of("up.test", &up).config("exclude = [\"left.test\"]").start()?;
    let unknown = oci::Digest::sha256(b"unknown").to_string();
    let bob = basic("bob", "builder");
    let none: &[(&str, &str)] = &[];
    let as_bob: &[(&str, &str)] = &[("Authorization", &bob)];
    for (target, headers, status, code) in [
        ("a/manifests/absent".to_owned(), none, 404, "MANIFEST_UNKNOWN"),
        (format!("a/manifests/{unknown}"), none, 404, "MANIFEST_UNKNOWN"),
        (format!("a/blobs/{unknown}"), none, 404, "BLOB_UNKNOWN"),
        ("absent/tags/list".to_owned(), none, 404, "NAME_UNKNOWN"),
        ("a/blobs/sha256:1".to_owned(), none, 400, "DIGEST_INVALID"),
        ("a/referrers/latest".to_owned(), none, 400, "DIGEST_INVALID"),
        ("A/manifests/1".to_owned(), none, 400, "NAME_INVALID"),
        ("a/manifests/.bad".to_owned(), none, 400, "MANIFEST_INVALID"),
        ("private/manifests/1".to_owned(), none, 401, "UNAUTHORIZED"),
        ("private/manifests/1".to_owned(), as_bob, 403, "DENIED"),
        (format!("private/blobs/{unknown}"), none, 401, "UNAUTHORIZED"),
        (format!("private/blobs/{unknown}"), as_bob, 403, "DENIED"),
        ("private/tags/list".to_owned(), none, 401, "UNAUTHORIZED"),
    ] {
        let target = format!("/v2/up.test/{target}");
        assert_error(&larder.ask("GET", &target, headers)?, status, code, &target);
        let head = larder.ask("HEAD", &target, headers)?;
        assert_eq!((head.status, head.body.len()), (status, 0), "HEAD {target}");
    }
    for (target, code) in [
        ("/v2/a/manifests/1?ns=left.test", "NAME_UNKNOWN"),
        ("/v2/a/manifests/1?ns=127.0.0.1:1", "NAME_UNKNOWN"),
        ("/v2/nothing", "NAME_UNKNOWN"),
        ("/nothing", "NAME_UNKNOWN"),
    ] {
        assert_error(&larder.get(target)?, 404, code, target);
    }
    for (n, method) in ["PUT", "POST", "PATCH", "DELETE"].iter().enumerate() {
        assert_error(&larder.ask(method, &format!("/v2/up.test/a/manifests/{n}"), &[])?, 405, "UNSUPPORTED", method);
    }

    up.rule(Rule::on(Kind::Manifest).reference("busy").fault(Fault::too_many(Some("7"))));
    let answer = larder.get("/v2/up.test/a/manifests/busy")?;
    assert_error(&answer, 429, "TOOMANYREQUESTS", "too many requests");
    assert!((1..=7).contains(&answer.header("retry-after").unwrap_or_default().parse::<u64>()?));
    let range = [("Range", "bytes=1000-")];
    let answer = larder.ask("GET", &format!("/v2/up.test/a/blobs/{}", image.layers[0]), &range)?;
    assert_eq!(answer.status, 429, "the upstream asked to be left alone");

    let larder = Larder::in_front_of("up.test", &up).start()?;
    let answer = larder.ask("GET", &format!("/v2/up.test/a/blobs/{}", image.layers[0]), &range)?;
    assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */1000")));
    assert!(answer.body.is_empty() || CODES.contains(&answer.error_code().unwrap_or_default().as_str()));
    for (n, code) in [500, 502, 503].into_iter().enumerate() {
        let tag = format!("broken{n}");
        up.rule(Rule::on(Kind::Manifest).reference(&tag).fault(Fault::status(code)));
        let answer = larder.get(&format!("/v2/up.test/a/manifests/{tag}"))?;
        assert_error(&answer, 502, "UNKNOWN", "an upstream that is broken");
    }
    Ok(())
}

// T-08, S-02
#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_pushed_or_deleted() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("a", "1", &[100_000], 1);
    let larder = Larder::in_front_of("up.test", &up).start()?;
    let layer = &image.layers[0];
    assert_eq!(larder.get("/v2/up.test/a/manifests/1")?.status, 200);
    assert_eq!(larder.get(&format!("/v2/up.test/a/blobs/{layer}"))?.status, 200);
    // The blob, and the records that it is in the repository and came from the registry.
    wait_for("all to be kept", || {
        let writing = files(larder.store()).iter().any(|path| path.contains("/ingest/"));
        let kept = stored(&larder);
        !writing && kept.iter().filter(|path| path.ends_with(&layer[7..])).count() == 3
    });
    let (before, asked) = (stored(&larder), up.log().len());

    let digest = oci::Digest::sha256(b"new").to_string();
    for (method, target) in [
        ("PUT", "a/manifests/1".to_owned()),
        ("PUT", "a/manifests/new".to_owned()),
        ("PUT", format!("a/manifests/{digest}")),
        ("DELETE", "a/manifests/1".to_owned()),
        ("DELETE", format!("a/manifests/{}", image.digest)),
        ("DELETE", format!("a/blobs/{layer}")),
        ("POST", "a/blobs/uploads/".to_owned()),
        ("POST", "a/blobs/uploads".to_owned()),
        ("POST", format!("a/blobs/uploads/?digest={digest}")),
        ("POST", format!("b/blobs/uploads/?mount={layer}&from=a")),
        ("POST", format!("b/blobs/uploads/?mount={layer}")),
        ("PATCH", "a/blobs/uploads/1234".to_owned()),
        ("PUT", format!("a/blobs/uploads/1234?digest={digest}")),
        ("DELETE", "a/blobs/uploads/1234".to_owned()),
        ("DELETE", "a/tags/list".to_owned()),
    ] {
        for body in ["", "new"] {
            let length = body.len().to_string();
            let mut client = larder.client()?;
            client.send(method, &format!("/v2/up.test/{target}"), &[("Content-Length", &length)])?;
            std::io::Write::write_all(client.socket(), body.as_bytes())?;
            let answer = client.answer(method)?;
            assert_error(&answer, 405, "UNSUPPORTED", &format!("{method} {target}"));
            let allowed = answer.header("allow").unwrap_or_default();
            assert!(allowed.contains("GET") && !allowed.contains(method), "{method} {target}: {allowed}");
        }
    }
    for method in ["GET", "HEAD"] {
        let answer = larder.ask(method, "/v2/up.test/a/blobs/uploads/1234", &[])?;
        assert_eq!(answer.status, 404, "there is no upload whose state could be asked for");
    }
    assert_eq!(stored(&larder), before, "nothing was stored");
    assert_eq!(up.log().len(), asked, "nothing went to the upstream");
    assert_eq!(larder.get("/v2/up.test/a/manifests/1")?.digest(), image.digest);
    assert_eq!(larder.get(&format!("/v2/up.test/a/blobs/{layer}"))?.digest(), *layer);
    Ok(())
}

// T-10
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_can_be_read_in_two_ways_passes_exactly_or_not_at_all() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let config = up.blob("a", "{}");
    let descriptor = format!("{{\"mediaType\":\"x/y\",\"digest\":\"{config}\",\"size\":2}}");
    let deep = |open: &str, close: &str| format!("{{\"a\":{}{}}}", open.repeat(10_000), close.repeat(10_000));
    for (what, media_type, text) in [
        ("layers and manifests", OCI_MANIFEST, format!("{{\"layers\":[{descriptor}],\"manifests\":[{descriptor}]}}")),
        ("layers and manifests", OCI_INDEX, format!("{{\"layers\":[{descriptor}],\"manifests\":[{descriptor}]}}")),
        ("layers and manifests", "x/y", format!("{{\"layers\":[{descriptor}],\"manifests\":[{descriptor}]}}")),
        ("another type within", OCI_MANIFEST, format!("{{\"mediaType\":\"{OCI_INDEX}\"}}")),
        ("another type within", OCI_INDEX, format!("{{\"mediaType\":\"{OCI_MANIFEST}\"}}")),
        ("another type within", DOCKER_LIST, format!("{{\"mediaType\":\"{DOCKER_MANIFEST}\"}}")),
        ("keys twice", OCI_MANIFEST, format!("{{\"layers\":[],\"layers\":[{descriptor}]}}")),
        ("types twice", OCI_MANIFEST, format!("{{\"mediaType\":\"{OCI_MANIFEST}\",\"mediaType\":\"{OCI_INDEX}\"}}")),
        ("unknown keys twice", OCI_MANIFEST, "{\"layers\":[],\"x\":1,\"x\":2}".to_owned()),
        ("escaped keys", OCI_MANIFEST, "{\"layers\":[],\"\\u006cayers\":[]}".to_owned()),
        ("deep lists", OCI_MANIFEST, deep("[", "]")),
        ("deep objects", OCI_MANIFEST, deep("{\"a\":", "}").replace(":}", ":1}")),
        ("deep and of no known type", "application/vnd.x+json", deep("[", "]")),
        ("never closed", OCI_MANIFEST, "[".repeat(100_000)),
        ("spaces", OCI_MANIFEST, format!(" {{\r\n\t\"layers\" : [ {descriptor} ] }}\n\n")),
        ("numbers", OCI_MANIFEST, "{\"layers\":[],\"n\":[1e400,-0,1E+2,123456789012345678901234567890]}".to_owned()),
        ("lone surrogates", OCI_MANIFEST, "{\"layers\":[],\"s\":\"\\ud800\"}".to_owned()),
        ("letters", OCI_MANIFEST, "{\"layers\":[],\"s\":\"\u{feff}ü\\u00fc\\/\"}".to_owned()),
        ("a mark in front", OCI_MANIFEST, "\u{feff}{\"layers\":[]}".to_owned()),
        ("two values", OCI_MANIFEST, "{\"layers\":[]}{\"manifests\":[]}".to_owned()),
        ("a list", OCI_MANIFEST, "[]".to_owned()),
        ("a web page", OCI_MANIFEST, "<html>Please log in.</html>".to_owned()),
        ("nothing", OCI_MANIFEST, String::new()),
        ("not JSON, of no known type", "application/vnd.x", "\u{0}\u{1}".to_owned()),
    ] {
        // Each case has an upstream of its own: what fails is not asked again for a while.
        let digest = up.manifest("a", "1", media_type, text.clone());
        let larder = Larder::in_front_of("up.test", &up).start()?;
        for target in ["/v2/up.test/a/manifests/1".to_owned(), format!("/v2/up.test/a/manifests/{digest}")] {
            for round in ["cold", "warm"] {
                let answer = larder.get(&target)?;
                match answer.status {
                    200 => {
                        assert_eq!(answer.text(), text, "{what}, {round}: changed");
                        assert_eq!(answer.header("content-type"), Some(media_type), "{what}, {round}");
                        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "{what}, {round}");
                    }
                    502 => assert!(answer.body.len() < 600, "{what}, {round}: {}", answer.text()),
                    other => panic!("{what}, {round}: {other} {}", answer.text()),
                }
            }
        }
        let confusing = matches!(what, "layers and manifests" | "another type within" | "keys twice" | "types twice");
        if confusing {
            assert_eq!(larder.get("/v2/up.test/a/manifests/1")?.status, 502, "{what} must not pass");
        }
        if matches!(what, "spaces" | "numbers" | "letters" | "unknown keys twice" | "not JSON, of no known type") {
            assert_eq!(larder.get("/v2/up.test/a/manifests/1")?.status, 200, "{what} is no reason to refuse");
        }
    }
    Ok(())
}

/// Follows a process by `strace` and notes each file that it opens.
struct Opened {
    tracer: Child,
    dir: tempfile::TempDir,
}

impl Opened {
    fn of(larder: &Larder) -> anyhow::Result<Opened> {
        programs::debian(&["strace"])?;
        let dir = tempfile::tempdir()?;
        let messages = std::fs::File::create(dir.path().join("messages"))?;
        let tracer = Command::new("strace")
            .args([
                "-f",
                "-e",
                "trace=open,openat,openat2,creat,mkdir,mkdirat,unlink,unlinkat,rename,renameat2,symlink",
            ])
            .args(["-s", "4096", "-o"])
            .arg(dir.path().join("calls"))
            .args(["-p", &larder.pid().to_string()])
            .stdin(Stdio::null())
            .stderr(messages)
            .spawn()?;
        let opened = Opened { tracer, dir };
        wait_for("strace to attach", || {
            std::fs::read_to_string(opened.dir.path().join("messages")).is_ok_and(|text| text.contains("attached"))
        });
        Ok(opened)
    }

    /// All calls so far.
    fn calls(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // Whom it follows goes on.
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
    }
}

// S-13
#[tokio::test(flavor = "multi_thread")]
async fn a_name_never_leads_out_of_the_store() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("a", "1", &[100_000], 1);
    let larder = Larder::in_front_of("up.test", &up).start()?;
    assert_eq!(larder.get("/v2/up.test/a/manifests/1")?.status, 200);
    let (before, asked) = (stored(&larder), up.log().len());
    let opened = Opened::of(&larder)?;
    let mut names: Vec<String> = [
        "..",
        "../..",
        "../../../../etc/passwd",
        "a/../b",
        "a/..",
        "a/./b",
        ".",
        "a/.",
        "%2e%2e",
        "%2e%2e/%2e%2e/etc",
        "%2E%2E%2f",
        "..%2f..%2fetc",
        "..%5c..%5cetc",
        "a%2fb",
        "a%2f..%2fb",
        "%252e%252e",
        "a//b",
        "/a",
        "a/",
        "a\\b",
        "A",
        "aB/c",
        "a%00",
        "a%00.json",
        "a%0d%0aX-Header:%20y",
        "a%0a",
        "a%20b",
        "a;b",
        "a:b",
        "~",
        "a~",
        "_catalog",
        "_tags",
        "a/_manifests",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "%61",
        "%C3%A4",
        "a%",
        "a%zz",
        "*",
        "$(id)",
        "`id`",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend(["a".repeat(256), "a/".repeat(200) + "a", format!("{}/b", "a".repeat(300)), "x".repeat(30_000)]);
    for name in &names {
        for target in [
            format!("/v2/up.test/{name}/manifests/1"),
            format!("/v2/{name}/manifests/1?ns=up.test"),
            format!("/v2/up.test/{name}/blobs/{}", image.layers[0]),
            format!("/v2/up.test/{name}/tags/list"),
            format!("/v2/up.test/{name}/referrers/{}", image.digest),
        ] {
            let answer = larder.get(&target)?;
            assert!(matches!(answer.status, 400 | 404), "{target}: {} {}", answer.status, answer.text());
            assert!(!answer.text().contains("root:"), "{target}");
            assert_eq!(answer.header("x-header"), None, "{target}");
        }
    }
    // What cannot even stand in a request.
    for bytes in [
        &b"GET /v2/up.test/a\0b/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"GET /v2/up.test/a\rb/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/up.test/a b/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/up.test/\xff\xfe/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://up.test/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut client = larder.client()?;
        std::io::Write::write_all(client.socket(), bytes)?;
        let answer = client.answer("GET")?;
        let shown = String::from_utf8_lossy(bytes);
        assert!((400..500).contains(&answer.status), "{shown}: {} {}", answer.status, answer.text());
        assert!(!answer.text().contains("root:"), "{shown}");
    }
    assert_eq!(stored(&larder), before, "nothing was stored");
    assert_eq!(up.log().len(), asked, "nothing of this went to the upstream");
    // What is in order is opened: the watch sees.
    assert_eq!(larder.get(&format!("/v2/up.test/a/blobs/{}", image.layers[0]))?.digest(), image.layers[0]);
    wait_for("strace to tell of the layer", || opened.calls().contains(&image.layers[0][7..]));
    let store = larder.store().display().to_string();
    for call in opened.calls().lines() {
        let path = call.split('"').nth(1).unwrap_or_default();
        let inside = path.starts_with(&store) || ["/proc/", "/sys/"].iter().any(|root| path.starts_with(root));
        assert!((inside || path.is_empty()) && !path.contains(".."), "{call}");
    }
    Ok(())
}

// S-13
#[tokio::test(flavor = "multi_thread")]
async fn repositories_may_be_called_like_parts_of_the_api() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let names =
        ["blobs/uploads", "manifests/latest", "tags/list", "v2/v2", "a/blobs/b", "referrers/x", "a/tags/list/b"];
    let larder = Larder::in_front_of("up.test", &up).start()?;
    for (n, name) in names.iter().enumerate() {
        let image = up.image(name, "1", &[2000], n as u64);
        for (prefix, query) in [("/v2/up.test", ""), ("/v2", "?ns=up.test")] {
            let answer = larder.get(&format!("{prefix}/{name}/manifests/1{query}"))?;
            assert_eq!((answer.status, answer.digest()), (200, image.digest.clone()), "{name}: {}", answer.text());
            let answer = larder.get(&format!("{prefix}/{name}/blobs/{}{query}", image.layers[0]))?;
            assert_eq!((answer.status, answer.digest()), (200, image.layers[0].clone()), "{name}");
            let answer = larder.get(&format!("{prefix}/{name}/tags/list{query}"))?;
            assert_eq!((answer.status, tags(&answer)), (200, vec!["1".to_owned()]), "{name}");
            let answer = larder.get(&format!("{prefix}/{name}/referrers/{}{query}", image.digest))?;
            assert_eq!(answer.status, 200, "{name}");
        }
    }
    Ok(())
}

// S-14, S-15
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_digest_or_tag_is_refused_before_anything_is_asked() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("a", "1", &[1000], 1);
    let larder = Larder::in_front_of("up.test", &up).start()?;
    let before = stored(&larder);
    let hex = &image.layers[0][7..];
    let digests = [
        "sha256:".to_owned(),
        "sha256".to_owned(),
        ":".to_owned(),
        hex.to_owned(),
        "sha256:../../etc/passwd".to_owned(),
        "sha256:..%2f..%2fetc%2fpasswd".to_owned(),
        format!("sha256:../sha256/{hex}"),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{hex}0"),
        format!("sha256:{}", hex.to_uppercase()),
        format!("SHA256:{hex}"),
        format!("sha256:{}g", &hex[1..]),
        format!("sha256:%30{}", &hex[1..]),
        format!("sha256:{}%00", &hex[..62]),
        format!("sha256%3a%3a{hex}"),
        format!("sha256::{hex}"),
        format!("sha512:{hex}"),
        format!("sha1:{}", &hex[..40]),
        format!("md5:{}", &hex[..32]),
        format!("sha256+b64u:{}", "A".repeat(43)),
        format!("sha256+sha512:{hex}"),
        format!("crc32:{}", &hex[..8]),
        format!(" sha256:{hex}").replace(' ', "%20"),
        format!("sha256:{}", "0".repeat(60_000)),
    ];
    for digest in &digests {
        for target in [format!("blobs/{digest}"), format!("referrers/{digest}"), format!("manifests/{digest}")] {
            // Without a colon it may be a tag.
            if target.starts_with("manifests") && !digest.contains(':') {
                continue;
            }
            for method in ["GET", "HEAD"] {
                let answer = larder.ask(method, &format!("/v2/up.test/a/{target}"), &[])?;
                assert!(matches!(answer.status, 400 | 404), "{target}: {} {}", answer.status, answer.text());
                // With a slash in it, the path is another one, if any.
                if method == "GET" && !digest.contains('/') {
                    assert_error(&answer, 400, "DIGEST_INVALID", &target);
                }
            }
        }
    }
    for tag in [
        "a".repeat(129),
        "a".repeat(20_000),
        ".x".to_owned(),
        "-x".to_owned(),
        "a/b".to_owned(),
        "a%2fb".to_owned(),
        "..".to_owned(),
        "%2e%2e".to_owned(),
        "a:b".to_owned(),
        "a%20b".to_owned(),
        "a@b".to_owned(),
        "a+b".to_owned(),
        "%C3%A4".to_owned(),
        "a%00".to_owned(),
        "sha256:".to_owned() + &hex[1..],
        String::new(),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = larder.ask(method, &format!("/v2/up.test/a/manifests/{tag}"), &[])?;
            assert!(matches!(answer.status, 400 | 404), "{tag}: {} {}", answer.status, answer.text());
        }
    }
    assert_eq!(up.connections(), 0, "nothing was asked");
    assert_eq!(stored(&larder), before, "nothing was stored");
    let encoded = image.layers[0].replace(':', "%3A");
    assert_eq!(larder.get(&format!("/v2/up.test/a/blobs/{encoded}"))?.status, 200, "a colon may be encoded");
    Ok(())
}

// S-17
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_without_end_costs_no_memory() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    up.image("a", "warm", &[1000], 1);
    let larder = Larder::in_front_of("up.test", &up).start()?;
    assert_eq!(larder.get("/v2/up.test/a/manifests/warm")?.status, 200);
    let before = larder.resident();
    for (n, fault) in
        [Fault::Huge(5 << 30), Fault::Endless, Fault::Huge(oci::MANIFEST_LIMIT as u64 + 1), Fault::UntilClose]
            .into_iter()
            .enumerate()
    {
        let tag = format!("t{n}");
        let mut rule = Rule::on(Kind::Manifest).reference(&tag).fault(fault.clone());
        if fault == Fault::UntilClose {
            rule = rule.fault(Fault::Huge(5 << 30));
        }
        up.image("a", tag.as_str(), &[1000], 1);
        up.rule(rule);
        let answer = larder.get(&format!("/v2/up.test/a/manifests/{tag}"))?;
        assert_error(&answer, 502, "UNKNOWN", &fault.name());
        // It was not read to its end, nor is it being read now.
        let ended = up.wait_for(
            |log| log.iter().filter(|r| r.reference == tag).all(|r| r.end_us.is_some()),
            std::time::Duration::from_secs(20),
        );
        assert!(ended.await, "{}: the connection stays open", fault.name());
        let read: u64 = up.log().iter().filter(|request| request.reference == tag).map(|request| request.bytes).sum();
        assert!(read < 64 << 20, "{}: {read} bytes were taken", fault.name());
    }
    assert_flat(&larder, before);

    // Up to the limit it is taken.
    let limit = oci::MANIFEST_LIMIT;
    let text = format!("{{\"layers\":[],\"pad\":\"{}\"}}", "x".repeat(limit - 22));
    assert_eq!(text.len(), limit);
    up.manifest("a", "large", OCI_MANIFEST, text.clone());
    let answer = larder.get("/v2/up.test/a/manifests/large")?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text() == text);
    Ok(())
}

// S-17
#[tokio::test(flavor = "multi_thread")]
async fn a_push_without_end_is_refused_at_once() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let larder = Larder::in_front_of("up.test", &up).start()?;
    let before = larder.resident();
    for headers in [&[("Content-Length", "5368709120")][..], &[("Transfer-Encoding", "chunked")]] {
        let mut client = larder.client()?;
        client.send("PUT", "/v2/up.test/a/manifests/1", headers)?;
        let chunk = format!("{:x}\r\n{}\r\n", 64 << 10, "x".repeat(64 << 10));
        // larder answers and closes; what is still written then fails. It must not be read to its end, which never comes.
        let written =
            (0..16_384).map_while(|_| std::io::Write::write_all(client.socket(), chunk.as_bytes()).ok()).count();
        assert!(written < 16_384, "1 GiB of a body was taken");
    }
    // Who does not write on gets the answer.
    let mut client = larder.client()?;
    let answer = client.ask("PUT", "/v2/up.test/a/manifests/1", &[("Content-Length", "5368709120")])?;
    assert!(matches!(answer.status, 405 | 413), "{}", answer.status);
    assert_eq!(client.read(&mut Vec::new(), 1)?, 0, "and the connection is closed");
    assert_flat(&larder, before);
    Ok(())
}

// S-18
#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_end_costs_no_memory() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("a", "1", &[1000], 1);
    let larder = Larder::in_front_of("up.test", &up).start()?;
    assert_eq!(larder.get("/v2/up.test/a/tags/list")?.status, 200);
    let before = larder.resident();
    for (n, fault) in [Fault::Huge(1 << 30), Fault::Endless].into_iter().enumerate() {
        up.rules(vec![
            Rule::on(Kind::Tags).fault(fault.clone()),
            Rule::on(Kind::Referrers).fault(fault.clone()),
            Rule::on(Kind::Catalog).fault(fault.clone()),
        ]);
        let target = format!("/v2/up.test/a/tags/list?n={}", n + 2);
        assert_error(&larder.get(&target)?, 502, "UNKNOWN", &fault.name());
        let target = format!("/v2/up.test/a/referrers/{}?artifactType=x{n}", image.digest);
        assert_error(&larder.get(&target)?, 502, "UNKNOWN", &fault.name());
        assert_eq!(larder.get("/v2/_catalog")?.status, 404);
    }
    assert_flat(&larder, before);
    Ok(())
}

// S-18
#[tokio::test(flavor = "multi_thread")]
async fn an_endless_chain_of_pages_is_followed_by_nobody_here() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("a", "1", &[1000], 1);
    up.rule(Rule::on(Kind::Tags).fault(Fault::EndlessLinks));
    up.rule(Rule::on(Kind::Referrers).fault(Fault::EndlessLinks));
    let larder = Larder::in_front_of("up.test", &up).start()?;
    for target in ["tags/list?n=1".to_owned(), format!("referrers/{}", image.digest)] {
        up.clear_log();
        let answer = larder.get(&format!("/v2/up.test/a/{target}"))?;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        assert_eq!(up.log().len(), 1, "{target}: one page was asked for");
    }
    Ok(())
}

// S-19
#[tokio::test(flavor = "multi_thread")]
async fn encoded_answers_are_never_inflated() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("a", "1", &[200_000, 300_000, 400_000], 1);
    let larder = Larder::in_front_of("up.test", &up).start()?;
    // From the warm-up the buffers of a fill and a list have their size.
    assert_eq!(larder.get(&format!("/v2/up.test/a/blobs/{}", image.layers[0]))?.status, 200);
    let before = larder.resident();
    for (n, fault) in [Fault::Gzip, Fault::GzipBomb(4 << 30)].into_iter().enumerate() {
        up.rules(vec![Rule::any().fault(fault.clone())]);
        up.move_tag("a", &format!("t{n}"), &image.digest);
        for (target, whole) in [
            (format!("manifests/t{n}"), &image.digest),
            (format!("blobs/{}", image.layers[n + 1]), &image.layers[n + 1]),
            (format!("tags/list?n={}", n + 1), &String::new()),
        ] {
            let answer = larder.get(&format!("/v2/up.test/a/{target}"))?;
            let right =
                answer.status == 200 && answer.digest() == *whole && answer.header("content-encoding").is_none();
            assert!(answer.status == 502 || right, "{} {target}: {} {}", fault.name(), answer.status, answer.text());
        }
    }
    assert_flat(&larder, before);
    let plain = |request: &faulty::Request| matches!(request.header("accept-encoding"), None | Some("identity"));
    assert!(up.log().iter().all(plain), "nothing encoded was asked for");
    Ok(())
}

// S-19
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_not_encoded_whatever_clients_accept() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("a", "1", &[200_000], 1);
    let larder = Larder::in_front_of("up.test", &up).start()?;
    for accept in ["gzip", "gzip, zstd, br", "*", "identity;q=0, gzip"] {
        for _ in 0..2 {
            for (target, digest) in [
                ("manifests/1".to_owned(), &image.digest),
                (format!("blobs/{}", image.layers[0]), &image.layers[0]),
                (format!("blobs/{}", image.config), &image.config),
            ] {
                let answer = larder.ask("GET", &format!("/v2/up.test/a/{target}"), &[("Accept-Encoding", accept)])?;
                assert_eq!((answer.status, answer.header("content-encoding")), (200, None), "{accept} {target}");
                assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
                assert_eq!(answer.digest(), *digest, "{accept} {target}");
            }
        }
    }
    Ok(())
}

// S-31
#[tokio::test(flavor = "multi_thread")]
async fn oversized_requests_are_refused() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    up.image("a", "1", &[1000], 1);
    let larder = Larder::in_front_of("up.test", &up).start()?;
    assert_eq!(larder.get("/v2/up.test/a/manifests/1")?.status, 200);
    let (before, asked) = (larder.resident(), up.log().len());
    let ask = |target: &str, headers: &[(String, String)]| -> anyhow::Result<Answer> {
        let mut text = format!("GET {target} HTTP/1.1\r\nHost: larder.test\r\n");
        headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        text.push_str("\r\n");
        let mut client = Client::connect(larder.address())?;
        // larder may answer and close before all was written.
        let _ = std::io::Write::write_all(client.socket(), text.as_bytes());
        client.answer("GET")
    };
    let one = |name: &str, value: String| vec![(name.to_owned(), value)];
    for (what, headers) in [
        ("one header of 100 kB", one("X-Long", "x".repeat(100_000))),
        ("a name of 100 kB", one(&"x".repeat(100_000), "x".to_owned())),
        ("one header of 10 MB", one("X-Long", "x".repeat(10_000_000))),
        ("a cookie of 100 kB", one("Cookie", "x".repeat(100_000))),
        ("10 000 headers", (0..10_000).map(|n| (format!("X-{n}"), "x".to_owned())).collect()),
        ("10 000 equal headers", (0..10_000).map(|_| ("X-Same".to_owned(), "x".to_owned())).collect()),
    ] {
        for _ in 0..3 {
            let answer = ask("/v2/up.test/a/manifests/1", &headers)?;
            assert_eq!(answer.status, 431, "{what}");
        }
    }
    for target in [
        format!("/v2/up.test/{}/manifests/1", "a".repeat(100_000)),
        format!("/v2/up.test/a/manifests/1?{}", "x=y&".repeat(25_000)),
    ] {
        let answer = ask(&target, &[])?;
        assert!(matches!(answer.status, 414 | 431), "{}", answer.status);
    }
    assert_eq!(up.log().len(), asked);
    assert_flat(&larder, before);
    assert_eq!(larder.get("/v2/up.test/a/manifests/1")?.status, 200, "others are served as before");
    Ok(())
}
