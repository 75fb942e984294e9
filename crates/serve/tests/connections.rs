//! Connections: what clients may not do to the server, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serve::TlsFiles;
use support::{Client, Fixture, LONG, OriginBlob, noise, wait_for};
use tokio::sync::Semaphore;

const SOON: Duration = Duration::from_millis(700);

#[test]
fn half_heads_are_closed_and_idle_connections_are_kept() {
    let fixture = Fixture::with(|settings| settings.limits.head = SOON);
    let mut idle = fixture.connect();
    assert_eq!(idle.get("/v2/", &[]).status, 200);
    let mut half: Vec<Client> = (0..200).map(|_| fixture.connect()).collect();
    for client in &mut half[..100] {
        client.stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: la").unwrap();
    }
    assert_eq!(idle.get("/v2/", &[]).status, 200);
    for client in &mut half {
        assert!(client.ended());
    }
    wait_for("only the idle one is left", || fixture.number("larder_connections") == 1.0);
    assert_eq!(idle.get("/v2/", &[]).status, 200);
}

#[test]
fn a_head_that_trickles_is_closed() {
    let fixture = Fixture::with(|settings| settings.limits.head = SOON);
    let mut client = fixture.connect();
    client.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let start = Instant::now();
    // The reading is what paces the writing.
    while client.stream.write_all(b"X").is_ok() {
        match client.stream.read(&mut [0; 10]) {
            Ok(0) => return,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => return drop(other),
        }
        assert!(start.elapsed() < LONG, "still open");
    }
}

#[test]
fn idle_connections_end_at_last() {
    let fixture = Fixture::with(|settings| settings.limits.keep_alive = SOON);
    let mut client = fixture.connect();
    assert_eq!(client.get("/v2/", &[]).status, 200);
    assert!(client.ended());
}

#[test]
fn heads_have_bounds_and_get_an_answer() {
    let fixture = Fixture::new();
    let long = "x".repeat(100_000);
    let many: Vec<String> = (0..10_000).map(|n| format!("x-{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    let target = format!("/v2/{long}/tags/list");
    for (target, headers) in [("/v2/", vec![("X-Long", long.as_str())]), ("/v2/", many), (target.as_str(), vec![])] {
        let mut client = fixture.connect();
        client.send("GET", target, &headers);
        let reply = client.reply();
        assert!(matches!(reply.status, 414 | 431), "{}", reply.status);
        assert!(client.ended());
    }
    // A credential of the largest size is within them.
    let long = format!("Basic {}", "QUFB".repeat(10_000));
    let reply = fixture.connect().get("/v2/reg.test/a/b/tags/list", &[("Authorization", &long)]);
    assert_eq!(reply.status, 401);
    for garbage in ["\0\r\n\r\n", "GET\r\n\r\n", "GET /v2/ HTTP/9.9\r\n\r\n", "GET /v2/\0 HTTP/1.1\r\n\r\n"] {
        let mut client = fixture.connect();
        client.stream.write_all(garbage.as_bytes()).unwrap();
        assert_eq!(client.reply().status, 400, "{garbage:?}");
        assert!(client.ended());
    }
}

#[test]
fn who_reads_nothing_is_closed_and_who_reads_slowly_is_not() {
    let fixture = Fixture::with(|settings| settings.limits.stall = SOON);
    let bytes = noise(24 << 20);
    let digest = fixture.origin.blob(bytes.clone());
    fixture.keep(&digest);
    let target = format!("/v2/reg.test/a/b/blobs/{digest}");
    let (mut never, mut slow) = (fixture.connect(), fixture.connect());
    never.send("GET", &target, &[]);
    slow.send("GET", &target, &[]);
    slow.head().unwrap();
    let (start, mut buffer) = (Instant::now(), vec![0; 128 << 10]);
    let mut taken = slow.buffered();
    // Slower than the buffers between the two fill, for several times the limit; then as fast as can be.
    while taken < bytes.len() {
        let read = slow.stream.read(&mut buffer).unwrap();
        assert!(read > 0, "closed after {taken} bytes");
        taken += read;
        if start.elapsed() < 5 * SOON {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    wait_for("the one that never reads is gone", || fixture.number("larder_connections") == 1.0);
    let mut short = never.head().unwrap();
    never.body(&mut short);
    assert!(!short.complete);
}

#[test]
fn more_clients_than_connections_are_all_served() {
    let fixture = Fixture::with(|settings| settings.limits.connections = 4);
    let clients: Vec<Client> = (0..40).map(|_| fixture.connect()).collect();
    // All of them keep their connections: who waits for its next request gives way.
    let mut served: Vec<Client> = clients
        .into_iter()
        .map(|mut client| {
            assert_eq!(client.get("/v2/", &[]).status, 200);
            client
        })
        .collect();
    assert!(fixture.number("larder_connections") <= 4.0);
    assert!(fixture.number("larder_connection_limit_waits_total") > 0.0);
    assert!(served.first_mut().unwrap().ended());
}

#[test]
fn a_drain_ends_answers_and_refuses_the_rest() {
    let fixture = Fixture::new();
    let (bytes, gate) = (noise(8 << 20), Arc::new(Semaphore::new(1)));
    let blob = OriginBlob { bytes: bytes.clone().into(), tell_size: true, cut: None, gate: Some(gate.clone()) };
    let digest = fixture.origin.blob_with(blob);
    let (mut idle, mut busy) = (fixture.connect(), fixture.connect());
    assert_eq!(idle.get("/v2/", &[]).status, 200);
    busy.send("GET", &format!("/v2/reg.test/a/b/blobs/{digest}"), &[]);
    let mut reply = busy.head().unwrap();
    fixture.cancel.cancel();
    assert!(idle.ended());
    wait_for("new connections are refused", || TcpStream::connect(fixture.addr).is_err());
    assert!(!fixture.ended.is_finished());
    gate.add_permits(3);
    busy.body(&mut reply);
    assert!(reply.complete && reply.body == bytes);
    assert!(busy.ended());
    wait_for("the server ends", || fixture.ended.is_finished());
}

#[test]
fn a_drain_cuts_what_does_not_end() {
    let fixture = Fixture::new();
    let gate = Arc::new(Semaphore::new(1));
    let blob = OriginBlob { bytes: noise(8 << 20).into(), tell_size: true, cut: None, gate: Some(gate) };
    let digest = fixture.origin.blob_with(blob);
    let mut busy = fixture.connect();
    busy.send("GET", &format!("/v2/reg.test/a/b/blobs/{digest}"), &[]);
    let mut reply = busy.head().unwrap();
    fixture.cancel.cancel();
    busy.body(&mut reply);
    assert!(!reply.complete);
    wait_for("the server ends", || fixture.ended.is_finished());
}

/// A connection by TLS to a server that shows a certificate for `localhost`.
fn connect_tls(addr: SocketAddr, certificate: CertificateDer<'static>) -> Client<impl Read + Write> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let session = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    Client::over(rustls::StreamOwned::new(session, Client::new(addr).stream))
}

#[test]
fn tls_serves_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&cert_file, pair.cert.pem()).unwrap();
    std::fs::write(&key_file, pair.signing_key.serialize_pem()).unwrap();
    let fixture = Fixture::with(|settings| {
        settings.tls = Some(TlsFiles { cert_file, key_file });
        settings.limits.head = SOON;
    });
    let bytes = noise(3 * (1 << 20) + 17);
    let digest = fixture.origin.blob(bytes.clone());
    let target = format!("/v2/reg.test/a/b/blobs/{digest}");
    let mut client = connect_tls(fixture.addr, pair.cert.der().clone());
    let cold = client.get(&target, &[]);
    assert!(cold.complete && cold.body == bytes);
    fixture.keep(&digest);
    let warm = client.get(&target, &[]);
    assert!(warm.complete && warm.body == bytes);
    let part = client.get(&target, &[("Range", "bytes=262143-262144")]);
    assert_eq!((part.status, &part.body[..]), (206, &bytes[262_143..=262_144]));
    // Plain HTTP, and a handshake that never ends, are closed.
    let mut plain = fixture.connect();
    plain.stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: larder\r\n\r\n").unwrap();
    while plain.more() {}
    assert!(fixture.connect().ended());
}

#[test]
fn both_addresses_have_one_server_behind_them() {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (pair.cert.der().clone(), pair.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(key.into()))
        .unwrap();
    let (config, chosen) = (Arc::new(config), Arc::new(AtomicUsize::new(0)));
    let choice = {
        let chosen = chosen.clone();
        move || {
            chosen.fetch_add(1, Ordering::Relaxed);
            config.clone()
        }
    };
    let fixture = Fixture::with_nodes(|settings| settings.limits.connections = 1, Arc::new(choice));
    let nodes = fixture.nodes.unwrap();
    let bytes = noise(300_000);
    let target = format!("/v2/reg.test/a/b/blobs/{}", fixture.origin.blob(bytes.clone()));
    // Of one connection at a time, whichever address it came to, the idle one makes room.
    for turn in 1..=3 {
        assert!(fixture.connect().get(&target, &[]).body == bytes);
        let mut node = connect_tls(nodes, certificate.clone());
        assert!(node.get(&target, &[]).body == bytes);
        let mut client = fixture.connect();
        assert!(client.get(&target, &[]).body == bytes);
        assert!(node.ended());
        assert_eq!(chosen.load(Ordering::Relaxed), turn, "the configuration is asked for with each connection");
    }
    fixture.cancel.cancel();
    for addr in [fixture.addr, nodes] {
        wait_for("new connections are refused", || TcpStream::connect(addr).is_err());
    }
    wait_for("the server ends", || fixture.ended.is_finished());
}
