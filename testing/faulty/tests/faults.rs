//! Each fault, seen on the wire.

mod client;

use std::io::Write;
use std::time::Duration;

use client::{Answer, DEADLINE, End, connect, get, read, request, send};
use faulty::{BlackHole, Ending, Fault, Image, Kind, OCI_MANIFEST, Place, Rule, Source, Upstream};

const SIZE: usize = 300_000;

struct Bench {
    up: Upstream,
    image: Image,
    blob: String,
    bytes: Vec<u8>,
}

async fn bench() -> Bench {
    let up = Upstream::start().await.expect("a free port");
    let image = up.image("lib/a", "latest", &[SIZE], 1);
    let blob = format!("/v2/lib/a/blobs/{}", image.layers[0]);
    let bytes = get(up.addr(), &blob).body;
    assert_eq!(Source::bytes(bytes.clone()).sha256(), image.layers[0]);
    up.clear_log();
    Bench { up, image, blob, bytes }
}

impl Bench {
    fn with(&self, fault: Fault) -> Answer {
        self.up.rules(vec![Rule::any().fault(fault)]);
        get(self.up.addr(), &self.blob)
    }

    fn ranged(&self, fault: Fault, range: &str) -> Answer {
        self.up.rules(vec![Rule::any().fault(fault)]);
        request(self.up.addr(), "GET", &self.blob, &[&format!("Range: bytes={range}")])
    }
}

#[tokio::test]
async fn a_flipped_bit_is_one_bit_also_in_ranges() {
    let bench = bench().await;
    let answer = bench.with(Fault::FlipBit(1));
    assert_eq!(answer.body.len(), SIZE);
    let wrong: Vec<usize> = (0..SIZE).filter(|at| answer.body[*at] != bench.bytes[*at]).collect();
    assert_eq!(wrong, [SIZE - 1]);
    let tail = bench.ranged(Fault::FlipBit(10), "299980-");
    assert_eq!(tail.body[10], bench.bytes[SIZE - 10] ^ 1);
}

#[tokio::test]
async fn a_cut_sends_what_is_before_it() {
    let bench = bench().await;
    for (how, end) in [(Ending::Fin, End::Fin), (Ending::Reset, End::Reset)] {
        let answer = bench.with(Fault::cut_half(how));
        assert_eq!(answer.header("content-length"), "300000");
        assert_eq!((answer.body.len(), answer.end), (SIZE / 2, end));
    }
    assert_eq!(bench.with(Fault::Cut { at: Place::Byte(7), how: Ending::Reset }).body.len(), 7);
    assert_eq!(bench.with(Fault::Cut { at: Place::FromEnd(1), how: Ending::Fin }).body.len(), SIZE - 1);
    let resumed = bench.ranged(Fault::Cut { at: Place::Offset(1000), how: Ending::Fin }, "900-");
    assert_eq!(resumed.body, bench.bytes[900..1000]);
    let log = bench.up.log();
    assert!(log.iter().all(|request| !request.complete && request.faults == ["cut"]));
    assert_eq!(log.last().map(|request| request.bytes), Some(100));
}

#[tokio::test]
async fn a_stall_ends_by_itself_or_not() {
    let bench = bench().await;
    let answer = bench.with(Fault::Stall { at: Place::Fraction(0.5), ms: Some(20) });
    assert_eq!(answer.body, bench.bytes);
    bench.up.rules(vec![Rule::any().fault(Fault::Stall { at: Place::Byte(500), ms: None })]);
    let mut stream = connect(bench.up.addr());
    send(&mut stream, "GET", &bench.blob, &[]);
    let stalled = |log: &[faulty::Request]| log.last().is_some_and(|request| request.bytes == 500);
    assert!(bench.up.wait_for(stalled, DEADLINE).await);
    let answer = read(&mut stream, usize::MAX, Duration::from_millis(300));
    assert_eq!((answer.body.len(), answer.end), (500, End::Silence));
    drop(stream);
    let ended = |log: &[faulty::Request]| log.last().is_some_and(|request| request.end_us.is_some());
    assert!(bench.up.wait_for(ended, DEADLINE).await, "a client that leaves ends the stall");
}

#[tokio::test]
async fn a_gate_holds_until_it_opens() {
    let bench = bench().await;
    bench.up.rules(vec![Rule::any().fault(Fault::Hold { at: Place::Byte(100), gate: "g".into() })]);
    let mut stream = connect(bench.up.addr());
    send(&mut stream, "GET", &bench.blob, &[]);
    assert!(bench.up.wait_at_gate("g", 1, DEADLINE).await);
    assert_eq!(bench.up.bytes_sent(&bench.image.layers[0]), 100);
    bench.up.open_gate("g");
    assert_eq!(read(&mut stream, usize::MAX, DEADLINE).body, bench.bytes);
    bench.up.rules(vec![Rule::any().fault(Fault::HoldHeaders("h".into()))]);
    let mut stream = connect(bench.up.addr());
    send(&mut stream, "GET", &bench.blob, &[]);
    assert!(bench.up.wait_at_gate("h", 1, DEADLINE).await);
    assert_eq!(bench.up.log().last().map(|request| request.status), Some(0));
    bench.up.open_gate("h");
    assert_eq!(read(&mut stream, usize::MAX, DEADLINE).body, bench.bytes);
}

#[tokio::test]
async fn slow_answers_are_whole_and_slow() {
    let bench = bench().await;
    let timed = |fault| {
        let begin = std::time::Instant::now();
        assert_eq!(bench.with(fault).body, bench.bytes);
        begin.elapsed()
    };
    // The lower bounds cannot fail for a slow machine.
    assert!(timed(Fault::Trickle(1_000_000)) > Duration::from_millis(200));
    assert!(timed(Fault::Cap(1_000_000)) > Duration::from_millis(200));
    assert!(timed(Fault::DelayHeaders(100)) >= Duration::from_millis(100));
    assert!(timed(Fault::SlowHeaders(1)) > Duration::from_millis(100));
}

#[tokio::test]
async fn a_cap_is_shared_by_all_connections() {
    let bench = bench().await;
    bench.up.cap(Some(2_000_000));
    let begin = std::time::Instant::now();
    let (addr, blob) = (bench.up.addr(), &bench.blob);
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| get(addr, blob).body)).collect();
        assert!(pulls.into_iter().all(|pull| pull.join().is_ok_and(|body| body == bench.bytes)));
    });
    assert!(begin.elapsed() > Duration::from_millis(500), "4 x 300 kB at 2 MB/s");
}

#[tokio::test]
async fn statuses_come_with_headers_and_bodies() {
    let bench = bench().await;
    let answer = bench.with(Fault::too_many(Some("5")));
    assert_eq!((answer.status, answer.header("retry-after")), (429, "5"));
    assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    assert_eq!(bench.with(Fault::status(503)).status, 503);
    let html = bench.with(Fault::Html);
    assert_eq!((html.status, html.header("content-type")), (200, "text/html; charset=utf-8"));
    let custom = Fault::Status { code: 500, headers: vec![("X-A".into(), "b".into())], body: "oops".into() };
    let answer = bench.with(custom);
    assert_eq!((answer.header("x-a"), answer.body.as_slice()), ("b", &b"oops"[..]));
    let date = faulty::http_date(Duration::from_secs(5));
    assert_eq!(bench.with(Fault::too_many(Some(&date))).header("retry-after"), date);
}

#[tokio::test]
async fn redirects() {
    let bench = bench().await;
    let answer = bench.with(Fault::redirect("http://cdn.test/{repo}/{reference}?sig=s"));
    let wanted = format!("http://cdn.test/lib/a/{}?sig=s", bench.image.layers[0]);
    assert_eq!((answer.status, answer.header("location")), (307, wanted.as_str()));
    assert_eq!(bench.with(Fault::RedirectLoop).header("location"), bench.blob);
    bench.up.rules(vec![Rule::any().fault(Fault::RedirectChain(11))]);
    let (mut path, mut hops) = (bench.blob.clone(), 0);
    let last = loop {
        let answer = get(bench.up.addr(), &path);
        if answer.status != 307 {
            break answer;
        }
        path = answer.header("location").to_owned();
        hops += 1;
    };
    assert_eq!((hops, last.body), (11, bench.bytes.clone()));
}

#[tokio::test]
async fn ranges_are_honoured_ignored_and_shifted() {
    let bench = bench().await;
    bench.up.clear_rules();
    let right = request(bench.up.addr(), "GET", &bench.blob, &["Range: bytes=100-199"]);
    assert_eq!((right.status, right.header("content-range")), (206, "bytes 100-199/300000"));
    assert_eq!(right.body, bench.bytes[100..200]);
    let past = request(bench.up.addr(), "GET", &bench.blob, &["Range: bytes=300000-"]);
    assert_eq!((past.status, past.header("content-range")), (416, "bytes */300000"));
    let ignored = bench.ranged(Fault::IgnoreRange, "100-199");
    assert_eq!((ignored.status, ignored.body.len()), (200, SIZE));
    let shifted = bench.ranged(Fault::ShiftRange(5), "100-199");
    assert_eq!((shifted.status, shifted.header("content-range")), (206, "bytes 100-199/300000"));
    assert_eq!(shifted.body, bench.bytes[105..205]);
}

#[tokio::test]
async fn lengths_lie() {
    let bench = bench().await;
    let chunked = bench.with(Fault::NoContentLength);
    assert_eq!((chunked.header("content-length"), chunked.header("transfer-encoding")), ("", "chunked"));
    assert_eq!(chunked.unchunked().as_ref(), Some(&bench.bytes));
    let close = bench.with(Fault::UntilClose);
    assert_eq!((close.header("content-length"), close.header("connection")), ("", "close"));
    assert_eq!(close.body, bench.bytes);
    for (off, declared) in [(5, "300005"), (-5, "299995")] {
        let answer = bench.with(Fault::WrongLength(off));
        assert_eq!((answer.header("content-length"), answer.body.len()), (declared, SIZE));
    }
    assert_eq!(bench.with(Fault::TwoLengths(1)).headers("content-length"), ["300000", "300001"]);
    let head = request(bench.up.addr(), "HEAD", &bench.blob, &[]);
    assert_eq!((head.headers("content-length").len(), head.body.len()), (2, 0));
    assert_eq!(bench.with(Fault::Cut { at: Place::Byte(3), how: Ending::Fin }).body.len(), 3);
}

#[tokio::test]
async fn a_cut_chunked_body_has_no_end() {
    let bench = bench().await;
    bench.up.rules(vec![Rule::any().fault(Fault::NoContentLength).fault(Fault::cut_half(Ending::Fin))]);
    let answer = get(bench.up.addr(), &bench.blob);
    assert!(answer.body.len() > SIZE / 2);
    assert_eq!(answer.unchunked(), None);
}

#[tokio::test]
async fn digests_and_types_lie() {
    let bench = bench().await;
    let manifest = "/v2/lib/a/manifests/latest";
    let with = |fault| {
        bench.up.rules(vec![Rule::on(Kind::Manifest).fault(fault)]);
        get(bench.up.addr(), manifest)
    };
    assert_eq!(with(Fault::NoDigestHeader).headers("docker-content-digest").len(), 0);
    let wrong = with(Fault::WrongDigestHeader(None));
    assert!(wrong.header("docker-content-digest").starts_with("sha256:e3b0c442"));
    assert_eq!(wrong.body, bench.image.bytes);
    let other = with(Fault::OtherBytes);
    assert_eq!(other.header("docker-content-digest"), bench.image.digest);
    assert_eq!(other.body.len(), bench.image.bytes.len());
    assert_ne!(other.body, bench.image.bytes);
    assert_eq!(other.json()["schemaVersion"], 2);
    let typed = with(Fault::ContentType("application/vnd.oci.image.index.v1+json".into()));
    assert_eq!(typed.header("content-type"), "application/vnd.oci.image.index.v1+json");
    let blob = bench.with(Fault::OtherBytes);
    assert_eq!(blob.body.len(), SIZE);
    assert_ne!(blob.body, bench.bytes);
}

#[tokio::test]
async fn encodings_nobody_asked_for() {
    let bench = bench().await;
    let gzip = bench.with(Fault::Gzip);
    assert_eq!((gzip.header("content-encoding"), &gzip.body[..2]), ("gzip", &[0x1f, 0x8b][..]));
    let bomb = bench.with(Fault::GzipBomb(100 << 20));
    assert!(bomb.body.len() < 1 << 20);
    assert_eq!(bomb.header("content-length"), bomb.body.len().to_string());
}

#[tokio::test]
async fn huge_and_endless() {
    let bench = bench().await;
    bench.up.rules(vec![Rule::any().fault(Fault::Huge(5_000_000_000))]);
    let mut stream = connect(bench.up.addr());
    send(&mut stream, "GET", "/v2/lib/a/manifests/latest", &[]);
    let part = read(&mut stream, 100_000, DEADLINE);
    assert_eq!(part.header("content-length"), "5000000000");
    assert!(part.body.starts_with(b"{\"pad\":\"aaa"));
    bench.up.rules(vec![Rule::any().fault(Fault::Huge(200_000))]);
    let tags = get(bench.up.addr(), "/v2/lib/a/tags/list");
    assert!(tags.json()["tags"].as_array().unwrap().len() > 10_000);
    let referrers = get(bench.up.addr(), "/v2/lib/a/referrers/sha256:0");
    assert!(referrers.json()["manifests"].as_array().unwrap().len() > 1000);
    assert_eq!(get(bench.up.addr(), "/v2/lib/a/manifests/latest").json()["pad"].as_str().unwrap().len(), 200_000 - 10);
    bench.up.rules(vec![Rule::any().fault(Fault::Endless)]);
    let mut stream = connect(bench.up.addr());
    send(&mut stream, "GET", &bench.blob, &[]);
    let part = read(&mut stream, 20_000_000, DEADLINE);
    assert!(part.body.len() > 19_000_000);
    drop(stream);
    bench.up.rules(vec![Rule::on(Kind::Tags).fault(Fault::EndlessLinks)]);
    let page = get(bench.up.addr(), "/v2/lib/a/tags/list?page=7");
    assert_eq!(page.header("link"), "</v2/lib/a/tags/list?page=8>; rel=\"next\"");
}

#[tokio::test]
async fn headers_get_out_of_hand() {
    let bench = bench().await;
    assert_eq!(bench.with(Fault::HugeHeader(100_000)).header("x-huge").len(), 100_000);
    assert_eq!(bench.with(Fault::ManyHeaders(500)).head.matches("X-Many-").count(), 500);
    let set = bench.with(Fault::SetHeader("Set-Cookie".into(), "a=b".into()));
    assert_eq!(set.header("set-cookie"), "a=b");
    let limits = bench.with(Fault::RateLimitHeaders { limit: 100, remaining: 3 });
    assert_eq!(limits.header("ratelimit-remaining"), "3;w=21600");
    bench.up.rules(vec![Rule::any().fault(Fault::EchoRequest(500))]);
    let path = format!("{}?x=y", bench.blob);
    let echo = request(bench.up.addr(), "GET", &path, &["Authorization: Basic S3NT1NEL"]);
    assert!(String::from_utf8_lossy(&echo.body).contains("x=y authorization: Basic S3NT1NEL"));
    assert_eq!(bench.with(Fault::Raw("nonsense".into())).head, "nonsense");
}

#[tokio::test]
async fn no_answer_at_all() {
    let bench = bench().await;
    assert_eq!(bench.with(Fault::Close).end, End::Fin);
    assert_eq!(bench.with(Fault::Reset).end, End::Reset);
    bench.up.rules(vec![Rule::any().fault(Fault::Hang)]);
    let mut stream = connect(bench.up.addr());
    send(&mut stream, "GET", &bench.blob, &[]);
    let answer = read(&mut stream, usize::MAX, Duration::from_millis(200));
    assert_eq!((answer.end, answer.head.as_str()), (End::Silence, ""));
}

#[tokio::test]
async fn connections_fail() {
    let bench = bench().await;
    bench.up.rules(vec![
        Rule::connections().times(1).fault(Fault::Close),
        Rule::connections().times(1).fault(Fault::TlsAlert(40)),
        Rule::connections().times(1).fault(Fault::Reset),
    ]);
    let closed = get(bench.up.addr(), &bench.blob);
    assert_eq!((closed.status, closed.head.as_str()), (0, ""));
    let mut stream = connect(bench.up.addr());
    let alert = read(&mut stream, usize::MAX, DEADLINE);
    assert_eq!(alert.head.as_bytes(), [21, 3, 3, 0, 2, 2, 40]);
    let mut stream = connect(bench.up.addr());
    assert_eq!(read(&mut stream, usize::MAX, DEADLINE).end, End::Reset);
    assert_eq!(get(bench.up.addr(), &bench.blob).status, 200);
    assert_eq!((bench.up.connections(), bench.up.log().len()), (4, 1));
}

#[tokio::test]
async fn nobody_listens() {
    let bench = bench().await;
    let mut open = connect(bench.up.addr());
    send(&mut open, "GET", "/v2/", &[]);
    read(&mut open, usize::MAX, DEADLINE);
    bench.up.refuse().await;
    let refused = std::net::TcpStream::connect(bench.up.addr());
    assert_eq!(refused.map_err(|error| error.kind()).err(), Some(std::io::ErrorKind::ConnectionRefused));
    bench.up.accept().await.expect("the port is free again");
    assert_eq!(get(bench.up.addr(), &bench.blob).body, bench.bytes);
    let hole = BlackHole::start().await.expect("a full queue");
    let lost = std::net::TcpStream::connect_timeout(&hole.addr(), Duration::from_millis(400));
    assert_eq!(lost.map_err(|error| error.kind()).err(), Some(std::io::ErrorKind::TimedOut));
}

#[tokio::test]
async fn open_connections_are_cut() {
    let bench = bench().await;
    bench.up.rules(vec![Rule::any().fault(Fault::Hang)]);
    for round in 1..=2 {
        let mut stream = connect(bench.up.addr());
        send(&mut stream, "GET", &bench.blob, &[]);
        assert!(bench.up.wait_for(|log| log.len() == round, DEADLINE).await);
        bench.up.drop_connections();
        assert_ne!(read(&mut stream, usize::MAX, DEADLINE).end, End::Silence);
    }
    let ended = |log: &[faulty::Request]| log.iter().all(|request| request.end_us.is_some());
    assert!(bench.up.wait_for(ended, DEADLINE).await);
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let bench = bench().await;
    let mut stream = connect(bench.up.addr());
    for _ in 0..3 {
        stream.write_all(b"GET /v2/lib/a/manifests/latest HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut all = Vec::new();
        while !all.ends_with(&bench.image.bytes) {
            let answer = read(&mut stream, 1, DEADLINE);
            assert!(!answer.head.is_empty());
            all.extend_from_slice(answer.head.as_bytes());
            all.extend_from_slice(&answer.body);
        }
    }
    let log = bench.up.log();
    assert_eq!((log.len(), log[0].connection), (3, log[2].connection));
}

#[tokio::test]
async fn a_connection_closes_unannounced() {
    let bench = bench().await;
    bench.up.rules(vec![Rule::any().fault(Fault::CloseAfter)]);
    let mut stream = connect(bench.up.addr());
    stream.write_all(format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", bench.blob).as_bytes()).unwrap();
    let answer = read(&mut stream, usize::MAX, DEADLINE);
    assert_eq!(answer.header("connection"), "");
    assert!(answer.body == bench.bytes && answer.end == End::Fin);
}

#[tokio::test]
async fn manifests_may_be_any_bytes() {
    let bench = bench().await;
    let deep = "[".repeat(10_000);
    let digest = bench.up.manifest("lib/a", "deep", OCI_MANIFEST, deep.clone());
    let answer = get(bench.up.addr(), &format!("/v2/lib/a/manifests/{digest}"));
    assert_eq!(answer.body, deep.as_bytes());
    let forged = bench.up.blob("lib/a", "true");
    bench.up.blob_as("lib/a", &forged, Source::bytes("lie!"));
    assert_eq!(get(bench.up.addr(), &format!("/v2/lib/a/blobs/{forged}")).body, b"lie!");
}
