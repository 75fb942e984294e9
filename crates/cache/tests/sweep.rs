//! What a scrub leaves of the records: those that still serve something.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cache::{Budget, DiskStore, Record, RecordKind, Store, StoreSettings};
use oci::{Digest, Name};

/// Makes every record below a folder so old.
fn age(folder: &Path, age: Duration) {
    for entry in fs::read_dir(folder).expect("the folder is there").flatten() {
        if entry.path().is_dir() {
            self::age(&entry.path(), age);
        } else {
            let times = FileTimes::new().set_modified(SystemTime::now() - age);
            File::open(entry.path()).and_then(|file| file.set_times(times)).expect("a record's time can be set");
        }
    }
}

#[tokio::test]
async fn records_of_what_is_gone_or_long_unused_go_with_their_folders() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<DiskStore> =
        DiskStore::open(StoreSettings { root: folder.path().to_owned(), budget: Budget::Bytes(1 << 30) }).unwrap();
    let here = Digest::sha256(b"here");
    let ingest = store.ingest(&here, Some(4)).await.unwrap();
    ingest.write_at(b"here", 0).unwrap();
    ingest.commit(4).unwrap();
    let gone = Digest::sha256(b"gone");
    let tag = |digest: &Digest| Bytes::from(format!(r#"{{"digest":"{digest}","checked":1}}"#));
    let write = async |name: &str, digest: &Digest| {
        let name = Name::parse(name).unwrap();
        for (kind, value) in [
            (RecordKind::Tag("v1".parse().unwrap()), tag(digest)),
            (RecordKind::Manifest(*digest), Bytes::from_static(b"application/json")),
            (RecordKind::Blob(*digest), Bytes::new()),
            (RecordKind::Origin(*digest), Bytes::new()),
            (RecordKind::Document(*digest), Bytes::from_static(b"{}")),
            (RecordKind::Public, Bytes::from_static(b"1")),
        ] {
            store.write(&Record::new(&name, kind), value, false).await.unwrap();
        }
    };
    write("a.test/kept/x", &here).await;
    write("b.test/lost/x", &gone).await;
    let repositories = folder.path().join("repositories");
    let is_there = |path: &str| repositories.join(path).exists();

    assert_eq!(store.scrub(u64::MAX).await.unwrap().records_removed, 4);
    assert!(is_there("a.test/kept/x/_tags/v1") && is_there("a.test/kept/x/_public") && is_there("a.test/_blobs"));
    assert!(is_there("b.test/lost/x/_public") && is_there("b.test/lost/x/_documents"));
    assert!(!is_there("b.test/lost/x/_tags") && !is_there("b.test/_blobs"));
    age(&repositories, Duration::from_secs(100 * 24 * 3600));
    assert_eq!(store.scrub(u64::MAX).await.unwrap().records_removed, 4);
    assert!(is_there("a.test/kept/x/_manifests") && !is_there("a.test/kept/x/_public") && !is_there("b.test"));
    write("b.test/lost/x", &gone).await;
    assert!(is_there("b.test/lost/x/_tags/v1"));
}
