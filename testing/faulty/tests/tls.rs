//! TLS, good and bad.

mod client;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use client::{DEADLINE, Wire, read};
use faulty::{Ca, Ending, Fault, Kind, Rule, Tls, Upstream};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

type Secure = StreamOwned<ClientConnection, TcpStream>;

struct Client(Secure);

impl std::io::Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Wire for Client {
    fn patience(&mut self, patience: Duration) {
        self.0.sock.patience(patience);
    }
}

fn ask(up: &Upstream, trust: &str, path: &str) -> std::io::Result<Client> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(trust.as_bytes()) {
        roots.add(certificate.expect("PEM")).map_err(std::io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, client::connect(up.addr()));
    stream.sock.patience(DEADLINE);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    stream.flush()?;
    Ok(Client(stream))
}

fn refusal(up: &Upstream, trust: &str) -> String {
    ask(up, trust, "/v2/").map(|_| ()).expect_err("refused").to_string()
}

#[tokio::test]
async fn a_trusted_certificate_is_accepted_only_with_its_ca() {
    let ca = Ca::generate().unwrap();
    let up = Upstream::start_tls(Tls::trusted().signed_by(&ca).names(&["registry.test"])).await.unwrap();
    assert_eq!(up.ca_pem(), ca.pem());
    assert!(up.url().starts_with("https://127.0.0.1:"));
    let image = up.image("a", "t", &[3 << 20], 1);
    let mut stream = ask(&up, up.ca_pem(), &format!("/v2/a/blobs/{}", image.layers[0])).unwrap();
    let answer = read(&mut stream, usize::MAX, DEADLINE);
    assert_eq!(faulty::Source::bytes(answer.body).sha256(), image.layers[0]);
    assert!(refusal(&up, &Ca::generate().unwrap().pem()).contains("certificate"));
}

#[tokio::test]
async fn bad_certificates_are_bad_in_the_way_they_should_be() {
    let expired = Upstream::start_tls(Tls::expired()).await.unwrap();
    assert!(refusal(&expired, expired.ca_pem()).contains("xpired"), "{}", refusal(&expired, expired.ca_pem()));
    let wrong = Upstream::start_tls(Tls::wrong_name()).await.unwrap();
    assert!(refusal(&wrong, wrong.ca_pem()).contains("not valid for name"), "{}", refusal(&wrong, wrong.ca_pem()));
    let own = Upstream::start_tls(Tls::self_signed()).await.unwrap();
    assert!(refusal(&own, &Ca::generate().unwrap().pem()).contains("UnknownIssuer"));
    let mut trusting = ask(&own, own.ca_pem(), "/v2/").unwrap();
    assert_eq!(read(&mut trusting, usize::MAX, DEADLINE).status, 200);
}

#[tokio::test]
async fn handshakes_fail() {
    let up = Upstream::start_tls(Tls::trusted()).await.unwrap();
    up.rules(vec![
        Rule::connections().times(1).fault(Fault::TlsAlert(40)),
        Rule::connections().times(1).fault(Fault::Tls10),
    ]);
    assert!(refusal(&up, up.ca_pem()).contains("HandshakeFailure"));
    let old = refusal(&up, up.ca_pem());
    assert!(old.contains("TLS 1.") || old.contains("Tls1") || old.contains("peer is incompatible"), "{old}");
    assert!(ask(&up, up.ca_pem(), "/v2/").is_ok());
}

#[tokio::test]
async fn a_cut_is_a_cut_in_tls_too() {
    let up = Upstream::start_tls(Tls::trusted()).await.unwrap();
    let image = up.image("a", "t", &[100_000], 1);
    let path = format!("/v2/a/blobs/{}", image.layers[0]);
    for how in [Ending::Fin, Ending::Reset] {
        up.rules(vec![Rule::on(Kind::Blob).fault(Fault::UntilClose).fault(Fault::cut_half(how))]);
        let mut stream = ask(&up, up.ca_pem(), &path).unwrap();
        let answer = read(&mut stream, usize::MAX, DEADLINE);
        assert_eq!(answer.body.len(), 50_000, "{how:?}");
    }
}
