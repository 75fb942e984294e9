//! Bodies: byte for byte, or visibly short.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

mod support;

use std::fs::OpenOptions;
use std::io::Read;
use std::sync::Arc;

use support::{Fixture, OriginBlob, noise, wait_for};
use tokio::sync::Semaphore;

/// No multiple of a page, a piece or a packet.
const ODD: usize = 3 * (1 << 20) + 4097 + 13;

#[test]
fn files_and_their_ranges_are_exact() {
    let fixture = Fixture::new();
    let bytes = noise(ODD);
    let digest = fixture.origin.blob(bytes.clone());
    fixture.keep(&digest);
    let target = format!("/v2/reg.test/a/b/blobs/{digest}");
    let mut client = fixture.connect();
    let whole = client.get(&target, &[]);
    assert_eq!((whole.status, whole.header("accept-ranges")), (200, Some("bytes")));
    assert!(whole.body == bytes, "the whole blob");
    for (first, last) in [
        (0, 0),
        (1, 1),
        (0, 4095),
        (4095, 4096),
        (4096, 8191),
        (1, (1 << 20) + 1),
        ((1 << 20) - 1, (1 << 21) + 7),
        (12345, ODD - 2),
        (ODD - 1, ODD - 1),
        (ODD - 70_000, ODD - 1),
    ] {
        let reply = client.get(&target, &[("Range", &format!("bytes={first}-{last}"))]);
        assert_eq!(reply.status, 206);
        assert_eq!(reply.header("content-range"), Some(&*format!("bytes {first}-{last}/{ODD}")));
        assert!(reply.body == bytes[first..=last], "{first}-{last}");
    }
    assert!(client.get(&target, &[("Range", "bytes=-500")]).body == bytes[ODD - 500..]);
    assert!(client.get(&target, &[("Range", "bytes=0-1,5-6")]).body == bytes);
    let reply = client.get(&target, &[("Range", &format!("bytes={ODD}-"))]);
    assert_eq!((reply.status, reply.body.len()), (416, 0));
    assert_eq!(reply.header("content-range"), Some(&*format!("bytes */{ODD}")));
    for (tag, status) in [(format!("\"{digest}\""), 206), ("\"other\"".to_owned(), 200)] {
        let reply = client.get(&target, &[("Range", "bytes=0-9"), ("If-Range", &tag)]);
        assert_eq!(reply.status, status);
    }
}

#[test]
fn a_head_and_its_body_leave_together() {
    let fixture = Fixture::new();
    let (small, large) = (fixture.origin.blob(noise(10_000)), fixture.origin.blob(noise(ODD)));
    fixture.keep(&small);
    fixture.keep(&large);
    for (digest, range, size) in [(small, None, 10_000), (large, Some(("Range", "bytes=4095-24094")), 20_000)] {
        let mut client = fixture.connect();
        for _ in 0..50 {
            client.send("GET", &format!("/v2/reg.test/a/b/blobs/{digest}"), range.as_slice());
            // One segment of the loopback holds 64 KiB, so what left together comes together.
            assert!(client.more());
            let mut reply = client.head().unwrap();
            assert_eq!(client.buffered(), size, "the body came with the head");
            client.body(&mut reply);
        }
    }
}

#[test]
fn a_file_that_shrinks_closes_the_connection_short() {
    let fixture = Fixture::new();
    let bytes = noise(48 << 20);
    let digest = fixture.origin.blob(bytes.clone());
    fixture.keep(&digest);
    let mut client = fixture.connect();
    client.send("GET", &format!("/v2/reg.test/a/b/blobs/{digest}"), &[]);
    let mut reply = client.head().unwrap();
    let file = find(&fixture.store, bytes.len() as u64);
    // Behind what the sockets hold: of a page that is on its way without a copy, the kernel zeroes what is cut off.
    OpenOptions::new().write(true).open(file).unwrap().set_len(32 << 20).unwrap();
    client.body(&mut reply);
    assert!(!reply.complete);
    assert!(bytes.starts_with(&reply.body), "nothing wrong came before the end");
    // The server is none the worse.
    assert_eq!(fixture.connect().get("/v2/", &[]).status, 200);
}

#[test]
fn files_that_are_not_in_memory_are_exact() {
    let fixture = Fixture::new();
    let bytes = noise(8 << 20);
    let digest = fixture.origin.blob(bytes.clone());
    fixture.keep(&digest);
    let file = std::fs::File::open(find(&fixture.store, bytes.len() as u64)).unwrap();
    file.sync_all().unwrap();
    let mut client = fixture.connect();
    for _ in 0..3 {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let reply = client.get(&format!("/v2/reg.test/a/b/blobs/{digest}"), &[]);
        assert!(reply.complete && reply.body == bytes);
    }
}

fn find(folder: &std::path::Path, size: u64) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let (path, metadata) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.len() == size {
                return path;
            }
        }
    }
    panic!("no file of {size} bytes");
}

#[test]
fn a_fill_is_streamed_and_its_ranges_are_exact() {
    let fixture = Fixture::new();
    let (bytes, gate) = (noise(ODD), Arc::new(Semaphore::new(0)));
    let blob = OriginBlob { bytes: bytes.clone().into(), tell_size: true, cut: None, gate: Some(gate.clone()) };
    let digest = fixture.origin.blob_with(blob);
    let target = format!("/v2/reg.test/a/b/blobs/{digest}");
    let (mut whole, mut part) = (fixture.connect(), fixture.connect());
    whole.send("GET", &target, &[]);
    part.send("GET", &target, &[("Range", "bytes=100-1999999")]);
    gate.add_permits(1);
    let mut first = whole.head().unwrap();
    wait_for("the first quarter comes while the rest is held", || {
        whole.buffered() > ODD / 4 - 100_000 || !whole.more()
    });
    gate.add_permits(3);
    whole.body(&mut first);
    let second = part.reply();
    assert_eq!((first.status, first.complete, first.body == bytes), (200, true, true));
    assert_eq!((second.status, second.body == bytes[100..2_000_000]), (206, true));
}

#[test]
fn a_fill_of_unknown_size_is_chunked() {
    let fixture = Fixture::new();
    let bytes = noise(ODD);
    let blob = OriginBlob { bytes: bytes.clone().into(), tell_size: false, cut: None, gate: None };
    let digest = fixture.origin.blob_with(blob);
    let reply = fixture.connect().get(&format!("/v2/reg.test/a/b/blobs/{digest}"), &[("Range", "bytes=5-6")]);
    assert_eq!((reply.status, reply.complete, reply.body == bytes), (200, true, true));
}

#[test]
fn a_fill_that_fails_closes_the_connection_short() {
    for tell_size in [true, false] {
        let fixture = Fixture::new();
        let bytes = noise(ODD);
        let blob = OriginBlob { bytes: bytes.clone().into(), tell_size, cut: Some(2_000_000), gate: None };
        let digest = fixture.origin.blob_with(blob);
        let mut client = fixture.connect();
        client.send("GET", &format!("/v2/reg.test/a/b/blobs/{digest}"), &[]);
        let mut reply = client.head().unwrap();
        assert_eq!(reply.status, 200);
        client.body(&mut reply);
        assert!(!reply.complete);
        assert!(reply.body.len() <= 2_000_000 && bytes.starts_with(&reply.body), "nothing was added");
        assert!(client.ended());
    }
}

#[test]
fn clients_that_leave_cost_nothing() {
    let fixture = Fixture::new();
    let digest = fixture.origin.blob(noise(32 << 20));
    fixture.keep(&digest);
    for _ in 0..20 {
        let mut client = fixture.connect();
        client.send("GET", &format!("/v2/reg.test/a/b/blobs/{digest}"), &[]);
        client.stream.read_exact(&mut [0; 100]).unwrap();
    }
    wait_for("connections end", || fixture.number("larder_connections") == 0.0);
    assert_eq!(fixture.number("larder_streams"), 0.0);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(fixture.store.to_str().unwrap()), "no mapping is left");
}
