//! What a cluster's controller says is in use stays, whatever else goes.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

mod support;

use std::collections::HashSet;
use std::fs::{File, FileTimes};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cache::{Budget, DiskStore, Keep, KeepBudget, KnownImage, Rules, Store, StoreError, StoreSettings};
use oci::{Digest, Image};
use proptest::prelude::*;
use support::{Origin, Readers, Setting, by, content, start, until};

fn image(text: &str) -> Image {
    text.parse().unwrap()
}

fn keep(images: &[(&str, bool)]) -> Keep {
    let known = |(text, keep): &(&str, bool)| KnownImage { image: image(text), digests: Vec::new(), keep: *keep };
    Keep { images: images.iter().map(known).collect(), ..Keep::default() }
}

/// An image with one layer, and its digests: manifest, config, layer.
fn image_of(origin: &Origin, repository: &str, tag: &str, letter: u8) -> [Digest; 3] {
    let config = Bytes::from(format!(r#"{{"os":"linux","architecture":"amd64","seed":{letter}}}"#));
    let layer = content(letter, 100_000);
    let digests = [origin.blob(repository, &config), origin.blob(repository, &layer)];
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"digest":"{}","size":{}}},"layers":[{{"digest":"{}","size":100000}}]}}"#,
        digests[0],
        config.len(),
        digests[1]
    );
    let manifest = Digest::sha256(text.as_bytes());
    origin.change(repository, |repository| {
        repository.tags.insert(tag.to_owned(), manifest);
        repository.manifests.insert(manifest, text.into());
    });
    [manifest, digests[0], digests[1]]
}

async fn pull(setting: &Setting, name: &str, tag: &str, digests: &[Digest; 3]) {
    let request = by(name, None);
    setting.engine.manifest(&request, &tag.parse().unwrap()).await.unwrap();
    for blob in &digests[1..] {
        setting.fetch(&request, blob).await.unwrap();
        let path = setting.store.root().join("blobs/sha256").join(blob.hex());
        until("the blob is kept", || path.exists()).await;
    }
}

fn is_there(setting: &Setting, digest: &Digest) -> bool {
    setting.store.root().join("blobs/sha256").join(digest.hex()).exists()
}

fn age(setting: &Setting, digest: &Digest, ago: Duration) {
    let path = setting.store.root().join("blobs/sha256").join(digest.hex());
    let times = FileTimes::new().set_accessed(SystemTime::now() - ago);
    File::open(path).unwrap().set_times(times).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_is_found_told_of_and_stays() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    let used = image_of(&origin, "a/b", "used", b'u');
    let unused = image_of(&origin, "a/b", "unused", b'v');
    let late = image_of(&origin, "a/b", "late", b'l');
    let setting = start(&[("good.test", &[origin], Rules::default())]);
    pull(&setting, "good.test/a/b", "used", &used).await;
    pull(&setting, "good.test/a/b", "unused", &unused).await;

    let names = [("good.test/a/b:used", true), ("good.test/a/b:unused", false), ("good.test/a/b:late", true)];
    let held = setting.engine.keep(keep(&names)).await;
    let told: Vec<_> = held.iter().map(|one| (one.whole, one.bytes > 100_000, one.digest)).collect();
    assert_eq!(told, [(true, true, Some(used[0])), (true, true, Some(unused[0])), (false, false, None)]);
    assert_eq!(held[0].platforms, ["linux/amd64"]);
    assert!(held[0].fresh_for.is_some() && held[0].age.is_some_and(|age| age < 60));

    // What comes later is protected as it comes, part by part.
    pull(&setting, "good.test/a/b", "late", &late).await;
    for digest in used.iter().chain(&late).chain(&unused) {
        age(&setting, digest, Duration::from_secs(3600));
    }
    setting.store.expire(Duration::from_secs(60)).await.unwrap();
    assert!(used.iter().chain(&late).all(|digest| is_there(&setting, digest)));
    assert!(unused.iter().all(|digest| !is_there(&setting, digest)));

    // A part that is missing is told of.
    std::fs::remove_file(setting.store.root().join("blobs/sha256").join(late[2].hex())).unwrap();
    let held = setting.engine.keep(keep(&names)).await;
    assert_eq!(held.iter().map(|one| one.whole).collect::<Vec<_>>(), [true, false, false]);

    // What is in use no longer counts as used until now.
    setting.engine.keep(keep(&names[1..])).await;
    setting.store.expire(Duration::from_secs(60)).await.unwrap();
    assert!(is_there(&setting, &used[2]));
    age(&setting, &used[2], Duration::from_secs(3600));
    setting.store.expire(Duration::from_secs(60)).await.unwrap();
    assert!(!is_there(&setting, &used[2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_under_a_tag_that_has_moved_stays() {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    let first = image_of(&origin, "a/b", "v1", b'f');
    let setting = start(&[("good.test", std::slice::from_ref(&origin), Rules::default())]);
    pull(&setting, "good.test/a/b", "v1", &first).await;
    let second = image_of(&origin, "a/b", "v1", b's');
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let request = by("good.test/a/b", None);
    setting.engine.renew(&request.name, &"v1".parse().unwrap()).await;
    pull(&setting, "good.test/a/b", "v1", &second).await;
    let mut said = keep(&[("good.test/a/b:v1", true)]);
    said.images[0].digests = vec![first[0]];
    setting.engine.keep(said).await;
    for digest in first.iter().chain(&second) {
        age(&setting, digest, Duration::from_secs(3600));
    }
    setting.store.expire(Duration::from_secs(60)).await.unwrap();
    assert!(first.iter().chain(&second).all(|digest| is_there(&setting, digest)));
    setting.engine.keep(keep(&[("good.test/a/b:v1", true)])).await;
    for digest in first.iter().chain(&second) {
        age(&setting, digest, Duration::from_secs(3600));
    }
    setting.store.expire(Duration::from_secs(60)).await.unwrap();
    assert!(second.iter().all(|digest| is_there(&setting, digest)));
    assert!(first.iter().all(|digest| !is_there(&setting, digest)));
}

#[tokio::test]
async fn nothing_goes_before_it_is_known_again_what_stays() {
    let folder = tempfile::tempdir().unwrap();
    let open = || -> Arc<DiskStore> {
        DiskStore::open(StoreSettings { root: folder.path().to_owned(), budget: Budget::Bytes(1000) }).unwrap()
    };
    let store = open();
    assert_eq!(store.read_keep().await.unwrap(), None);
    let bytes = content(b'a', 900);
    let digest = put(&store, &bytes).await.unwrap();
    store.write_keep(Bytes::from_static(b"{}")).await.unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.read_keep().await.unwrap(), Some(Bytes::from_static(b"{}")));
    put(&store, &content(b'b', 900)).await.unwrap();
    assert_eq!(store.evict().await.unwrap(), (0, 0));
    assert!(store.open(&digest).await.unwrap().is_some());
    store.protect(HashSet::new());
    store.over_budget().await;
    assert_eq!(store.evict().await.unwrap().0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_the_budget_counts_where_it_is_less() {
    let setting = start(&[]);
    let own = setting.store.usage().budget;
    let budget = |percent, bytes| Some(KeepBudget { percent, bytes });
    setting.engine.keep(Keep { budget: budget(100, Some(5000)), ..Keep::default() }).await;
    assert_eq!(setting.store.usage().budget, 5000);
    put(&setting.store, &content(b'a', 4000)).await.unwrap();
    put(&setting.store, &content(b'b', 4000)).await.unwrap();
    let store = setting.store.clone();
    until("the store is within what is said", || store.usage().bytes <= 5000).await;
    setting.engine.keep(Keep { budget: budget(100, Some(u64::MAX)), ..Keep::default() }).await;
    assert_eq!(setting.store.usage().budget, own);
    setting.engine.keep(Keep::default()).await;
    assert_eq!(setting.store.usage().budget, own);
}

async fn put(store: &Arc<DiskStore>, bytes: &Bytes) -> Result<Digest, StoreError> {
    let digest = Digest::sha256(bytes);
    let ingest = store.ingest(&digest, Some(bytes.len() as u64)).await?;
    ingest.write_at(bytes, 0)?;
    ingest.commit(bytes.len() as u64)?;
    Ok(digest)
}

#[derive(Clone, Debug)]
enum Event {
    Put(u8, u16),
    Protect(Vec<u8>),
    Also(u8),
    Evict,
    Expire,
    Age(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..30u8, 1..3000u16).prop_map(|(letter, size)| Event::Put(letter, size)),
        1 => proptest::collection::vec(0..30u8, 0..8).prop_map(Event::Protect),
        1 => (0..30u8).prop_map(Event::Also),
        2 => Just(Event::Evict),
        1 => Just(Event::Expire),
        1 => (0..30u8).prop_map(Event::Age),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever comes in and is dropped: what is protected stays, and the store does not grow beyond its budget by more than the blob
    /// that filled it.
    #[test]
    fn what_is_in_use_never_goes(events in proptest::collection::vec(event(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let settings = StoreSettings { root: folder.path().to_owned(), budget: Budget::Bytes(10_000) };
            let store: Arc<DiskStore> = DiskStore::open(settings).unwrap();
            let mut known: Vec<Option<Digest>> = vec![None; 30];
            let mut protected: HashSet<u8> = HashSet::new();
            for event in events {
                let digests = |letters: &[u8]| -> Vec<Digest> {
                    letters.iter().filter_map(|letter| known[usize::from(*letter)]).collect()
                };
                match event {
                    Event::Put(letter, size) => {
                        if known[usize::from(letter)].is_none() {
                            known[usize::from(letter)] = put(&store, &content(letter, size.into())).await.ok();
                        }
                    }
                    Event::Protect(letters) => {
                        store.protect(digests(&letters).into_iter().collect());
                        protected = letters.into_iter().filter(|letter| known[usize::from(*letter)].is_some()).collect();
                    }
                    Event::Also(letter) => {
                        store.protect_also(&digests(&[letter]));
                        protected.extend(known[usize::from(letter)].map(|_| letter));
                    }
                    Event::Evict => drop(store.evict().await.unwrap()),
                    Event::Expire => drop(store.expire(Duration::from_secs(60)).await.unwrap()),
                    Event::Age(letter) => {
                        for digest in digests(&[letter]) {
                            let path = store.root().join("blobs/sha256").join(digest.hex());
                            let times = FileTimes::new().set_accessed(SystemTime::now() - Duration::from_secs(3600));
                            drop(File::open(path).and_then(|file| file.set_times(times)));
                        }
                    }
                }
                let there = |digest: &Digest| store.root().join("blobs/sha256").join(digest.hex()).exists();
                for letter in &protected {
                    prop_assert!(known[usize::from(*letter)].is_some_and(|digest| there(&digest)), "{letter} went");
                }
                // What went may come again.
                for one in &mut known {
                    *one = one.filter(there);
                }
                prop_assert!(store.usage().bytes <= 10_000 + 3000);
            }
            Ok(())
        })?;
    }
}
