//! A tag that is said to have moved: the origin is asked, and it alone is believed.
#![allow(clippy::unwrap_used, reason = "a test fails where it must, and says what it has")]

mod support;

use cache::{FailureKind, Outcome, Rules};
use oci::{Digest, Reference, Tag};
use support::{Origin, Readers, by, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_said_to_have_moved_is_asked_for_once() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    let old = origin.manifest("a/b", "v1", "old");
    let setting = start(&[("good.test", std::slice::from_ref(&origin), Rules::default())]);
    let request = by("good.test/a/b", None);
    let tag: Tag = "v1".parse().unwrap();
    let answer = async || {
        setting.engine.manifest(&request, &Reference::Tag(tag.clone())).await.map(|reply| (reply.digest, reply.outcome))
    };
    let asked = || origin.calls("manifest") + origin.calls("head_manifest");
    assert_eq!(answer().await.unwrap(), (old, Outcome::Miss));

    // What is known is what is expected: nobody is asked.
    let before = asked();
    setting.engine.expect(&request.name, &tag, &old).await;
    assert_eq!(answer().await.unwrap(), (old, Outcome::Hit));
    assert_eq!(asked(), before);

    let new = origin.manifest("a/b", "v1", "new");
    assert_eq!(answer().await.unwrap(), (old, Outcome::Hit), "it is fresh");
    setting.engine.expect(&request.name, &tag, &new).await;
    assert_eq!(answer().await.unwrap(), (new, Outcome::Miss));
    let after = asked();
    assert_eq!(answer().await.unwrap(), (new, Outcome::Hit));
    assert_eq!(asked(), after);

    // The origin alone is believed, and asked once for it.
    let never = Digest::sha256(b"never");
    setting.engine.expect(&request.name, &tag, &never).await;
    assert_eq!(answer().await.unwrap(), (new, Outcome::Revalidated));
    assert_eq!(answer().await.unwrap(), (new, Outcome::Hit));

    // In an outage the last answer is as good as ever.
    setting.engine.expect(&request.name, &tag, &never).await;
    origin.fail(Some(|_| Some(FailureKind::Unavailable)));
    assert_eq!(answer().await.unwrap(), (new, Outcome::Stale));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_asked_for_anew_when_somebody_wishes_and_not_more_than_once_a_second() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    origin.manifest("a/b", "v1", "old");
    let setting = start(&[("good.test", std::slice::from_ref(&origin), Rules::default())]);
    let request = by("good.test/a/b", None);
    let tag: Tag = "v1".parse().unwrap();
    let answer = async || {
        setting.engine.manifest(&request, &Reference::Tag(tag.clone())).await.map(|reply| (reply.digest, reply.outcome))
    };
    answer().await.unwrap();
    let new = origin.manifest("a/b", "v1", "new");
    let renewed = async || {
        setting.engine.renew(&request.name, &tag).await;
        answer().await.unwrap()
    };
    assert_ne!(renewed().await.0, new, "it was asked for just now");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while renewed().await.0 != new {
        assert!(std::time::Instant::now() < deadline, "a second later it is asked for");
        tokio::task::yield_now().await;
    }
}
