//! Nodes that lie, are silent or slow, and hosts that are no nodes.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers::{Identity, PIECE, Reason, Role, Settings};
use rustls_pki_types::ServerName;
use support::{Cluster, Node, Origin, bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const MIB: usize = 1 << 20;

/// What a node that is none of ours answers to everything.
#[derive(Clone)]
enum Manner {
    /// Nothing, ever.
    Silent,
    /// These bytes, said to be part of a blob of this size.
    Says(u64, Bytes),
    /// Frames of the right bytes of the piece, so many a second.
    Drips(Bytes, u64),
    /// Something else than frames.
    Html,
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32).to_be_bytes(), body].concat()
}

fn start(size: u64) -> Vec<u8> {
    frame(1, &[&size.to_be_bytes()[..], &[0]].concat())
}

/// Answers in the place of a node, with that node's certificate.
async fn pretend(address: SocketAddr, identity: Arc<Identity>, manner: Manner) {
    let listener = TcpListener::bind(address).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, manner) = (TlsAcceptor::from(identity.server(&[Role::Node])), manner.clone());
        tokio::spawn(async move {
            let mut stream = acceptor.accept(stream).await.ok()?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.ok()?);
            }
            let head = String::from_utf8(head).unwrap();
            let piece: usize = head.split("piece=").nth(1)?.split(['&', ' ']).next()?.parse().ok()?;
            let ok = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
            match manner {
                Manner::Silent => std::future::pending().await,
                Manner::Html => stream.write_all(&[&ok[..], b"<html>Please sign in</html>"].concat()).await.ok()?,
                Manner::Says(size, bytes) => {
                    let frames: Vec<u8> = bytes.chunks(64 * 1024).flat_map(|part| frame(2, part)).collect();
                    stream.write_all(&[&ok[..], &start(size), &frames].concat()).await.ok()?;
                }
                Manner::Drips(blob, rate) => {
                    stream.write_all(&[&ok[..], &start(blob.len() as u64)].concat()).await.ok()?;
                    let from = piece * PIECE as usize;
                    for part in blob[from..blob.len().min(from + PIECE as usize)].chunks(rate as usize / 20) {
                        stream.write_all(&frame(2, part)).await.ok()?;
                        stream.flush().await.ok()?;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
            stream.shutdown().await.ok()
        });
    }
}

/// Three nodes, of which the second is replaced by somebody of other manners; the first pulls.
async fn beside(manner: impl FnOnce(&Bytes) -> Manner) -> (Cluster, Duration) {
    let mut cluster = Cluster::start(Origin::new(bytes(40 * MIB + 9)), &[("", 3)], Settings::default()).await;
    cluster.nodes[1].kill().await;
    let manner = manner(&cluster.origin.blob);
    let identity = cluster.identity("node-2");
    let pretender = tokio::spawn(pretend(cluster.nodes[1].address, identity, manner));
    let begun = Instant::now();
    // Who has been given bytes that turn out to be wrong is cut off, and asks again, as runtimes do.
    let mut got = cluster.nodes[0].pull(&cluster.digest, None).await;
    if matches!(&got, Err(error) if error.kind == cache::FailureKind::Invalid) {
        got = cluster.nodes[0].pull(&cluster.digest, None).await;
    }
    assert!(got.unwrap() == cluster.origin.blob);
    let took = begun.elapsed();
    pretender.abort();
    (cluster, took)
}

/// Waits until the second node, and no other, is passed over for this reason.
async fn passed_over(node: &Node, reason: Reason) {
    let wanted = [("node-2".to_owned(), reason)];
    let deadline = Instant::now() + support::SOON;
    loop {
        let over: Vec<_> = node.health.passed_over().into_iter().map(|o| (o.id.to_string(), o.reason)).collect();
        if over == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{over:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// P-04: stopped, but its kernel still accepts.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_passed_over() {
    let (cluster, took) = beside(|_| Manner::Silent).await;
    passed_over(&cluster.nodes[0], Reason::Dead).await;
    assert!(took < Duration::from_secs(20), "{took:?}");
}

// P-01
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lies_is_found_out_and_shunned() {
    let (cluster, _) = beside(|blob| Manner::Says(blob.len() as u64, bytes(PIECE as usize))).await;
    passed_over(&cluster.nodes[0], Reason::Lying).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_sends_more_than_a_piece_is_shunned_at_once() {
    let (cluster, _) = beside(|blob| Manner::Says(blob.len() as u64, bytes(PIECE as usize + 1))).await;
    passed_over(&cluster.nodes[0], Reason::Lying).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_sends_too_little_or_no_frames_delays_nobody() {
    beside(|blob| Manner::Says(blob.len() as u64, bytes(1000))).await;
    beside(|_| Manner::Html).await;
}

// P-05
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_node_is_passed_over_for_a_fast_one() {
    let (cluster, took) = beside(|blob| Manner::Drips(blob.clone(), 20_000)).await;
    passed_over(&cluster.nodes[0], Reason::Slow).await;
    assert!(took < Duration::from_secs(20), "a piece from it would take three minutes: {took:?}");
}

// P-12
#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_a_certificate_of_ours_is_given_anything() {
    let cluster = Cluster::start(Origin::new(bytes(MIB)), &[("", 2)], Settings::default()).await;
    cluster.pull_all([0, 1], None).await;
    let path = format!("/larder/v1/registry.example/team/app/blobs/{}?piece=0", cluster.digest);
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nlarder-node: node-9\r\nconnection: close\r\n\r\n");
    let address = cluster.nodes[0].address;

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "without TLS");

    let other = Cluster::start(Origin::new(bytes(10)), &[("", 1)], Settings::default()).await;
    assert_eq!(ask(address, &other.identity("node-1"), &request).await, None, "with a certificate of others");
    let ours = cluster.identity("node-2");
    assert_eq!(ask(address, &ours, &request).await, Some(200));
}

// P-09
#[tokio::test(flavor = "multi_thread")]
async fn questions_that_go_round_or_make_no_sense_are_refused() {
    let cluster = Cluster::start(Origin::new(bytes(MIB)), &[("", 2)], Settings::default()).await;
    let ours = cluster.identity("node-2");
    let blob = format!("/larder/v1/registry.example/team/app/blobs/{}", cluster.digest);
    for (target, headers, status) in [
        (format!("{blob}?piece=0"), "larder-node: node-1\r\nlarder-hops: 2", 508),
        (format!("{blob}?piece=0"), "larder-node: node-2\r\nlarder-hops: 0", 404),
        (format!("{blob}?piece=0"), "larder-node: node-2\r\nlarder-hops: 3", 400),
        (format!("{blob}?piece=x"), "larder-node: node-2", 400),
        ("/v2/".to_owned(), "larder-node: node-2", 400),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n{headers}\r\nconnection: close\r\n\r\n");
        assert_eq!(ask(cluster.nodes[0].address, &ours, &request).await, Some(status), "{target} {headers}");
    }
    assert_eq!(cluster.origin.sent(), 0, "nothing was fetched for any of them");
}

/// The status of the answer to a request, as a node with this certificate.
async fn ask(address: SocketAddr, identity: &Identity, request: &str) -> Option<u16> {
    let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let stream = TcpStream::connect(address).await.ok()?;
    let mut stream = TlsConnector::from(identity.client(Role::Node)).connect(nobody, stream).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(support::SOON, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}
