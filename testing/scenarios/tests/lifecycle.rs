//! Clocks, ends, doubles and limits: what happens around larder while it serves.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use faulty::{Auth, Fault, Kind, Place, Rule, Upstream};
use rustix::process::Signal;
use scenarios::{Builder, Client, Larder, Volume, wait_for};

const MIB: u64 = 1 << 20;

fn blob(digest: &str) -> String {
    format!("/v2/up.test/app/blobs/{digest}")
}

fn manifest(tag: &str) -> String {
    format!("/v2/up.test/app/manifests/{tag}")
}

fn hold() -> Rule {
    Rule::on(Kind::Blob).get().fault(Fault::Hold { at: Place::Fraction(0.5), gate: "half".into() })
}

fn settle(larder: &Larder) {
    wait_for("no fill is on its way", || {
        larder.admin("/metrics").is_ok_and(|answer| answer.text().lines().any(|line| line == "larder_fills_running 0"))
    });
}

/// A clock that a test sets, for one process: only what tells the date, as when an administrator sets it.
struct Clock {
    dir: tempfile::TempDir,
}

impl Clock {
    fn new() -> Clock {
        programs::debian(&["faketime"]).unwrap();
        let clock = Clock { dir: tempfile::tempdir().unwrap() };
        clock.set("+0d");
        clock
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("clock")
    }

    /// `+3650d`, `-1h`: by how much it is wrong.
    fn set(&self, offset: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    fn of(&self, builder: Builder) -> Builder {
        let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
        assert!(Path::new(&library).exists(), "{library} is not there");
        builder
            .env("LD_PRELOAD", &library)
            .env("FAKETIME_TIMESTAMP_FILE", self.file().to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1")
    }
}

/// The year that larder's log ends in.
fn year(larder: &Larder) -> u64 {
    let log = larder.log();
    let line = log.lines().rev().find(|line| line.starts_with('2') || line.starts_with('1'));
    line.and_then(|line| line.get(..4)?.parse().ok()).unwrap_or_else(|| panic!("the log shows no date:\n{log}"))
}

// D-13
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_changes_nothing() {
    let up = Upstream::start().await.unwrap();
    let old = up.image("app", "v1", &[300_000], 1);
    let new = up.image("app", "other", &[300_000], 2);
    let clock = Clock::new();
    let builder = Larder::in_front_of("up.test", &up).config("[freshness]\ndefault = \"30m\"");
    let larder = clock.of(builder).start().unwrap();
    assert_eq!(larder.get(&manifest("v1")).unwrap().digest(), old.digest);
    assert_eq!(larder.get(&blob(&old.layers[0])).unwrap().digest(), old.layers[0]);
    settle(&larder);
    up.move_tag("app", "v1", &new.digest);
    let now = year(&larder);
    let asked = up.log().len();
    for (offset, years) in [("+3650d", 10), ("-3650d", -10), ("-1h", 0), ("+29d", 0), ("+0d", 0)] {
        clock.set(offset);
        let answer = larder.get(&manifest("v1")).unwrap();
        assert_eq!((answer.status, answer.digest()), (200, old.digest.clone()), "{offset}: half an hour is not over");
        assert_eq!(larder.get(&blob(&old.layers[0])).unwrap().digest(), old.layers[0], "{offset}");
        if years != 0 {
            wait_for("the clock is another one", || year(&larder).abs_diff(now.saturating_add_signed(years)) <= 1);
        }
        assert_eq!(up.log().len(), asked, "{offset}: nobody is asked");
        // What comes in at a strange time is kept as well.
        let digest = up.generated_blob("app", 300_000, offset.len() as u64 * 100 + years.unsigned_abs());
        assert_eq!(larder.get(&blob(&digest)).unwrap().digest(), digest, "{offset}");
        settle(&larder);
        up.clear_log();
        assert_eq!(larder.get(&blob(&digest)).unwrap().digest(), digest, "{offset}");
        assert_eq!(up.log().len(), 0, "{offset}");
        while up.log().len() < asked {
            Client::connect(up.addr()).unwrap().ask("GET", "/v2/", &[]).unwrap();
        }
    }
    assert_eq!(larder.metric("larder_quarantined_total", &[]), 0.0);
    assert!(!larder.log().contains("panicked"), "{}", larder.log());
}

// D-13
#[tokio::test(flavor = "multi_thread")]
async fn a_start_at_another_time_serves_and_asks_again() {
    let up = Upstream::start().await.unwrap();
    up.auth(Auth::Bearer);
    up.public("*");
    let image = up.image("app", "v1", &[300_000], 1);
    let clock = Clock::new();
    let mut larder = clock.of(Larder::in_front_of("up.test", &up)).start().unwrap();
    assert_eq!(larder.get(&manifest("v1")).unwrap().digest(), image.digest);
    assert_eq!(larder.get(&blob(&image.layers[0])).unwrap().digest(), image.layers[0]);
    settle(&larder);
    for offset in ["-3650d", "+3650d", "-1h", "+0d"] {
        clock.set(offset);
        larder = larder.restart().unwrap();
        assert_eq!(larder.get(&manifest("v1")).unwrap().digest(), image.digest, "{offset}");
        assert_eq!(larder.get(&blob(&image.layers[0])).unwrap().digest(), image.layers[0], "{offset}");
        assert_eq!(up.blob_gets(&image.layers[0]), 1, "{offset}: nothing is thrown away");
    }
    // The origin is gone, and the clock was set back: the record is from the future, and good for an outage.
    clock.set("-30d");
    larder = larder.restart().unwrap();
    up.refuse().await;
    let answer = larder.get(&manifest("v1")).unwrap();
    assert_eq!((answer.status, answer.digest()), (200, image.digest.clone()));
    assert!(!larder.log().contains("panicked"), "{}", larder.log());
}

// D-14
#[tokio::test(flavor = "multi_thread")]
async fn a_term_lets_streams_end_and_takes_no_more() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", 4 * MIB, 1);
    let cached = up.generated_blob("app", 8 * MIB, 2);
    let mut larder = Larder::in_front_of("up.test", &up).start().unwrap();
    assert_eq!(larder.get(&blob(&cached)).unwrap().digest(), cached);
    settle(&larder);
    up.rule(hold());
    let mut streams: Vec<(Client, Vec<u8>, &String, u64)> = Vec::new();
    for n in 0..8 {
        let (digest, size) = if n % 2 == 0 { (&digest, 4 * MIB) } else { (&cached, 8 * MIB) };
        let mut client = larder.client().unwrap();
        client.send("GET", &blob(digest), &[]).unwrap();
        assert_eq!(client.head().unwrap().0, 200);
        let mut body = Vec::new();
        client.read(&mut body, 1000).unwrap();
        streams.push((client, body, digest, size));
    }
    let mut idle = larder.client().unwrap();
    assert_eq!(idle.ask("GET", "/v2/", &[]).unwrap().status, 200);

    larder.signal(Signal::TERM);
    wait_for("new connections are refused", || std::net::TcpStream::connect(larder.address()).is_err());
    let ready = larder.admin("/readyz").unwrap();
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert!(idle.ask("GET", "/v2/", &[]).is_err(), "a connection without a request is closed");
    assert!(larder.is_running());
    up.open_gate("half");
    for (mut client, mut body, digest, size) in streams {
        client.read(&mut body, size as usize - 1000).unwrap();
        assert_eq!(oci::Digest::sha256(&body).to_string(), *digest);
    }
    assert_eq!(larder.wait(), Some(0), "{}", larder.log());
}

// D-14
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_within_the_grace_is_cut() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", 4 * MIB, 1);
    up.rule(hold());
    let mut larder = Larder::in_front_of("up.test", &up).config("grace = \"300ms\"").start().unwrap();
    let mut client = larder.client().unwrap();
    client.send("GET", &blob(&digest), &[]).unwrap();
    assert_eq!(client.head().unwrap().0, 200);
    larder.signal(Signal::TERM);
    assert_eq!(larder.wait(), Some(0), "{}", larder.log());
    let mut body = Vec::new();
    let _ = client.read(&mut body, 4 * MIB as usize);
    assert!((body.len() as u64) < 4 * MIB);
    assert_eq!(fs::read_dir(larder.store().join("ingest")).unwrap().count(), 0, "nothing half done is left");
}

// D-14
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", 4 * MIB, 1);
    up.rule(hold());
    let mut larder = Larder::in_front_of("up.test", &up).config("grace = \"1h\"").start().unwrap();
    let mut client = larder.client().unwrap();
    client.send("GET", &blob(&digest), &[]).unwrap();
    assert_eq!(client.head().unwrap().0, 200);
    larder.signal(Signal::INT);
    wait_for("new connections are refused", || std::net::TcpStream::connect(larder.address()).is_err());
    assert!(larder.is_running());
    larder.signal(Signal::INT);
    assert_eq!(larder.wait(), Some(1));
}

// D-15
#[tokio::test(flavor = "multi_thread")]
async fn a_second_larder_on_the_store_is_refused_and_hurts_nobody() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", 4 * MIB, 1);
    up.rule(hold());
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let mut client = larder.client().unwrap();
    client.send("GET", &blob(&digest), &[]).unwrap();
    assert_eq!(client.head().unwrap().0, 200);
    for _ in 0..3 {
        let Err(error) = Larder::builder().store(larder.store()).start() else { panic!("two serve one store") };
        let error = error.to_string();
        assert!(error.contains("in use by another larder process") && error.contains("--store"), "{error}");
    }
    up.open_gate("half");
    let mut body = Vec::new();
    client.read(&mut body, 4 * MIB as usize).unwrap();
    assert_eq!(oci::Digest::sha256(&body).to_string(), digest);
    settle(&larder);
    assert_eq!(larder.metric("larder_fills_total", &[("result", "kept")]), 1.0);
}

/// Processor time that a process has used, in hundredths of a second.
fn ticks(larder: &Larder) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", larder.pid())).unwrap();
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned()).unwrap();
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

// D-16
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_clients_of_a_larder_with_256_files_are_all_served() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", 300_000, 1);
    let larder = Larder::in_front_of("up.test", &up).wrapped(&["prlimit", "--nofile=256:256"]).start().unwrap();
    let mut clients: Vec<Client> = (0..500).map(|_| larder.client().unwrap()).collect();
    for client in &mut clients {
        client.send("GET", &blob(&digest), &[]).unwrap();
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let answer = client.answer("GET").unwrap_or_else(|error| panic!("client {n}: {error:#}"));
        assert_eq!((answer.status, answer.digest()), (200, digest.clone()), "client {n}");
    }
    assert_eq!(up.blob_gets(&digest), 1);
    assert!(!larder.log().contains("cannot accept"), "there is a place for what is accepted");
    drop(clients);
    assert_eq!(larder.get(&blob(&digest)).unwrap().digest(), digest);
}

// D-16
#[tokio::test(flavor = "multi_thread")]
async fn a_larder_without_files_waits_and_recovers() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", 300_000, 1);
    // More connections are allowed than there are files for.
    let builder =
        Larder::in_front_of("up.test", &up).config("[limits]\nconnections = 2000\nhead = \"1h\"\nkeep_alive = \"1h\"");
    let mut larder = builder.wrapped(&["prlimit", "--nofile=256:256"]).start().unwrap();
    assert_eq!(larder.get(&blob(&digest)).unwrap().digest(), digest);
    settle(&larder);
    let refusals = |larder: &Larder| larder.log().matches("cannot accept connections").count();
    // Half a request each, so that none is in the way of another and none ends.
    let clients: Vec<_> = (0..500)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(larder.address()).unwrap();
            stream.write_all(b"GET /v2/ HTTP/1.1\r\n").unwrap();
            stream
        })
        .collect();
    wait_for("there are no more files", || refusals(&larder) > 0);
    let (before, since, from) = (ticks(&larder), refusals(&larder), Instant::now());
    wait_for("it has tried again and again", || refusals(&larder) >= since + 8);
    let (used, passed) = (ticks(&larder) - before, from.elapsed().as_millis() as u64 / 10);
    assert!(used <= passed / 2 + 1, "{used} of {passed} hundredths of a second went into waiting");
    assert!(larder.is_running());
    // The first of them is served as if nothing were wrong.
    let mut first = clients.into_iter().next().unwrap();
    first.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    first.write_all(b"Host: larder.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    first.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert_eq!(larder.get(&blob(&digest)).unwrap().digest(), digest, "it recovers when they are gone");
    let other = up.generated_blob("app", 300_000, 2);
    assert_eq!(larder.get(&blob(&other)).unwrap().digest(), other);
    settle(&larder);
    assert_eq!(larder.metric("larder_fills_total", &[("result", "kept")]), 2.0);
}

/// A control group with a limit of memory, removed when dropped.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Group {
        scenarios::need_root();
        let root = Path::new("/sys/fs/cgroup/memory");
        assert!(root.is_dir(), "this test needs the memory controller of cgroup v1 at {}", root.display());
        let group = Group(root.join(format!("larder-test-{}", std::process::id())));
        fs::create_dir(&group.0).unwrap();
        fs::write(group.0.join("memory.limit_in_bytes"), bytes.to_string()).unwrap();
        group
    }

    fn kills(&self) -> String {
        let control = fs::read_to_string(self.0.join("memory.oom_control")).unwrap();
        control.lines().find(|line| line.starts_with("oom_kill ")).unwrap_or_default().to_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is busy for a moment after its last process ended.
        let end = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

// D-17
#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_streams_of_more_than_the_memory_fit_into_it() {
    let group = Group::new(128 * MIB);
    // The whole of it takes a minute or more; by default a quarter, which is twice the memory too.
    let size = if std::env::var_os("LARDER_LONG_TESTS").is_some() { 1024 * MIB } else { 256 * MIB };
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", size, 1);
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let builder = Larder::in_front_of("up.test", &up).log("info");
    let mut larder = builder.wrapped(&["sh", "-c", &enter, "sh"]).start().unwrap();
    let (done, most) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(larder.resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let streams: Vec<_> = (0..64)
            .map(|n| {
                let (larder, digest) = (&larder, &digest);
                scope.spawn(move || {
                    let mut client = larder.client().unwrap();
                    client.send("GET", &blob(digest), &[]).unwrap();
                    assert_eq!(client.head().unwrap().0, 200);
                    // Every byte of some of them is looked at; all are counted.
                    let mut hasher = (n % 16 == 0).then(|| oci::Hasher::new(oci::Algorithm::Sha256));
                    let (mut piece, mut total) = (Vec::new(), 0);
                    while total < size && client.read(&mut piece, MIB as usize).unwrap() > 0 {
                        total += piece.len() as u64;
                        if let Some(hasher) = &mut hasher {
                            hasher.update(&piece);
                        }
                        piece.clear();
                    }
                    assert_eq!(total, size, "stream {n}");
                    if let Some(hasher) = hasher {
                        assert_eq!(hasher.finish().to_string(), *digest, "stream {n}");
                    }
                })
            })
            .collect();
        let results: Vec<_> = streams.into_iter().map(|stream| stream.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok), "{}", larder.log());
    });
    assert!(larder.is_running());
    assert_eq!(group.kills(), "oom_kill 0");
    let most = most.into_inner();
    assert!(most > 0 && most < 64 * MIB, "{} MiB resident", most / MIB);
    assert_eq!(up.blob_gets(&digest), 1);
    settle(&larder);
    assert_eq!(larder.metric("larder_fills_total", &[("result", "kept")]), 1.0);
    drop(larder);
}

/// Writes a store of `blobs` small blobs in `repositories` repositories as larder lays it out, without its seals.
fn write_store(root: &Path, blobs: usize, repositories: usize) -> Vec<String> {
    let folder = root.join("blobs/sha256");
    fs::create_dir_all(&folder).unwrap();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut digests = Vec::with_capacity(blobs);
    for n in 0..blobs {
        let bytes = format!("{n:0>100}");
        let digest = oci::Digest::sha256(bytes.as_bytes());
        fs::write(folder.join(digest.hex()), bytes).unwrap();
        digests.push(digest.to_string());
    }
    for n in 0..repositories {
        let repository = root.join(format!("repositories/up.test/app/{n}"));
        let records = repository.join("_blobs/sha256");
        fs::create_dir_all(&records).unwrap();
        for digest in digests.iter().skip(n).step_by(repositories).take(1) {
            fs::write(records.join(digest.trim_start_matches("sha256:")), "").unwrap();
        }
        fs::write(repository.join("_public"), seconds.to_string()).unwrap();
    }
    fs::write(root.join("larder-store.json"), "{\"layout\":1}").unwrap();
    digests
}

// D-18
#[tokio::test(flavor = "multi_thread")]
async fn a_large_store_starts_at_once_and_no_request_looks_at_all_of_it() {
    const BLOBS: usize = 100_000;
    const REPOSITORIES: usize = 10_000;
    programs::debian(&["strace"]).unwrap();
    let up = Upstream::start().await.unwrap();
    let volume = Volume::tmpfs("size=2g,nr_inodes=500k").unwrap();
    let digests = write_store(&volume.store(), BLOBS, REPOSITORIES);
    let of = |n: usize| format!("/v2/up.test/app/{n}/blobs/{}", digests[n]);
    Larder::binary();

    let begun = Instant::now();
    let builder = || Larder::in_front_of("up.test", &up).store(&volume.store()).log("info");
    let larder = builder().config("[store]\nbudget = \"1GiB\"").start().unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "ready after {took:?}");
    for n in (0..REPOSITORIES).step_by(500) {
        let answer = larder.get(&of(n)).unwrap();
        assert_eq!((answer.status, answer.digest()), (200, digests[n].clone()), "what was brought along is served");
    }
    assert_eq!(up.connections(), 0);
    let resident = larder.resident();
    assert!(resident < 64 * MIB, "{} MiB for the large store", resident / MIB);
    drop(larder);

    // Every look at the folder of blobs is in the trace.
    let trace = volume.path().join("trace");
    let folder = volume.store().join("blobs/sha256");
    let words = ["strace", "-D", "-f", "-qq", "-e", "trace=getdents64", "-P", folder.to_str().unwrap(), "-o"];
    let words = [&words[..], &[trace.to_str().unwrap()]].concat();
    let larder = builder().config("[store]\nbudget = \"1GiB\"").wrapped(&words).start().unwrap();
    let fresh: Vec<String> = (0..20).map(|seed| up.generated_blob("app", 100_000, seed)).collect();
    let looks = || fs::read_to_string(&trace).map_or(0, |text| text.lines().count());
    assert_eq!(larder.get(&blob(&fresh[0])).unwrap().digest(), fresh[0]);
    settle(&larder);
    wait_for("the store is counted", || fs::read_to_string(&trace).is_ok_and(|text| text.ends_with("= 0\n")));
    let before = looks();
    assert!(before > 0);
    for digest in &fresh {
        assert_eq!(larder.get(&blob(digest)).unwrap().digest(), *digest);
    }
    for n in (1..REPOSITORIES).step_by(500) {
        assert_eq!(larder.get(&of(n)).unwrap().digest(), digests[n]);
    }
    settle(&larder);
    assert_eq!(looks(), before, "requests look at the blobs that they are about");
    assert_eq!(larder.metric("larder_store_bytes", &[]), BLOBS as f64 * 100.0 + 20.0 * 100_000.0);
    drop(larder);

    // A smaller budget is kept to without anybody waiting for it.
    let larder = builder().config("[store]\nbudget = \"9MB\"").start().unwrap();
    wait_for("it is within its budget", || {
        assert_eq!(larder.get("/v2/").unwrap().status, 200);
        larder.metric("larder_store_bytes", &[]) <= 9e6
    });
    wait_for("the evictions are counted", || larder.metric("larder_evictions_total", &[]) > 20_000.0);
}
