use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use moka::sync::Cache;
use oci::{Digest, Name, Registry};
use rand::RngCore;

use crate::credential::{Authority, Claim, Credential, Opener, Purpose};
use crate::reply::Request;
use crate::rules::Rules;
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
/// What is open to everybody is remembered in the store, because its content must be served through an outage that began
/// before a restart; grants are remembered in memory only.
pub(crate) struct Access {
    key: [u8; 32],
    open: Cache<(Name, Opening), Mark>,
    /// What was given to everybody before this moment, which may be to come, opens nothing in these registries.
    since: RwLock<HashMap<Registry, Instant>>,
    /// What is open no longer although its record still says so, for the disk does not let go of it. There is one at most
    /// for each record.
    unerased: Mutex<HashSet<Record>>,
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

/// What a repository is open to everybody by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Opening {
    /// The origin gives it to anyone.
    Public,
    /// The origin gives it to the upstream's own credential, which is shared.
    Shared {
        /// Another credential may read less.
        by: Fingerprint,
        /// The account, which stays the same when its password changes.
        account: Account,
    },
}

/// What stands for an account where it must be remembered: nobody reads its name from it.
type Account = [u8; 8];

impl Opening {
    fn record(&self, name: &Name) -> Record {
        let kind = match self {
            Opening::Public => RecordKind::Public,
            Opening::Shared { .. } => RecordKind::Shared,
        };
        Record::new(name, kind)
    }

    /// What its record says of this moment.
    fn text(&self) -> String {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match self {
            Opening::Public => seconds.to_string(),
            Opening::Shared { account, .. } => format!("{seconds} {}", u64::from_be_bytes(*account)),
        }
    }

    /// The moment of which its record says so, in seconds since 1970. What another account was given counts for nothing.
    fn read(&self, text: &str) -> Option<u64> {
        let (seconds, account) = match text.trim().split_once(' ') {
            Some((seconds, account)) => (seconds, Some(account.parse::<u64>().ok()?.to_be_bytes())),
            None => (text.trim(), None),
        };
        let same = match self {
            Opening::Public => account.is_none(),
            Opening::Shared { account: own, .. } => account.as_ref() == Some(own),
        };
        seconds.parse().ok().filter(|seconds| *seconds > 0 && same)
    }
}

/// When the origin last said yes. The clock is one that nobody sets.
#[derive(Clone, Copy)]
struct Mark {
    seen: Instant,
    /// What had passed before `seen`, where the yes is older than this process.
    before: Duration,
    /// It was read from a record: who asked then may have had another credential.
    recalled: bool,
}

/// Older than anything that is honoured: 100 years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Mark {
    fn now() -> Mark {
        Mark { seen: Instant::now(), before: Duration::ZERO, recalled: false }
    }

    /// The mark of what was not open, or is no longer.
    fn never() -> Mark {
        Mark { before: NEVER, ..Mark::now() }
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
            open: Cache::new(20_000),
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
        match authority {
            Authority::Anonymous | Authority::Own => None,
            Authority::Client(credential) => Some(self.fingerprint_of(credential)),
            // A length that no user name has.
            Authority::Prefetch(purpose) => Some(self.stamp(u64::MAX, &[purpose.as_str()])),
        }
    }

    fn fingerprint_of(&self, credential: &Credential) -> Fingerprint {
        // The length keeps two different pairs from being the same text.
        self.stamp(credential.username().len() as u64, &[credential.username(), credential.password()])
    }

    fn stamp(&self, length: u64, texts: &[&str]) -> Fingerprint {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&self.key).expect("an HMAC takes keys of any length");
        mac.update(&length.to_le_bytes());
        texts.iter().for_each(|text| mac.update(text.as_bytes()));
        mac.finalize().into_bytes().into()
    }

    /// By what a repository may be open to everybody, if the upstream's own credential is.
    fn shared(&self, rules: &Rules) -> Option<Opening> {
        let credential = rules.for_all()?;
        let digest = Digest::sha256(credential.username().as_bytes());
        let account = Account::try_from(&digest.as_bytes()[..8]).expect("a digest is longer");
        Some(Opening::Shared { by: self.fingerprint_of(credential), account })
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
        let (rules, name) = (&upstream.rules, &request.name);
        let own = if rules.own.is_some() { Authority::Own } else { Authority::Anonymous };
        if let Some(shared) = self.shared(rules) {
            let mark = self.mark(name, shared).await;
            // A record is for outages: while the origin can be asked, its word counts, and not what it said before a restart.
            if mark.is_some_and(|mark| mark.age() < self.public_for && !mark.recalled) {
                return Some(own);
            }
        }
        if self.mark(name, Opening::Public).await.is_some_and(|mark| mark.age() < self.public_for) {
            return Some(own);
        }
        let mut rights = self.rights(name, request.claim.as_ref()?);
        rights.find(|right| self.granted_for(name, right).is_some_and(|age| age < self.grant_for))
    }

    /// Whether the request may be answered while the origin cannot be asked.
    pub(crate) async fn through_outage(&self, upstream: &Upstream, request: &Request) -> bool {
        let (rules, name) = (&upstream.rules, &request.name);
        let most = self.grant_outage.max(self.grant_for);
        if let Some(shared) = self.shared(rules) {
            let most = match rules.serve_when_denied || rules.serve_when_gone {
                true => rules.stale.max(most),
                false => most,
            };
            if self.mark(name, shared).await.is_some_and(|mark| mark.age() < most.max(self.public_for)) {
                return true;
            }
        }
        let most_public = rules.stale.max(self.public_for);
        if self.mark(name, Opening::Public).await.is_some_and(|mark| mark.age() < most_public) {
            return true;
        }
        let Some(claim) = &request.claim else { return false };
        let mut rights = self.rights(name, claim);
        rights.any(|right| self.granted_for(name, &right).is_some_and(|age| age < most))
    }

    /// Whether a client without a credential is to be asked for one while the origin cannot be asked: many clients show theirs
    /// only then, and it may be one that the repository is open to through the outage.
    pub(crate) async fn asks_in_outage(&self, upstream: &Upstream, request: &Request) -> bool {
        request.claim.is_none()
            && self.granted.contains_key(&request.name)
            && !self.through_outage(upstream, request).await
    }

    /// Remembers that the origin said yes.
    pub(crate) async fn remember(&self, name: &Name, authority: &Authority, rules: &Rules) {
        match authority {
            Authority::Anonymous => self.open(name, Opening::Public, rules.lent).await,
            Authority::Own => {
                if let Some(shared) = self.shared(rules) {
                    self.open(name, shared, false).await;
                }
            }
            Authority::Client(_) | Authority::Prefetch(_) => {
                if let Some(fingerprint) = self.fingerprint(authority) {
                    self.granted.insert(name.clone(), ());
                    self.grants.insert((name.clone(), fingerprint), Mark::now());
                }
            }
        }
    }

    /// Remembers that a repository is open to everybody; in memory only if that is `lent`.
    async fn open(&self, name: &Name, opening: Opening, lent: bool) {
        let known = self
            .open
            .get(&(name.clone(), opening))
            .is_some_and(|mark| mark.age() < self.public_for / 2 && !mark.recalled && self.counts(name, &mark));
        if !known && self.counts(name, &Mark::now()) {
            self.open.insert((name.clone(), opening), Mark::now());
            let record = opening.record(name);
            self.unerased().remove(&record);
            if lent {
                return;
            }
            // A store that does not take it costs one question to the origin after the next start.
            let _ = self.store.write(&record, Bytes::from(opening.text()), true).await;
        }
    }

    /// Forgets what a refusal has shown to be no longer so.
    pub(crate) async fn forget(&self, name: &Name, authority: &Authority, rules: &Rules) {
        match authority {
            Authority::Anonymous => self.close(name, Opening::Public).await,
            Authority::Own => {
                if let Some(shared) = self.shared(rules) {
                    self.close(name, shared).await;
                }
            }
            Authority::Client(_) | Authority::Prefetch(_) => {
                if let Some(fingerprint) = self.fingerprint(authority) {
                    self.grants.invalidate(&(name.clone(), fingerprint));
                }
            }
        }
    }

    async fn close(&self, name: &Name, opening: Opening) {
        // Only what was open once has a record: refusals of names that anybody makes up leave no trace.
        let record = opening.record(name);
        let left = self.unerased().contains(&record);
        if left || self.last_mark(name, opening).await.is_some_and(|mark| mark.age() < NEVER) {
            self.open.insert((name.clone(), opening), Mark::never());
            // First in memory, which may forget what it likes but this: the disk may be full or read-only.
            self.unerased().insert(record.clone());
            if self.store.erase(&record).await.is_ok() {
                self.unerased().remove(&record);
            }
        }
    }

    /// Has it asked anew what is open to everybody in a registry, and lets no answer open anything before `settled` has passed.
    pub(crate) fn reconsider(&self, registry: &Registry, settled: Duration) {
        let mut since = self.since.write().unwrap_or_else(PoisonError::into_inner);
        since.insert(registry.clone(), Instant::now() + settled);
    }

    /// Whether a yes for everybody is young enough for its registry.
    fn counts(&self, name: &Name, mark: &Mark) -> bool {
        let since = self.since.read().unwrap_or_else(PoisonError::into_inner);
        since.get(&name.registry).is_none_or(|since| mark.age() < since.elapsed())
    }

    fn unerased(&self) -> std::sync::MutexGuard<'_, HashSet<Record>> {
        self.unerased.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When everybody was last given something of a repository by that opening, as far as it counts.
    async fn mark(&self, name: &Name, opening: Opening) -> Option<Mark> {
        let mark = self.last_mark(name, opening).await?;
        Some(if self.counts(name, &mark) { mark } else { Mark::never() })
    }

    async fn last_mark(&self, name: &Name, opening: Opening) -> Option<Mark> {
        let record = opening.record(name);
        if self.unerased().contains(&record) {
            return Some(Mark::never());
        }
        let key = (name.clone(), opening);
        if let Some(mark) = self.open.get(&key) {
            return Some(mark);
        }
        let value = self.store.read(&record).await.ok()?;
        let mark = match value.and_then(|value| opening.read(std::str::from_utf8(&value).ok()?)) {
            Some(then) => Mark { before: age_of(then), recalled: true, ..Mark::now() },
            None => Mark::never(),
        };
        // What was remembered or forgotten while the record was read is newer.
        Some(self.open.entry(key).or_insert(mark).into_value())
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
        let is_public = async || access.mark(&name, Opening::Public).await.is_some_and(|mark| mark.age() < NEVER);

        access.remember(&name, &Authority::Anonymous, &Rules::default()).await;
        assert!(is_public().await);
        // What is no file is not removed like one.
        let text = fs::read(&record).unwrap();
        fs::remove_file(&record).unwrap();
        fs::create_dir(&record).unwrap();
        access.forget(&name, &Authority::Anonymous, &Rules::default()).await;
        fs::remove_dir(&record).unwrap();
        fs::write(&record, text).unwrap();
        // Memory forgets what has not been asked for in a while.
        access.open.invalidate(&(name.clone(), Opening::Public));
        assert!(!is_public().await);

        // The next refusal tries again.
        access.forget(&name, &Authority::Anonymous, &Rules::default()).await;
        assert!(!record.exists());
        assert!(!is_public().await && access.unerased().is_empty());
        access.remember(&name, &Authority::Anonymous, &Rules::default()).await;
        assert!(is_public().await && record.exists());
    }

    #[tokio::test]
    async fn what_was_public_is_asked_for_anew_in_a_registry_that_is_reconsidered() {
        let folder = tempfile::tempdir().unwrap();
        let settings = StoreSettings { root: folder.path().to_owned(), budget: Budget::Bytes(1 << 20) };
        let hour = Duration::from_secs(3600);
        let access = Access::new(hour, hour, hour, Arc::new(DiskStore::open(settings).unwrap()));
        let (name, other) = (Name::parse("up.test/a/b").unwrap(), Name::parse("other.test/a/b").unwrap());
        let is_public = async |name| access.mark(name, Opening::Public).await.is_some_and(|mark| mark.age() < hour);
        for name in [&name, &other] {
            access.remember(name, &Authority::Anonymous, &Rules::default()).await;
        }

        access.reconsider(&name.registry, Duration::from_millis(20));
        assert!(!is_public(&name).await && is_public(&other).await);
        // Whoever was asked may not have heard of it yet.
        access.remember(&name, &Authority::Anonymous, &Rules::default()).await;
        assert!(!is_public(&name).await);
        // What the disk has is no younger.
        access.open.invalidate(&(name.clone(), Opening::Public));
        assert!(!is_public(&name).await);
        let settled = Instant::now() + Duration::from_millis(20);
        while Instant::now() <= settled {
            tokio::task::yield_now().await;
        }
        assert!(!is_public(&name).await);
        access.remember(&name, &Authority::Anonymous, &Rules::default()).await;
        assert!(is_public(&name).await);
        // What is lent is not written down.
        let lent = Name::parse("up.test/a/lent").unwrap();
        access.remember(&lent, &Authority::Anonymous, &Rules { lent: true, ..Rules::default() }).await;
        assert!(is_public(&lent).await && !folder.path().join("repositories/up.test/a/lent/_public").exists());
        // A refusal takes it from the disk, whatever counts.
        access.reconsider(&name.registry, Duration::ZERO);
        access.forget(&name, &Authority::Anonymous, &Rules::default()).await;
        assert!(!folder.path().join("repositories/up.test/a/b/_public").exists());
    }
    #[tokio::test]
    async fn what_is_shared_is_what_this_credential_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let settings = StoreSettings { root: folder.path().to_owned(), budget: Budget::Bytes(1 << 20) };
        let store = DiskStore::open(settings).unwrap();
        let hour = Duration::from_secs(3600);
        let opened = || Access::new(hour, hour, hour, Arc::new(store.clone()));
        let access = opened();
        let request = Request { name: Name::parse("up.test/a/b").unwrap(), claim: None };
        let by = |username: &str, password: &str| {
            let own = Some(Credential::new(username, password));
            let rules = Rules { shared: true, own, ..Rules::default() };
            Upstream { registry: request.name.registry.clone(), sources: Vec::new(), rules }
        };
        let asked = async |access: &Access, upstream: &Upstream| {
            (access.known(upstream, &request).await, access.through_outage(upstream, &request).await)
        };
        let robot = by("robot", "one");
        assert_eq!(asked(&access, &robot).await, (None, false));
        access.remember(&request.name, &Authority::Own, &robot.rules).await;
        assert_eq!(asked(&access, &robot).await, (Some(Authority::Own), true));
        // The same account is asked about anew, and another one may read less.
        assert_eq!(asked(&access, &by("robot", "two")).await, (None, true));
        assert_eq!(asked(&access, &by("guest", "one")).await, (None, false));
        let unshared = Upstream { rules: Rules { shared: false, ..robot.rules.clone() }, ..by("robot", "one") };
        assert_eq!(asked(&access, &unshared).await, (None, false));
        // A restart.
        let access = opened();
        assert_eq!(asked(&access, &robot).await, (None, true));
        access.remember(&request.name, &Authority::Own, &robot.rules).await;
        assert_eq!(asked(&access, &robot).await, (Some(Authority::Own), true));
        access.reconsider(&request.name.registry, Duration::ZERO);
        assert_eq!(asked(&access, &robot).await, (None, false));
        // Nor does the record tell who it was.
        let text = fs::read_to_string(folder.path().join("repositories/up.test/a/b/_shared")).unwrap();
        assert!(!text.contains("robot") && text.split(' ').all(|word| word.parse::<u64>().is_ok()), "{text}");
        access.forget(&request.name, &Authority::Own, &robot.rules).await;
        assert_eq!(asked(&opened(), &robot).await, (None, false));
    }
}
