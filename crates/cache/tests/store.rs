//! The disk store at its edge: what it notices, what it refuses, what it drops first, what it leaves behind.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::collections::HashSet;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use cache::{Blob, Budget, DiskStore, Record, RecordKind, Store, StoreError, StoreSettings};
use oci::{Algorithm, Digest, Name};

type Disk = Arc<DiskStore>;

fn open(root: &Path) -> Result<Disk, StoreError> {
    open_with(root, 1 << 30)
}

fn open_with(root: &Path, budget: u64) -> Result<Disk, StoreError> {
    DiskStore::open(StoreSettings { root: root.to_owned(), budget: Budget::Bytes(budget) })
}

fn path_of(store: &Disk, digest: &Digest) -> PathBuf {
    store.root().join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
}

/// Content that follows from a letter.
fn content(letter: u8, size: usize) -> Bytes {
    (0..size).map(|at| letter ^ (at as u8) ^ ((at >> 8) as u8)).collect::<Vec<u8>>().into()
}

async fn put(store: &Disk, bytes: &Bytes) -> Digest {
    let digest = Digest::sha256(bytes);
    let ingest = store.ingest(&digest, Some(bytes.len() as u64)).await.unwrap();
    ingest.write_at(bytes, 0).unwrap();
    ingest.commit(bytes.len() as u64).unwrap();
    digest
}

async fn read(store: &Disk, digest: &Digest) -> Option<Bytes> {
    let blob = store.open(digest).await.unwrap()?;
    let Blob::File { file, size } = blob else { panic!("a store gives files") };
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes.into())
}

/// Says when a blob was last used, as the store does, without waiting for that time.
fn used(store: &Disk, digest: &Digest, ago: Duration) {
    let file = File::open(path_of(store, digest)).unwrap();
    file.set_times(FileTimes::new().set_accessed(SystemTime::now() - ago)).unwrap();
}

fn leftovers(store: &Disk) -> usize {
    fs::read_dir(store.root().join("ingest")).unwrap().count()
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(b'a', 100_000);
    let store = open(folder.path()).unwrap();
    let digest = put(&store, &bytes).await;
    assert_eq!(leftovers(&store), 0);
    assert_eq!(store.usage().bytes, 100_000);
    drop(store);
    let store = open(folder.path()).unwrap();
    assert_eq!(read(&store, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn an_empty_blob_and_sha512_are_kept_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    for bytes in [Bytes::new(), content(b'x', 77)] {
        let digest = Digest::of(Algorithm::Sha512, &bytes);
        let ingest = store.ingest(&digest, None).await.unwrap();
        ingest.write_at(&bytes, 0).unwrap();
        ingest.commit(bytes.len() as u64).unwrap();
        assert_eq!(read(&store, &digest).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn an_ingest_without_a_commit_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let bytes = content(b'a', 5000);
    let digest = Digest::sha256(&bytes);
    let ingest = store.ingest(&digest, Some(5000)).await.unwrap();
    ingest.write_at(&bytes[..3000], 0).unwrap();
    assert_eq!(store.usage().bytes, 5000);
    assert!(store.open(&digest).await.unwrap().is_none());
    drop(ingest);
    assert_eq!((leftovers(&store), store.usage().bytes), (0, 0));
}

#[tokio::test]
async fn a_start_removes_what_was_half_done() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    fs::write(folder.path().join("ingest/4711-3-abc"), [0; 1000]).unwrap();
    fs::write(folder.path().join("ingest.mark"), "").unwrap();
    let store = open(folder.path()).unwrap();
    assert_eq!(leftovers(&store), 0);
    assert!(!folder.path().join("ingest.mark").exists());
}

/// Does something to the first file; the second is another blob's.
type Damage = fn(&Path, &Path);

/// The ways in which a blob's file can become another one.
fn damages() -> Vec<(&'static str, Damage)> {
    fn reopen(path: &Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }
    vec![
        ("a flipped bit", |path, _| {
            let file = reopen(path);
            let mut byte = [0];
            file.read_exact_at(&mut byte, 70_000).unwrap();
            file.write_all_at(&[byte[0] ^ 1], 70_000).unwrap();
        }),
        ("truncated", |path, _| reopen(path).set_len(99_999).unwrap()),
        ("emptied", |path, _| reopen(path).set_len(0).unwrap()),
        ("extended", |path, _| reopen(path).set_len(100_001).unwrap()),
        ("another blob in its place", |path, other| {
            fs::remove_file(path).unwrap();
            fs::hard_link(other, path).unwrap();
        }),
        ("a link to another blob", |path, other| {
            fs::remove_file(path).unwrap();
            symlink(other, path).unwrap();
        }),
        ("a link to nowhere", |path, _| {
            fs::remove_file(path).unwrap();
            symlink("/nowhere/at/all", path).unwrap();
        }),
        ("a pipe", |path, _| {
            fs::remove_file(path).unwrap();
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
        ("a folder", |path, _| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
        }),
    ]
}

#[tokio::test]
async fn damage_is_noticed_when_a_blob_is_opened() {
    for restart in [false, true] {
        for (what, damage) in damages() {
            let folder = tempfile::tempdir().unwrap();
            let mut store = open(folder.path()).unwrap();
            let bytes = content(b'a', 100_000);
            let digest = put(&store, &bytes).await;
            let other = put(&store, &content(b'b', 100_000)).await;
            damage(&path_of(&store, &digest), &path_of(&store, &other));
            if restart {
                drop(store);
                store = open(folder.path()).unwrap();
            }
            let opened = tokio::time::timeout(Duration::from_secs(20), store.open(&digest)).await;
            let opened = opened.unwrap_or_else(|_| panic!("opening hangs: {what}"));
            assert!(opened.unwrap().is_none(), "{what}, restart {restart}");
            assert!(fs::symlink_metadata(path_of(&store, &digest)).is_err(), "{what} is still there");
            put(&store, &bytes).await;
            assert_eq!(read(&store, &digest).await.unwrap(), bytes, "{what}: taken in again");
        }
    }
}

#[tokio::test]
async fn blobs_that_changed_places_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let (a, b) = (put(&store, &content(b'a', 100_000)).await, put(&store, &content(b'b', 100_000)).await);
    let aside = folder.path().join("aside");
    fs::rename(path_of(&store, &a), &aside).unwrap();
    fs::rename(path_of(&store, &b), path_of(&store, &a)).unwrap();
    fs::rename(&aside, path_of(&store, &b)).unwrap();
    drop(store);
    fs::remove_file(&aside).ok();
    let store = open(folder.path()).unwrap();
    assert!(store.open(&a).await.unwrap().is_none());
    assert!(store.open(&b).await.unwrap().is_none());
}

#[tokio::test]
async fn a_copy_that_lost_its_seal_is_hashed_and_sealed_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let bytes = content(b'a', 100_000);
    let digest = put(&store, &bytes).await;
    let path = path_of(&store, &digest);
    let sealed = fs::metadata(&path).unwrap().mtime();
    File::open(&path).unwrap().set_times(FileTimes::new().set_modified(SystemTime::now())).unwrap();
    assert_ne!(fs::metadata(&path).unwrap().mtime(), sealed);
    assert_eq!(read(&store, &digest).await.unwrap(), bytes);
    assert_eq!(fs::metadata(&path).unwrap().mtime(), sealed);
}

#[tokio::test]
async fn a_scrub_finds_decay_that_leaves_the_seal() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let (bad, good) = (put(&store, &content(b'a', 100_000)).await, put(&store, &content(b'b', 100_000)).await);
    let path = path_of(&store, &bad);
    let times = fs::metadata(&path).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"decay", 500).unwrap();
    file.set_times(FileTimes::new().set_modified(times.modified().unwrap())).unwrap();
    drop(file);
    // Beside the process that serves the store.
    let report = cache::scrub(&DiskStore::inspect(folder.path()).unwrap(), |_| {}).unwrap();
    assert_eq!((report.blobs, report.bytes, report.resealed), (2, 200_000, 0));
    assert_eq!(report.quarantined, [bad]);
    assert!(store.open(&bad).await.unwrap().is_none());
    assert!(store.open(&good).await.unwrap().is_some());
}

#[tokio::test]
async fn a_scrub_removes_the_records_of_what_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let name = Name::parse("up.test/a/b").unwrap();
    let (there, gone) = (put(&store, &content(b'a', 10)).await, put(&store, &content(b'b', 10)).await);
    for digest in [there, gone] {
        store.write(&Record::new(&name, RecordKind::Blob(digest)), Bytes::new(), true).await.unwrap();
    }
    fs::remove_file(path_of(&store, &gone)).unwrap();
    let report = cache::scrub(&store, |_| {}).unwrap();
    assert_eq!(report.records_removed, 1);
    assert!(store.read(&Record::new(&name, RecordKind::Blob(there))).await.unwrap().is_some());
    assert!(store.read(&Record::new(&name, RecordKind::Blob(gone))).await.unwrap().is_none());
}

#[tokio::test]
async fn a_record_is_replaced_whole_and_a_missing_one_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let record = Record::new(&Name::parse("up.test/a").unwrap(), RecordKind::Tag("v1".parse().unwrap()));
    assert_eq!(store.read(&record).await.unwrap(), None);
    for value in [content(b'a', 3000), Bytes::from_static(b"short")] {
        store.write(&record, value.clone(), true).await.unwrap();
        assert_eq!(store.read(&record).await.unwrap(), Some(value));
    }
    assert_eq!(leftovers(&store), 0);
}

#[tokio::test]
async fn one_process_at_a_time_serves_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let error = open(folder.path()).err().expect("the second one is refused");
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use by another larder process"), "{error}");
    drop(store);
    open(folder.path()).unwrap();
}

#[test]
fn a_newer_layout_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let mark = folder.path().join("larder-store.json");
    fs::write(&mark, r#"{"layout":2}"#).unwrap();
    fs::write(folder.path().join("ingest/theirs"), "x").unwrap();
    let error = open(folder.path()).err().expect("it is refused");
    assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
    assert_eq!(fs::read_to_string(&mark).unwrap(), r#"{"layout":2}"#);
    assert!(folder.path().join("ingest/theirs").exists());
}

#[tokio::test]
async fn a_damaged_mark_costs_nothing() {
    for mark in ["", "garbage", "{\"layout\":", "[]", "{\"layout\":\"one\"}"] {
        let folder = tempfile::tempdir().unwrap();
        let bytes = content(b'a', 1000);
        let digest = put(&open(folder.path()).unwrap(), &bytes).await;
        fs::write(folder.path().join("larder-store.json"), mark).unwrap();
        let store = open(folder.path()).unwrap_or_else(|error| panic!("{mark:?}: {error}"));
        assert_eq!(read(&store, &digest).await.unwrap(), bytes, "{mark:?}");
        assert_eq!(fs::read_to_string(folder.path().join("larder-store.json")).unwrap(), r#"{"layout":1}"#);
    }
}

#[test]
fn a_start_cut_short_at_any_step_can_be_repeated() {
    // What the first start makes, in its order.
    for step in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lock"), "").unwrap();
        if step >= 1 {
            fs::write(folder.path().join("ingest.mark"), "").unwrap();
        }
        if step >= 2 {
            fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        }
        if step >= 3 {
            fs::write(folder.path().join("larder-store.json"), "").unwrap();
        }
        open(folder.path()).unwrap_or_else(|error| panic!("step {step}: {error}"));
    }
}

#[test]
fn a_folder_of_something_else_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    let error = open(folder.path()).err().expect("it is refused");
    assert!(matches!(error, StoreError::Unsuitable { .. }), "{error}");
    assert!(error.to_string().contains("--store"), "{error}");
    assert!(!folder.path().join("blobs").exists());
}

#[test]
fn a_file_in_place_of_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "x").unwrap();
    assert!(open(&path).is_err());
    let path = folder.path().join("store");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("blobs"), "x").unwrap();
    assert!(open(&path).is_err());
}

#[tokio::test]
async fn nobody_else_may_enter_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    let store = open(&root).unwrap();
    let digest = put(&store, &content(b'a', 10)).await;
    let name = Name::parse("up.test/a").unwrap();
    store.write(&Record::new(&name, RecordKind::Public), Bytes::from_static(b"1"), true).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&root), 0o700);
    assert_eq!(mode(&root.join("repositories/up.test/a")), 0o700);
    assert_eq!(mode(&path_of(&store, &digest)), 0o600);
}

#[tokio::test]
async fn a_deleted_folder_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = open(&root).unwrap();
    let bytes = content(b'a', 1000);
    put(&store, &bytes).await;
    fs::remove_dir_all(&root).unwrap();
    assert!(store.open(&Digest::sha256(&bytes)).await.unwrap().is_none());
    let digest = put(&store, &bytes).await;
    store.check().unwrap();
    assert_eq!(read(&store, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn what_was_used_longest_ago_goes_first_down_to_the_low_water() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<(Digest, Bytes)> =
        (0..10).map(|n| content(n, 10_000)).map(|bytes| (Digest::sha256(&bytes), bytes)).collect();
    let store = open(folder.path()).unwrap();
    for (_, bytes) in &all {
        put(&store, bytes).await;
    }
    drop(store);
    let store = open_with(folder.path(), 60_000).unwrap();
    // The order of use is not the order of arrival.
    let order = [3, 7, 0, 9, 5, 1, 8, 2, 6, 4];
    for (age, n) in order.iter().enumerate() {
        used(&store, &all[*n].0, Duration::from_secs(1000 - age as u64));
    }
    tokio::time::timeout(Duration::from_secs(20), store.over_budget()).await.expect("it is over its budget");
    // 57,000 bytes is the low water of 60,000: five blobs of ten stay.
    assert_eq!(store.evict().await.unwrap(), (5, 50_000));
    assert_eq!(store.usage().bytes, 50_000);
    for (at, n) in order.iter().enumerate() {
        assert_eq!(path_of(&store, &all[*n].0).exists(), at >= 5, "the blob that was used as number {at}");
    }
}

#[tokio::test]
async fn what_is_protected_read_or_filled_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let mut digests = Vec::new();
    for n in 0..5 {
        digests.push(put(&store, &content(n, 10_000)).await);
    }
    drop(store);
    let store = open_with(folder.path(), 15_000).unwrap();
    let reader = store.open(&digests[0]).await.unwrap().expect("it is there");
    let fill = store.ingest(&digests[1], None).await.unwrap();
    store.protect(HashSet::from([digests[2]]));
    tokio::time::timeout(Duration::from_secs(20), store.over_budget()).await.expect("it is over its budget");
    assert_eq!(store.evict().await.unwrap(), (2, 20_000));
    let there: Vec<bool> = digests.iter().map(|digest| path_of(&store, digest).exists()).collect();
    assert_eq!(there, [true, true, true, false, false]);
    // With nothing left to drop it comes to an end, though over the budget.
    assert_eq!(store.evict().await.unwrap(), (0, 0));
    drop((reader, fill));
    store.protect(HashSet::new());
    let end = Instant::now() + Duration::from_secs(20);
    while store.usage().bytes > 15_000 {
        store.evict().await.unwrap();
        assert!(Instant::now() < end, "what nobody reads any more is dropped");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_blob_that_was_just_taken_in_can_be_dropped_when_nobody_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), 100_000).unwrap();
    for n in 0..40 {
        put(&store, &content(n, 10_000)).await;
        let bytes = store.usage().bytes;
        assert!(bytes <= 100_000, "{bytes} bytes after {n} blobs");
    }
}

#[tokio::test]
async fn a_full_store_does_not_look_at_every_blob_for_every_fill() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), 1_000_000).unwrap();
    for n in 0..100 {
        put(&store, &content(n, 10_000)).await;
    }
    put(&store, &content(200, 10_000)).await;
    // Room was made for more than the one.
    assert!(store.usage().bytes <= 950_000, "{} bytes", store.usage().bytes);
}

#[tokio::test]
async fn what_is_larger_than_the_budget_is_refused_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), 50_000).unwrap();
    let small = put(&store, &content(b'a', 10_000)).await;
    let large = Digest::sha256(b"large");
    let error = store.ingest(&large, Some(50_001)).await.err().expect("it is refused");
    assert!(matches!(error, StoreError::TooLarge { size: 50_001, budget: 50_000 }), "{error}");
    assert!(path_of(&store, &small).exists());
    assert_eq!((leftovers(&store), store.usage().bytes), (0, 10_000));
}

#[tokio::test]
async fn the_account_is_right_when_a_blob_is_kept_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let bytes = content(b'a', 10_000);
    let digest = Digest::sha256(&bytes);
    let (one, two) = (store.ingest(&digest, Some(10_000)).await.unwrap(), store.ingest(&digest, None).await.unwrap());
    for ingest in [&one, &two] {
        ingest.write_at(&bytes, 0).unwrap();
        ingest.commit(10_000).unwrap();
    }
    drop((one, two));
    assert_eq!(store.usage().bytes, 10_000);
    assert_eq!(read(&store, &digest).await.unwrap(), bytes);
    assert_eq!(leftovers(&store), 0);
}

#[tokio::test]
async fn a_size_beyond_all_reason_is_no_more_than_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), u64::MAX).unwrap();
    let kept = put(&store, &content(b'a', 10_000)).await;
    assert!(store.ingest(&Digest::sha256(b"vast"), Some(u64::MAX)).await.is_err());
    assert!(store.open(&kept).await.unwrap().is_some(), "what is there stays");
    assert_eq!((leftovers(&store), store.usage().bytes), (0, 10_000));
}

#[tokio::test]
async fn a_blob_is_in_use_while_those_read_it_who_joined_its_fill() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), 15_000).unwrap();
    let bytes = content(b'a', 10_000);
    let digest = Digest::sha256(&bytes);
    let ingest = store.ingest(&digest, Some(10_000)).await.unwrap();
    let joined = ingest.file().clone();
    ingest.write_at(&bytes, 0).unwrap();
    ingest.commit(10_000).unwrap();
    drop(ingest);
    put(&store, &content(b'b', 10_000)).await;
    // Room was wanted, but what is being read would have freed none.
    assert!(path_of(&store, &digest).exists());
    assert_eq!(store.usage().bytes, 20_000);
    drop(joined);
    let end = Instant::now() + Duration::from_secs(20);
    while store.usage().bytes > 15_000 {
        store.evict().await.unwrap();
        assert!(Instant::now() < end, "what nobody reads any more is dropped");
        tokio::task::yield_now().await;
    }
    assert!(!path_of(&store, &digest).exists());
}

#[tokio::test]
async fn a_blob_that_is_opened_twice_is_in_use_while_either_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), 15_000).unwrap();
    let digest = put(&store, &content(b'a', 10_000)).await;
    let first = store.open(&digest).await.unwrap().expect("it is there");
    // Eviction closes what it looks at, so that the next one opens it anew.
    put(&store, &content(b'b', 10_000)).await;
    drop(store.open(&digest).await.unwrap().expect("it is there"));
    put(&store, &content(b'c', 4_000)).await;
    assert!(path_of(&store, &digest).exists());
    drop(first);
}

#[tokio::test]
async fn a_scrub_leaves_what_has_taken_the_place_of_a_bad_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let bytes = content(b'a', 100_000);
    let digest = put(&store, &bytes).await;
    File::options().write(true).open(path_of(&store, &digest)).unwrap().write_all_at(b"decay", 500).unwrap();
    let mut replaced = false;
    let report = cache::scrub(&store, |_| {
        // While the bad one is being hashed, it is fetched again.
        if !std::mem::replace(&mut replaced, true) {
            let new = folder.path().join("ingest/new");
            fs::write(&new, &bytes).unwrap();
            fs::rename(&new, path_of(&store, &digest)).unwrap();
        }
    })
    .unwrap();
    assert!(replaced);
    assert_eq!(report.quarantined, []);
    assert_eq!(read(&store, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn room_is_made_for_bytes_that_come_and_not_for_those_that_are_announced() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), 1_000_000).unwrap();
    let mut kept = Vec::new();
    for n in 0..90 {
        kept.push(put(&store, &content(n, 10_000)).await);
    }
    let there = |store: &Disk| kept.iter().filter(|digest| path_of(store, digest).exists()).count();
    let bytes = content(b'x', 990_000);
    let digest = Digest::sha256(&bytes);
    let liar = store.ingest(&digest, Some(990_000)).await.unwrap();
    liar.write_at(&bytes[..1000], 0).unwrap();
    assert!(there(&store) >= 85, "{} of 90 are left", there(&store));
    drop(liar);
    assert_eq!(store.usage().bytes, 10_000 * there(&store) as u64);
    // What does come finds room as it comes.
    let honest = store.ingest(&digest, Some(990_000)).await.unwrap();
    for (n, part) in bytes.chunks(9_000).enumerate() {
        honest.write_at(part, n as u64 * 9_000).unwrap();
        assert!(store.usage().bytes <= 1_000_000, "{} bytes after {n} parts", store.usage().bytes);
    }
    honest.commit(990_000).unwrap();
    drop(honest);
    assert_eq!(read(&store, &digest).await.unwrap(), bytes);
    assert_eq!((leftovers(&store), store.usage().bytes), (0, 990_000 + 10_000 * there(&store) as u64));
}

#[tokio::test]
async fn what_turns_out_to_be_larger_than_the_budget_is_refused_as_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), 50_000).unwrap();
    let bytes = content(b'a', 30_000);
    let ingest = store.ingest(&Digest::sha256(b"endless"), None).await.unwrap();
    ingest.write_at(&bytes, 0).unwrap();
    let error = ingest.write_at(&bytes, 30_000).expect_err("it is refused");
    assert!(matches!(error, StoreError::TooLarge { size: 60_000, budget: 50_000 }), "{error}");
    drop(ingest);
    assert_eq!((leftovers(&store), store.usage().bytes), (0, 0));
}

#[tokio::test]
async fn a_store_of_which_nothing_can_be_dropped_is_not_looked_at_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let (pinned, read) = (put(&store, &content(b'a', 10_000)).await, put(&store, &content(b'b', 10_000)).await);
    drop(store);
    let store = open_with(folder.path(), 5_000).unwrap();
    store.protect(HashSet::from([pinned]));
    let reader = store.open(&read).await.unwrap().expect("it is there");
    tokio::time::timeout(Duration::from_secs(20), store.over_budget()).await.expect("it is over its budget");
    assert_eq!(store.evict().await.unwrap(), (0, 0));
    // Without its folder, every look fails.
    let (blobs, away) = (folder.path().join("blobs"), folder.path().join("away"));
    fs::rename(&blobs, &away).unwrap();
    store.protect(HashSet::from([pinned]));
    for _ in 0..3 {
        assert_eq!(store.evict().await.unwrap(), (0, 0), "it is looked at again");
    }
    store.protect(HashSet::new());
    assert!(store.evict().await.is_err(), "what is protected has changed");
    fs::rename(&away, &blobs).unwrap();
    assert_eq!(store.evict().await.unwrap(), (1, 10_000));
    assert_eq!(store.evict().await.unwrap(), (0, 0));
    drop(reader);
    assert_eq!(store.evict().await.unwrap(), (1, 10_000), "nobody reads it any more");
}
