use cache::{Authority, Credential, FailureKind};
use faulty::{Auth, Fault, Kind, Rule, Tls, Upstream};

use crate::bench::{Bench, REPO, SIZE, ask, tag};

const ANYBODY: Authority = Authority::Anonymous;

async fn tls(tls: Tls) -> Upstream {
    Upstream::start_tls(tls).await.unwrap()
}

#[tokio::test]
async fn an_authority_of_the_upstreams_own() {
    let bench = Bench::over(tls(Tls::trusted()).await, |_| {});
    assert_eq!(bench.manifest(&ANYBODY).await, Ok(()));
    assert_eq!(bench.blob(&ANYBODY).await.unwrap().len(), SIZE);
}

#[tokio::test]
async fn certificates_that_are_not_good() {
    let nothing_trusted = |settings: &mut upstream::Settings| settings.upstreams[0].endpoints[0].ca_pem = None;
    let bench = Bench::over(tls(Tls::trusted()).await, nothing_trusted);
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Unavailable));
    // Not asked again: it would be the same.
    assert_eq!(bench.up.connections(), 1);
    assert!(bench.up.log().is_empty());
    let bench = Bench::over(tls(Tls::self_signed()).await, nothing_trusted);
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Unavailable));
    for bad in [Tls::expired(), Tls::wrong_name()] {
        let bench = Bench::over(tls(bad).await, |_| {});
        assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Unavailable));
        assert!(bench.up.log().is_empty());
    }
}

#[tokio::test]
async fn handshakes_that_fail() {
    for fault in [Fault::Tls10, Fault::TlsAlert(40), Fault::Close, Fault::Reset] {
        let bench = Bench::over(tls(Tls::trusted()).await, |_| {});
        bench.up.rule(Rule::connections().fault(fault.clone()));
        assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Unavailable), "{fault:?}");
    }
    let bench = Bench::over(tls(Tls::trusted()).await, |_| {});
    bench.up.rule(Rule::connections().fault(Fault::Hang));
    assert_eq!(bench.manifest(&ANYBODY).await, Err(FailureKind::Timeout));
}

/// Why a manifest does not come, in the words that logs and clients get.
async fn why(bench: &Bench) -> String {
    bench.source.manifest(&ask(&ANYBODY), &tag("latest")).await.err().unwrap().to_string()
}

#[tokio::test]
async fn what_is_wrong_is_said_with_what_to_do() {
    let ca = faulty::Ca::generate().unwrap();
    let authority_of_another = |settings: &mut upstream::Settings| {
        settings.upstreams[0].endpoints[0].ca_pem = Some(ca.pem());
    };
    let nothing = |_: &mut upstream::Settings| {};
    for (up, change, says) in [
        (
            tls(Tls::trusted()).await,
            &authority_of_another as &dyn Fn(&mut upstream::Settings),
            &["of no authority that is trusted here", "`ca` of the [[upstream.endpoint]]", "`insecure = true`"][..],
        ),
        (
            tls(Tls::expired()).await,
            &nothing,
            &["has expired", "Tue, 31 Dec 2019", "clock here says", "set this machine's clock", "a new certificate"],
        ),
        (tls(Tls::not_yet_valid()).await, &nothing, &["not valid yet", "Wed, 01 Jan 2110", "set this machine's clock"]),
        (
            tls(Tls::wrong_name()).await,
            &nothing,
            &["for another name: it is for elsewhere.example", "into `url` of the [[upstream.endpoint]]"],
        ),
    ] {
        let label = up.host();
        let bench = Bench::over(up, change);
        let told = why(&bench).await;
        assert!(told.starts_with(&format!("{label}: TLS failed: ")), "{told}");
        assert!(says.iter().all(|words| told.contains(words)), "{told}");
    }
    for (fault, says) in [
        (Fault::Tls10, &["no TLS newer than 1.1", "TLS 1.2 or 1.3"][..]),
        (Fault::TlsAlert(70), &["no TLS newer than 1.1", "TLS 1.2 or 1.3"]),
        (Fault::TlsAlert(40), &["no way of TLS in common", "ECDHE"]),
        (Fault::Raw("HTTP/1.1 400 Bad Request\r\n\r\n".into()), &["not in TLS", "port in `url`", "http://"]),
        (Fault::Close, &["ended the connection", "port in `url`", "http://"]),
        (Fault::Hang, &["said nothing in time", "port in `url`", "http://"]),
    ] {
        let bench = Bench::over(tls(Tls::trusted()).await, |_| {});
        bench.up.rule(Rule::connections().fault(fault.clone()));
        let told = why(&bench).await;
        assert!(says.iter().all(|words| told.contains(words)), "{fault:?}: {told}");
    }
}

#[tokio::test]
async fn an_authoritys_own_certificate_is_told_from_a_servers() {
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = params.self_signed(&key).unwrap().pem();
    let bench = Bench::over(tls(Tls::given(&own, &key.serialize_pem())).await, |_| {});
    let told = why(&bench).await;
    assert!(told.contains("that of an authority and not of a server") && told.contains("CA:FALSE"), "{told}");
}

#[tokio::test]
async fn where_a_registry_leads_to_is_named() {
    let server = tls(Tls::self_signed()).await;
    let host = server.host();
    let bench = Bench::over(tls(Tls::trusted()).await, |settings| {
        settings.upstreams[0].allowed_hosts = vec![host.clone()];
    });
    bench.up.rule(Rule::on(Kind::Blob).fault(Fault::redirect(&format!("{}{{path}}", server.url()))));
    let error = bench.source.blob(&ask(&ANYBODY), &bench.layer(), 0, None).await.err().unwrap();
    let told = error.to_string();
    assert!(told.contains(&host) && told.contains("`ca` of the [[upstream.endpoint]]"), "{told}");
}

fn insecure(settings: &mut upstream::Settings) {
    settings.upstreams[0].endpoints[0].ca_pem = None;
    settings.upstreams[0].endpoints[0].insecure_skip_verify = true;
}

#[tokio::test]
async fn unchecked_where_configured_and_nowhere_else() {
    for bad in [Tls::self_signed(), Tls::expired(), Tls::wrong_name()] {
        let bench = Bench::over(tls(bad).await, insecure);
        assert_eq!(bench.manifest(&ANYBODY).await, Ok(()));
    }
    let cdn = tls(Tls::self_signed()).await;
    let host = cdn.host();
    let bench = Bench::over(tls(Tls::self_signed()).await, |settings| {
        insecure(settings);
        settings.upstreams[0].allowed_hosts = vec![host];
    });
    cdn.mirror_of(&bench.up);
    bench.up.rule(Rule::on(Kind::Blob).fault(Fault::redirect(&format!("{}{{path}}", cdn.url()))));
    assert_eq!(bench.manifest(&ANYBODY).await, Ok(()));
    assert_eq!(bench.blob(&ANYBODY).await, Err(FailureKind::Unavailable));
    assert!(cdn.log().is_empty());
}

#[tokio::test]
async fn a_token_services_certificate_is_always_checked() {
    let service = tls(Tls::self_signed()).await;
    let host = service.host();
    let bench = Bench::over(tls(Tls::self_signed()).await, |settings| {
        insecure(settings);
        settings.upstreams[0].credential = Some(Credential::new("own", "own-secret"));
        settings.upstreams[0].token_hosts = vec![host];
    });
    bench.up.auth(Auth::Bearer);
    bench.up.account("own", "own-secret", &[REPO]);
    service.token_service_for(&bench.up);
    assert_eq!(bench.manifest(&Authority::Own).await, Err(FailureKind::Unavailable));
    assert!(service.log().is_empty());
}

#[tokio::test]
async fn the_upstreams_authority_is_good_for_its_token_service() {
    let ca = faulty::Ca::generate().unwrap();
    let service = tls(Tls::trusted().signed_by(&ca)).await;
    let host = service.host();
    let bench = Bench::over(tls(Tls::trusted().signed_by(&ca)).await, |settings| {
        settings.upstreams[0].credential = Some(Credential::new("own", "own-secret"));
        settings.upstreams[0].token_hosts = vec![host];
    });
    bench.up.auth(Auth::Bearer);
    bench.up.account("own", "own-secret", &[REPO]);
    service.token_service_for(&bench.up);
    assert_eq!(bench.manifest(&Authority::Own).await, Ok(()));
    // Never by plain HTTP where the registry itself uses TLS.
    let plain = Upstream::start().await.unwrap();
    let bench = Bench::over(tls(Tls::trusted()).await, |settings| {
        settings.upstreams[0].credential = Some(Credential::new("own", "own-secret"));
        settings.upstreams[0].token_hosts = vec![plain.host()];
    });
    bench.up.auth(Auth::Bearer);
    plain.token_service_for(&bench.up);
    assert_eq!(bench.manifest(&Authority::Own).await, Err(FailureKind::Invalid));
    assert_eq!(plain.connections(), 0);
}
