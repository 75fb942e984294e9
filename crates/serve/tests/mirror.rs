//! A mirror for container runtimes: whatever fails does so in the way after which a runtime goes on best.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use cache::FailureKind;
use oci::Digest;
use serve::Mirror;
use support::{Fixture, LONG, OriginBlob, noise, wait_for};
use tokio::sync::Semaphore;

fn mirror(answer: Duration) -> Fixture {
    Fixture::with(|settings| settings.mirror = Some(Mirror { answer }))
}

/// How a body ends whose rest the gate holds back until its beginning is there: with so many bytes, and whether by a reset.
fn end_of(fixture: &Fixture, digest: &Digest, gate: &Semaphore) -> (usize, bool) {
    gate.add_permits(1);
    let mut stream = TcpStream::connect(fixture.addr).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(stream, "GET /v2/a/b/blobs/{digest}?ns=reg.test HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (mut read, mut buffer) = (0, vec![0; 64 << 10]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (read, false),
            Ok(more) => {
                read += more;
                gate.add_permits(4);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (read, true),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn no_runtime_is_told_to_come_again_later() {
    let fixture = mirror(LONG);
    for kind in [
        FailureKind::RateLimited { retry_after: Duration::from_secs(7) },
        FailureKind::Unavailable,
        FailureKind::Timeout,
        FailureKind::Invalid,
    ] {
        *fixture.origin.down.lock().unwrap() = Some(kind);
        let reply = fixture.connect().get(&format!("/v2/a/b/manifests/{}?ns=reg.test", reply_tag(kind)), &[]);
        assert!(matches!(reply.status, 502..=504), "{kind:?}: {}", reply.status);
        assert!(reply.complete && !reply.code().is_empty());
    }
}

/// A tag of its own for each failure, since failures are remembered.
fn reply_tag(kind: FailureKind) -> String {
    format!("{kind:?}").chars().filter(char::is_ascii_alphanumeric).collect()
}

#[test]
fn an_answer_comes_in_time_even_if_it_is_none() {
    let fixture = mirror(Duration::from_millis(200));
    let bytes = noise(50_000);
    let digest = fixture.origin.blob(bytes.clone());
    *fixture.origin.hangs.lock().unwrap() = true;
    let reply = fixture.connect().get(&format!("/v2/a/b/blobs/{digest}?ns=reg.test"), &[]);
    assert_eq!(reply.status, 504);
    *fixture.origin.hangs.lock().unwrap() = false;
    wait_for("the blob can be had", || {
        let reply = fixture.connect().get(&format!("/v2/a/b/blobs/{digest}?ns=reg.test"), &[]);
        reply.status == 200 && reply.body == bytes
    });
}

#[test]
fn a_source_that_breaks_off_ends_a_body_gently_and_wrong_bytes_end_it_hard() {
    let fixture = mirror(LONG);
    let bytes = noise(1 << 20);
    let gate = Arc::new(Semaphore::new(0));
    let blob = |cut| OriginBlob { bytes: bytes.clone().into(), tell_size: true, cut, gate: Some(gate.clone()) };
    let digest = fixture.origin.blob_with(blob(Some(700_000)));
    let (read, reset) = end_of(&fixture, &digest, &gate);
    assert!(read > 500_000 && !reset, "the runtime goes on from where it was: {read}, {reset}");

    let claimed = Digest::sha256(b"something else");
    fixture.origin.blobs.lock().unwrap().insert(claimed, blob(None));
    gate.forget_permits(usize::MAX);
    let (read, reset) = end_of(&fixture, &claimed, &gate);
    assert!(read < 1 << 20 && reset, "nothing can be made of wrong bytes: {read}, {reset}");
}
