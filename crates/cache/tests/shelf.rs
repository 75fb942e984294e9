//! A store beside a shelf: what the runtime keeps is served from there, and kept once.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cache::{Blob, Budget, DiskStore, Shelf, Store, StoreSettings};
use oci::Digest;

/// A folder of files whose names are digests.
struct Folder {
    path: PathBuf,
    keeps: AtomicBool,
}

impl Shelf for Folder {
    fn open(&self, digest: &Digest) -> io::Result<Option<File>> {
        match File::open(self.path.join(digest.hex())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn keeps(&self, digest: &Digest) -> bool {
        self.keeps.load(Ordering::Relaxed) && self.path.join(digest.hex()).exists()
    }
}

struct Setting {
    folder: tempfile::TempDir,
    shelf: Arc<Folder>,
    store: Arc<DiskStore>,
}

fn start(budget: u64) -> Setting {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("shelf")).unwrap();
    let shelf = Arc::new(Folder { path: folder.path().join("shelf"), keeps: AtomicBool::new(true) });
    let store = open(folder.path(), budget, &shelf);
    Setting { folder, shelf, store }
}

fn open(folder: &Path, budget: u64, shelf: &Arc<Folder>) -> Arc<DiskStore> {
    let settings = StoreSettings { root: folder.join("store"), budget: Budget::Bytes(budget) };
    DiskStore::open_beside(settings, shelf.clone()).unwrap()
}

impl Setting {
    fn put_on_shelf(&self, name: &Digest, bytes: &[u8]) {
        fs::write(self.shelf.path.join(name.hex()), bytes).unwrap();
    }

    async fn keep(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let ingest = self.store.ingest(&digest, Some(bytes.len() as u64)).await.unwrap();
        ingest.write_at(bytes, 0).unwrap();
        ingest.commit(bytes.len() as u64).unwrap();
        digest
    }

    fn has_copy(&self, digest: &Digest) -> bool {
        self.store.root().join("blobs/sha256").join(digest.hex()).exists()
    }

    async fn read(&self, digest: &Digest) -> Option<Vec<u8>> {
        match self.store.open(digest).await.unwrap()? {
            Blob::Memory(bytes) => Some(bytes.to_vec()),
            Blob::File { file, size } => {
                let mut bytes = Vec::new();
                let mut file = &*file;
                file.rewind().unwrap();
                file.read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes.len() as u64, size);
                Some(bytes)
            }
        }
    }
}

#[tokio::test]
async fn what_is_on_the_shelf_is_served_if_it_is_right() {
    let setting = start(1 << 20);
    let (right, wrong) = (Digest::sha256(b"right"), Digest::sha256(b"wrong"));
    setting.put_on_shelf(&right, b"right");
    setting.put_on_shelf(&wrong, b"rotten");
    for _ in 0..2 {
        assert_eq!(setting.read(&right).await.as_deref(), Some(&b"right"[..]));
        assert_eq!(setting.read(&wrong).await, None);
    }
    // Exchanged after it was found right.
    fs::remove_file(setting.shelf.path.join(right.hex())).unwrap();
    setting.put_on_shelf(&right, b"other");
    assert_eq!(setting.read(&right).await, None);
    assert_eq!(setting.read(&Digest::sha256(b"nowhere")).await, None);
}

#[tokio::test]
async fn a_copy_goes_when_the_runtime_has_the_blob() {
    let setting = start(1 << 20);
    let digest = setting.keep(b"layer").await;
    assert_eq!(setting.store.shed().await.unwrap(), (0, 0));
    assert!(setting.has_copy(&digest));
    setting.put_on_shelf(&digest, b"layer");
    assert_eq!(setting.store.shed().await.unwrap(), (1, 5));
    assert!(!setting.has_copy(&digest));
    assert_eq!(setting.store.usage().bytes, 0);
    assert_eq!(setting.read(&digest).await.as_deref(), Some(&b"layer"[..]));
}

#[tokio::test]
async fn a_copy_stays_while_it_is_read_and_where_the_runtime_throws_layers_away() {
    let setting = start(1 << 20);
    let digest = setting.keep(b"layer").await;
    setting.put_on_shelf(&digest, b"layer");
    setting.shelf.keeps.store(false, Ordering::Relaxed);
    assert_eq!(setting.store.shed().await.unwrap(), (0, 0));
    setting.shelf.keeps.store(true, Ordering::Relaxed);
    let reading = setting.store.open(&digest).await.unwrap();
    assert_eq!(setting.store.shed().await.unwrap(), (0, 0));
    assert!(setting.has_copy(&digest));
    drop(reading);
    assert_eq!(setting.store.shed().await.unwrap(), (1, 5));
}

#[tokio::test]
async fn a_start_looks_for_copies_of_before() {
    let Setting { folder, shelf, store } = start(1 << 20);
    let setting = Setting { folder, shelf, store };
    let digest = setting.keep(b"layer").await;
    let Setting { folder, shelf, store } = setting;
    drop(store);
    let setting = Setting { store: open(folder.path(), 1 << 20, &shelf), folder, shelf };
    setting.put_on_shelf(&digest, b"layer");
    assert_eq!(setting.store.shed().await.unwrap(), (1, 5));
    drop(setting.folder);
}

#[tokio::test]
async fn what_the_runtime_has_too_is_evicted_first() {
    let setting = start(10_000);
    let old = setting.keep(&[1; 4000]).await;
    let new = setting.keep(&[2; 4000]).await;
    setting.put_on_shelf(&new, &[2; 4000]);
    let newest = setting.keep(&[3; 4000]).await;
    setting.store.evict().await.unwrap();
    assert!(setting.has_copy(&old) && setting.has_copy(&newest), "the oldest, which nobody else has");
    assert!(!setting.has_copy(&new));
}
