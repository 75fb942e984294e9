//! Whose answer is whose: what the engine gives to one client never depends on what another one may, may not, or claims.
#![allow(
    clippy::unwrap_used,
    clippy::cloned_ref_to_slice_refs,
    reason = "a test fails where it must, and says what it has"
)]

mod support;

use std::time::Duration;

use cache::{Authority, DocumentQuery, EngineSettings, FailureKind, Freshness, Outcome, Rules};
use oci::Reference;
use support::{Origin, Readers, by, content, credential, read, start, until};

const ASKS_ALWAYS: fn() -> Rules = || Rules { freshness: Freshness::For(Duration::ZERO), ..Rules::default() };

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_says_yes_to_everything_gets_nobody_elses_bytes() {
    let honest = Origin::new("honest");
    honest.repository("private/app", Readers::Only(vec![credential("ann")]));
    let manifest = honest.manifest("private/app", "v1", "secret");
    let small = honest.blob("private/app", &content(b's', 1000));
    let large = honest.blob("private/app", &content(b'l', 200_000));
    let evil = Origin::new("evil");
    evil.repository("x/y", Readers::Anyone);
    let tagged = evil.manifest("x/y", "v1", "bait");
    let setting = start(&[("good.test", &[honest], Rules::default()), ("evil.test", &[evil.clone()], ASKS_ALWAYS())]);
    let (engine, ann) = (&setting.engine, by("good.test/private/app", Some("ann")));
    engine.manifest(&ann, &"v1".parse().unwrap()).await.unwrap();
    for digest in [&small, &large] {
        setting.fetch(&ann, digest).await.unwrap();
        until("the blob is kept", || setting.store.root().join("blobs/sha256").join(digest.hex()).exists()).await;
    }
    let thief = by("evil.test/x/y", None);
    assert_eq!(engine.manifest(&thief, &"v1".parse().unwrap()).await.unwrap().digest, tagged);

    evil.lie(manifest);
    let error = engine.manifest(&thief, &Reference::Digest(manifest)).await.unwrap_err();
    assert_eq!(error.kind, FailureKind::NotFound);
    assert_eq!(engine.manifest(&thief, &"v1".parse().unwrap()).await.unwrap().digest, tagged);
    for digest in [&small, &large] {
        for _ in 0..2 {
            // HEAD is how a lie would become a right, so it comes first and again.
            assert_eq!(engine.head_blob(&thief, digest).await.unwrap().0, 1, "what the origin says, not what is so");
            match engine.blob(&thief, digest).await {
                Err(error) => assert_eq!(error.kind, FailureKind::NotFound),
                Ok(reply) => panic!("{:?} of a private blob", read(reply).await.map(|bytes| bytes.len())),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_of_one_registry_share_bytes_after_one_question() {
    let origin = Origin::new("origin");
    let layer = content(b'l', 200_000);
    for name in ["a/one", "a/two"] {
        origin.repository(name, Readers::Anyone);
        origin.blob(name, &layer);
    }
    origin.manifest("a/two", "v1", "two");
    let setting = start(&[("good.test", &[origin.clone()], Rules::default())]);
    let digest = oci::Digest::sha256(&layer);
    assert_eq!(setting.fetch(&by("good.test/a/one", None), &digest).await.unwrap(), layer);
    let two = by("good.test/a/two", None);
    setting.engine.manifest(&two, &"v1".parse().unwrap()).await.unwrap();
    let blob = setting.store.root().join("repositories/good.test/a/one/_blobs/sha256").join(digest.hex());
    until("the fill is recorded", || blob.exists()).await;
    let heads = origin.calls("head_blob");
    let gate = origin.gate();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let (engine, two) = (setting.engine.clone(), two.clone());
            tokio::spawn(async move { engine.blob(&two, &digest).await })
        })
        .collect();
    until("somebody asks", || origin.calls("head_blob") > heads).await;
    gate.add_permits(1000);
    for client in clients {
        let reply = client.await.unwrap().unwrap();
        assert_ne!(reply.outcome, Outcome::Miss);
        assert_eq!(read(reply).await.unwrap(), layer);
    }
    assert_eq!(origin.calls("blob"), 1, "bytes that are there are not fetched again");
    assert!(origin.calls("head_blob") - heads <= 5, "{} questions for a herd", origin.calls("head_blob") - heads);
}

/// Ann and Bob have both read a repository, so that both have a grant; then the origin no longer knows Ann.
async fn ann_loses_her_right(origin: &std::sync::Arc<Origin>, setting: &support::Setting) {
    let tag = "v1".parse().unwrap();
    for user in ["ann", "bob"] {
        setting.engine.manifest(&by("good.test/p/app", Some(user)), &tag).await.unwrap();
    }
    origin.change("p/app", |repository| repository.readers = Readers::Only(vec![credential("bob")]));
}

fn for_ann_and_bob() -> std::sync::Arc<Origin> {
    let origin = Origin::new("origin");
    origin.repository("p/app", Readers::Only(vec![credential("ann"), credential("bob")]));
    origin.manifest("p/app", "v1", "text");
    origin
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_one_client_is_not_the_answer_to_another() {
    for hides in [false, true] {
        let origin = for_ann_and_bob();
        let setting = start(&[("good.test", &[origin.clone()], ASKS_ALWAYS())]);
        ann_loses_her_right(&origin, &setting).await;
        if hides {
            origin.hide();
        }
        let (ann, bob) = (by("good.test/p/app", Some("ann")), by("good.test/p/app", Some("bob")));
        let before = origin.calls("head_manifest");
        let gate = origin.gate();
        let ask = |request: &cache::Request| {
            let (engine, request) = (setting.engine.clone(), request.clone());
            tokio::spawn(async move { engine.manifest(&request, &"v1".parse().unwrap()).await })
        };
        let refused = ask(&ann);
        until("ann asks first", || origin.calls("head_manifest") > before).await;
        let joined = ask(&bob);
        tokio::time::sleep(Duration::from_millis(20)).await;
        gate.add_permits(1000);
        assert!(refused.await.unwrap().is_err());
        joined.await.unwrap().expect("ann's refusal");
        // Nor for as long as the refusal is remembered.
        assert!(ask(&ann).await.unwrap().is_err());
        ask(&bob).await.unwrap().expect("ann's refusal, remembered");
        let tags = DocumentQuery::Tags { n: None, last: None };
        assert!(setting.engine.document(&ann, &tags).await.is_err());
        setting.engine.document(&bob, &tags).await.expect("ann's refusal of a list");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_one_client_may_not_start_is_started_by_another() {
    let origin = for_ann_and_bob();
    let layer = content(b'l', 200_000);
    let digest = origin.blob("p/app", &layer);
    let setting = start(&[("good.test", &[origin.clone()], Rules::default())]);
    ann_loses_her_right(&origin, &setting).await;
    let (ann, bob) = (by("good.test/p/app", Some("ann")), by("good.test/p/app", Some("bob")));
    // Her grant is still remembered, so that a fill begins with her right.
    let error = setting.fetch(&ann, &digest).await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Denied);
    assert_eq!(setting.fetch(&bob, &digest).await.expect("ann's refusal, remembered").len(), layer.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_fill_that_another_may_not_start_starts_it_again() {
    for _ in 0..20 {
        let origin = for_ann_and_bob();
        let layer = content(b'l', 200_000);
        let digest = origin.blob("p/app", &layer);
        let setting = start(&[("good.test", &[origin.clone()], Rules::default())]);
        ann_loses_her_right(&origin, &setting).await;
        let gate = origin.gate();
        let fetch = |user: &'static str| {
            let engine = setting.engine.clone();
            tokio::spawn(async move {
                match engine.blob(&by("good.test/p/app", Some(user)), &digest).await {
                    Ok(reply) => read(reply).await,
                    Err(error) => Err(error),
                }
            })
        };
        let ann = fetch("ann");
        until("ann's fill begins", || origin.calls("blob") == 1).await;
        let bobs: Vec<_> = (0..8).map(|_| fetch("bob")).collect();
        tokio::time::sleep(Duration::from_millis(2)).await;
        gate.add_permits(1000);
        assert!(ann.await.unwrap().is_err());
        for bob in bobs {
            assert_eq!(bob.await.unwrap().expect("ann's refusal").len(), layer.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_credential_is_not_held_to_the_limit_of_those_without() {
    let origin = for_ann_and_bob();
    origin.repository("p/open", Readers::Anyone);
    origin.manifest("p/open", "v1", "open");
    let setting = start(&[("good.test", &[origin.clone()], ASKS_ALWAYS())]);
    let limit: fn(&cache::Ask) -> Option<FailureKind> = |ask| {
        let limited = FailureKind::RateLimited { retry_after: Duration::from_secs(60) };
        (ask.authority == Authority::Anonymous).then_some(limited)
    };
    let (ann, tag) = (by("good.test/p/open", Some("ann")), "v1".parse().unwrap());
    origin.fail(Some(limit));
    setting.engine.manifest(&ann, &tag).await.expect("before it is known to be public");
    origin.fail(None);
    setting.engine.manifest(&by("good.test/p/open", None), &tag).await.unwrap();
    origin.fail(Some(limit));
    setting.engine.manifest(&ann, &tag).await.expect("when it is known to be public");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_that_there_are_no_referrers_decides_nothing_for_others() {
    let origin = for_ann_and_bob();
    origin.hide();
    let setting = start(&[("good.test", &[origin.clone()], Rules::default())]);
    let bob = by("good.test/p/app", Some("bob"));
    let digest = setting.engine.manifest(&bob, &"v1".parse().unwrap()).await.unwrap().digest;
    let query = DocumentQuery::Referrers { digest, artifact_type: None, page: None };
    let _ = setting.engine.document(&by("good.test/p/app", None), &query).await;
    let reply = setting.engine.document(&bob, &query).await.unwrap();
    assert!(std::str::from_utf8(&reply.document.bytes).unwrap().contains(r#""digest""#), "the list of an outsider");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_anybody_can_think_up_are_not_all_kept() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    let known = origin.manifest("a/b", "v1", "text");
    let setting = start(&[("good.test", &[origin.clone()], Rules::default())]);
    let request = by("good.test/a/b", None);
    setting.engine.manifest(&request, &"v1".parse().unwrap()).await.unwrap();
    for n in 0..200_u8 {
        let digest = oci::Digest::sha256(&[n]);
        let page = DocumentQuery::Tags { n: Some(1), last: Some(format!("t{n}")) };
        let unknown = DocumentQuery::Referrers { digest, artifact_type: None, page: None };
        let odd = DocumentQuery::Referrers { digest: known, artifact_type: None, page: Some(format!("p={n}")) };
        for query in [page, unknown, odd] {
            setting.engine.document(&request, &query).await.unwrap();
        }
    }
    let referrers = DocumentQuery::Referrers { digest: known, artifact_type: None, page: None };
    for query in [DocumentQuery::Tags { n: None, last: None }, referrers] {
        setting.engine.document(&request, &query).await.unwrap();
        let again = setting.engine.document(&request, &query).await.unwrap();
        assert_eq!(again.outcome, Outcome::Hit);
    }
    let folder = setting.store.root().join("repositories/good.test/a/b/_documents/sha256");
    let kept = std::fs::read_dir(folder).unwrap().count();
    assert!(kept <= 256, "{kept} lists are kept");
}

/// As many as the clients of one image ask for: however their places fall, they stay.
#[tokio::test(flavor = "multi_thread")]
async fn lists_of_a_few_images_do_not_push_each_other_out() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    origin.manifest("a/b", "v1", "text");
    let setting = start(&[("good.test", &[origin.clone()], Rules::default())]);
    let request = by("good.test/a/b", None);
    setting.engine.manifest(&request, &"v1".parse().unwrap()).await.unwrap();
    let queries: Vec<_> = (0..40_u8)
        .map(|n| DocumentQuery::Referrers { digest: oci::Digest::sha256(&[n]), artifact_type: None, page: None })
        .collect();
    for query in &queries {
        setting.engine.document(&request, query).await.unwrap();
    }
    for query in &queries {
        let again = setting.engine.document(&request, query).await.unwrap();
        assert_eq!(again.outcome, Outcome::Hit, "{query:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_public_no_longer_is_given_to_those_who_may_and_to_nobody_else() {
    let origin = for_ann_and_bob();
    origin.change("p/app", |repository| repository.readers = Readers::Anyone);
    let layer = content(b'l', 200_000);
    let digest = origin.blob("p/app", &layer);
    let setting = start(&[("good.test", &[origin.clone()], ASKS_ALWAYS())]);
    setting.engine.manifest(&by("good.test/p/app", None), &"v1".parse().unwrap()).await.unwrap();
    origin.change("p/app", |repository| repository.readers = Readers::Only(vec![credential("bob")]));
    let rest = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let pieces = [layer.slice(..100_000), layer.slice(100_000..)].map(support::Piece::Bytes);
    let [first, second] = pieces;
    origin.body(digest, Some(200_000), vec![first, support::Piece::Wait(rest.clone()), second]);
    // Anonymous first, for it was public a moment ago; then as Bob.
    let bob = setting.engine.blob(&by("good.test/p/app", Some("bob")), &digest).await.expect("bob may");
    for (user, kind) in [(None, FailureKind::Unauthorized), (Some("ann"), FailureKind::Denied)] {
        let request = by("good.test/p/app", user);
        let error = setting.engine.blob(&request, &digest).await.map(drop).expect_err("a fill of bob's");
        assert_eq!(error.kind, kind);
        let error = setting.engine.head_blob(&request, &digest).await.expect_err("a fill of bob's");
        assert_eq!(error.kind, kind);
    }
    rest.add_permits(10);
    assert!(read(bob).await.unwrap() == layer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_goes_on_without_its_client_and_ends_with_the_engine() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    let layer = content(b'l', 200_000);
    let digest = origin.blob("a/b", &layer);
    let setting = start(&[("good.test", &[origin.clone()], Rules::default())]);
    let request = by("good.test/a/b", None);
    let gate = origin.gate();
    let client = {
        let (engine, request) = (setting.engine.clone(), request.clone());
        tokio::spawn(async move { engine.blob(&request, &digest).await.map(drop) })
    };
    until("the right is asked for", || origin.calls("head_blob") == 1).await;
    client.abort();
    assert!(client.await.is_err());
    // The question has its answer all the same, for the next.
    gate.add_permits(1);
    let client = {
        let (engine, request) = (setting.engine.clone(), request.clone());
        tokio::spawn(async move { engine.blob(&request, &digest).await.map(drop) })
    };
    until("the fill begins", || origin.calls("blob") == 1).await;
    client.abort();
    assert!(client.await.is_err());
    gate.add_permits(100);
    let path = setting.store.root().join("blobs/sha256").join(digest.hex());
    until("the blob is kept", || path.exists()).await;
    assert_eq!((origin.calls("head_blob"), origin.calls("blob")), (1, 1));

    let other = origin.blob("a/b", &content(b'o', 200_000));
    let never = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    origin.body(other, Some(200_000), vec![support::Piece::Wait(never)]);
    let reply = setting.engine.blob(&request, &other).await.unwrap();
    let reading = tokio::spawn(read(reply));
    tokio::time::timeout(support::SOON, setting.engine.shutdown()).await.expect("it does not end");
    let error = reading.await.unwrap().map(|bytes| bytes.len()).expect_err("no more can come");
    assert_eq!(error.kind, FailureKind::Unavailable);
    assert_eq!(std::fs::read_dir(setting.store.root().join("ingest")).unwrap().count(), 0);
    let error = setting.engine.blob(&request, &other).await.map(drop).expect_err("it has ended");
    assert_eq!(error.kind, FailureKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_was_lost_is_lost_through_an_outage_too() {
    let origin = for_ann_and_bob();
    let layer = content(b'l', 200_000);
    let digest = origin.blob("p/app", &layer);
    let settings = EngineSettings { grant_for: Duration::ZERO, ..EngineSettings::default() };
    let setting = support::start_with(&[("good.test", &[origin.clone()], Rules::default())], settings, |store| {
        std::sync::Arc::new(store)
    });
    let (ann, bob) = (by("good.test/p/app", Some("ann")), by("good.test/p/app", Some("bob")));
    let tag = "v1".parse().unwrap();
    let manifest = Reference::Digest(setting.engine.manifest(&ann, &tag).await.unwrap().digest);
    assert!(setting.fetch(&ann, &digest).await.unwrap() == layer);
    setting.engine.manifest(&bob, &tag).await.unwrap();
    until("the blob is kept", || {
        setting.store.root().join("repositories/good.test/p/app/_blobs/sha256").join(digest.hex()).exists()
    })
    .await;
    origin.change("p/app", |repository| repository.readers = Readers::Only(vec![credential("bob")]));
    let unknown = by("good.test/p/app", Some("eve"));
    let nobody = by("good.test/p/app", None);
    for outage in [false, true] {
        if outage {
            origin.fail(Some(|_| Some(FailureKind::Unavailable)));
        }
        for request in [&ann, &unknown, &nobody] {
            let engine = &setting.engine;
            for reference in [&tag, &manifest] {
                engine.manifest(request, reference).await.map(|reply| reply.digest).expect_err("without a right");
            }
            engine.blob(request, &digest).await.map(drop).expect_err("without a right");
            engine.head_blob(request, &digest).await.expect_err("without a right");
            let tags = DocumentQuery::Tags { n: None, last: None };
            engine.document(request, &tags).await.map(drop).expect_err("without a right");
        }
        for reference in [&tag, &manifest] {
            setting.engine.manifest(&bob, reference).await.expect("with a right");
        }
        assert!(setting.fetch(&bob, &digest).await.expect("with a right") == layer);
        setting.engine.head_blob(&bob, &digest).await.expect("with a right");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herd_that_asks_how_long_a_blob_is_costs_one_question() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    let digest = origin.blob("a/b", &content(b'l', 200_000));
    let gate = origin.gate();
    let setting = start(&[("good.test", &[origin.clone()], Rules::default())]);
    let mut herd = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let engine = setting.engine.clone();
        herd.spawn(async move { engine.head_blob(&by("good.test/a/b", None), &digest).await });
    }
    until("the origin to be asked", || origin.calls("head_blob") > 0).await;
    gate.add_permits(1000);
    let mut joined = 0;
    while let Some(answer) = herd.join_next().await {
        let (size, outcome) = answer.unwrap().unwrap();
        assert_eq!(size, 200_000);
        joined += usize::from(outcome == Outcome::Joined);
    }
    // How many come before the answer is a matter of scheduling; those who do share it.
    assert_eq!(origin.calls("head_blob"), 50 - joined);
    assert!(joined > 0, "nobody shared a question");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_by_now_is_not_public_in_an_outage_either() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    let digest = origin.manifest("a/b", "v1", "text");
    let layer = content(b'l', 200_000);
    let blob = origin.blob("a/b", &layer);
    // Nothing is public for long, but an outage is bridged.
    let settings = EngineSettings { public_for: Duration::ZERO, ..EngineSettings::default() };
    for asked in ["manifest", "blob", "head"] {
        origin.change("a/b", |repository| repository.readers = Readers::Anyone);
        let setting =
            support::start_with(&[("good.test", &[origin.clone()], ASKS_ALWAYS())], settings.clone(), |store| {
                std::sync::Arc::new(store)
            });
        let request = by("good.test/a/b", None);
        setting.engine.manifest(&request, &"v1".parse().unwrap()).await.unwrap();
        assert!(setting.fetch(&request, &blob).await.unwrap() == layer);
        until("the end of the fill", || setting.store.root().join("repositories/good.test/a/b/_blobs").exists()).await;

        let down: fn(&cache::Ask) -> Option<FailureKind> = |_| Some(FailureKind::Unavailable);
        origin.fail(Some(down));
        let by_digest = Reference::Digest(digest);
        assert_eq!(setting.engine.manifest(&request, &by_digest).await.unwrap().outcome, Outcome::Stale);
        origin.fail(None);

        origin.hide();
        origin.change("a/b", |repository| repository.readers = Readers::Only(vec![credential("bob")]));
        // That the origin could not be asked is remembered for a moment.
        let end = std::time::Instant::now() + support::SOON;
        loop {
            let answer = match asked {
                "manifest" => setting.engine.manifest(&request, &by_digest).await.map(|reply| reply.outcome),
                "blob" => setting.engine.blob(&request, &blob).await.map(|reply| reply.outcome),
                _ => setting.engine.head_blob(&request, &blob).await.map(|reply| reply.1),
            };
            match answer {
                Ok(Outcome::Stale) => assert!(std::time::Instant::now() < end, "the origin is not asked again"),
                answer => {
                    assert_eq!(answer.expect_err("it is private").kind, FailureKind::NotFound, "{asked}");
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        origin.fail(Some(down));
        assert_refused(&setting, &request, &blob).await;
        let tag = "v1".parse().unwrap();
        assert!(setting.engine.manifest(&request, &tag).await.is_err(), "{asked}: the tag is given to anyone");
        assert!(setting.engine.manifest(&request, &by_digest).await.is_err(), "{asked}: it is given to anyone");
        origin.fail(None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_no_blob_hides_nothing() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    let digest = origin.manifest("a/b", "v1", "text");
    // Nothing is public for long, so that the origin is asked again.
    let settings = EngineSettings { public_for: Duration::ZERO, ..EngineSettings::default() };
    let setting = support::start_with(&[("good.test", &[origin.clone()], ASKS_ALWAYS())], settings, |store| {
        std::sync::Arc::new(store)
    });
    let request = by("good.test/a/b", None);
    setting.engine.manifest(&request, &"v1".parse().unwrap()).await.unwrap();
    // As many registries do, and clients ask for it nevertheless.
    assert_eq!(setting.engine.head_blob(&request, &digest).await.unwrap_err().kind, FailureKind::NotFound);
    origin.fail(Some(|_| Some(FailureKind::Unavailable)));
    let reply = setting.engine.manifest(&request, &"v1".parse().unwrap()).await.unwrap();
    assert_eq!(reply.outcome, Outcome::Stale, "the repository is as public as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_not_there_is_not_there_through_an_outage() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    origin.manifest("a/b", "v1", "text");
    let setting = start(&[("good.test", &[origin.clone()], ASKS_ALWAYS())]);
    let request = by("good.test/a/b", None);
    let (there, absent, unknown) = ("v1".parse().unwrap(), "v2".parse().unwrap(), "v3".parse().unwrap());
    setting.engine.manifest(&request, &there).await.unwrap();
    let kind = async |tag| setting.engine.manifest(&request, tag).await.map_err(|error| error.kind).map(|_| ());
    assert_eq!(kind(&absent).await, Err(FailureKind::NotFound));
    origin.fail(Some(|_| Some(FailureKind::Unavailable)));
    // Longer than that a no is repeated without asking.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(kind(&absent).await, Err(FailureKind::NotFound));
    assert_eq!(kind(&unknown).await, Err(FailureKind::Unavailable), "nobody knows");
    origin.fail(None);
    origin.manifest("a/b", "v2", "text");
    until("the tag is there", || {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(kind(&absent))).is_ok()
    })
    .await;
}

/// Asserts that nobody's right is not enough for a blob.
async fn assert_refused(setting: &support::Setting, request: &cache::Request, blob: &oci::Digest) {
    assert!(setting.engine.blob(request, blob).await.is_err(), "it is given to anyone");
    assert!(setting.engine.head_blob(request, blob).await.is_err(), "it is given to anyone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_by_now_is_given_to_those_who_may_and_closed_to_all_others() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    let digest = origin.manifest("a/b", "v1", "text");
    let blob = origin.blob("a/b", &content(b'l', 200_000));
    for asked in ["tag", "blob"] {
        origin.change("a/b", |repository| repository.readers = Readers::Anyone);
        let setting = start(&[("good.test", &[origin.clone()], ASKS_ALWAYS())]);
        let (anyone, bob) = (by("good.test/a/b", None), by("good.test/a/b", Some("bob")));
        setting.engine.manifest(&anyone, &"v1".parse().unwrap()).await.unwrap();
        origin.hide();
        origin.change("a/b", |repository| repository.readers = Readers::Only(vec![credential("bob")]));
        match asked {
            "tag" => drop(setting.engine.manifest(&bob, &"v1".parse().unwrap()).await.unwrap()),
            _ => drop(setting.fetch(&bob, &blob).await.unwrap()),
        }
        let error = setting.engine.manifest(&anyone, &Reference::Digest(digest)).await.expect_err("it is bob's");
        assert_eq!(error.kind, FailureKind::NotFound, "{asked}");
    }
}
