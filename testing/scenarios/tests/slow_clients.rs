//! Clients that are slow on purpose cost little, are sent away, and keep nobody else waiting.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use faulty::Upstream;
use scenarios::{Larder, wait_for};

const CLIENTS: usize = 500;

/// Opens many connections and sends each the beginning of what it will never finish.
fn crowd(larder: &Larder, beginning: &str) -> Vec<TcpStream> {
    (0..CLIENTS)
        .map(|_| {
            let mut stream = TcpStream::connect(larder.address()).unwrap();
            stream.write_all(beginning.as_bytes()).unwrap();
            stream
        })
        .collect()
}

/// Whether the server has closed a connection: all that is left of it is its end.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

/// Larder with an image in its store, and where its layer is.
async fn start(limits: &str) -> anyhow::Result<(Upstream, Larder, String)> {
    let up = Upstream::start().await?;
    let image = up.image("team/app", "1", &[8_000_000], 1);
    let larder = Larder::in_front_of("up.test", &up).config(limits).log("info").start()?;
    let layer = format!("/v2/team/app/blobs/{}?ns=up.test", image.layers[0]);
    assert_eq!(larder.get("/v2/team/app/manifests/1?ns=up.test")?.status, 200);
    assert_eq!(larder.get(&layer)?.digest(), image.layers[0]);
    Ok((up, larder, layer))
}

/// Pulls a warm manifest again and again until the crowd is gone; how often, and the longest wait.
fn pulls_meanwhile(larder: &Larder, mut crowd: Vec<TcpStream>) -> (usize, Duration) {
    let over = AtomicBool::new(false);
    let pulled = AtomicUsize::new(0);
    let longest = std::thread::scope(|scope| {
        let pulls = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                assert_eq!(larder.get("/v2/team/app/manifests/1?ns=up.test").unwrap().status, 200);
                longest = longest.max(begun.elapsed());
                pulled.fetch_add(1, Ordering::Relaxed);
            }
            longest
        });
        wait_for("the crowd is sent away", || {
            crowd.retain_mut(|stream| !is_closed(stream));
            crowd.is_empty()
        });
        over.store(true, Ordering::Relaxed);
        pulls.join().unwrap()
    });
    (pulled.into_inner(), longest)
}

// S-30
#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_is_waited_for_only_so_long() -> anyhow::Result<()> {
    let (_up, larder, _) = start("[limits]\nhead = \"2s\"").await?;
    let descriptors = larder.descriptors();
    for beginning in ["", "GET /v2/ HTTP/1.1\r\nHost: larder\r\nX-Slow: ", "PATCH /v2/a/b/blobs/uploads/1 HTTP/1.1\r\n"]
    {
        let crowd = crowd(&larder, beginning);
        let (pulled, longest) = pulls_meanwhile(&larder, crowd);
        assert!(pulled > 0 && longest < Duration::from_secs(5), "others waited {longest:?}");
    }
    wait_for("no descriptor is left open", || larder.descriptors() <= descriptors + 8);
    Ok(())
}

// S-30
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_is_sent_away() -> anyhow::Result<()> {
    let (_up, larder, layer) = start("[limits]\nstall = \"2s\"").await?;
    let (descriptors, memory) = (larder.descriptors(), larder.resident());
    let asked = format!("GET {layer} HTTP/1.1\r\nHost: larder\r\n\r\n");
    let crowd = crowd(&larder, &asked);
    // Looking at a connection would read from it, so all are looked at when larder has had its time.
    wait_for("they are sent away", || larder.metric("larder_streams", &[]) == 0.0);
    assert_eq!(larder.get("/v2/team/app/manifests/1?ns=up.test")?.status, 200);
    wait_for("no descriptor is left open", || larder.descriptors() <= descriptors + 8);
    let more = larder.resident_at_most().saturating_sub(memory);
    assert!(more < 64 << 20, "{more} bytes for {CLIENTS} clients that read nothing");
    drop(crowd);
    Ok(())
}

// S-30
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_wait_for_nothing_end() -> anyhow::Result<()> {
    let (_up, larder, _) = start("[limits]\nkeep_alive = \"2s\"").await?;
    let crowd = crowd(&larder, "GET /v2/ HTTP/1.1\r\nHost: larder\r\n\r\n");
    let (pulled, longest) = pulls_meanwhile(&larder, crowd);
    assert!(pulled > 0 && longest < Duration::from_secs(5), "others waited {longest:?}");
    Ok(())
}
