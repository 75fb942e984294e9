use std::time::{Duration, Instant};

use cache::PodsPull;

/// When pods pull all the time, images for ImageCaches come nevertheless after this time, one after the other.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets the pulls of pods go first.
#[derive(Debug, Default)]
pub(super) struct GivingWay {
    pods: PodsPull,
    since: Option<Instant>,
    /// Something would have begun.
    holds_back: bool,
}

impl GivingWay {
    /// Takes whether pods pull.
    pub(super) fn to(&mut self, pods: PodsPull, now: Instant) {
        self.pods = pods;
        self.since = (pods != PodsPull::No).then(|| self.since.unwrap_or(now));
    }

    /// How many of so many pulls may begin while others are on their way.
    pub(super) fn lets(&mut self, begin: usize, pulling: usize, now: Instant) -> usize {
        let most = match self.since {
            None => begin,
            Some(since) if now.saturating_duration_since(since) >= PATIENCE && pulling == 0 => begin.min(1),
            Some(_) => 0,
        };
        self.holds_back = most < begin;
        most
    }

    /// Whether something waits for pods.
    pub(super) fn holds_back(&self) -> bool {
        self.holds_back
    }

    /// When more may begin although nothing was told.
    pub(super) fn ends(&self) -> Option<Instant> {
        let patient = self.since.filter(|_| self.holds_back)? + PATIENCE;
        match self.pods {
            PodsPull::Until(then) => Some(then.min(patient)),
            PodsPull::Yes | PodsPull::No => Some(patient),
        }
    }
}
