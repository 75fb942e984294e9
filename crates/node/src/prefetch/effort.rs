use std::time::{Duration, Instant};

use cache::WholeImage;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use oci::Digest;
use warm::Wish;

use super::failure::Failure;

/// The pause after the first failure; each further one doubles it,
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// An image that stayed for so long has got over its failures. One that vanishes sooner counts as one more: kubelet may be at odds with us
/// about room, and must not be made to throw away in a circle what is pulled.
const STEADY: Duration = Duration::from_secs(600);

/// What was done for an image that is wanted.
#[derive(Debug)]
pub(super) struct Effort {
    /// What it was done for. With another one all begins anew.
    purpose: Purpose,
    /// When the tags were last asked for. What was given up is tried anew then.
    refreshed: Option<Time>,
    /// Pulls that were begun.
    pub(super) attempts: u32,
    /// Failures since it was last steady.
    failures: u32,
    /// Why it is not ready, if it failed.
    pub(super) failure: Option<Failure>,
    rest: Rest,
    /// A pull has ended well, and nobody has looked yet what the runtime has now.
    pub(super) arrived: bool,
    /// The registry gives it to nobody without a credential.
    pub(super) private: bool,
    /// What larder's store has of it.
    pub(super) whole: Option<WholeImage>,
    /// Since when it is ready.
    warm_since: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
struct Purpose {
    /// The ImageCaches that want it: their namespaces, names and generations.
    caches: Vec<(String, String, Option<i64>)>,
    digest: Option<Digest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    None,
    Until(Instant),
    GivenUp,
}

impl Effort {
    pub(super) fn new(wish: &Wish) -> Effort {
        Effort {
            purpose: Purpose::of(wish),
            refreshed: refreshed(wish),
            attempts: 0,
            failures: 0,
            failure: None,
            rest: Rest::None,
            arrived: false,
            private: false,
            whole: None,
            warm_since: None,
        }
    }

    /// Takes note of what it is for now.
    pub(super) fn serve(&mut self, wish: &Wish) {
        let purpose = Purpose::of(wish);
        let same_digest = self.purpose.digest == purpose.digest;
        let refreshed = refreshed(wish);
        if self.purpose != purpose || (self.is_given_up() && refreshed > self.refreshed) {
            let warm_since = self.warm_since.filter(|_| same_digest);
            *self = Effort { warm_since, arrived: self.arrived, ..Effort::new(wish) };
        }
        self.refreshed = refreshed;
    }

    /// Whether its turn may come.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match self.rest {
            Rest::None => !self.arrived,
            Rest::Until(then) => !self.arrived && then <= now,
            Rest::GivenUp => false,
        }
    }

    /// When it is tried again, if it rests.
    pub(super) fn resumes(&self) -> Option<Instant> {
        match self.rest {
            Rest::Until(then) => Some(then),
            _ => None,
        }
    }

    /// Whether nothing is tried any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.rest == Rest::GivenUp
    }

    pub(super) fn fail(&mut self, failure: Failure, retries: u32, now: Instant) {
        self.arrived = false;
        self.warm_since = None;
        if failure.reason.counts() {
            self.failures = self.failures.saturating_add(1);
        }
        self.rest = match self.failures > retries {
            true => Rest::GivenUp,
            false => Rest::Until(now + pause(self.failures)),
        };
        self.failure = Some(failure);
    }

    /// Larder's store has it.
    pub(super) fn stored(&mut self, whole: WholeImage) {
        self.whole = Some(whole);
        self.failure = None;
    }

    /// It is ready.
    pub(super) fn warm(&mut self, now: Instant) {
        self.arrived = false;
        self.failure = None;
        self.rest = Rest::None;
        let since = *self.warm_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= STEADY {
            self.failures = 0;
        }
    }

    /// Whether it was ready when last looked at.
    pub(super) fn was_warm(&self) -> bool {
        self.warm_since.is_some()
    }

    /// It has to be pulled anew, without anything having gone wrong.
    pub(super) fn outdated(&mut self) {
        self.warm_since = None;
    }
}

impl Purpose {
    fn of(wish: &Wish) -> Purpose {
        let caches = wish.wanted_by.iter().map(|one| (one.namespace.clone(), one.name.clone(), one.generation));
        Purpose { caches: caches.collect(), digest: wish.digest }
    }
}

fn refreshed(wish: &Wish) -> Option<Time> {
    wish.wanted_by.iter().filter_map(|one| one.refreshed.clone()).max()
}

/// The pause after so many failures.
fn pause(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_ten_seconds_to_five_minutes() {
        let pauses: Vec<u64> = (0..9).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(pauses, [10, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
