use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use moka::sync::Cache;
use oci::{Digest, Name, Tag};
use serde::{Deserialize, Serialize};

use crate::access::age_of;
use crate::rules::Freshness;
use crate::store::{Record, RecordKind, Store};

/// What tags were when they were last asked for.
pub(crate) struct Tags {
    lately: Cache<(Name, Tag), Arc<Known>>,
    store: Arc<dyn Store>,
}

/// A tag's last answer.
pub(crate) struct Known {
    pub(crate) digest: Digest,
    checked: Mutex<Check>,
    /// Somebody knows that the tag means something else by now.
    doubted: AtomicBool,
}

/// When the origin last said so, on a clock that nobody sets.
#[derive(Clone, Copy)]
struct Check {
    at: Instant,
    before: Duration,
    written: Instant,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    digest: Digest,
    /// Seconds since 1970.
    checked: u64,
}

/// Not every check is worth a write: a start that finds an older one asks the origin once too often.
const WRITE_EVERY: Duration = Duration::from_secs(30);

impl Known {
    fn new(digest: Digest, before: Duration) -> Known {
        let now = Instant::now();
        let checked = Mutex::new(Check { at: now, before, written: now });
        Known { digest, checked, doubted: AtomicBool::new(false) }
    }

    /// How long ago the origin said so.
    pub(crate) fn age(&self) -> Duration {
        let check = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        check.before.saturating_add(check.at.elapsed())
    }

    /// Whether the answer is good without asking.
    pub(crate) fn is_fresh(&self, freshness: Freshness) -> bool {
        match freshness {
            _ if self.doubted.load(Ordering::Relaxed) => false,
            Freshness::Immutable => true,
            Freshness::For(time) => self.age() < time,
        }
    }
}

impl Tags {
    pub(crate) fn new(store: Arc<dyn Store>) -> Tags {
        Tags { lately: Cache::new(10_000), store }
    }

    pub(crate) async fn get(&self, name: &Name, tag: &Tag) -> Option<Arc<Known>> {
        let key = (name.clone(), tag.clone());
        if let Some(known) = self.lately.get(&key) {
            return Some(known);
        }
        let value = self.store.read(&Record::new(name, RecordKind::Tag(tag.clone()))).await.ok()??;
        let stored: Stored = serde_json::from_slice(&value)
            .inspect_err(|error| tracing::warn!(%name, %tag, %error, "a tag's record is damaged and is asked for anew"))
            .ok()?;
        let known = Arc::new(Known::new(stored.digest, age_of(stored.checked)));
        // What came in while the record was read is newer.
        Some(self.lately.entry(key).or_insert(known).into_value())
    }

    /// Has the origin asked before the next answer, unless it was asked less than `least` ago.
    pub(crate) async fn renew(&self, name: &Name, tag: &Tag, least: Duration) {
        if let Some(known) = self.get(name, tag).await.filter(|known| known.age() >= least) {
            known.doubted.store(true, Ordering::Relaxed);
        }
    }

    /// Has the origin asked before the next answer, unless the last one was this digest.
    pub(crate) async fn doubt(&self, name: &Name, tag: &Tag, unless: &Digest) {
        if let Some(known) = self.get(name, tag).await.filter(|known| known.digest != *unless) {
            known.doubted.store(true, Ordering::Relaxed);
        }
    }

    /// Remembers what the origin said just now.
    pub(crate) async fn put(&self, name: &Name, tag: &Tag, digest: Digest) {
        let key = (name.clone(), tag.clone());
        let before = self.lately.get(&key);
        if let Some(known) = before.filter(|known| known.digest == digest) {
            let mut check = known.checked.lock().unwrap_or_else(PoisonError::into_inner);
            (check.at, check.before) = (Instant::now(), Duration::ZERO);
            known.doubted.store(false, Ordering::Relaxed);
            if check.written.elapsed() < WRITE_EVERY {
                return;
            }
            check.written = Instant::now();
        } else {
            self.lately.insert(key, Arc::new(Known::new(digest, Duration::ZERO)));
        }
        let checked = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let value = serde_json::to_vec(&Stored { digest, checked }).expect("a digest and a number serialize");
        if let Err(error) =
            self.store.write(&Record::new(name, RecordKind::Tag(tag.clone())), Bytes::from(value), true).await
        {
            tracing::debug!(%name, %tag, %error, "a tag's answer could not be written");
        }
    }
}
