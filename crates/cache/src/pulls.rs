use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oci::Name;
use tokio::sync::watch;

use crate::engine::Engine;

/// Between the parts of one pull there may be such a pause.
const BETWEEN: Duration = Duration::from_secs(2);

/// What a container runtime is pulling: for pods, and for ImageCaches, which have time.
#[derive(Clone, Debug)]
pub struct Pulls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The repositories of images that are pulled for ImageCaches, each as often as it is.
    ours: Mutex<HashMap<Name, usize>>,
    others: watch::Sender<Others>,
}

/// What is on its way to a container runtime that is not for ImageCaches.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    count: usize,
    last: Option<Instant>,
}

/// Whether pods pull.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodsPull {
    /// Nothing is on its way.
    #[default]
    No,
    /// Something is on its way.
    Yes,
    /// Something was a moment ago, and more may follow until then.
    Until(Instant),
}

impl Default for Pulls {
    fn default() -> Pulls {
        Pulls(Arc::new(Shared { ours: Mutex::default(), others: watch::Sender::new(Others::default()) }))
    }
}

impl Pulls {
    /// What the runtime takes of this repository while the guard is kept is for ImageCaches.
    #[must_use]
    pub fn for_image_caches(&self, name: &Name) -> ForImageCaches {
        *self.ours().entry(name.clone()).or_default() += 1;
        ForImageCaches { pulls: self.clone(), name: name.clone() }
    }

    /// Counts an answer to the runtime, for as long as the guard is kept, unless it is for ImageCaches.
    #[must_use]
    pub fn answering(&self, name: &Name) -> Option<Answering> {
        if self.ours().contains_key(name) {
            return None;
        }
        self.change(|others| others.count += 1);
        Some(Answering(self.clone()))
    }

    /// Whether pods pull at `now`.
    #[must_use]
    pub fn of_pods(&self, now: Instant) -> PodsPull {
        let others = *self.0.others.borrow();
        match (others.count, others.last.map(|last| last + BETWEEN)) {
            (1.., _) => PodsPull::Yes,
            (0, Some(until)) if until > now => PodsPull::Until(until),
            (0, _) => PodsPull::No,
        }
    }

    /// Tells when pods begin to pull and when they end.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<impl Sized + use<>> {
        self.0.others.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Others)) {
        self.0.others.send_if_modified(|others| {
            let before = others.count;
            change(others);
            (before == 0) != (others.count == 0)
        });
    }

    fn ours(&self) -> MutexGuard<'_, HashMap<Name, usize>> {
        self.0.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// What a container runtime pulls through this engine, where one does.
    #[must_use]
    pub fn pulls(&self) -> &Pulls {
        &self.inner.pulls
    }
}

/// Has what the runtime takes of a repository count as being for ImageCaches, until it is dropped.
#[derive(Debug)]
pub struct ForImageCaches {
    pulls: Pulls,
    name: Name,
}

impl Drop for ForImageCaches {
    fn drop(&mut self) {
        let mut ours = self.pulls.ours();
        if let Some(count) = ours.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                ours.remove(&self.name);
            }
        }
    }
}

/// Part of a pull of a pod, until it is dropped.
#[derive(Debug)]
pub struct Answering(Pulls);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.change(|others| {
            others.count -= 1;
            others.last = Some(Instant::now());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_pull_while_something_of_another_repository_is_taken_and_a_little_longer() {
        let pulls = Pulls::default();
        let mut changes = pulls.changes();
        let (wanted, other) = (Name::parse("up.test/wanted").unwrap(), Name::parse("up.test/other").unwrap());
        let of_pods = || pulls.of_pods(Instant::now());
        assert_eq!(of_pods(), PodsPull::No);
        let (one, two) = (pulls.for_image_caches(&wanted), pulls.for_image_caches(&wanted));
        assert!(pulls.answering(&wanted).is_none() && of_pods() == PodsPull::No && !changes.has_changed().unwrap());
        drop(one);
        assert!(pulls.answering(&wanted).is_none());
        let (first, second) = (pulls.answering(&other), pulls.answering(&other));
        assert!(of_pods() == PodsPull::Yes && changes.has_changed().unwrap());
        changes.mark_unchanged();
        drop(first);
        assert!(of_pods() == PodsPull::Yes && !changes.has_changed().unwrap());
        drop(second);
        assert!(changes.has_changed().unwrap());
        // The next part may come at once.
        let PodsPull::Until(then) = of_pods() else { panic!("{:?}", of_pods()) };
        assert_eq!(pulls.of_pods(then), PodsPull::No);
        drop(two);
        assert!(pulls.answering(&wanted).is_some(), "nobody keeps it ready any more");
    }
}
