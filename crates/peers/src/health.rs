use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::members::{Changes, NodeId};

/// The first pause is between one and one and a half of this.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause is between one and one and a half of this: a minute at most.
const LAST_PAUSE: Duration = Duration::from_secs(40);
/// How long a node whose bytes were wrong is left alone.
const SHUNNED: Duration = Duration::from_secs(600);
/// A trial of which nothing was heard for this long counts as never made: who made it was cancelled.
const TRIAL: Duration = Duration::from_secs(10);

/// Why a node is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It refused the connection, broke it off, or was silent.
    Dead,
    /// It was far slower than others.
    Slow,
    /// Bytes that it gave were wrong.
    Lying,
}

impl Reason {
    /// A word for metrics and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Dead => "dead",
            Reason::Slow => "slow",
            Reason::Lying => "lying",
        }
    }
}

/// Whether a node may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Good,
    /// Yes, by this one asker, who reports how it went: it was passed over until now.
    Trial,
    /// No: the next in the order is asked.
    PassedOver(Reason),
}

impl Admission {
    /// Whether the node may be asked.
    pub fn may_ask(self) -> bool {
        !matches!(self, Admission::PassedOver(_))
    }
}

/// A node that is passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// The node.
    pub id: NodeId,
    /// Why.
    pub reason: Reason,
    /// When it is tried again, or was due to be.
    pub until: Instant,
}

#[derive(Debug)]
struct Pause {
    reason: Reason,
    until: Instant,
    /// The length of this pause, before its jitter.
    length: Duration,
    trial: Option<Instant>,
}

/// Which members are passed over at the moment.
///
/// A node that is dead or slow is left alone for one to one and a half seconds, then for twice as long each time up to a minute; one that lied for
/// ten minutes. Then one request tries it, while all others go on passing it over, and its outcome decides. Who asks must
/// report [`succeeded`](Health::succeeded), [`failed`](Health::failed) or [`lied`](Health::lied); a trial never
/// reported is forgotten after ten seconds.
///
/// Knows no clock: the caller gives the time. Costs nothing for nodes that are well.
#[derive(Debug)]
pub struct Health(Mutex<State>);

#[derive(Debug)]
struct State {
    pauses: HashMap<NodeId, Pause>,
    random: SmallRng,
}

impl Default for Health {
    fn default() -> Health {
        Health::seeded(rand::random())
    }
}

impl Health {
    /// All are well. The jitter of pauses follows from the seed.
    pub fn seeded(seed: u64) -> Health {
        Health(Mutex::new(State { pauses: HashMap::new(), random: SmallRng::seed_from_u64(seed) }))
    }

    /// Whether a node may be asked now. Takes the trial if one is due: only for who then really asks.
    pub fn admit(&self, id: &NodeId, now: Instant) -> Admission {
        let mut state = self.state();
        let Some(pause) = state.pauses.get_mut(id) else { return Admission::Good };
        let tried = pause.trial.is_some_and(|since| now < since + TRIAL);
        if now < pause.until || tried {
            return Admission::PassedOver(pause.reason);
        }
        pause.trial = Some(now);
        Admission::Trial
    }

    /// A node did what it was asked for. Ends its pause, but not that of a liar, unless its trial is under way: what it
    /// was asked before it was found out proves nothing.
    pub fn succeeded(&self, id: &NodeId) {
        let mut state = self.state();
        if state.pauses.get(id).is_some_and(|pause| pause.reason != Reason::Lying || pause.trial.is_some()) {
            state.pauses.remove(id);
        }
    }

    /// A node was dead or slow. Many requests that fail in one outage make one pause.
    pub fn failed(&self, id: &NodeId, reason: Reason, now: Instant) {
        if reason == Reason::Lying {
            return self.lied(id, now);
        }
        let mut state = self.state();
        let before = state.pauses.get(id);
        let length = match before {
            Some(pause) if now < pause.until => return,
            // The trial of a liar that failed for another reason tells nothing of its honesty.
            Some(pause) if pause.length == SHUNNED => FIRST_PAUSE,
            Some(pause) => (pause.length * 2).min(LAST_PAUSE),
            None => FIRST_PAUSE,
        };
        let reason = before.map_or(reason, |pause| if pause.reason == Reason::Lying { Reason::Lying } else { reason });
        let until = now + length.mul_f64(state.random.random_range(1.0..=1.5));
        state.pauses.insert(id.clone(), Pause { reason, until, length, trial: None });
    }

    /// Bytes of a node were wrong: it is shunned.
    pub fn lied(&self, id: &NodeId, now: Instant) {
        let pause = Pause { reason: Reason::Lying, until: now + SHUNNED, length: SHUNNED, trial: None };
        self.state().pauses.insert(id.clone(), pause);
    }

    /// Forgets those that are gone, and those that moved: another process answers there. Liars stay shunned, as coming
    /// back is easy; they are forgotten when their time is over.
    pub fn follow(&self, changes: &Changes, now: Instant) {
        let mut state = self.state();
        for id in changes.removed.iter().chain(&changes.changed) {
            if state.pauses.get(id).is_some_and(|pause| pause.reason != Reason::Lying || pause.until <= now) {
                state.pauses.remove(id);
            }
        }
        // Those that left while they were shunned: no trial will ever end their pause.
        state.pauses.retain(|_, pause| pause.reason != Reason::Lying || now < pause.until + SHUNNED);
    }

    /// All that are passed over, with why and until when, in no order.
    pub fn passed_over(&self) -> Vec<PassedOver> {
        let state = self.state();
        let one =
            |(id, pause): (&NodeId, &Pause)| PassedOver { id: id.clone(), reason: pause.reason, until: pause.until };
        state.pauses.iter().map(one).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock leaves the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
