use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// What was last seen of the API server.
#[derive(Debug)]
pub struct Seen(Mutex<State>);

#[derive(Debug)]
struct State {
    listed: bool,
    lost: Option<Lost>,
}

/// The API server tells nothing: the list of nodes is that of before, or none.
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
        Seen(Mutex::new(State { listed: false, lost: Some(lost) }))
    }
}

impl Seen {
    /// Since when and why the list is not followed, or `None` while it is.
    pub fn lost(&self) -> Option<Lost> {
        self.state().lost.clone()
    }

    /// Whether there ever was a complete list.
    pub fn ever(&self) -> bool {
        self.state().listed
    }

    pub(super) fn listed(&self) {
        self.state().listed = true;
    }

    /// The list is followed from now on. Gives what is over with it.
    pub(super) fn find(&self) -> Option<Lost> {
        self.state().lost.take()
    }

    /// The list is not followed. Says whether that is news, or for other reasons than before.
    pub(super) fn lose(&self, why: &str) -> bool {
        let mut state = self.state();
        match &mut state.lost {
            Some(lost) if lost.why == why => false,
            Some(lost) => {
                lost.why = why.to_owned();
                true
            }
            none => {
                *none = Some(Lost { since: SystemTime::now(), why: why.to_owned() });
                true
            }
        }
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
    fn an_outage_counts_from_its_beginning_and_each_reason_is_news_once() {
        let seen = Seen::default();
        let begun = seen.lost().unwrap().since;
        assert!(seen.lose("refused"));
        assert!(!seen.lose("refused"));
        assert!(seen.lose("silent"));
        assert_eq!(seen.lost(), Some(Lost { since: begun, why: "silent".to_owned() }));
        assert!(seen.find().is_some());
        assert!(seen.find().is_none());
        assert_eq!(seen.lost(), None);
        assert!(seen.lose("silent"));
        assert!(seen.lost().unwrap().since >= begun);
    }
}
