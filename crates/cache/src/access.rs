use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use moka::sync::Cache;
use oci::{Name, Registry};
use rand::RngCore;

use crate::credential::{Authority, Claim, Opener, Purpose};
use crate::reply::Request;
use crate::source::Upstream;
use crate::store::{Record, RecordKind, Store};

/// What stands for a right where it must be remembered: an HMAC under a key of this process.
pub(crate) type Fingerprint = [u8; 32];

/// Whose question it is. Clients whose right is known ask the same question; others only ever share an answer with those who
/// sent the same credential, or none like them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    /// One who may, as is known.
    Known,
    /// One of whom nothing is known, without a credential.
    Anonymous,
    /// One of whom nothing is known, with this credential.
    Holder(Fingerprint),
}

/// Who may read which repository, as the origin said.
///
/// Public repositories are remembered in the store, because their content must be served through an outage that began
/// before a restart; grants are remembered in memory only.
pub(crate) struct Access {
    key: [u8; 32],
    public: Cache<Name, Mark>,
    /// What was given to anyone before this moment, which may be to come, makes nothing public in these registries.
    since: RwLock<HashMap<Registry, Instant>>,
    /// What is public no longer although its record still says so, for the disk does not let go of it. There is one at most
    /// for each record.
    unerased: Mutex<HashSet<Name>>,
    grants: Cache<(Name, Fingerprint), Mark>,
    /// Repositories that somebody has a grant for, or had one that would still count in an outage.
    granted: Cache<Name, ()>,
    public_for: Duration,
    grant_for: Duration,
    grant_outage: Duration,
    /// What ImageCaches want, with the credentials for it.
    wanted: RwLock<Arc<HashMap<Name, Vec<Opener>>>>,
    store: Arc<dyn Store>,
}

/// When the origin last said yes. The clock is one that nobody sets.
#[derive(Clone, Copy)]
struct Mark {
    seen: Instant,
    /// What had passed before `seen`, where the yes is older than this process.
    before: Duration,
}

/// Older than anything that is honoured: 100 years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Mark {
    fn now() -> Mark {
        Mark { seen: Instant::now(), before: Duration::ZERO }
    }

    /// The mark of what was not public, or is no longer.
    fn never() -> Mark {
        Mark { seen: Instant::now(), before: NEVER }
    }

    fn age(&self) -> Duration {
        self.before + self.seen.elapsed()
    }
}

impl Access {
    pub(crate) fn new(
        public_for: Duration,
        grant_for: Duration,
        grant_outage: Duration,
        store: Arc<dyn Store>,
    ) -> Access {
        let mut key = [0; 32];
        rand::rng().fill_bytes(&mut key);
        Access {
            key,
            public: Cache::new(20_000),
            since: RwLock::default(),
            unerased: Mutex::default(),
            grants: Cache::builder().max_capacity(50_000).time_to_live(grant_outage.max(grant_for)).build(),
            granted: Cache::builder().max_capacity(20_000).time_to_live(grant_outage.max(grant_for)).build(),
            public_for,
            grant_for,
            grant_outage,
            wanted: RwLock::default(),
            store,
        }
    }

    /// Tells apart the clients that must not share an answer.
    pub(crate) fn who(&self, known: bool, request: &Request) -> Who {
        match &request.claim {
            _ if known => Who::Known,
            Some(claim) => self.whose(&claim.clone().into()),
            None => Who::Anonymous,
        }
    }

    /// Tells apart the rights that content is asked for with.
    pub(crate) fn whose(&self, authority: &Authority) -> Who {
        self.fingerprint(authority).map_or(Who::Known, Who::Holder)
    }

    /// What stands for a right that not everybody has.
    fn fingerprint(&self, authority: &Authority) -> Option<Fingerprint> {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&self.key).expect("an HMAC takes keys of any length");
        match authority {
            Authority::Anonymous | Authority::Own => return None,
            Authority::Client(credential) => {
                // The length keeps two different pairs from being the same text.
                mac.update(&(credential.username().len() as u64).to_le_bytes());
                mac.update(credential.username().as_bytes());
                mac.update(credential.password().as_bytes());
            }
            // A length that no user name has.
            Authority::Prefetch(purpose) => {
                mac.update(&u64::MAX.to_le_bytes());
                mac.update(purpose.as_str().as_bytes());
            }
        }
        Some(mac.finalize().into_bytes().into())
    }

    /// The rights that a claim comes to, in the order in which they are tried: whoever keeps something ready has those that ImageCaches have for
    /// that purpose, and what the source knows.
    pub(crate) fn rights(&self, name: &Name, claim: &Claim) -> impl Iterator<Item = Authority> + use<> {
        let told = match claim {
            Claim::Credential(_) => Vec::new(),
            Claim::Prefetch(purpose) => {
                let wanted = self.wanted();
                let openers = wanted.get(name).into_iter().flatten();
                let good = openers.filter(|opener| opener.runtime || *purpose == Purpose::Store);
                good.map(|opener| opener.credential.clone()).collect()
            }
        };
        told.into_iter().map(Authority::Client).chain(std::iter::once(claim.clone().into()))
    }

    /// Takes what ImageCaches want, and by which credentials it may be had; forgets what was told before.
    pub(crate) fn want(&self, wanted: HashMap<Name, Vec<Opener>>) {
        *self.wanted.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(wanted);
    }

    pub(crate) fn wanted(&self) -> Arc<HashMap<Name, Vec<Opener>>> {
        self.wanted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long ago the origin last let that right read a repository, if it did.
    fn granted_for(&self, name: &Name, authority: &Authority) -> Option<Duration> {
        Some(self.grants.get(&(name.clone(), self.fingerprint(authority)?))?.age())
    }

    /// With whose right the request may be answered now, if that is known.
    pub(crate) async fn known(&self, upstream: &Upstream, request: &Request) -> Option<Authority> {
        let rules = &upstream.rules;
        let own = if rules.own_credential { Authority::Own } else { Authority::Anonymous };
        if rules.shared {
            return Some(own);
        }
        if self.public_mark(&request.name).await.is_some_and(|mark| mark.age() < self.public_for) {
            return Some(own);
        }
        let mut rights = self.rights(&request.name, request.claim.as_ref()?);
        rights.find(|right| self.granted_for(&request.name, right).is_some_and(|age| age < self.grant_for))
    }

    /// Whether the request may be answered while the origin cannot be asked.
    pub(crate) async fn through_outage(&self, upstream: &Upstream, request: &Request) -> bool {
        if upstream.rules.shared {
            return true;
        }
        if self
            .public_mark(&request.name)
            .await
            .is_some_and(|mark| mark.age() < upstream.rules.stale.max(self.public_for))
        {
            return true;
        }
        let Some(claim) = &request.claim else { return false };
        let most = self.grant_outage.max(self.grant_for);
        let mut rights = self.rights(&request.name, claim);
        rights.any(|right| self.granted_for(&request.name, &right).is_some_and(|age| age < most))
    }

    /// Whether a client without a credential is to be asked for one while the origin cannot be asked: many clients show theirs
    /// only then, and it may be one that the repository is open to through the outage.
    pub(crate) async fn asks_in_outage(&self, upstream: &Upstream, request: &Request) -> bool {
        request.claim.is_none()
            && self.granted.contains_key(&request.name)
            && !self.through_outage(upstream, request).await
    }

    /// Remembers that the origin said yes; in memory only if what it gives is `lent`.
    pub(crate) async fn remember(&self, name: &Name, authority: &Authority, lent: bool) {
        match authority {
            Authority::Anonymous => {
                let known = self
                    .public
                    .get(name)
                    .is_some_and(|mark| mark.age() < self.public_for / 2 && self.counts(name, &mark));
                if !known && self.counts(name, &Mark::now()) {
                    self.public.insert(name.clone(), Mark::now());
                    self.unerased().remove(name);
                    if lent {
                        return;
                    }
                    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                    let record = Record::new(name, RecordKind::Public);
                    // A store that does not take it costs one question to the origin after the next start.
                    let _ = self.store.write(&record, Bytes::from(seconds.to_string()), true).await;
                }
            }
            Authority::Client(_) | Authority::Prefetch(_) => {
                if let Some(fingerprint) = self.fingerprint(authority) {
                    self.granted.insert(name.clone(), ());
                    self.grants.insert((name.clone(), fingerprint), Mark::now());
                }
            }
            Authority::Own => {}
        }
    }

    /// Forgets what a refusal has shown to be no longer so.
    pub(crate) async fn forget(&self, name: &Name, authority: &Authority) {
        match authority {
            Authority::Anonymous => {
                // Only what was public once has a record: refusals of names that anybody makes up leave no trace.
                let left = self.unerased().contains(name);
                if left || self.last_public_mark(name).await.is_some_and(|mark| mark.age() < NEVER) {
                    self.public.insert(name.clone(), Mark::never());
                    // First in memory, which may forget what it likes but this: the disk may be full or read-only.
                    self.unerased().insert(name.clone());
                    if self.store.erase(&Record::new(name, RecordKind::Public)).await.is_ok() {
                        self.unerased().remove(name);
                    }
                }
            }
            Authority::Client(_) | Authority::Prefetch(_) => {
                if let Some(fingerprint) = self.fingerprint(authority) {
                    self.grants.invalidate(&(name.clone(), fingerprint));
                }
            }
            Authority::Own => {}
        }
    }

    /// Has it asked anew what is public in a registry, and lets no answer make anything public before `settled` has passed.
    pub(crate) fn reconsider(&self, registry: &Registry, settled: Duration) {
        let mut since = self.since.write().unwrap_or_else(PoisonError::into_inner);
        since.insert(registry.clone(), Instant::now() + settled);
    }

    /// Whether a yes to anyone is young enough for its registry.
    fn counts(&self, name: &Name, mark: &Mark) -> bool {
        let since = self.since.read().unwrap_or_else(PoisonError::into_inner);
        since.get(&name.registry).is_none_or(|since| mark.age() < since.elapsed())
    }

    fn unerased(&self) -> std::sync::MutexGuard<'_, HashSet<Name>> {
        self.unerased.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn public_mark(&self, name: &Name) -> Option<Mark> {
        let mark = self.last_public_mark(name).await?;
        Some(if self.counts(name, &mark) { mark } else { Mark::never() })
    }

    async fn last_public_mark(&self, name: &Name) -> Option<Mark> {
        if self.unerased().contains(name) {
            return Some(Mark::never());
        }
        if let Some(mark) = self.public.get(name) {
            return Some(mark);
        }
        let value = self.store.read(&Record::new(name, RecordKind::Public)).await.ok()?;
        let then = value.and_then(|value| std::str::from_utf8(&value).ok()?.trim().parse::<u64>().ok());
        let mark = match then {
            Some(then @ 1..) => Mark { seen: Instant::now(), before: age_of(then) },
            _ => Mark::never(),
        };
        // What was remembered or forgotten while the record was read is newer.
        Some(self.public.entry_by_ref(name).or_insert(mark).into_value())
    }
}

/// How long ago a time of the wall clock was. What lies in the future, because a clock was set, is as old as can be
/// without being over: it is asked for again, and serves while that is not possible.
pub(crate) fn age_of(unix_seconds: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match now.checked_sub(unix_seconds) {
        Some(age) => Duration::from_secs(age),
        None => Duration::from_secs(24 * 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::{Budget, DiskStore, StoreSettings};

    #[tokio::test]
    async fn what_is_public_no_longer_stays_so_though_the_disk_does_not_let_go_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let settings = StoreSettings { root: folder.path().to_owned(), budget: Budget::Bytes(1 << 20) };
        let hour = Duration::from_secs(3600);
        let access = Access::new(hour, hour, hour, Arc::new(DiskStore::open(settings).unwrap()));
        let name = Name::parse("up.test/a/b").unwrap();
        let record = folder.path().join("repositories/up.test/a/b/_public");
        let is_public = async || access.public_mark(&name).await.is_some_and(|mark| mark.age() < NEVER);

        access.remember(&name, &Authority::Anonymous, false).await;
        assert!(is_public().await);
        // What is no file is not removed like one.
        let text = fs::read(&record).unwrap();
        fs::remove_file(&record).unwrap();
        fs::create_dir(&record).unwrap();
        access.forget(&name, &Authority::Anonymous).await;
        fs::remove_dir(&record).unwrap();
        fs::write(&record, text).unwrap();
        // Memory forgets what has not been asked for in a while.
        access.public.invalidate(&name);
        assert!(!is_public().await);

        // The next refusal tries again.
        access.forget(&name, &Authority::Anonymous).await;
        assert!(!record.exists());
        assert!(!is_public().await && access.unerased().is_empty());
        access.remember(&name, &Authority::Anonymous, false).await;
        assert!(is_public().await && record.exists());
    }

    #[tokio::test]
    async fn what_was_public_is_asked_for_anew_in_a_registry_that_is_reconsidered() {
        let folder = tempfile::tempdir().unwrap();
        let settings = StoreSettings { root: folder.path().to_owned(), budget: Budget::Bytes(1 << 20) };
        let hour = Duration::from_secs(3600);
        let access = Access::new(hour, hour, hour, Arc::new(DiskStore::open(settings).unwrap()));
        let (name, other) = (Name::parse("up.test/a/b").unwrap(), Name::parse("other.test/a/b").unwrap());
        let is_public = async |name| access.public_mark(name).await.is_some_and(|mark| mark.age() < hour);
        for name in [&name, &other] {
            access.remember(name, &Authority::Anonymous, false).await;
        }

        access.reconsider(&name.registry, Duration::from_millis(20));
        assert!(!is_public(&name).await && is_public(&other).await);
        // Whoever was asked may not have heard of it yet.
        access.remember(&name, &Authority::Anonymous, false).await;
        assert!(!is_public(&name).await);
        // What the disk has is no younger.
        access.public.invalidate(&name);
        assert!(!is_public(&name).await);
        let settled = Instant::now() + Duration::from_millis(20);
        while Instant::now() <= settled {
            tokio::task::yield_now().await;
        }
        assert!(!is_public(&name).await);
        access.remember(&name, &Authority::Anonymous, false).await;
        assert!(is_public(&name).await);
        // What is lent is not written down.
        let lent = Name::parse("up.test/a/lent").unwrap();
        access.remember(&lent, &Authority::Anonymous, true).await;
        assert!(is_public(&lent).await && !folder.path().join("repositories/up.test/a/lent/_public").exists());
        // A refusal takes it from the disk, whatever counts.
        access.reconsider(&name.registry, Duration::ZERO);
        access.forget(&name, &Authority::Anonymous).await;
        assert!(!folder.path().join("repositories/up.test/a/b/_public").exists());
    }
}
