use cache::{Authority, Credential, FailureKind};
use faulty::{Auth, Fault, Kind, Rule, Tls, Upstream};

use crate::bench::{Bench, REPO, SIZE};

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
