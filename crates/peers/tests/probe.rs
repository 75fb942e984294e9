//! Whether a node answers another, and what keeps it from it.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use peers::{Distrust, Files, Identity, Leaf, Request, Role, Settings, Unheard, mint, probe};
use support::{Cluster, Origin, bytes};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Tells hanging from progress.
const LIMIT: Duration = Duration::from_secs(20);
const OK: &str = "HTTP/1.1 200 OK\r\nlarder-node: b\r\nContent-Length: 0\r\n\r\n";

/// An authority with a certificate that is good, one that was, one that will be, and one of the registry role.
fn authority() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let made = |name: &str, role, at| {
        let leaves = vec![Leaf { name: name.to_owned(), role }];
        let dir = dir.path().to_owned();
        mint(&Request { dir, leaves, validity: DAY, ca_validity: 3650 * DAY, force: false }, at).unwrap();
    };
    made("good", Role::Node, now);
    made("old", Role::Node, now - 9 * DAY);
    made("new", Role::Node, now + 9 * DAY);
    made("registry", Role::Registry, now);
    dir
}

fn identity(dir: &Path, name: &str) -> Arc<Identity> {
    Arc::new(Identity::load(Files::in_folder(dir.join(name))).unwrap())
}

/// Somebody with this certificate who says this to whom it believes.
async fn somebody(identity: Arc<Identity>, says: &'static str) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(identity.server(&[Role::Node]));
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let _ = stream.write_all(says.as_bytes()).await;
            let _ = stream.flush().await;
        }
    });
    (address, serving)
}

async fn heard(server: Arc<Identity>, client: &Identity) -> Result<String, Unheard> {
    let (address, serving) = somebody(server, OK).await;
    let heard = probe(client, address, LIMIT).await;
    serving.abort();
    heard.map(|heard| heard.node.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_who_it_is_and_what_time_it_is() {
    let cluster = Cluster::start(Origin::new(bytes(10)), &[("", 2)], Settings::default()).await;
    let asker = cluster.identity("node-1");
    let heard = probe(&asker, cluster.nodes[1].address, LIMIT).await.unwrap();
    assert_eq!(heard.node.as_str(), "node-2");
    let date = heard.date.unwrap();
    let now = SystemTime::now();
    let apart = now.duration_since(date).unwrap_or_else(|ahead| ahead.duration());
    assert!(apart < Duration::from_secs(5), "{apart:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_believed_is_told_why() {
    let dir = authority();
    let one = |name: &str| identity(dir.path(), name);
    let cases = [
        ("good", "good", Ok("b".to_owned())),
        ("old", "good", Err(Unheard::NotBelieved(Distrust::Expired))),
        ("new", "good", Err(Unheard::NotBelieved(Distrust::NotYetValid))),
        ("registry", "good", Err(Unheard::NotBelieved(Distrust::OtherRole))),
        ("good", "old", Err(Unheard::Disbelieves(Distrust::OutOfDate))),
        ("good", "new", Err(Unheard::Disbelieves(Distrust::OutOfDate))),
        ("good", "registry", Err(Unheard::Disbelieves(Distrust::OtherRole))),
    ];
    // More than once: who refuses closes the connection while the question is on its way.
    for _ in 0..20 {
        for (server, client, expected) in &cases {
            assert_eq!(heard(one(server), &one(client)).await, *expected, "{client} asks {server}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_that_do_not_know_each_other_are_told_from_those_of_which_one_does() {
    let (here, there) = (authority(), authority());
    let (asker, other) = (identity(here.path(), "good"), identity(there.path(), "good"));
    let unknown = Err(Unheard::NotBelieved(Distrust::OtherAuthority));
    assert_eq!(heard(other.clone(), &asker).await, unknown);

    let both = here.path().join("good/ca.crt");
    let text = [fs::read_to_string(&both).unwrap(), fs::read_to_string(there.path().join("ca.crt")).unwrap()].concat();
    fs::write(&both, text).unwrap();
    let asker = identity(here.path(), "good");
    assert_eq!(heard(other, &asker).await, Err(Unheard::Disbelieves(Distrust::OtherAuthority)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_node_is_told_from_nobody() {
    let dir = authority();
    let asker = identity(dir.path(), "good");
    let ask = |address| {
        let asker = asker.clone();
        async move { probe(&asker, address, Duration::from_millis(500)).await }
    };

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let begun = Instant::now();
    assert_eq!(ask(address).await, Err(Unheard::Silent));
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(listener);
    let Err(Unheard::Unreachable(why)) = ask(address).await else { panic!("nobody is there") };
    assert!(why.contains("refused"), "{why}");

    for (says, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "it does not say which node it is"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "it answers 404 Not Found"),
    ] {
        let (address, serving) = somebody(asker.clone(), says).await;
        assert_eq!(ask(address).await, Err(Unheard::Strange(expected.to_owned())));
        serving.abort();
    }

    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = plain.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    });
    let Err(Unheard::Strange(why)) = ask(address).await else { panic!("it speaks no TLS") };
    assert!(why.contains("does not speak TLS"), "{why}");
    serving.await.unwrap();
}
