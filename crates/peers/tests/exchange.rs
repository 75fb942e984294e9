//! Nodes that pull the same blob, over real connections, from an origin in memory.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cache::Credential;
use oci::Digest;
use peers::{PIECE, Reason, Settings};
use support::{Cluster, Origin, bytes};
use tokio::net::TcpListener;

const MIB: usize = 1 << 20;

fn times(cluster: &Cluster) -> f64 {
    cluster.origin.sent() as f64 / cluster.origin.blob.len() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_of_three_gets_a_blob_through_its_homes() {
    let cluster = Cluster::start(Origin::new(bytes(20 * MIB + 77)), &[("", 3)], Settings::default()).await;
    cluster.pull_all([0], None).await;
    assert_eq!(times(&cluster), 1.0);
}

// P-11
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_cold_nodes_make_the_origin_send_each_byte_once() {
    for count in [2, 3, 8, 16] {
        let origin = Origin { rate: Some(4 << 20), ..Origin::new(bytes(24 * MIB + 5)) };
        let cluster = Cluster::start(origin, &[("", count)], Settings::default()).await;
        cluster.pull_all(0..count, None).await;
        assert!(times(&cluster) <= 1.02, "{count} nodes: {} times", times(&cluster));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_blobs_are_shared_too_and_nobody_asks_when_alone() {
    for (count, size) in [(3, 10), (3, MIB), (1, 5 * MIB)] {
        let cluster = Cluster::start(Origin::new(bytes(size)), &[("", count)], Settings::default()).await;
        cluster.pull_all(0..count, None).await;
        assert_eq!(times(&cluster), 1.0);
        let requests = cluster.origin.asked.load(Ordering::Relaxed);
        assert!(count > 1 || requests == 1, "one node alone asks for the whole blob at once: {requests}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_zone_takes_each_byte_once_from_the_others() {
    let origin = Origin { rate: Some(8 << 20), ..Origin::new(bytes(32 * MIB)) };
    let cluster = Cluster::start(origin, &[("a", 4), ("b", 4)], Settings::default()).await;
    cluster.pull_all(0..8, None).await;
    assert!(times(&cluster) <= 1.02, "{} times", times(&cluster));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_has_another_gets_without_the_origin() {
    let cluster = Cluster::start(Origin::new(bytes(30 * MIB)), &[("", 3)], Settings::default()).await;
    cluster.pull_all([0], None).await;
    cluster.origin.down.store(true, Ordering::Relaxed);
    cluster.pull_all([1], None).await;
    cluster.pull_all([2], None).await;
    assert_eq!(times(&cluster), 1.0);
}

/// Three nodes, of which the first has the blob, and the others know nothing of it any more.
async fn one_that_has_it_and_two_anew() -> Cluster {
    let mut cluster = Cluster::start(Origin::new(bytes(18 * MIB)), &[("", 3)], Settings::default()).await;
    cluster.pull_all([0], None).await;
    for index in [1, 2] {
        cluster.nodes[index].kill().await;
        let member = cluster.list[index].clone();
        let listener = TcpListener::bind(member.address).await.unwrap();
        let node = cluster.node(&member, listener, Settings::default());
        node.ask(&cluster.digest).await;
        cluster.nodes[index] = node;
    }
    cluster
}

// P-15: a node that comes anew knows nothing of who has what.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_remember_nothing_find_who_has_a_blob() {
    let cluster = one_that_has_it_and_two_anew().await;
    cluster.origin.down.store(true, Ordering::Relaxed);
    cluster.pull_all([1], None).await;
    assert_eq!(times(&cluster), 1.0);
}

// Packets that vanish are worse than an origin that refuses: nothing tells that nobody will answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_never_answers_is_not_waited_for_where_a_node_has_the_blob() {
    let cluster = one_that_has_it_and_two_anew().await;
    cluster.origin.silent.store(true, Ordering::Relaxed);
    cluster.pull_all([1, 2], None).await;
    assert_eq!(times(&cluster), 1.0);
}

// P-06
#[tokio::test(flavor = "multi_thread")]
async fn dead_nodes_are_passed_over() {
    let mut cluster = Cluster::start(Origin::new(bytes(24 * MIB)), &[("", 4)], Settings::default()).await;
    for index in [1, 2, 3] {
        cluster.nodes[index].kill().await;
    }
    let begun = Instant::now();
    cluster.pull_all([0], None).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "nobody is waited for");
    assert_eq!(times(&cluster), 1.0);
    assert!(cluster.nodes[0].health.passed_over().iter().any(|node| node.reason == Reason::Dead));
}

// P-04
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_home_that_dies_in_the_middle_fails_nobody() {
    let origin = Origin { rate: Some(2 << 20), ..Origin::new(bytes(40 * MIB)) };
    let mut cluster = Cluster::start(origin, &[("", 5)], Settings::default()).await;
    let mut victim = cluster.nodes.remove(4);
    let half = async {
        while times(&cluster) < 0.5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        victim.kill().await;
    };
    tokio::join!(cluster.pull_all(0..4, None), half);
    assert!(times(&cluster) < 1.6, "{} times", times(&cluster));
}

// S-01, P-12: what the origin gives to one credential only is fetched with it, once, and shared between nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_private_blob_is_fetched_with_its_readers_right_and_shared() {
    let owner = Credential::new("user", "password");
    let origin = Origin { rate: Some(4 << 20), owner: Some(owner.clone()), ..Origin::new(bytes(24 * MIB)) };
    let cluster = Cluster::start(origin, &[("", 6)], Settings::default()).await;
    cluster.pull_all(0..6, Some(owner.clone())).await;
    assert!(times(&cluster) <= 1.1, "{} times", times(&cluster));
    for node in &cluster.nodes {
        assert!(node.pull(&cluster.digest, None).await.is_err(), "without the right nobody gets it");
        let wrong = Credential::new("user", "wrong");
        assert!(node.pull(&cluster.digest, Some(wrong)).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_origin_does_not_have_is_not_found() {
    let cluster = Cluster::start(Origin::new(bytes(MIB)), &[("", 3)], Settings::default()).await;
    let absent = Digest::sha256(b"something else");
    let error = cluster.nodes[0].pull(&absent, None).await.unwrap_err();
    assert_eq!(error.kind, cache::FailureKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_that_nobody_uses_are_dropped() {
    let settings = Settings { keep: Duration::from_millis(50), ..Settings::default() };
    let cluster = Cluster::start(Origin::new(bytes(24 * MIB)), &[("", 3)], settings).await;
    cluster.pull_all([0], None).await;
    let all = cluster.origin.blob.len() as u64;
    assert!(
        cluster.nodes.iter().map(|node| node.store.usage().bytes).sum::<u64>() > all,
        "homes keep pieces for a while"
    );
    let deadline = Instant::now() + support::SOON;
    while cluster.nodes[1..].iter().any(|node| node.store.usage().bytes > 0) {
        assert!(Instant::now() < deadline, "pieces are kept for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Rendezvous hashing is part of the protocol, so the number of pieces is known to be more than one.
    assert!(all / PIECE > 1);
}
