//! Fills whose disk fails: every reader goes on by itself, and gets what it would have got.
#![allow(
    clippy::unwrap_used,
    clippy::cloned_ref_to_slice_refs,
    reason = "a test fails where it must, and says what it has"
)]

mod support;

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cache::{
    Blob, Content, DiskStore, EngineSettings, FailureKind, Ingest, Record, Rules, ScrubReport, Store, StoreError, Usage,
};
use oci::Digest;
use support::{Origin, Piece, Readers, Setting, by, content, give, read, rest, spoilt, start_with, until};
use tokio::sync::Semaphore;

const SIZE: usize = 1_000_000;

/// What of a store does not work.
#[derive(Default)]
struct Broken {
    /// Writes that end behind this byte; 0 for even to begin.
    from: AtomicU64,
    commit: bool,
}

struct Failing(Arc<DiskStore>, Arc<Broken>);

struct FailingIngest(Arc<dyn Ingest>, Arc<Broken>);

impl Ingest for FailingIngest {
    fn file(&self) -> &Arc<File> {
        self.0.file()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let from = self.1.from.load(Ordering::Relaxed);
        if offset + bytes.len() as u64 > from {
            // As a disk does it: what still fits is written.
            self.0.write_at(&bytes[..from.saturating_sub(offset) as usize], offset)?;
            return Err(StoreError::Full);
        }
        self.0.write_at(bytes, offset)
    }

    fn commit(&self, size: u64) -> Result<Blob, StoreError> {
        if self.1.commit { Err(StoreError::Full) } else { self.0.commit(size) }
    }
}

#[async_trait]
impl Store for Failing {
    async fn open(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        self.0.open(digest).await
    }

    async fn ingest(&self, digest: &Digest, size: Option<u64>) -> Result<Arc<dyn Ingest>, StoreError> {
        if self.1.from.load(Ordering::Relaxed) == 0 {
            return Err(StoreError::Full);
        }
        Ok(Arc::new(FailingIngest(self.0.ingest(digest, size).await?, self.1.clone())))
    }

    async fn scatter(&self, digest: &Digest, _size: u64) -> Result<Arc<dyn Ingest>, StoreError> {
        self.ingest(digest, None).await
    }

    async fn read(&self, record: &Record) -> Result<Option<Bytes>, StoreError> {
        self.0.read(record).await
    }

    async fn write(&self, record: &Record, value: Bytes, durable: bool) -> Result<(), StoreError> {
        self.0.write(record, value, durable).await
    }

    async fn erase(&self, record: &Record) -> Result<(), StoreError> {
        self.0.erase(record).await
    }

    async fn quarantine(&self, digest: &Digest) {
        self.0.quarantine(digest).await;
    }

    async fn over_budget(&self) {
        self.0.over_budget().await;
    }

    async fn evict(&self) -> Result<(u64, u64), StoreError> {
        self.0.evict().await
    }

    fn protect(&self, keep: HashSet<Digest>) {
        self.0.protect(keep);
    }

    async fn scrub(&self, bytes_per_second: u64) -> Result<ScrubReport, StoreError> {
        self.0.scrub(bytes_per_second).await
    }

    fn usage(&self) -> Usage {
        self.0.usage()
    }

    fn check(&self) -> Result<(), StoreError> {
        self.0.check()
    }
}

fn start(sources: &[Arc<Origin>], broken: Broken) -> (Setting, Arc<Broken>) {
    let broken = Arc::new(broken);
    let held = broken.clone();
    let setting = start_with(&[("good.test", sources, Rules::default())], EngineSettings::default(), |store| {
        Arc::new(Failing(store, held))
    });
    (setting, broken)
}

fn origin(bytes: &Bytes, size: Option<u64>, pieces: Vec<Piece>) -> (Arc<Origin>, Digest) {
    let origin = Origin::new("origin");
    origin.repository("a/b", Readers::Anyone);
    let digest = origin.blob("a/b", bytes);
    origin.body(digest, size, pieces);
    (origin, digest)
}

fn in_pieces(bytes: &Bytes, of: usize) -> Vec<Piece> {
    bytes.chunks(of).map(|piece| Piece::Bytes(Bytes::copy_from_slice(piece))).collect()
}

fn is_empty(setting: &Setting, folder: &str) -> bool {
    std::fs::read_dir(setting.store.root().join(folder)).unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_from_any_byte_on_is_not_noticed_by_a_client() {
    let bytes = content(b'p', SIZE);
    for size in [Some(SIZE as u64), None] {
        for from in [0, 1, 10_000, 64 << 10, (64 << 10) + 1, 500_000, SIZE as u64 - 65_536, SIZE as u64 - 1] {
            let (origin, digest) = origin(&bytes, size, in_pieces(&bytes, 7000));
            let (setting, broken) = start(&[origin], Broken { from: from.into(), ..Broken::default() });
            let request = by("good.test/a/b", None);
            let got =
                setting.fetch(&request, &digest).await.unwrap_or_else(|error| panic!("full from {from}: {error}"));
            assert!(got == bytes, "full from {from}");
            until("nothing is left over", || is_empty(&setting, "ingest")).await;
            assert!(is_empty(&setting, "blobs/sha256"), "full from {from}");
            assert_eq!(setting.store.usage().bytes, 0, "full from {from}");
            broken.from.store(u64::MAX, Ordering::Relaxed);
            assert!(setting.fetch(&request, &digest).await.unwrap() == bytes);
            until("it is kept when there is space", || !is_empty(&setting, "blobs/sha256")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_at_any_place_go_on_where_they_are() {
    let bytes = content(b'p', SIZE);
    let full = Arc::new(Semaphore::new(0));
    let mut pieces = in_pieces(&bytes, 7000);
    // 490,000 bytes are there before the disk is full.
    pieces.insert(70, Piece::Wait(full.clone()));
    let (origin, digest) = origin(&bytes, Some(SIZE as u64), pieces);
    let (setting, _) = start(&[origin.clone()], Broken { from: 500_000.into(), ..Broken::default() });
    let Content::Filling(filling) = setting.engine.blob(&by("good.test/a/b", None), &digest).await.unwrap().content
    else {
        panic!("it cannot be there yet")
    };
    let mut readers = Vec::new();
    for (start, end, taken) in [
        (0, SIZE, 0),
        (0, SIZE, 100),
        (0, SIZE, 480_000),
        (430_000, 440_000, 10),
        (480_000, SIZE, 5000),
        (489_999, 490_001, 1),
        (600_000, 700_000, 0),
        (SIZE - 1, SIZE, 0),
    ] {
        let mut reader = filling.reader(start as u64..end as u64);
        let mut got = Vec::new();
        while got.len() < taken {
            got.extend_from_slice(&give(&mut reader, (taken - got.len()) as u64).await.unwrap().unwrap());
        }
        readers.push((start, end, reader, got));
    }
    full.add_permits(1000);
    for (start, end, mut reader, mut got) in readers {
        got.extend_from_slice(&rest(&mut reader).await.unwrap());
        assert!(bytes.slice(start..end) == got, "{start}..{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_do_not_pass_whole() {
    let bytes = content(b'p', SIZE);
    for from in [0, 300_000] {
        let (origin, digest) = origin(&bytes, Some(SIZE as u64), in_pieces(&spoilt(&bytes, 200_000), 7000));
        let (setting, _) = start(&[origin], Broken { from: from.into(), ..Broken::default() });
        let Content::Filling(filling) = setting.engine.blob(&by("good.test/a/b", None), &digest).await.unwrap().content
        else {
            panic!("it cannot be whole")
        };
        let mut reader = filling.reader(0..SIZE as u64);
        let mut got = 0;
        let error = loop {
            match give(&mut reader, 1 << 20).await {
                Ok(Some(bytes)) => got += bytes.len(),
                Ok(None) => panic!("it came to its end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind, FailureKind::Invalid);
        assert!(got <= SIZE - (64 << 10), "{got} bytes of a wrong blob left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_cannot_be_kept_is_given_all_the_same() {
    let bytes = content(b'p', SIZE);
    let (origin, digest) = origin(&bytes, Some(SIZE as u64), in_pieces(&bytes, 7000));
    let (setting, _) = start(&[origin], Broken { from: u64::MAX.into(), commit: true });
    let reply = setting.engine.blob(&by("good.test/a/b", None), &digest).await.unwrap();
    assert!(read(reply).await.unwrap() == bytes);
    until("nothing is left over", || is_empty(&setting, "ingest")).await;
    assert!(is_empty(&setting, "blobs/sha256"));
}
