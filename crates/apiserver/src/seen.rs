use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// What was last seen of the API server.
#[derive(Debug)]
pub struct Seen(Mutex<State>);

#[derive(Debug)]
struct State {
    listed: bool,
    lost: Option<Lost>,
    /// Failures since it was last followed.
    failures: u32,
    /// Why, as was last told.
    told: Option<String>,
}

/// The API server tells nothing: what is known is that of before, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Since when. A connection on which nothing comes any more is noticed within a minute.
    pub since: SystemTime,
    /// Why, with what to do about it where that is known.
    pub why: String,
}

impl Default for Seen {
    /// Nothing has been seen yet.
    fn default() -> Seen {
        let lost = Lost { since: SystemTime::now(), why: "the API server has not answered yet".to_owned() };
        Seen(Mutex::new(State { listed: false, lost: Some(lost), failures: 0, told: None }))
    }
}

impl Seen {
    /// Since when and why nothing is heard, or `None` while all is followed.
    pub fn lost(&self) -> Option<Lost> {
        self.state().lost.clone()
    }

    /// Whether there ever was a complete list.
    pub fn ever(&self) -> bool {
        self.state().listed
    }

    pub(crate) fn listed(&self) {
        self.state().listed = true;
    }

    /// All is followed from now on. Gives what is over with it.
    pub(crate) fn find(&self) -> Option<Lost> {
        let mut state = self.state();
        (state.failures, state.told) = (0, None);
        state.lost.take()
    }

    /// It is not followed. Says whether to tell people: once for each reason, and not of a connection that only has
    /// to be made anew, unless that fails too or the matter is `grave`.
    pub(crate) fn lose(&self, why: &str, grave: bool) -> bool {
        let mut state = self.state();
        let since = state.lost.take().map_or_else(SystemTime::now, |lost| lost.since);
        state.lost = Some(Lost { since, why: why.to_owned() });
        state.failures = state.failures.saturating_add(1);
        let news = (grave || state.failures > 1) && state.told.as_deref() != Some(why);
        if news {
            state.told = Some(why.to_owned());
        }
        news
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock leaves the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_counts_from_its_beginning() {
        let seen = Seen::default();
        let begun = seen.lost().unwrap().since;
        seen.lose("refused", false);
        seen.lose("silent", false);
        assert_eq!(seen.lost(), Some(Lost { since: begun, why: "silent".to_owned() }));
        assert!(seen.find().is_some());
        assert!(seen.find().is_none());
        assert_eq!(seen.lost(), None);
        seen.lose("silent", false);
        assert!(seen.lost().unwrap().since >= begun);
    }

    #[test]
    fn each_reason_is_told_once_and_none_of_a_short_break() {
        let seen = Seen::default();
        assert!(!seen.lose("broken", false));
        seen.find();
        assert!(!seen.lose("broken", false));
        assert!(seen.lose("broken", false));
        assert!(!seen.lose("broken", false));
        assert!(seen.lose("forbidden", true));
        assert!(!seen.lose("forbidden", true));
        seen.find();
        assert!(seen.lose("forbidden", true));
    }
}
