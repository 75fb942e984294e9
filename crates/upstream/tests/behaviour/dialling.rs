use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use cache::{Authority, FailureKind, Upstreams};
use faulty::{Auth, Upstream};
use upstream::{Directory, Endpoint, Metrics, Resolver, Settings, UpstreamSettings};

use crate::bench::{ask, at, registry, settings, source, tag};

/// Gives the same addresses for every name.
struct Fake {
    addresses: Vec<&'static str>,
    lookups: AtomicUsize,
}

impl Fake {
    fn new(addresses: &[&'static str]) -> Arc<Fake> {
        Arc::new(Fake { addresses: addresses.to_vec(), lookups: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Resolver for Fake {
    async fn resolve(&self, _host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        Ok(self.addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect())
    }
}

#[tokio::test]
async fn a_name_that_nobody_listed_is_not_followed_to_a_private_address() {
    let up = Upstream::start().await.unwrap();
    for addresses in [&["127.0.0.1"][..], &["169.254.169.254"], &["::ffff:127.0.0.1", "10.0.0.1", "fd00::1"]] {
        let fake = Fake::new(addresses);
        let directory = Directory::with_resolver(Settings::default(), Metrics::unregistered(), fake.clone()).unwrap();
        let registry = format!("rebind.example:{}", up.addr().port()).parse().unwrap();
        let source = directory.find(&registry).unwrap().sources[0].clone();
        let error = source.manifest(&ask(&Authority::Anonymous), &tag("latest")).await.err().unwrap();
        assert_eq!(error.kind, FailureKind::Refused);
        assert_eq!(fake.lookups.load(Ordering::SeqCst), 1);
    }
    assert_eq!(up.connections(), 0);
}

#[tokio::test]
async fn a_listed_name_may_have_a_private_address_which_is_looked_up_once() {
    let up = Upstream::start().await.unwrap();
    up.image("lib/a", "latest", &[1000], 1);
    let fake = Fake::new(&["127.0.0.1"]);
    let mut upstream = at(&up);
    upstream.endpoints = vec![Endpoint::new(format!("http://registry.corp.example:{}", up.addr().port()))];
    let directory = Directory::with_resolver(settings(upstream), Metrics::unregistered(), fake.clone()).unwrap();
    let source = directory.find(&registry()).unwrap().sources[0].clone();
    source.manifest(&ask(&Authority::Anonymous), &tag("latest")).await.unwrap();
    source.manifest(&ask(&Authority::Anonymous), &tag("latest")).await.unwrap();
    assert_eq!((fake.lookups.load(Ordering::SeqCst), up.connections()), (1, 1));
}

#[tokio::test]
async fn addresses_that_refuse_make_room_for_the_next() {
    let up = Upstream::start_on("127.0.0.2:0".parse().unwrap()).await.unwrap();
    up.image("lib/a", "latest", &[1000], 1);
    let mut upstream = at(&up);
    upstream.endpoints = vec![Endpoint::new(format!("http://many.example:{}", up.addr().port()))];
    let fake = Fake::new(&["127.0.0.3", "::1", "127.0.0.4", "127.0.0.2"]);
    let directory = Directory::with_resolver(settings(upstream), Metrics::unregistered(), fake).unwrap();
    let source = directory.find(&registry()).unwrap().sources[0].clone();
    source.manifest(&ask(&Authority::Anonymous), &tag("latest")).await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_nowhere() {
    let up = Upstream::start().await.unwrap();
    let mut upstream = at(&up);
    upstream.endpoints = vec![Endpoint::new("http://nowhere.invalid")];
    let directory = Directory::with_resolver(settings(upstream), Metrics::unregistered(), Fake::new(&[])).unwrap();
    let source = directory.find(&registry()).unwrap().sources[0].clone();
    let error = source.manifest(&ask(&Authority::Anonymous), &tag("latest")).await.err().unwrap();
    assert_eq!(error.kind, FailureKind::Unavailable);
}

#[tokio::test]
async fn endpoints_with_a_path() {
    let up = Upstream::start().await.unwrap();
    up.image("hub/lib/a", "latest", &[1000], 1);
    up.auth(Auth::Bearer);
    up.public("*");
    let with_path = |path: &str| {
        let mut upstream = at(&up);
        upstream.endpoints = vec![Endpoint::new(format!("{}{path}", up.url()))];
        source(settings(upstream))
    };
    let ask = ask(&Authority::Anonymous);
    for path in ["/v2/hub", "/v2/hub/"] {
        with_path(path).manifest(&ask, &tag("latest")).await.unwrap();
    }
    for path in ["", "/", "/v2", "/v2/"] {
        let error = with_path(path).manifest(&ask, &tag("latest")).await.err().unwrap();
        assert_eq!(error.kind, FailureKind::NotFound, "{path}");
        assert_eq!(up.log().last().unwrap().path, "/v2/lib/a/manifests/latest");
    }
    let error = with_path("/mirrors/hub").manifest(&ask, &tag("latest")).await.err().unwrap();
    assert_eq!(error.kind, FailureKind::NotFound);
    assert_eq!(up.log().last().unwrap().path, "/mirrors/hub/v2/lib/a/manifests/latest");
}

#[tokio::test]
async fn metrics_of_made_up_registries_are_counted_together() {
    let mut metered = prometheus_client::registry::Registry::default();
    let fake = Fake::new(&["127.0.0.1"]);
    let directory = Directory::with_resolver(Settings::default(), Metrics::register(&mut metered), fake).unwrap();
    for number in 0..70 {
        let upstream = directory.find(&format!("r{number}.example").parse().unwrap()).unwrap();
        assert!(upstream.sources[0].manifest(&ask(&Authority::Anonymous), &tag("latest")).await.is_err());
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metered).unwrap();
    let errors: Vec<_> = text.lines().filter(|line| line.starts_with("larder_upstream_errors_total{")).collect();
    assert_eq!(errors.len(), 51);
    assert!(errors.contains(&r#"larder_upstream_errors_total{upstream="other",reason="refused"} 20"#));
}

#[tokio::test]
async fn which_registries_have_an_upstream() {
    let excluded = UpstreamSettings { excluded: true, ..UpstreamSettings::new("private.example".parse().unwrap()) };
    let listed = UpstreamSettings {
        endpoints: vec![Endpoint::new("https://mirror.example/v2/hub"), Endpoint::new("https://registry-1.docker.io")],
        ..UpstreamSettings::new("docker.io".parse().unwrap())
    };
    let local = UpstreamSettings::new("10.0.0.1:5000".parse().unwrap());
    let upstreams = vec![excluded, listed, local];
    let open = Settings { upstreams: upstreams.clone(), ..Settings::default() };
    let open = Directory::new(open, Metrics::unregistered()).unwrap();
    let closed = Settings { open: false, upstreams, ..Settings::default() };
    let closed = Directory::new(closed, Metrics::unregistered()).unwrap();
    let find = |directory: &Directory, registry: &str| {
        let found = directory.find(&registry.parse().unwrap()).ok()?;
        Some(found.sources.iter().map(|source| source.label().to_owned()).collect::<Vec<_>>())
    };
    let labels = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    for (registry, if_open, if_closed) in [
        (
            "docker.io",
            labels(&["mirror.example", "registry-1.docker.io"]),
            labels(&["mirror.example", "registry-1.docker.io"]),
        ),
        ("10.0.0.1:5000", labels(&["10.0.0.1:5000"]), labels(&["10.0.0.1:5000"])),
        ("private.example", None, None),
        ("quay.io", labels(&["quay.io"]), None),
        ("127.0.0.1:6443", None, None),
        ("169.254.169.254", None, None),
        ("[::1]:5000", None, None),
        ("10.0.0.2", None, None),
        ("localhost:5000", None, None),
    ] {
        assert_eq!(find(&open, registry), if_open, "{registry}");
        assert_eq!(find(&closed, registry), if_closed, "{registry}");
    }
    // Anybody can make up names; they are not all remembered.
    let first = open.find(&"quay.io".parse().unwrap()).unwrap();
    for number in 0..1100 {
        open.find(&format!("r{number}.example").parse().unwrap()).unwrap();
    }
    assert!(!Arc::ptr_eq(&first, &open.find(&"quay.io".parse().unwrap()).unwrap()));
}

#[test]
fn settings_that_cannot_be_used() {
    let refused = |change: &dyn Fn(&mut UpstreamSettings)| {
        let mut upstream = UpstreamSettings::new("a.example".parse().unwrap());
        change(&mut upstream);
        let settings = Settings { upstreams: vec![upstream], ..Settings::default() };
        Directory::new(settings, Metrics::unregistered()).err().map(|error| error.to_string())
    };
    assert_eq!(refused(&|_| {}), None);
    let with_password = refused(&|upstream| upstream.endpoints = vec![Endpoint::new("https://u:sentinel@a.example")]);
    assert!(!with_password.unwrap().contains("sentinel"));
    assert!(refused(&|upstream| upstream.endpoints = vec![Endpoint::new("a.example")]).is_some());
    assert!(refused(&|upstream| upstream.token_hosts = vec!["https://a.example".into()]).is_some());
    assert!(refused(&|upstream| upstream.allowed_hosts = vec!["".into()]).is_some());
    assert!(refused(&|upstream| upstream.limits.concurrency = Some(0)).is_some());
    assert!(refused(&|upstream| upstream.limits.requests_per_second = Some(f64::NAN)).is_some());
    let bad_ca = |pem: &str| Endpoint { ca_pem: Some(pem.to_owned()), ..Endpoint::new("https://a.example") };
    for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(refused(&|upstream| upstream.endpoints = vec![bad_ca(pem)]).is_some(), "{pem}");
    }
}
