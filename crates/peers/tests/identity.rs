//! Whom to believe: real connections on 127.0.0.1, checked on both sides.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use peers::{Files, Identity, IdentityError, Leaf, Request, Role, mint};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Tells hanging from progress.
const DEADLINE: Duration = Duration::from_secs(20);

type Ends = (io::Result<server::TlsStream<TcpStream>>, io::Result<client::TlsStream<TcpStream>>);

fn request(dir: &Path) -> Request {
    let leaf = |name: &str, role| Leaf { name: name.to_owned(), role };
    let leaves = vec![leaf("a", Role::Node), leaf("b", Role::Node), leaf("registry", Role::Registry)];
    Request { dir: dir.to_owned(), leaves, validity: 90 * DAY, ca_validity: 3650 * DAY, force: true }
}

fn authority() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    mint(&request(dir.path()), SystemTime::now()).unwrap();
    dir
}

fn identity(dir: &TempDir, name: &str) -> Identity {
    Identity::load(Files::in_folder(dir.path().join(name))).unwrap()
}

/// A connection; what the server makes of it, and what the client does once it has heard from the server or not.
async fn connect(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async {
        let (tcp, _) = listener.accept().await?;
        let mut tls = TlsAcceptor::from(server).accept(tcp).await?;
        tls.write_all(b"!").await?;
        tls.flush().await?;
        Ok(tls)
    };
    let dial = async {
        let tcp = TcpStream::connect(address).await?;
        let mut tls = TlsConnector::from(client).connect(ServerName::from(address.ip()), tcp).await?;
        // Only now does it know that the server believes it.
        tls.read_exact(&mut [0]).await?;
        Ok(tls)
    };
    tokio::time::timeout(DEADLINE, async { tokio::join!(accept, dial) }).await.expect("the handshake hangs")
}

async fn meet(server: &Identity, lets_in: &[Role], client: &Identity, looks_for: Role) -> Ends {
    connect(server.server(lets_in), client.client(looks_for)).await
}

#[track_caller]
fn both_believe((server, client): Ends) {
    server.unwrap();
    client.unwrap();
}

#[track_caller]
fn both_refuse((server, client): Ends, expected: &str) {
    let (server, client) = (server.map(drop).unwrap_err().to_string(), client.map(drop).unwrap_err().to_string());
    assert!(server.contains(expected) || client.contains(expected), "server: {server}; client: {client}");
}

#[tokio::test]
async fn nodes_and_registry_believe_each_other() {
    let dir = authority();
    let (a, b, registry) = (identity(&dir, "a"), identity(&dir, "b"), identity(&dir, "registry"));
    for (server, lets_in, client, looks_for) in [
        (&a, &[Role::Node][..], &b, Role::Node),
        (&registry, &[Role::Node], &a, Role::Registry),
        (&a, &Role::ALL, &registry, Role::Node),
    ] {
        let (server, client) = meet(server, lets_in, client, looks_for).await;
        let (server, client) = (server.unwrap(), client.unwrap());
        let (_, session) = server.get_ref();
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
        let shown = &client.get_ref().1.peer_certificates().unwrap()[0];
        assert_eq!(Role::named_in(shown), [looks_for]);
    }
}

#[tokio::test]
async fn who_is_of_another_role_is_refused() {
    let dir = authority();
    let (a, registry) = (identity(&dir, "a"), identity(&dir, "registry"));
    both_refuse(meet(&a, &[Role::Node], &registry, Role::Node).await, "not valid for name \"larder-node\"");
    both_refuse(meet(&a, &[Role::Node], &a, Role::Registry).await, "not valid for name");
    both_refuse(meet(&a, &[], &a, Role::Node).await, "NotValidForName");
}

#[tokio::test]
async fn who_shows_nothing_is_refused() {
    let dir = authority();
    let mut roots = rustls::RootCertStore::empty();
    let ca = fs::read(dir.path().join("ca.crt")).unwrap();
    roots.add(rustls_pki_types::pem::PemObject::from_pem_slice(&ca).unwrap()).unwrap();
    let anonymous = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (server, client) = connect_as("larder-node", identity(&dir, "a").server(&Role::ALL), Arc::new(anonymous)).await;
    assert!(server.unwrap_err().to_string().contains("no certificates"));
    client.unwrap_err();
}

/// As [`connect`], with a name that an ordinary client would look for.
async fn connect_as(
    name: &'static str,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> (io::Result<()>, io::Result<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async {
        let (tcp, _) = listener.accept().await?;
        TlsAcceptor::from(server).accept(tcp).await.map(drop)
    };
    let dial = async {
        let tcp = TcpStream::connect(address).await?;
        let mut tls = TlsConnector::from(client).connect(ServerName::try_from(name).unwrap(), tcp).await?;
        tls.read_exact(&mut [0]).await.map(drop)
    };
    tokio::time::timeout(DEADLINE, async { tokio::join!(accept, dial) }).await.expect("the handshake hangs")
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let dir = authority();
    let mut roots = rustls::RootCertStore::empty();
    let ca = fs::read(dir.path().join("ca.crt")).unwrap();
    roots.add(rustls_pki_types::pem::PemObject::from_pem_slice(&ca).unwrap()).unwrap();
    let old = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (server, client) = connect_as("larder-node", identity(&dir, "a").server(&Role::ALL), Arc::new(old)).await;
    assert!(
        server.unwrap_err().to_string().contains("NotOffered")
            || client.unwrap_err().to_string().contains("ProtocolVersion")
    );
}

#[tokio::test]
async fn who_has_another_authority_is_refused_by_both_sides() {
    let (dir, other) = (authority(), authority());
    both_refuse(meet(&identity(&dir, "a"), &Role::ALL, &identity(&other, "a"), Role::Node).await, "UnknownIssuer");

    // One that believes ours, so that only the server is in a position to refuse.
    let both = other.path().join("b").join("ca.crt");
    fs::write(&both, fs::read_to_string(&both).unwrap() + &fs::read_to_string(dir.path().join("ca.crt")).unwrap())
        .unwrap();
    let (server, client) = meet(&identity(&dir, "a"), &Role::ALL, &identity(&other, "b"), Role::Node).await;
    assert!(server.unwrap_err().to_string().contains("UnknownIssuer"));
    client.map(drop).unwrap_err();
    // And the other way round: the client refuses, though the server would not.
    let (server, client) = meet(&identity(&other, "b"), &Role::ALL, &identity(&dir, "a"), Role::Node).await;
    assert!(client.map(drop).unwrap_err().to_string().contains("UnknownIssuer"));
    server.map(drop).unwrap_err();
}

#[tokio::test]
async fn what_has_expired_is_refused_by_both_sides() {
    let dir = authority();
    let old = Request { validity: DAY, ..request(dir.path()) };
    // The authority must have been there by then.
    fs::remove_file(dir.path().join("ca.crt")).unwrap();
    fs::remove_file(dir.path().join("ca.key")).unwrap();
    mint(&old, SystemTime::now() - 5 * DAY).unwrap();
    let expired = identity(&dir, "b");
    assert!(expired.expiry().certificate < SystemTime::now() && expired.expiry().authority > SystemTime::now());
    mint(&Request { validity: 9 * DAY, ..old }, SystemTime::now()).unwrap();
    let fresh = identity(&dir, "a");
    let (server, client) = meet(&fresh, &Role::ALL, &expired, Role::Node).await;
    assert!(server.map(drop).unwrap_err().to_string().contains("expired"));
    client.map(drop).unwrap_err();
    let (server, client) = meet(&expired, &Role::ALL, &fresh, Role::Node).await;
    assert!(client.map(drop).unwrap_err().to_string().contains("expired"));
    server.map(drop).unwrap_err();
}

#[tokio::test]
async fn new_files_are_taken_while_connections_run() {
    let dir = authority();
    let (a, b) = (identity(&dir, "a"), identity(&dir, "b"));
    assert!(!a.reload().unwrap(), "nothing has changed");
    let (server, client) = meet(&a, &Role::ALL, &b, Role::Node).await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    let before = a.expiry();
    mint(&Request { validity: 30 * DAY, ..request(dir.path()) }, SystemTime::now()).unwrap();
    assert!(a.reload().unwrap());
    assert!(a.expiry().certificate < before.certificate);
    assert!(!a.reload().unwrap());

    client.write_all(b"still here").await.unwrap();
    client.flush().await.unwrap();
    let mut text = [0; 10];
    server.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"still here");

    let (_, client) = meet(&a, &Role::ALL, &b, Role::Node).await;
    let shown = client.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone();
    let file = fs::read(dir.path().join("a/tls.crt")).unwrap();
    assert_eq!(shown, rustls_pki_types::pem::PemObject::from_pem_slice(&file).unwrap());
}

#[tokio::test]
async fn one_authority_takes_over_from_another() {
    let (old, new) = (authority(), authority());
    let (a, b) = (identity(&old, "a"), identity(&old, "b"));
    let text = |dir: &TempDir| fs::read_to_string(dir.path().join("ca.crt")).unwrap();
    let both = text(&old) + &text(&new);
    // First all learn of the new authority, then they get certificates of it one by one, then the old one goes.
    for node in ["a", "b"] {
        fs::write(old.path().join(node).join("ca.crt"), &both).unwrap();
    }
    assert!(a.reload().unwrap() && b.reload().unwrap());
    both_believe(meet(&a, &Role::ALL, &b, Role::Node).await);
    let replace = |node: &str, files: &[&str]| {
        for file in files {
            fs::copy(new.path().join(node).join(file), old.path().join(node).join(file)).unwrap();
        }
    };
    replace("a", &["tls.crt", "tls.key"]);
    assert!(a.reload().unwrap());
    for (one, other) in [(&a, &b), (&b, &a)] {
        both_believe(meet(one, &Role::ALL, other, Role::Node).await);
    }
    replace("b", &["tls.crt", "tls.key", "ca.crt"]);
    replace("a", &["ca.crt"]);
    assert!(a.reload().unwrap() && b.reload().unwrap());
    both_believe(meet(&a, &Role::ALL, &b, Role::Node).await);
}

#[tokio::test]
async fn files_of_no_use_leave_what_was_there() {
    let (dir, other) = (authority(), authority());
    let (a, b) = (identity(&dir, "a"), identity(&dir, "b"));
    let at = |file: &str| dir.path().join("a").join(file);
    let good = ["tls.crt", "tls.key", "ca.crt"].map(|file| (at(file), fs::read(at(file)).unwrap()));
    let of_other = |file: &str| fs::read(other.path().join("a").join(file)).unwrap();
    for (file, bad) in [
        ("tls.crt", b"nonsense".to_vec()),
        ("tls.crt", of_other("tls.crt")),
        ("tls.key", of_other("tls.key")),
        ("tls.key", Vec::new()),
        ("ca.crt", of_other("ca.crt")),
        ("ca.crt", fs::read(at("tls.key")).unwrap()),
    ] {
        fs::write(at(file), bad).unwrap();
        let error = a.reload().unwrap_err().to_string();
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
        assert_eq!(a.complaint(), Some(error));
        a.reload().expect_err("it is said until it is put right");
        both_believe(meet(&a, &Role::ALL, &b, Role::Node).await);
        good.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        assert!(!a.reload().unwrap(), "all is as it was before");
        assert_eq!(a.complaint(), None);
    }
    fs::remove_file(at("tls.key")).unwrap();
    assert!(matches!(a.reload(), Err(IdentityError::Unreadable { path, .. }) if path == at("tls.key")));
}

/// A same-sized file written over, with its time put back, is what times and sizes would miss.
#[test]
fn a_change_within_one_tick_of_the_clock_is_noticed() {
    let dir = authority();
    let a = identity(&dir, "a");
    let ca = dir.path().join("a/ca.crt");
    let time = fs::metadata(&ca).unwrap().modified().unwrap();
    let text = fs::read_to_string(&ca).unwrap().replace("BEGIN CERT", "BEGIN cERT");
    fs::write(&ca, text).unwrap();
    fs::File::options().write(true).open(&ca).unwrap().set_modified(time).unwrap();
    a.reload().unwrap_err();
}

#[tokio::test]
async fn a_volume_that_turns_its_link_is_noticed() {
    let (one, two) = (authority(), authority());
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("data");
    std::os::unix::fs::symlink(one.path().join("a"), &link).unwrap();
    let identity = Arc::new(Identity::load(Files::in_folder(&link)).unwrap());
    let keeper = tokio::spawn(identity.clone().keep_fresh(Duration::from_millis(10)));
    let shown = identity.client(Role::Node);
    std::os::unix::fs::symlink(two.path().join("a"), dir.path().join("next")).unwrap();
    fs::rename(dir.path().join("next"), &link).unwrap();
    tokio::time::timeout(DEADLINE, async {
        while Arc::ptr_eq(&shown, &identity.client(Role::Node)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the new files are not taken");
    keeper.abort();
    both_believe(meet(&identity, &Role::ALL, &self::identity(&two, "b"), Role::Node).await);
}

#[test]
fn a_certificate_without_a_role_is_of_no_use() {
    let dir = authority();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let text = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
    let ca_key = rcgen::KeyPair::from_pem(&text("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&text("ca.crt"), ca_key).unwrap();
    for name in ["localhost", "larder-node.example", "*.larder-node"] {
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        fs::write(dir.path().join("a/tls.crt"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(dir.path().join("a/tls.key"), key.serialize_pem()).unwrap();
        let error = Identity::load(Files::in_folder(dir.path().join("a"))).unwrap_err();
        assert!(matches!(error, IdentityError::Unbelievable { .. }), "{error}");
    }
}
