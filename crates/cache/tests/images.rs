//! Images that are got whole for ImageCaches, and who may have them afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::cloned_ref_to_slice_refs,
    reason = "a test fails where it must, and says what it has"
)]

mod support;

use std::time::Duration;

use cache::{Authority, FailureKind, Rules, WholeImage};
use oci::{Digest, Name, Platform, Reference};
use support::{Origin, Readers, SOON, Setting, by, content, credential, start};

fn platform(architecture: &str) -> Platform {
    Platform { os: "linux".into(), architecture: architecture.into(), ..Platform::default() }
}

/// A repository with an index of two images, of which each has a small blob and a large one; gives the digests of blobs.
fn publish(origin: &Origin, name: &str, readers: Readers) -> Vec<Digest> {
    origin.repository(name, readers);
    let mut blobs = Vec::new();
    let mut children = Vec::new();
    for (architecture, seed) in [("amd64", b'a'), ("arm64", b'r')] {
        let config = origin.blob(name, &content(seed, 100));
        let layer = origin.blob(name, &content(seed, 300_000));
        let body =
            format!(r#""config":{{"digest":"{config}","size":100}},"layers":[{{"digest":"{layer}","size":300000}}]"#);
        let manifest = origin.image(name, architecture, &body);
        children.push(format!(
            r#"{{"digest":"{manifest}","size":1,"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
        ));
        blobs.extend([config, layer]);
    }
    origin.index(name, "1", &children.join(","));
    blobs
}

async fn get(setting: &Setting, name: &str, architecture: &str) -> Result<WholeImage, cache::Error> {
    let reference: Reference = "1".parse().unwrap();
    setting.engine.get_whole(&Name::parse(name).unwrap(), &reference, &platform(architecture)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_got_for_one_platform_and_stays_private() {
    let origin = Origin::new("origin");
    let blobs = publish(&origin, "acme/app", Readers::Only(vec![credential("larder"), credential("ann")]));
    let setting = start(&[("up.test", &[origin.clone()], Rules::default())]);
    let whole = get(&setting, "up.test/acme/app", "amd64").await.unwrap();
    assert!(whole.bytes > 300_100 && whole.digest != whole.manifest);
    assert_eq!(origin.calls("blob"), 2, "what is for other platforms is left where it is");
    let name = Name::parse("up.test/acme/app").unwrap();
    assert!(setting.engine.has_whole(&name, &whole).await);

    // It comes to those who may have it, and to nobody else.
    let manifest = Reference::Digest(whole.manifest);
    for (user, allowed) in [(None, false), (Some("eve"), false), (Some("ann"), true)] {
        let request = by("up.test/acme/app", user);
        let answers = [
            setting.engine.manifest(&request, &"1".parse().unwrap()).await.map(drop),
            setting.engine.manifest(&request, &manifest).await.map(drop),
            setting.fetch(&request, &blobs[0]).await.map(drop),
            setting.fetch(&request, &blobs[1]).await.map(drop),
        ];
        for answer in answers {
            match answer {
                Ok(()) => assert!(allowed, "{user:?} got it"),
                Err(error) => {
                    assert!(!allowed, "{user:?}: {error}");
                    assert!(matches!(error.kind, FailureKind::Unauthorized | FailureKind::Denied), "{error}");
                }
            }
        }
    }
    assert_eq!(origin.calls("blob"), 2, "the bytes were there");

    // Again it costs nothing but the question whether the tag is still the same, if that.
    assert_eq!(get(&setting, "up.test/acme/app", "amd64").await.unwrap(), whole);
    assert_eq!(origin.calls("blob"), 2);
    let layer = setting.store.root().join("blobs/sha256").join(blobs[1].hex());
    std::fs::remove_file(layer).unwrap();
    assert!(!setting.engine.has_whole(&name, &whole).await);
    get(&setting, "up.test/acme/app", "amd64").await.unwrap();
    assert!(setting.engine.has_whole(&name, &whole).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credentials_that_were_told_are_tried_one_after_the_other() {
    let origin = Origin::new("origin");
    publish(&origin, "acme/app", Readers::Only(vec![credential("ann")]));
    let setting = start(&[("up.test", &[origin.clone()], Rules::default())]);
    let name = Name::parse("up.test/acme/app").unwrap();
    assert!(!setting.engine.is_wanted(&name));
    let tell = |users: &[&str]| {
        let credentials = users.iter().map(|user| credential(user)).collect();
        setting.engine.want([(name.clone(), credentials)].into());
    };
    tell(&["eve"]);
    assert!(setting.engine.is_wanted(&name));
    let error = get(&setting, "up.test/acme/app", "amd64").await.unwrap_err();
    assert!(matches!(error.kind, FailureKind::Unauthorized | FailureKind::Denied), "{error}");
    tell(&["eve", "ann"]);
    // A no is repeated for a moment without asking again.
    let coming = async {
        loop {
            match get(&setting, "up.test/acme/app", "amd64").await {
                Ok(whole) => return whole,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let whole = tokio::time::timeout(SOON, coming).await.unwrap();
    let asked = origin.calls("manifest") + origin.calls("head_manifest");
    assert_eq!(get(&setting, "up.test/acme/app", "amd64").await.unwrap(), whole);
    assert_eq!(origin.calls("manifest") + origin.calls("head_manifest"), asked, "what was granted is known");

    // Taken away, it opens nothing any more; the bytes are there.
    tell(&[]);
    let error = get(&setting, "up.test/acme/app", "amd64").await.unwrap_err();
    assert!(matches!(error.kind, FailureKind::Unauthorized | FailureKind::Denied), "{error}");
    assert!(setting.engine.has_whole(&name, &whole).await);
    setting.engine.want([].into());
    assert!(!setting.engine.is_wanted(&name));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_got_is_told_with_its_reason() {
    let origin = Origin::new("origin");
    publish(&origin, "acme/public", Readers::Anyone);
    publish(&origin, "acme/foreign", Readers::Only(vec![credential("ann")]));
    let setting = start(&[("up.test", &[origin.clone()], Rules::default())]);
    get(&setting, "up.test/acme/public", "arm64").await.unwrap();
    let error = get(&setting, "up.test/acme/public", "s390x").await.unwrap_err();
    assert_eq!(error.kind, FailureKind::NotFound);
    assert!(error.reason.contains("no match for platform linux/s390x"), "{error}");
    let error = get(&setting, "up.test/acme/foreign", "amd64").await.unwrap_err();
    assert!(matches!(error.kind, FailureKind::Unauthorized | FailureKind::Denied), "{error}");
    publish(&origin, "acme/other", Readers::Only(vec![credential("larder")]));
    origin.fail(Some(|ask| (ask.authority == Authority::Anonymous).then_some(FailureKind::Unavailable)));
    let error = get(&setting, "up.test/acme/other", "amd64").await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Unavailable);
}
