//! An upstream under the test's control with a source in front of it.

use std::sync::Arc;
use std::time::Duration;

use cache::{Ask, Authority, Credential, FailureKind, Source, SourceError, Upstreams};
use faulty::{Fault, Image, Kind, Rule, Upstream};
use futures_util::StreamExt as _;
use oci::{Digest, Name, Reference, Registry};
use prometheus_client::registry::Registry as Metered;
use upstream::{Deadlines, Directory, Endpoint, Metrics, MinimumRate, RetrySettings, Settings, UpstreamSettings};

pub const REPO: &str = "lib/a";
pub const SIZE: usize = 300_000;

pub struct Bench {
    pub up: Upstream,
    pub image: Image,
    pub source: Arc<dyn Source>,
    metered: Metered,
}

/// Settings for tests that wait for deadlines, with one upstream.
pub fn settings(upstream: UpstreamSettings) -> Settings {
    Settings {
        open: false,
        upstreams: vec![upstream],
        deadlines: Deadlines {
            connect: Duration::from_millis(500),
            headers: Duration::from_millis(800),
            answer: Duration::from_secs(5),
            idle: Duration::from_millis(500),
            queue: Duration::from_millis(800),
            minimum_rate: MinimumRate { bytes_per_second: 1024, window: Duration::from_millis(600) },
        },
        retries: RetrySettings { count: 3, pause: Duration::from_millis(2) },
        ..Settings::default()
    }
}

pub fn registry() -> Registry {
    "origin.example".parse().unwrap()
}

/// An upstream whose only endpoint is this.
pub fn at(up: &Upstream) -> UpstreamSettings {
    let mut endpoint = Endpoint::new(up.url());
    endpoint.ca_pem = (!up.ca_pem().is_empty()).then(|| up.ca_pem().to_owned());
    UpstreamSettings { endpoints: vec![endpoint], ..UpstreamSettings::new(registry()) }
}

pub fn source(settings: Settings) -> Arc<dyn Source> {
    let directory = Directory::new(settings, Metrics::unregistered()).unwrap();
    directory.find(&registry()).unwrap().sources[0].clone()
}

impl Bench {
    pub async fn start() -> Bench {
        Bench::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Bench {
        Bench::over(Upstream::start().await.unwrap(), change)
    }

    pub fn over(up: Upstream, change: impl FnOnce(&mut Settings)) -> Bench {
        let image = up.image(REPO, "latest", &[SIZE], 1);
        let mut settings = settings(at(&up));
        change(&mut settings);
        let mut metered = Metered::default();
        let directory = Directory::new(settings, Metrics::register(&mut metered)).unwrap();
        let source = directory.find(&registry()).unwrap().sources[0].clone();
        Bench { up, image, source, metered }
    }

    pub fn layer(&self) -> Digest {
        self.image.layers[0].parse().unwrap()
    }

    /// Puts one fault in place of those there are, for all requests.
    pub fn fault(&self, fault: Fault) {
        self.up.rules(vec![Rule::any().fault(fault)]);
    }

    pub async fn manifest(&self, authority: &Authority) -> Result<(), FailureKind> {
        let answer = self.source.manifest(&ask(authority), &tag("latest")).await;
        answer.map(|manifest| assert_eq!(manifest.bytes, self.image.bytes)).map_err(|error| error.kind)
    }

    pub async fn blob(&self, authority: &Authority) -> Result<Vec<u8>, FailureKind> {
        fetch(&*self.source, &ask(authority), &self.layer()).await.map_err(|error| error.kind)
    }

    pub fn requests(&self, kind: Kind) -> usize {
        self.up.log().iter().filter(|request| request.kind == kind).count()
    }

    /// The line of a metric that begins so, without that beginning.
    pub fn metric(&self, start: &str) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metered).unwrap();
        let found = text.lines().find_map(|line| line.strip_prefix(start));
        found.map_or_else(String::new, |rest| rest.trim().to_owned())
    }
}

pub fn ask(authority: &Authority) -> Ask {
    ask_for(REPO, authority)
}

pub fn ask_for(repository: &str, authority: &Authority) -> Ask {
    Ask { name: Name::new(registry(), repository.parse().unwrap()), authority: authority.clone() }
}

pub fn tag(text: &str) -> Reference {
    text.parse().unwrap()
}

pub fn client(user: &str, password: &str) -> Authority {
    Authority::Client(Credential::new(user, password))
}

/// All of a blob.
pub async fn fetch(source: &dyn Source, ask: &Ask, digest: &Digest) -> Result<Vec<u8>, SourceError> {
    let mut body = source.blob(ask, digest, 0, None).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    assert_eq!(Digest::sha256(&bytes), *digest);
    Ok(bytes)
}

/// The bytes of a blob's body that came, and how it ended.
pub async fn drain(mut body: cache::BlobBody) -> (usize, Result<(), FailureKind>) {
    let mut length = 0;
    while let Some(chunk) = body.stream.next().await {
        match chunk {
            Ok(chunk) => length += chunk.len(),
            Err(error) => {
                assert!(body.stream.next().await.is_none());
                return (length, Err(error.kind));
            }
        }
    }
    (length, Ok(()))
}
