use cache::{Authority, FailureKind, SourceKind, Upstreams};
use faulty::{Fault, Kind, Rule, Upstream};
use upstream::{Directory, Front, Metrics, Settings, SettingsError};

use crate::bench::{REPO, SIZE, ask, at, client, fetch, registry, settings, tag};

const ANYBODY: Authority = Authority::Anonymous;

fn behind(front: &Upstream, origin: &Upstream) -> std::sync::Arc<cache::Upstream> {
    let front = Front { url: front.url(), tls: None, renew: false };
    let settings = Settings { front: Some(front), ..settings(at(origin)) };
    Directory::new(settings, Metrics::unregistered()).unwrap().find(&registry()).unwrap()
}

#[tokio::test]
async fn the_registry_in_front_is_asked_for_the_whole_name() {
    let (front, origin) = (Upstream::start().await.unwrap(), Upstream::start().await.unwrap());
    let image = front.image(&format!("{}/{REPO}", registry()), "latest", &[SIZE], 1);
    let upstream = behind(&front, &origin);
    assert_eq!(upstream.sources.len(), 2);
    let source = &*upstream.sources[0];
    assert_eq!((source.kind(), upstream.sources[1].kind()), (SourceKind::Registry, SourceKind::Origin));
    assert_eq!(source.manifest(&ask(&ANYBODY), &tag("latest")).await.unwrap().bytes, image.bytes);
    let layer = image.layers[0].parse().unwrap();
    assert_eq!(fetch(source, &ask(&ANYBODY), &layer).await.unwrap().len(), SIZE);
    let part = source.blob(&ask(&ANYBODY), &layer, 1000, Some(3000)).await.unwrap();
    assert_eq!((part.offset, part.size), (1000, Some(SIZE as u64)));
    assert_eq!(crate::bench::drain(part).await, (2000, Ok(())));
    assert!(origin.log().is_empty());
}

#[tokio::test]
async fn clients_credentials_are_for_it_to_check() {
    let (front, origin) = (Upstream::start().await.unwrap(), Upstream::start().await.unwrap());
    let repository = format!("{}/{REPO}", registry());
    front.image(&repository, "latest", &[SIZE], 1);
    front.auth(faulty::Auth::Basic);
    front.account("ann", "secret", &[&repository]);
    let upstream = behind(&front, &origin);
    let asked = |authority: Authority| {
        let source = upstream.sources[0].clone();
        async move { source.head_manifest(&ask(&authority), &tag("latest")).await.map(|_| ()).map_err(|error| error.kind) }
    };
    assert_eq!(asked(ANYBODY).await, Err(FailureKind::Unauthorized));
    assert_eq!(asked(client("ann", "wrong")).await, Err(FailureKind::Unauthorized));
    assert_eq!(asked(client("ann", "secret")).await, Ok(()));
}

#[tokio::test]
async fn one_that_is_down_is_left_alone_for_all_registries() {
    let (front, origin) = (Upstream::start().await.unwrap(), Upstream::start().await.unwrap());
    front.rules(vec![Rule::on(Kind::Manifest).fault(Fault::status(503))]);
    let settings = Settings {
        open: true,
        front: Some(Front { url: front.url(), tls: None, renew: false }),
        ..settings(at(&origin))
    };
    let directory = Directory::new(settings, Metrics::unregistered()).unwrap();
    let found = |name: &str| directory.find(&name.parse().unwrap()).unwrap().sources[0].clone();
    for _ in 0..5 {
        assert!(found("origin.example").head_manifest(&ask(&ANYBODY), &tag("latest")).await.is_err());
    }
    let before = front.log().len();
    assert!(found("another.example").head_manifest(&ask(&ANYBODY), &tag("latest")).await.is_err());
    assert_eq!(front.log().len(), before, "the breaker is one for all");
}

#[test]
fn what_is_no_registry_is_refused() {
    for url in ["larder", "ftp://larder", "https://larder/path", "https://u:p@larder"] {
        let settings =
            Settings { front: Some(Front { url: url.into(), tls: None, renew: false }), ..Settings::default() };
        let error = Directory::new(settings, Metrics::unregistered()).err();
        assert!(matches!(error, Some(SettingsError::Front { .. })), "{url}");
    }
}

#[tokio::test]
async fn it_is_told_to_ask_anew_where_that_is_wanted() {
    let (front, origin) = (Upstream::start().await.unwrap(), Upstream::start().await.unwrap());
    front.image(&format!("{}/{REPO}", registry()), "latest", &[SIZE], 1);
    for renew in [false, true] {
        let front_settings = Front { url: front.url(), tls: None, renew };
        let settings = Settings { front: Some(front_settings), ..settings(at(&origin)) };
        let directory = Directory::new(settings, Metrics::unregistered()).unwrap();
        let before = front.log().len();
        let source = directory.find(&registry()).unwrap().sources[0].clone();
        source.head_manifest(&ask(&ANYBODY), &tag("latest")).await.unwrap();
        let asked = front.log().split_off(before);
        let told = asked.iter().any(|request| request.header("cache-control") == Some("no-cache"));
        assert_eq!(told, renew);
    }
}
