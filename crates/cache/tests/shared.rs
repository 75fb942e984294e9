//! What an administrator shares with everybody is what the upstream's own credential may read, and nothing else that is in the store.
#![allow(
    clippy::unwrap_used,
    clippy::cloned_ref_to_slice_refs,
    reason = "a test fails where it must, and says what it has"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cache::{
    Ask, Authority, Claim, DocumentQuery, EngineSettings, FailureKind, Freshness, Opener, Outcome, Purpose, Request,
    Rules,
};
use oci::{Digest, Name, Platform, Reference};
use support::{Origin, Readers, Setting, by, content, credential, restart, start, start_with, until};

const OPEN: &str = "good.test/team/open";
const CLOSED: &str = "good.test/team/closed";

fn shared() -> Rules {
    Rules {
        shared: true,
        own: Some(credential("larder")),
        freshness: Freshness::For(Duration::ZERO),
        ..Rules::default()
    }
}

/// A repository that larder's own credential may read, and one that Ann's may: an image in each.
struct Images {
    origin: Arc<Origin>,
    layer: Bytes,
    open: Digest,
    closed: Digest,
}

impl Images {
    fn new() -> Images {
        let origin = Origin::new("origin");
        origin.repository("team/open", Readers::Only(vec![credential("larder")]));
        origin.repository("team/closed", Readers::Only(vec![credential("ann")]));
        let layer = content(b'l', 200_000);
        for name in ["team/open", "team/closed"] {
            origin.blob(name, &layer);
        }
        let (open, closed) = (origin.manifest("team/open", "v1", "o"), origin.manifest("team/closed", "v1", "c"));
        Images { origin, layer, open, closed }
    }

    fn start(&self, rules: Rules) -> Setting {
        start(&[("good.test", &[self.origin.clone()], rules)])
    }

    fn layer(&self) -> Digest {
        Digest::sha256(&self.layer)
    }

    /// How each way to ask for something of an image ends.
    async fn ask(&self, setting: &Setting, request: &Request) -> Vec<Result<(), FailureKind>> {
        let engine = &setting.engine;
        let manifest = if request.name.to_string() == OPEN { self.open } else { self.closed };
        vec![
            engine.manifest(request, &tag()).await.map(drop),
            engine.manifest(request, &Reference::Digest(manifest)).await.map(drop),
            engine.head_blob(request, &self.layer()).await.map(drop),
            setting.fetch(request, &self.layer()).await.map(|bytes| assert!(bytes == self.layer)),
            engine.document(request, &DocumentQuery::Tags { n: None, last: None }).await.map(drop),
        ]
        .into_iter()
        .map(|answer| answer.map_err(|error| error.kind))
        .collect()
    }

    async fn assert_given(&self, setting: &Setting, request: &Request) {
        let answers = self.ask(setting, request).await;
        assert!(answers.iter().all(Result::is_ok), "{request:?}: {answers:?}");
    }

    async fn assert_refused(&self, setting: &Setting, request: &Request, kind: FailureKind) {
        let answers = self.ask(setting, request).await;
        assert!(answers.iter().all(|answer| *answer == Err(kind)), "{request:?}: {answers:?}");
    }

    async fn await_kept(&self, setting: &Setting, name: &str) {
        let folder = setting.store.root().join("repositories").join(name).join("_blobs/sha256");
        until("the blob is kept", || folder.join(self.layer().hex()).exists()).await;
    }

    fn calls(&self) -> usize {
        ["head_manifest", "manifest", "head_blob", "blob", "document"]
            .map(|method| self.origin.calls(method))
            .iter()
            .sum()
    }
}

fn tag() -> Reference {
    "v1".parse().unwrap()
}

fn down() -> Option<fn(&Ask) -> Option<FailureKind>> {
    Some(|_| Some(FailureKind::Unavailable))
}

/// Everybody who may not read what is closed.
fn strangers(name: &str) -> [Request; 2] {
    [by(name, None), by(name, Some("bob"))]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_pulled_with_a_secret_of_his_own_is_not_shared() {
    for hides in [false, true] {
        let images = Images::new();
        let setting = images.start(shared());
        if hides {
            images.origin.hide();
        }
        let ann = by(CLOSED, Some("ann"));
        images.assert_given(&setting, &ann).await;
        for request in strangers(CLOSED) {
            let kind = if hides { FailureKind::NotFound } else { FailureKind::Denied };
            images.assert_refused(&setting, &request, kind).await;
        }
        for request in [by(OPEN, None), by(OPEN, Some("bob")), by(OPEN, Some("ann"))] {
            images.assert_given(&setting, &request).await;
        }

        images.origin.fail(down());
        images.assert_given(&setting, &ann).await;
        for request in strangers(CLOSED) {
            let answers = images.ask(&setting, &request).await;
            assert!(answers.iter().all(Result::is_err), "{request:?}: {answers:?}");
        }
        for request in [by(OPEN, None), by(OPEN, Some("bob")), by(OPEN, Some("ann"))] {
            images.assert_given(&setting, &request).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_before_it_was_shared_is_not_shared() {
    let images = Images::new();
    let setting = images.start(Rules { shared: false, ..shared() });
    images.assert_given(&setting, &by(CLOSED, Some("ann"))).await;
    images.await_kept(&setting, CLOSED).await;
    let setting = restart(setting, &[("good.test", &[images.origin.clone()], shared())], EngineSettings::default());
    for request in strangers(CLOSED) {
        images.assert_refused(&setting, &request, FailureKind::Denied).await;
    }
    images.origin.fail(down());
    for request in strangers(CLOSED) {
        let answers = images.ask(&setting, &request).await;
        assert!(answers.iter().all(Result::is_err), "{request:?}: {answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_cache_with_a_pull_secret_shares_nothing() {
    let images = Images::new();
    let config = images.origin.blob("team/closed", &content(b'c', 100));
    let layer = images.layer();
    let image =
        format!(r#""config":{{"digest":"{config}","size":100}},"layers":[{{"digest":"{layer}","size":200000}}]"#);
    images.origin.image("team/closed", "v2", &image);
    let setting = images.start(shared());
    let opener = Opener { credential: credential("ann"), runtime: false };
    setting.engine.want([(Name::parse(CLOSED).unwrap(), vec![opener])].into());
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), ..Platform::default() };
    let name = Name::parse(CLOSED).unwrap();
    setting.engine.get_whole(&name, &"v2".parse().unwrap(), &platform).await.unwrap();
    for request in strangers(CLOSED) {
        images.assert_refused(&setting, &request, FailureKind::Denied).await;
    }
    let node = Request { name, claim: Some(Claim::Prefetch(Purpose::Store)) };
    images.assert_given(&setting, &node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herd_has_the_shared_credential_tried_once() {
    for (name, given) in [(OPEN, true), (CLOSED, false)] {
        let images = Images::new();
        let setting = images.start(shared());
        let gate = images.origin.gate();
        let clients: Vec<_> = (0..30)
            .map(|n| {
                // Some show what opens nothing.
                let request = by(name, [None, Some("bob"), Some("eve")][n % 3]);
                let engine = setting.engine.clone();
                tokio::spawn(async move { engine.manifest(&request, &tag()).await.is_ok() })
            })
            .collect();
        until("somebody asks", || images.calls() > 0).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(images.calls(), 1, "{name}");
        gate.add_permits(1000);
        for client in clients {
            assert_eq!(client.await.unwrap(), given, "{name}");
        }
        // And each credential that may open what the shared one does not.
        assert_eq!(images.calls(), if given { 1 } else { 3 }, "{name}");
        if given {
            let before = images.calls();
            let reply = setting.engine.manifest(&by(name, None), &Reference::Digest(images.open)).await.unwrap();
            assert_eq!((reply.outcome, images.calls()), (Outcome::Hit, before), "the yes is remembered");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_an_outage_leaves_shared_what_was() {
    let images = Images::new();
    let setting = images.start(shared());
    images.assert_given(&setting, &by(CLOSED, Some("ann"))).await;
    images.assert_given(&setting, &by(OPEN, None)).await;
    images.await_kept(&setting, OPEN).await;

    images.origin.fail(down());
    let sources = [images.origin.clone()];
    let setting = restart(setting, &[("good.test", &sources, shared())], EngineSettings::default());
    for request in strangers(OPEN) {
        images.assert_given(&setting, &request).await;
    }
    for request in strangers(CLOSED) {
        let answers = images.ask(&setting, &request).await;
        assert!(answers.iter().all(Result::is_err), "{request:?}: {answers:?}");
    }
    // Another account may read less. A new password makes no other account.
    let other = Rules { own: Some(credential("robot")), ..shared() };
    let setting = restart(setting, &[("good.test", &sources, other)], EngineSettings::default());
    let answers = images.ask(&setting, &by(OPEN, None)).await;
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    let renewed = Rules { own: Some(cache::Credential::new("larder", "a new password")), ..shared() };
    let setting = restart(setting, &[("good.test", &sources, renewed)], EngineSettings::default());
    images.assert_given(&setting, &by(OPEN, None)).await;

    // While the origin can be asked, it is: and its no is the end of it.
    images.origin.fail(None);
    images.origin.change("team/open", |repository| repository.readers = Readers::Only(vec![credential("ann")]));
    let setting = restart(setting, &[("good.test", &sources, shared())], EngineSettings::default());
    for request in strangers(OPEN) {
        images.assert_refused(&setting, &request, FailureKind::Denied).await;
    }
    images.origin.fail(down());
    let setting = restart(setting, &[("good.test", &sources, shared())], EngineSettings::default());
    let answers = images.ask(&setting, &by(OPEN, None)).await;
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_no_longer_is_given_only_where_the_upstream_says_so() {
    // Nothing is remembered for long, but an outage is bridged.
    let settings = EngineSettings { public_for: Duration::ZERO, ..EngineSettings::default() };
    for gone in [false, true] {
        for serves in [false, true] {
            let images = Images::new();
            let rules = Rules { serve_when_denied: serves && !gone, serve_when_gone: serves && gone, ..shared() };
            let sources = [images.origin.clone()];
            let setting = start_with(&[("good.test", &sources, rules)], settings.clone(), |store| Arc::new(store));
            let request = by(OPEN, None);
            images.assert_given(&setting, &request).await;
            images.await_kept(&setting, OPEN).await;
            if gone {
                images.origin.hide();
            }
            images.origin.change("team/open", |repository| repository.readers = Readers::Only(Vec::new()));
            let engine = &setting.engine;
            let by_digest = Reference::Digest(images.open);
            let answers = [
                engine.manifest(&request, &tag()).await.map(drop),
                engine.manifest(&request, &by_digest).await.map(drop),
                engine.head_blob(&request, &images.layer()).await.map(drop),
                setting.fetch(&request, &images.layer()).await.map(drop),
            ];
            let kind = if gone { FailureKind::NotFound } else { FailureKind::Denied };
            let expected = if serves { Ok(()) } else { Err(kind) };
            for answer in answers {
                assert_eq!(answer.map_err(|error| error.kind), expected, "gone: {gone}, serves: {serves}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_credential_of_his_own_is_not_held_to_the_limit_of_the_shared_one() {
    let images = Images::new();
    let setting = images.start(shared());
    images.origin.fail(Some(|ask| {
        let limited = FailureKind::RateLimited { retry_after: Duration::from_secs(60) };
        (ask.authority == Authority::Own).then_some(limited)
    }));
    setting.engine.manifest(&by(CLOSED, Some("ann")), &tag()).await.expect("ann may");
    let error = setting.engine.manifest(&by(OPEN, None), &tag()).await.unwrap_err();
    assert!(matches!(error.kind, FailureKind::RateLimited { .. }));
}
