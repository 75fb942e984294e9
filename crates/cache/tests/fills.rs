//! Fills from sources that send wrong bytes: what readers got, and what they get then.
#![allow(
    clippy::unwrap_used,
    clippy::cloned_ref_to_slice_refs,
    reason = "a test fails where it must, and says what it has"
)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use cache::{Content, FailureKind, FillReader, Filling, Rules};
use oci::Digest;
use support::{Origin, Piece, Readers, Setting, by, content, give, rest, spoilt, start, until};
use tokio::sync::Semaphore;

const SIZE: usize = 400_000;

/// A source of the blob `bytes` names, that sends `pieces`.
fn source(label: &str, bytes: &Bytes, pieces: Vec<Piece>) -> Arc<Origin> {
    let origin = Origin::new(label);
    origin.repository("a/b", Readers::Anyone);
    let digest = origin.blob("a/b", bytes);
    origin.body(digest, Some(bytes.len() as u64), pieces);
    origin
}

async fn filling(setting: &Setting, digest: &Digest) -> Filling {
    match setting.engine.blob(&by("good.test/a/b", None), digest).await.unwrap().content {
        Content::Filling(filling) => filling,
        Content::Whole(_) => panic!("it cannot be there yet"),
    }
}

/// A result that is not printed whole.
fn length(result: Result<Bytes, cache::Error>) -> Result<usize, cache::Error> {
    result.map(|bytes| bytes.len())
}

/// Reads up to an offset.
async fn take(reader: &mut FillReader, bytes: u64) -> Bytes {
    let mut all = Vec::new();
    while (all.len() as u64) < bytes {
        all.extend_from_slice(&give(reader, bytes - all.len() as u64).await.unwrap().expect("there is more"));
    }
    all.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_whole_blob_of_wrong_bytes_however_many_sources_were_wrong() {
    let bytes = content(b'r', SIZE);
    let (go, third) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    // The first source is wrong at byte 1000, the second only at byte 200,000; the third is right.
    let sources = [
        source("one", &bytes, vec![Piece::Bytes(spoilt(&bytes, 1000)), Piece::Wait(go.clone())]),
        source("two", &bytes, vec![Piece::Bytes(spoilt(&bytes, 200_000))]),
        source("three", &bytes, vec![Piece::Wait(third.clone()), Piece::Bytes(bytes.clone())]),
    ];
    let setting = start(&[("good.test", &sources, Rules::default())]);
    let digest = Digest::sha256(&bytes);
    let filling = filling(&setting, &digest).await;
    let mut before = filling.reader(0..SIZE as u64);
    let mut wrong = filling.reader(0..SIZE as u64);
    let mut unlucky = filling.reader(0..SIZE as u64);
    let first = take(&mut before, 500).await;
    assert_eq!(take(&mut wrong, 5000).await, spoilt(&bytes, 1000).slice(..5000));
    go.add_permits(1);
    until("the third is asked", || sources[2].calls("blob") == 1).await;
    take(&mut unlucky, 250_000).await;
    third.add_permits(1);
    let path = setting.store.root().join("blobs/sha256").join(digest.hex());
    until("it is whole", || path.exists()).await;
    assert!([first, rest(&mut before).await.unwrap()].concat() == bytes, "what was right goes on");
    assert_eq!(length(rest(&mut wrong).await).expect_err("a whole blob, and wrong").kind, FailureKind::Invalid);
    assert_eq!(length(rest(&mut unlucky).await).expect_err("a whole blob, and wrong").kind, FailureKind::Invalid);
    assert!(setting.fetch(&by("good.test/a/b", None), &digest).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_got_nothing_yet_has_got_nothing_wrong() {
    let bytes = content(b'r', SIZE);
    let right = Arc::new(Semaphore::new(0));
    let sources = [
        source("one", &bytes, vec![Piece::Bytes(spoilt(&bytes, 1000))]),
        source("two", &bytes, vec![Piece::Wait(right.clone()), Piece::Bytes(bytes.clone())]),
    ];
    let setting = start(&[("good.test", &sources, Rules::default())]);
    let digest = Digest::sha256(&bytes);
    let filling = filling(&setting, &digest).await;
    until("the second is asked", || sources[1].calls("blob") == 1).await;
    right.add_permits(1);
    let path = setting.store.root().join("blobs/sha256").join(digest.hex());
    until("it is whole", || path.exists()).await;
    let part = rest(&mut filling.reader(300_000..350_000)).await.unwrap();
    assert_eq!(part, bytes.slice(300_000..350_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_two_sources_that_do_not_fit_are_fetched_from_one() {
    let bytes = content(b'r', SIZE);
    // The first source sends wrong bytes and stops; the second one goes on from there, and is innocent.
    let sources = [
        source(
            "one",
            &bytes,
            vec![Piece::Bytes(spoilt(&bytes, 1000).slice(..10_000)), Piece::Fail(FailureKind::Timeout)],
        ),
        source("two", &bytes, vec![Piece::Bytes(bytes.clone())]),
    ];
    let setting = start(&[("good.test", &sources, Rules::default())]);
    let digest = Digest::sha256(&bytes);
    // Who got the first one's bytes is not told that they were right, but the blob is there for the next.
    let _ = setting.fetch(&by("good.test/a/b", None), &digest).await;
    let path = setting.store.root().join("blobs/sha256").join(digest.hex());
    until("it is whole", || path.exists()).await;
    assert!(setting.fetch(&by("good.test/a/b", None), &digest).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_wrong_is_not_the_first_for_the_next_request() {
    let bytes = content(b'r', SIZE);
    let sources = [source("one", &bytes, vec![]), source("two", &bytes, vec![Piece::Bytes(bytes.clone())])];
    let digest = Digest::sha256(&bytes);
    // It lies about the length too, so that what was told to the client cannot be kept any more.
    sources[0].body(digest, Some(100_000), vec![Piece::Bytes(bytes.slice(..100_000))]);
    let setting = start(&[("good.test", &sources, Rules::default())]);
    let request = by("good.test/a/b", None);
    assert!(setting.fetch(&request, &digest).await.is_err());
    assert!(setting.fetch(&request, &digest).await.expect("the other source") == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_the_only_source_are_not_fetched_again_at_once() {
    let bytes = content(b'r', SIZE);
    let origin = source("one", &bytes, vec![Piece::Bytes(spoilt(&bytes, SIZE - 1))]);
    let setting = start(&[("good.test", &[origin.clone()], Rules::default())]);
    let (digest, request) = (Digest::sha256(&bytes), by("good.test/a/b", None));
    let error = length(setting.fetch(&request, &digest).await).expect_err("wrong bytes");
    assert_eq!(error.kind, FailureKind::Invalid);
    // Until the failed fill is off the list it may be joined; then it is remembered.
    for _ in 0..20 {
        let error = length(setting.fetch(&request, &digest).await).expect_err("wrong bytes");
        assert_eq!(error.kind, FailureKind::Invalid);
    }
    let calls = origin.calls("blob");
    assert!(calls <= 3, "{calls} fills of 21 requests");
    origin.body(digest, Some(SIZE as u64), vec![Piece::Bytes(bytes.clone())]);
    let end = std::time::Instant::now() + support::SOON;
    while setting.fetch(&request, &digest).await.is_err() {
        assert!(std::time::Instant::now() < end, "the source is not asked again");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
