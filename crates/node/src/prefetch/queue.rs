use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use warm::Turns;

/// How long a node waits for its turn at least while nobody is heard of who gives turns. The controller says every ten minutes that it does.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Over so long nodes are spread that have waited in vain, lest all begin at once.
const SPREAD: Duration = Duration::from_secs(30 * 60);

/// What is heard of a node's turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Those that it has.
    pub turns: Turns,
    /// When the controller last said that it gives turns, by its own clock.
    pub said: Option<Time>,
}

/// How a node waits for its turn: as long as somebody gives turns, and not for ever where nobody does.
#[derive(Debug)]
pub(super) struct Queue {
    heard: Heard,
    /// When something else was heard.
    sign: Option<Instant>,
    /// Since when something waits.
    since: Option<Instant>,
    patience: Duration,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue::of("")
    }
}

impl Queue {
    /// For a node of that name.
    pub(super) fn of(node: &str) -> Queue {
        let mut hasher = DefaultHasher::new();
        node.hash(&mut hasher);
        let share = (hasher.finish() % 1000) as f64 / 1000.0;
        Queue { heard: Heard::default(), sign: None, since: None, patience: PATIENCE + SPREAD.mul_f64(share) }
    }

    /// Takes what is heard.
    pub(super) fn hear(&mut self, heard: Heard, now: Instant) {
        if self.heard != heard {
            self.sign = Some(now);
            self.heard = heard;
        }
    }

    /// Takes that something waits for its turn, or that nothing does.
    pub(super) fn wait(&mut self, waits: bool, now: Instant) {
        self.since = waits.then(|| self.since.unwrap_or(now));
    }

    /// The turns that the node has.
    pub(super) fn turns(&self) -> &Turns {
        &self.heard.turns
    }

    /// When the node goes on without a turn if nothing is heard.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.since.map(|since| self.sign.map_or(since, |sign| sign.max(since)) + self.patience)
    }

    /// Whether it has waited long enough.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.ends().is_some_and(|end| end <= now)
    }

    /// For how long it waits, in minutes.
    pub(super) fn minutes(&self) -> u64 {
        self.patience.as_secs() / 60
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn nodes_that_wait_in_vain_do_not_begin_all_at_once() {
        let patience: Vec<Duration> = (0..100).map(|node| Queue::of(&format!("node-{node}")).patience).collect();
        assert!(patience.iter().all(|one| (PATIENCE..=PATIENCE + SPREAD).contains(one)));
        let early = patience.iter().filter(|one| **one < PATIENCE + SPREAD / 2).count();
        assert!((30..70).contains(&early), "{early} of 100 in the first half");
    }

    #[test]
    fn it_waits_as_long_as_somebody_gives_turns() {
        let (mut queue, begun) = (Queue::of("node-1"), Instant::now());
        assert!(!queue.is_over(begun + minutes(600)), "nothing waits");
        queue.wait(true, begun);
        queue.wait(true, begun + minutes(20));
        assert!(!queue.is_over(begun + minutes(29)) && queue.is_over(begun + minutes(60)));
        let said = |second: i64| Heard {
            said: k8s_openapi::jiff::Timestamp::from_second(second).ok().map(Time),
            ..Heard::default()
        };
        queue.hear(said(1), begun + minutes(25));
        assert!(!queue.is_over(begun + minutes(54)));
        queue.hear(said(1), begun + minutes(50));
        assert!(queue.is_over(begun + minutes(85)), "the same again is no sign of life");
        queue.hear(said(2), begun + minutes(86));
        assert!(!queue.is_over(begun + minutes(115)));
        queue.wait(false, begun + minutes(116));
        queue.wait(true, begun + minutes(300));
        assert!(!queue.is_over(begun + minutes(329)), "each wait is as long");
    }
}
