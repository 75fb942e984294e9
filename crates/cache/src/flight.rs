use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::reply::Error;
use crate::source::FailureKind;

/// Where the answer will be.
type Answer<V> = watch::Receiver<Option<Result<V, Error>>>;

/// Work of which one of a kind runs at a time: who asks meanwhile gets the same answer. It goes on when those who asked
/// leave.
pub(crate) struct Flights<K, V> {
    running: Mutex<HashMap<K, Answer<V>>>,
    failures: Failures<K>,
}

impl<K, V> Flights<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Flights<K, V> {
        Flights { running: Mutex::new(HashMap::new()), failures: Failures::new() }
    }

    /// Joins the work of this kind, or starts it; tells whether it was joined. `owner` gives access to these flights from
    /// the work itself, to take it off the list.
    pub(crate) async fn run<O: Send + Sync + 'static>(
        &self,
        tasks: &TaskTracker,
        owner: std::sync::Arc<O>,
        flights: impl Fn(&O) -> &Flights<K, V> + Send + 'static,
        key: K,
        work: impl Future<Output = Result<V, Error>> + Send + 'static,
    ) -> (Result<V, Error>, bool) {
        if let Some(error) = self.failures.get(&key) {
            return (Err(error), true);
        }
        let (mut receiver, joined) = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            match running.entry(key.clone()) {
                Entry::Occupied(entry) => (entry.get().clone(), true),
                Entry::Vacant(entry) => {
                    let (sender, receiver) = watch::channel(None);
                    entry.insert(receiver.clone());
                    let guard = Landing { owner, flights, key };
                    tasks.spawn(async move {
                        let result = work.await;
                        guard.note(&result);
                        drop(guard);
                        let _ = sender.send(Some(result));
                    });
                    (receiver, false)
                }
            }
        };
        let result = match receiver.wait_for(Option::is_some).await {
            Ok(result) => result.clone().expect("waited for"),
            Err(_) => Err(Error::new(FailureKind::Unavailable, "the request was ended")),
        };
        (result, joined)
    }
}

/// Takes finished work off the list, even if it panicked.
struct Landing<K: Hash + Eq, V, O, F: Fn(&O) -> &Flights<K, V>> {
    owner: std::sync::Arc<O>,
    flights: F,
    key: K,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static, V, O, F: Fn(&O) -> &Flights<K, V>> Landing<K, V, O, F> {
    fn note(&self, result: &Result<V, Error>) {
        let failures = &(self.flights)(&self.owner).failures;
        match result {
            Ok(_) => failures.clear(&self.key),
            Err(error) => failures.add(&self.key, error),
        }
    }
}

impl<K: Hash + Eq, V, O, F: Fn(&O) -> &Flights<K, V>> Drop for Landing<K, V, O, F> {
    fn drop(&mut self) {
        (self.flights)(&self.owner).running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Failures that are answered for a while without asking again: longer each time, so that a herd at a failing key costs
/// one try per step.
pub(crate) struct Failures<K>(Cache<K, Failed>);

#[derive(Clone)]
struct Failed {
    error: Error,
    until: Instant,
    streak: u32,
}

/// The longest that a failure of the origin is answered without asking again.
const LONGEST: Duration = Duration::from_secs(15);

/// How long a definite no is.
const NO: Duration = Duration::from_secs(2);

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Failures<K> {
    pub(crate) fn new() -> Failures<K> {
        Failures(Cache::builder().max_capacity(10_000).time_to_live(4 * LONGEST).build())
    }

    pub(crate) fn get(&self, key: &K) -> Option<Error> {
        self.0.get(key).filter(|failed| failed.until > Instant::now()).map(|failed| failed.error)
    }

    pub(crate) fn clear(&self, key: &K) {
        self.0.invalidate(key);
    }

    pub(crate) fn add(&self, key: &K, error: &Error) {
        let streak = self.0.get(key).map_or(0, |failed| failed.streak + 1);
        let wait = match error.kind {
            FailureKind::Unavailable | FailureKind::Timeout | FailureKind::Invalid => {
                (Duration::from_secs(1) * 2u32.pow(streak.min(4))).min(LONGEST)
            }
            FailureKind::NotFound | FailureKind::Unauthorized | FailureKind::Denied => NO,
            // The source itself knows until when not to ask; a refusal asks nobody.
            FailureKind::RateLimited { .. } | FailureKind::Refused => return,
        };
        self.0.insert(key.clone(), Failed { error: error.clone(), until: Instant::now() + wait, streak });
    }
}
