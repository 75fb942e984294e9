//! When something was missing that a pull needs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::plan::Need;

/// Moments are known to the second.
const WITHIN: Duration = Duration::from_secs(2);

/// The times at which needs were not there.
#[derive(Debug, Default)]
pub struct Windows(Mutex<Vec<Window>>);

#[derive(Clone, Copy, Debug)]
struct Window {
    need: Need,
    from: Instant,
    to: Option<Instant>,
}

impl Windows {
    /// A need is not there from now on.
    pub fn open(&self, need: Need) {
        self.lock().push(Window { need, from: Instant::now(), to: None });
    }

    /// It is there again.
    pub fn close(&self, need: Need) {
        for window in self.lock().iter_mut().filter(|window| window.need == need && window.to.is_none()) {
            window.to = Some(Instant::now());
        }
    }

    /// Whether a need is there.
    pub fn has(&self, need: Need) -> bool {
        self.lock().iter().all(|window| window.need != need || window.to.is_some())
    }

    /// Whether all of `needs` were there from `since` to now.
    pub fn undisturbed(&self, since: Instant, needs: &[Need]) -> bool {
        self.lock().iter().all(|window| !needs.contains(&window.need) || window.to.is_some_and(|to| to < since))
    }

    /// Whether all of `needs` were there at a moment, and had been for `before`.
    pub fn had(&self, needs: &[Need], moment: SystemTime, before: Duration) -> bool {
        let ago = moment.elapsed().unwrap_or_default();
        let missing = |window: &&Window| {
            let over = |to: Instant| to + before < Instant::now().checked_sub(ago).unwrap_or(to);
            window.from.elapsed() + WITHIN > ago && !window.to.is_some_and(over)
        };
        !self.lock().iter().filter(|window| needs.contains(&window.need)).any(|window| missing(&window))
    }

    /// Until when something with these needs that is wanted since then must have come, if it takes `bound` where all is well: after
    /// the last disturbance there is as much time again as had passed by then, for whoever tried in vain waits longer each time. `None`
    /// while one of them is not there.
    pub fn deadline(&self, since: Instant, needs: &[Need], bound: Duration) -> Option<Instant> {
        let mut deadline = since + bound;
        let windows = self.lock();
        for window in windows.iter().filter(|window| needs.contains(&window.need)) {
            let to = window.to?;
            if to >= since {
                deadline = deadline.max(to + bound + (to - since));
            }
        }
        Some(deadline)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(60);

    #[test]
    fn who_needs_what_is_not_there_has_more_time() {
        let windows = Windows::default();
        let since = Instant::now();
        let needs = [Need::Node(1), Need::First];
        assert_eq!(windows.deadline(since, &needs, BOUND), Some(since + BOUND));
        windows.open(Need::Second);
        windows.open(Need::Node(2));
        assert!(windows.undisturbed(since, &needs) && !windows.has(Need::Second));
        assert_eq!(windows.deadline(since, &needs, BOUND), Some(since + BOUND));
        windows.open(Need::First);
        assert_eq!(windows.deadline(since, &needs, BOUND), None);
        assert!(!windows.undisturbed(since, &needs));
        windows.close(Need::First);
        let later = windows.deadline(since, &needs, BOUND).unwrap();
        assert!(later > since + BOUND && windows.has(Need::First));
        let now = SystemTime::now();
        assert!(!windows.had(&needs, now, Duration::from_secs(1)) && windows.had(&[Need::ApiServer], now, BOUND));
        assert!(windows.had(&needs, now - BOUND, BOUND));
        let after = Instant::now() + Duration::from_millis(1);
        assert!(windows.undisturbed(after, &needs));
        assert_eq!(windows.deadline(after, &needs, BOUND), Some(after + BOUND));
    }
}
