/// What came of a [`Scenario`](crate::Scenario).
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// The nodes that had the blob in the end, of those that did not go.
    pub nodes: usize,
    /// Nodes that did not get it, though they were there to the end.
    pub failed: usize,
    /// Until each node had it, in seconds from its beginning.
    pub seconds: Spread,
    /// The same in the time that the blob takes over the node's own link or, where that is slower, the origin's.
    pub times: Spread,
    /// What the origin sent, in blobs.
    pub origin: f64,
    /// What came to a zone from the others, in blobs, where it was most.
    pub into_zone: f64,
    /// What each node sent, in blobs.
    pub upload: Spread,
    /// How many questions each node asked others and the origin.
    pub asks: Spread,
    /// How many signs of life each node was sent.
    pub beats: Spread,
    /// How many connections each node made.
    pub connects: Spread,
    /// How many nodes took a part from the origin by themselves, after the others had failed them.
    pub fell_back: usize,
    /// Follows from every message and its time.
    pub fingerprint: u64,
}

/// How values are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Half are not above it.
    pub median: f64,
    /// Of a thousand one is above it.
    pub p999: f64,
    /// The largest.
    pub most: f64,
    /// The mean.
    pub mean: f64,
}

impl Spread {
    /// Of these values, in any order.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1)) - 1;
            values.get(index).copied().unwrap_or_default()
        };
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        Spread { median: at(0.5), p999: at(0.999), most: at(1.0), mean }
    }
}
