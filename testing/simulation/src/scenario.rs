use std::time::Duration;

/// What is simulated: nodes that want one blob, which none of them has. Rates are in bytes per second.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// A word for it.
    pub name: &'static str,
    /// All that is random follows from this number.
    pub seed: u64,
    /// How many nodes there are.
    pub nodes: usize,
    /// Over how many zones they are spread evenly.
    pub zones: usize,
    /// The blob's length in bytes.
    pub blob: u64,
    /// How fast a node sends and, at the same time, takes.
    pub link: f64,
    /// Some nodes have slower links.
    pub uneven: Option<Uneven>,
    /// How fast the origin sends, to all together.
    pub origin: f64,
    /// How fast each zone sends to each other one.
    pub between_zones: f64,
    /// How long a message takes one way: within a zone, between two, and to or from the origin.
    pub latency: [Duration; 3],
    /// The nodes begin within this time, evenly.
    pub within: Duration,
    /// Nodes come and go meanwhile.
    pub churn: Option<Churn>,
    /// Some nodes know an old list of the others.
    pub stale: Option<Stale>,
}

/// Links of which some are slower.
#[derive(Clone, Copy, Debug)]
pub struct Uneven {
    /// Of so many nodes, between 0 and 1.
    pub share: f64,
    /// So many times slower.
    pub times: f64,
}

/// Nodes that come and go.
#[derive(Clone, Copy, Debug)]
pub struct Churn {
    /// So many of the nodes go, half of them without a word, and as many others come: between 0 and 1.
    pub share: f64,
    /// Within this time from the beginning.
    pub within: Duration,
    /// The others hear of it after this time at most, each at another moment.
    pub heard_within: Duration,
}

/// Lists that are old.
#[derive(Clone, Copy, Debug)]
pub struct Stale {
    /// How many nodes have an old list, between 0 and 1.
    pub share: f64,
    /// How many of the nodes are not in it, and how many are in it that are gone.
    pub differs: f64,
}

impl Scenario {
    /// So many nodes in three zones, all well, with links of 1 Gbit/s, as the origin's; four times that between two zones.
    pub fn new(nodes: usize) -> Scenario {
        let gigabit = 125e6;
        Scenario {
            name: "all well",
            seed: 1,
            nodes,
            zones: 3,
            blob: 64 << 20,
            link: gigabit,
            uneven: None,
            origin: gigabit,
            between_zones: 4.0 * gigabit,
            latency: [Duration::from_micros(250), Duration::from_millis(1), Duration::from_millis(10)],
            within: Duration::ZERO,
            churn: None,
            stale: None,
        }
    }

    /// The same with a tenth of the links ten times slower.
    pub fn uneven(self) -> Scenario {
        Scenario { name: "uneven links", uneven: Some(Uneven { share: 0.1, times: 10.0 }), ..self }
    }

    /// The same where a fiftieth of the nodes goes, and as many come.
    pub fn churning(self) -> Scenario {
        let (within, heard_within) = (Duration::from_secs(1), Duration::from_secs(3));
        Scenario { name: "churn", churn: Some(Churn { share: 0.02, within, heard_within }), ..self }
    }

    /// The same where half of the nodes have a list that is old by a twentieth.
    pub fn stale(self) -> Scenario {
        Scenario { name: "stale lists", stale: Some(Stale { share: 0.5, differs: 0.05 }), ..self }
    }
}
