//! What goes wrong, and when: all of it follows from the seed.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The nodes of the cluster, of which the last one leaves and joins.
pub const NODES: usize = 5;
/// The one that leaves.
pub const COMES_AND_GOES: usize = NODES - 1;
/// The one whose runtime has a disk of its own, which can be full.
pub const HAS_DISK: usize = 2;

/// So long everything is well at first.
const CALM: Duration = Duration::from_secs(10);

/// Something that goes wrong. Numbers are those of nodes, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `larder node` is killed.
    AgentKilled(usize),
    /// `larder node` is there and does nothing.
    AgentStopped(usize),
    /// `larder registry` is killed.
    RegistryKilled,
    /// `larder registry` is there and does nothing.
    RegistryStopped,
    /// All controllers are killed.
    ControllersKilled,
    /// All agents are replaced, one after the other, as in an upgrade.
    Upgrade,
    /// The node loses every packet.
    NodeCut(usize),
    /// Two nodes lose each other's packets.
    NodesApart(usize, usize),
    /// The node's link is slow.
    NodeSlow(usize),
    /// A blob in larder's stores on the node has other bytes.
    Corrupted(usize),
    /// The disk of the runtime is full.
    DiskFull,
    /// The node is destroyed, and another one of its name joins, with nothing on it.
    NodeReplaced,
    /// The first origin is there and does nothing.
    OriginStopped,
    /// Nothing listens where the first origin was.
    OriginDown,
    /// The second origin does not do what it should.
    OriginWrong(Wrong),
    /// The API server is there and does nothing.
    ApiServerStopped,
}

/// What the second origin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Too many requests, for all that it is asked.
    Limits,
    /// Errors of its own.
    Fails,
    /// Bodies break off.
    BreaksOff,
    /// Bodies come slowly.
    Trickles,
    /// Tokens are refused.
    Tokens,
    /// Other bytes than those that were asked for.
    OtherBytes,
}

const WRONGS: [Wrong; 6] =
    [Wrong::Limits, Wrong::Fails, Wrong::BreaksOff, Wrong::Trickles, Wrong::Tokens, Wrong::OtherBytes];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AgentKilled(node) => write!(f, "agent of {} killed", name(*node)),
            Self::AgentStopped(node) => write!(f, "agent of {} stopped", name(*node)),
            Self::RegistryKilled => f.write_str("registry killed"),
            Self::RegistryStopped => f.write_str("registry stopped"),
            Self::ControllersKilled => f.write_str("controllers killed"),
            Self::Upgrade => f.write_str("agents replaced"),
            Self::NodeCut(node) => write!(f, "{} cut off", name(*node)),
            Self::NodesApart(one, other) => write!(f, "{} and {} apart", name(*one), name(*other)),
            Self::NodeSlow(node) => write!(f, "link of {} slow", name(*node)),
            Self::Corrupted(node) => write!(f, "store on {} corrupted", name(*node)),
            Self::DiskFull => write!(f, "disk of {} full", name(HAS_DISK)),
            Self::NodeReplaced => write!(f, "{} replaced", name(COMES_AND_GOES)),
            Self::OriginStopped => f.write_str("first origin stopped"),
            Self::OriginDown => f.write_str("first origin down"),
            Self::OriginWrong(wrong) => write!(f, "second origin: {wrong:?}"),
            Self::ApiServerStopped => f.write_str("API server stopped"),
        }
    }
}

/// What a node is called.
#[must_use]
pub fn name(node: usize) -> String {
    format!("node-{}", node + 1)
}

/// What a pull needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The node, its link and its disk.
    Node(usize),
    /// The first origin.
    First,
    /// The second origin.
    Second,
    /// The API server, without which no pod starts at all.
    ApiServer,
    /// The larder registry, without which nodes ask the origins themselves: no pull needs it.
    Registry,
}

impl Fault {
    /// What is not there while this lasts, of what pulls without larder need or what keeps larder from asking more than once.
    #[must_use]
    pub const fn takes(self) -> Option<Need> {
        match self {
            Self::NodeCut(node) => Some(Need::Node(node)),
            Self::DiskFull => Some(Need::Node(HAS_DISK)),
            Self::NodeReplaced => Some(Need::Node(COMES_AND_GOES)),
            Self::OriginStopped | Self::OriginDown => Some(Need::First),
            Self::OriginWrong(_) => Some(Need::Second),
            Self::ApiServerStopped => Some(Need::ApiServer),
            Self::RegistryKilled | Self::RegistryStopped => Some(Need::Registry),
            _ => None,
        }
    }

    /// How long it goes on after its time: until a node that joins is one of the cluster.
    const fn lingers(self) -> Duration {
        match self {
            Self::NodeReplaced => Duration::from_secs(30),
            _ => Duration::ZERO,
        }
    }

    /// Whether the two cannot happen at the same time, or what they do could not be told apart.
    fn excludes(self, other: Self) -> bool {
        let nodes = |fault| match fault {
            Self::AgentKilled(node)
            | Self::AgentStopped(node)
            | Self::NodeCut(node)
            | Self::NodeSlow(node)
            | Self::Corrupted(node) => [Some(node), None],
            Self::NodesApart(one, other) => [Some(one), Some(other)],
            Self::DiskFull => [Some(HAS_DISK), None],
            Self::NodeReplaced => [Some(COMES_AND_GOES), None],
            _ => [None, None],
        };
        let kind = |fault| match fault {
            Self::RegistryKilled | Self::RegistryStopped => 1,
            Self::ControllersKilled => 2,
            Self::Upgrade | Self::NodeReplaced | Self::ApiServerStopped => 3,
            Self::OriginStopped | Self::OriginDown => 4,
            Self::OriginWrong(_) => 5,
            // One node at a time, for what is left is to go on.
            Self::NodeCut(_) | Self::DiskFull => 6,
            _ => 0,
        };
        let shared = nodes(self).into_iter().flatten().any(|node| nodes(other).contains(&Some(node)));
        shared || (kind(self) != 0 && kind(self) == kind(other))
    }

    fn draw(dice: &mut StdRng) -> (Self, std::ops::Range<u64>) {
        let node = dice.random_range(0..NODES);
        match dice.random_range(0..20) {
            0..=2 => (Self::AgentKilled(node), 1..3),
            3 | 4 => (Self::AgentStopped(node), 3..20),
            5 => (Self::RegistryKilled, 1..3),
            6 => (Self::RegistryStopped, 3..20),
            7 => (Self::ControllersKilled, 1..3),
            8 => (Self::Upgrade, 20..30),
            9 => (Self::NodeCut(node), 2..12),
            10 => (Self::NodesApart(node, (node + dice.random_range(1..NODES)) % NODES), 5..25),
            11 => (Self::NodeSlow(node), 5..25),
            12 | 13 => (Self::Corrupted(node), 1..2),
            14 => (Self::DiskFull, 5..20),
            15 => (Self::NodeReplaced, 5..15),
            16 => (Self::OriginStopped, 5..20),
            17 => (Self::OriginDown, 5..20),
            18 => (Self::OriginWrong(WRONGS[dice.random_range(0..WRONGS.len())]), 5..20),
            _ => (Self::ApiServerStopped, 3..15),
        }
    }
}

/// A fault with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it begins, from the start.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What it is.
    pub fault: Fault,
}

impl Step {
    fn ends(&self) -> Duration {
        self.at + self.lasts + self.fault.lingers()
    }
}

/// Everything that goes wrong within `length`, in the order in which it begins.
#[must_use]
pub fn plan(seed: u64, length: Duration) -> Vec<Step> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut steps: Vec<Step> = Vec::new();
    let mut at = CALM;
    while at < length {
        let (fault, seconds) = Fault::draw(&mut dice);
        let lasts = Duration::from_secs(dice.random_range(seconds));
        let free = steps.iter().filter(|one| one.ends() >= at).all(|one| !fault.excludes(one.fault));
        if free && at + lasts + fault.lingers() <= length {
            steps.push(Step { at, lasts, fault });
            at += Duration::from_millis(dice.random_range(2000..9000));
        } else {
            at += Duration::from_millis(250);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_seed_says_all_that_happens() {
        assert_eq!(plan(7, HOUR), plan(7, HOUR));
        assert_ne!(plan(7, HOUR), plan(8, HOUR));
    }

    #[test]
    fn everything_happens_within_the_time_and_nothing_twice_at_once() {
        let steps = plan(1, HOUR);
        assert!(steps.len() > 300, "{} steps", steps.len());
        for (number, step) in steps.iter().enumerate() {
            assert!(step.ends() <= HOUR);
            let during = |other: &&Step| other.ends() >= step.at;
            assert!(steps[..number].iter().filter(during).all(|other| !step.fault.excludes(other.fault)), "{step:?}");
        }
        for wrong in WRONGS {
            assert!(steps.iter().any(|step| step.fault == Fault::OriginWrong(wrong)), "{wrong:?}");
        }
        let kinds: std::collections::HashSet<_> =
            steps.iter().map(|step| std::mem::discriminant(&step.fault)).collect();
        assert_eq!(kinds.len(), 16, "not every kind of fault");
    }
}
