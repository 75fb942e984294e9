use std::sync::Arc;

use cache::{Authority, Credential, FailureKind, Freshness, Source, Upstream as Found, Upstreams};
use faulty::{Auth, Kind, Upstream};
use upstream::{Directory, Limits, Listing, Metrics, Settings, SettingsError, UpstreamSettings, ask_endpoints};

use crate::bench::{REPO, ask, at, registry, settings, tag};

const OWN: Authority = Authority::Own;

/// A directory that lists nothing yet, with the deadlines of tests.
fn directory() -> Arc<Directory> {
    let settings = Settings { upstreams: Vec::new(), ..settings(UpstreamSettings::new(registry())) };
    Directory::new(settings, Metrics::unregistered()).unwrap()
}

fn found(directory: &Directory) -> Arc<Found> {
    directory.find(&registry()).unwrap()
}

async fn pull(source: &dyn Source) -> Result<(), FailureKind> {
    source.manifest(&ask(&OWN), &tag("latest")).await.map(drop).map_err(|error| error.kind)
}

fn all_in_use(told: &[Result<Listing, SettingsError>]) -> bool {
    told.iter().all(|one| matches!(one, Ok(Listing::InUse)))
}

#[tokio::test]
async fn one_is_listed_changed_and_gone_while_it_is_in_use() {
    let up = Upstream::start().await.unwrap();
    up.image(REPO, "latest", &[10], 1);
    up.auth(Auth::Bearer);
    up.account("own", "first", &[REPO]);
    let directory = directory();
    assert!(directory.find(&registry()).is_err());

    let with = |password: &str| UpstreamSettings { credential: Some(Credential::new("own", password)), ..at(&up) };
    assert!(all_in_use(&directory.replace(vec![with("first")])));
    let first = found(&directory);
    assert!(first.rules.own.is_some());
    assert_eq!(pull(&*first.sources[0]).await, Ok(()));
    let tokens = up.token_fetches();

    // Nothing about it has changed, so that its token is good still.
    let other = UpstreamSettings::new("other.example".parse().unwrap());
    assert!(all_in_use(&directory.replace(vec![other, with("first")])));
    assert!(Arc::ptr_eq(&first, &found(&directory)));

    // Other rules leave its sources as they are.
    let mut relaxed = with("first");
    relaxed.rules.freshness = Freshness::Immutable;
    assert!(all_in_use(&directory.replace(vec![relaxed])));
    let ruled = found(&directory);
    assert_eq!(ruled.rules.freshness, Freshness::Immutable);
    assert!(ruled.rules.own.is_some() && Arc::ptr_eq(&first.sources[0], &ruled.sources[0]));
    assert_eq!((pull(&*ruled.sources[0]).await, up.token_fetches()), (Ok(()), tokens));

    // Another password is shown from then on, and whoever has the last one keeps it.
    up.remove_account("own");
    up.expire_tokens();
    up.account("own", "second", &[REPO]);
    assert_eq!(pull(&*ruled.sources[0]).await, Err(FailureKind::Unauthorized));
    assert!(all_in_use(&directory.replace(vec![with("second")])));
    assert_eq!(pull(&*found(&directory).sources[0]).await, Ok(()));

    assert!(directory.replace(Vec::new()).is_empty());
    assert!(directory.find(&registry()).is_err());
}

#[tokio::test]
async fn what_cannot_be_used_disturbs_no_other_and_stays_as_it_was() {
    let up = Upstream::start().await.unwrap();
    let directory = directory();
    let bad = UpstreamSettings { limits: Limits { concurrency: Some(0), ..Limits::default() }, ..at(&up) };
    let other = UpstreamSettings::new("other.example".parse().unwrap());
    let told = directory.replace(vec![bad.clone(), other.clone()]);
    assert!(matches!(told[..], [Err(SettingsError::Limit { .. }), Ok(Listing::InUse)]), "{told:?}");
    assert!(directory.find(&registry()).is_err() && directory.find(&other.registry).is_ok());

    directory.replace(vec![at(&up)]);
    let last = found(&directory);
    assert!(directory.replace(vec![bad.clone()])[0].is_err());
    assert!(Arc::ptr_eq(&last, &found(&directory)));
    // But a credential that is taken away is gone, whatever else is wrong.
    directory.replace(vec![UpstreamSettings { credential: Some(Credential::new("a", "b")), ..at(&up) }]);
    assert!(directory.replace(vec![bad])[0].is_err());
    assert!(directory.find(&registry()).is_err());
}

#[tokio::test]
async fn those_of_the_settings_come_first() {
    let up = Upstream::start().await.unwrap();
    let excluded = UpstreamSettings { excluded: true, ..UpstreamSettings::new("left.example".parse().unwrap()) };
    let mut settings = settings(at(&up));
    settings.upstreams.push(excluded.clone());
    let directory = Directory::new(settings, Metrics::unregistered()).unwrap();
    let listed = found(&directory);
    let told = directory.replace(vec![
        UpstreamSettings { credential: Some(Credential::new("a", "b")), ..at(&up) },
        UpstreamSettings { excluded: false, ..excluded.clone() },
    ]);
    assert!(matches!(told[..], [Ok(Listing::Overruled), Ok(Listing::Excluded)]), "{told:?}");
    assert!(Arc::ptr_eq(&listed, &found(&directory)));
    assert!(directory.find(&excluded.registry).is_err());
}

#[tokio::test]
async fn each_endpoint_is_asked_whether_it_is_there() {
    let (well, guarded, gone) =
        (Upstream::start().await.unwrap(), Upstream::start().await.unwrap(), Upstream::start().await.unwrap());
    guarded.auth(Auth::Bearer);
    gone.refuse().await;
    let endpoints = [&well, &guarded, &gone].map(|up| at(up).endpoints.remove(0));
    let settings = UpstreamSettings {
        endpoints: endpoints.clone().into(),
        credential: Some(Credential::new("own", "S3NT1NEL")),
        ..at(&well)
    };
    let answers = ask_endpoints(&settings, std::time::Duration::from_secs(5)).await.unwrap();
    assert_eq!(answers.iter().map(|one| one.url.clone()).collect::<Vec<_>>(), endpoints.map(|one| one.url));
    assert_eq!((&answers[0].answer, &answers[1].answer), (&Ok(()), &Ok(())));
    assert!(answers[2].answer.as_ref().is_err_and(|why| why.contains("connection")), "{answers:?}");
    // Nobody is shown the credential for it.
    assert!(guarded.log().iter().all(|request| request.authorization().is_none()));
    assert_eq!(guarded.count("GET", Kind::Token), 0);
}
