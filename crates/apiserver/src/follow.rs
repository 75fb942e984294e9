use std::convert::Infallible;
use std::error::Error;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use http::StatusCode;
use kube::Resource;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use serde::de::DeserializeOwned;

use crate::line::{self, ApiServer, Opened};
use crate::need::{is_missing, reason, refusal};
use crate::seen::Seen;
use crate::watch::Watch;

/// After so long without the API server, credentials and certificates are read anew: those at hand may have run out.
pub(crate) const RENEWED_AFTER: Duration = Duration::from_secs(600);

/// Which part of kube's pauses is taken: those grow to between thirty seconds and a minute, and everything is to be heard of
/// within thirty seconds of an outage's end.
const SHORTER: u32 = 3;

/// All may be listed anew after so long without the growing pauses of what goes wrong.
const RELISTED_AFTER: Duration = Duration::from_secs(60);

/// What becomes known of the objects that are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News<T> {
    /// These are all, and there are no others.
    All(Vec<T>),
    /// This one is new, or has changed.
    Changed(T),
    /// This one is gone.
    Gone(T),
}

/// Follows objects until dropped, which may be at any time: what was told by then stays true.
///
/// `keep` makes of an object what is kept of it, at once, so that a long list is never in memory in full; `tell` is given what
/// there is and what changes. A list is told only when it is complete, so nothing vanishes for the moment in which all is listed anew.
/// An API server that cannot be reached, refuses, or does not know the kind is tried again after pauses that grow to between ten
/// and twenty seconds.
pub async fn follow<K, T>(
    server: &ApiServer,
    watch: &Watch<K>,
    seen: &Arc<Seen>,
    keep: impl FnMut(K) -> T,
    tell: impl FnMut(News<T>),
) -> Infallible
where
    K: Resource<DynamicType: Default> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut telling = Telling { arriving: Vec::new(), keep, tell };
    // The pauses of kube's own adapter start anew with each attempt to list, and so never grow.
    let mut pauses = DefaultBackoff::default();
    loop {
        let client = match line::connect(server, opened(watch.what(), seen)).await {
            Ok(client) => client,
            Err(error) => {
                report(watch.what(), seen, &error.to_string(), true);
                rest(&mut pauses).await;
                continue;
            }
        };
        let connected = SystemTime::now();
        let mut events = pin!(watcher(watch.api(client), watch.config()));
        let mut relisted = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if telling.take(event) {
                        seen.listed();
                    }
                }
                // The API server has forgotten what came since, and all is listed anew: usual after it was started anew.
                Err(watcher::Error::WatchError(status))
                    if status.code == StatusCode::GONE.as_u16() && !just_now(relisted) =>
                {
                    tracing::debug!("listing {} anew", watch.what());
                    relisted = Some(Instant::now());
                    pauses.reset();
                    rest(&mut pauses).await;
                }
                Err(error) => {
                    let grave = refusal(&error).is_some() || is_missing(&error);
                    report(watch.what(), seen, &reason(&error, &watch.need()), grave);
                    rest(&mut pauses).await;
                    if outdated(&error, seen, connected) {
                        break;
                    }
                }
            }
        }
    }
}

/// Makes news of what a watcher tells.
struct Telling<T, F, G> {
    /// A list that is not complete yet.
    arriving: Vec<T>,
    keep: F,
    tell: G,
}

impl<T, F, G: FnMut(News<T>)> Telling<T, F, G> {
    /// Takes an event in. Says whether a list has become complete by it.
    fn take<K>(&mut self, event: Event<K>) -> bool
    where
        F: FnMut(K) -> T,
    {
        match event {
            Event::Init => self.arriving.clear(),
            Event::InitApply(object) => self.arriving.push((self.keep)(object)),
            Event::InitDone => {
                (self.tell)(News::All(std::mem::take(&mut self.arriving)));
                return true;
            }
            Event::Apply(object) => (self.tell)(News::Changed((self.keep)(object))),
            Event::Delete(object) => (self.tell)(News::Gone((self.keep)(object))),
        }
        false
    }
}

/// What becomes known when the API server lets us watch.
fn opened(what: &Arc<str>, seen: &Arc<Seen>) -> Opened {
    let (what, seen) = (what.clone(), seen.clone());
    Arc::new(move || {
        if let Some(over) = seen.find() {
            let seconds = over.since.elapsed().unwrap_or_default().as_secs();
            tracing::info!(after_seconds = seconds, "following {what}");
        }
    })
}

async fn rest(pauses: &mut DefaultBackoff) {
    tokio::time::sleep(pauses.next().map_or(RENEWED_AFTER, |pause| pause / SHORTER)).await;
}

/// Whether all was listed anew a moment ago, so that doing it again at once could go on and on.
fn just_now(relisted: Option<Instant>) -> bool {
    relisted.is_some_and(|last| last.elapsed() < RELISTED_AFTER)
}

/// Whether the way to the API server should be set up anew.
fn outdated(error: &(dyn Error + 'static), seen: &Seen, connected: SystemTime) -> bool {
    if refusal(error) == Some(StatusCode::UNAUTHORIZED) {
        return true;
    }
    let long = |since: SystemTime| since.elapsed().is_ok_and(|time| time >= RENEWED_AFTER);
    long(connected) && seen.lost().is_some_and(|lost| long(lost.since))
}

/// Takes note of what is wrong, and says so once however often it goes wrong in this way.
fn report(what: &str, seen: &Seen, why: &str, grave: bool) {
    if seen.lose(why, grave) {
        tracing::warn!(why, "cannot follow {what}; what was last heard of it stays");
    } else {
        tracing::debug!(why, "could not follow {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_counts_only_when_it_is_complete() {
        let mut news = Vec::new();
        let mut telling = Telling { arriving: Vec::new(), keep: |number: u8| number, tell: |one| news.push(one) };
        assert!(!telling.take(Event::Init));
        assert!(!telling.take(Event::InitApply(1)));
        // This list breaks off, and must not count with the next one.
        assert!(!telling.take(Event::Init));
        assert!(!telling.take(Event::InitApply(2)));
        assert!(!telling.take(Event::InitApply(3)));
        assert!(telling.take(Event::InitDone));
        assert!(!telling.take(Event::Apply(4)));
        assert!(!telling.take(Event::Delete(2)));
        assert!(!telling.take(Event::Init));
        assert!(telling.take(Event::InitDone));
        assert_eq!(news, [News::All(vec![2, 3]), News::Changed(4), News::Gone(2), News::All(vec![])]);
    }
}
