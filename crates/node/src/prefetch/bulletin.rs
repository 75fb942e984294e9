use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use api::{NodeBytes, NodeCacheStatus, NodeImage, WAITS_FOR_TURN};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use oci::Image;

use super::failure::Reason;
use super::report::Report;

/// The least time from one write to the next. What comes up meanwhile goes with the next.
const APART: Duration = Duration::from_secs(1);
/// How long news wait for what goes with them, such as the pin of an image that has come.
const GATHER: Duration = Duration::from_millis(200);
/// How long what nobody waits for may be unsaid: how far a long list of images has come, what pods pull, how often something was tried.
const LEISURE: Duration = Duration::from_secs(60);
/// How long figures of the disk alone, and when images were last used, may be out of date. They never stand still.
const FIGURES: Duration = Duration::from_secs(600);

/// When a NodeCache is written: with thousands of nodes, what a change of an ImageCache costs the API server is each node's word that it has
/// heard of it, and each node's word that it is done.
#[derive(Debug, Default)]
pub struct Bulletin {
    said: Option<Said>,
    /// Since when there are news.
    news: Option<Instant>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    news: News,
    status: NodeCacheStatus,
}

/// What somebody may be waiting for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct News {
    wanted: Vec<String>,
    complete: BTreeSet<String>,
    failing: Vec<(Image, Reason)>,
    /// What all wanted images are, once nothing is coming or waiting any more.
    settled: Option<Vec<Option<String>>>,
    blind: bool,
    /// What waits for the node's turn: whoever gives turns must know.
    waits: BTreeSet<String>,
    /// When images were last removed.
    cleaned: Option<Time>,
}

impl Bulletin {
    /// When this is to be written at the earliest; `None` if all of it is written.
    pub fn due(&mut self, report: &Report, now: Instant) -> Option<Instant> {
        let since = *self.news.get_or_insert(now) + GATHER;
        let Some(said) = &self.said else { return Some(since) };
        let mut news = News::of(report);
        // That something waits no longer is no news: it is coming.
        if news.waits.is_subset(&said.news.waits) {
            news.waits.clone_from(&said.news.waits);
        }
        // That something is being tried again is none either.
        if news != said.news && news != (News { settled: None, ..said.news.clone() }) {
            return Some(since.max(said.at + APART));
        }
        self.news = None;
        if without_figures(&report.status) != without_figures(&said.status) {
            return Some(said.at + LEISURE);
        }
        (report.status != said.status).then(|| said.at + FIGURES)
    }

    /// This is written.
    pub fn said(&mut self, report: &Report, now: Instant) {
        self.news = None;
        self.said = Some(Said { at: now, news: News::of(report), status: report.status.clone() });
    }

    /// What is written may be gone.
    pub fn forget(&mut self) {
        self.said = None;
    }
}

impl News {
    fn of(report: &Report) -> News {
        let wanted = || report.status.images.iter().take(report.status.wanted as usize);
        News {
            wanted: wanted().map(|image| image.image.clone()).collect(),
            complete: report.complete.clone(),
            failing: report.failing.clone(),
            settled: report.settled.then(|| wanted().map(|image| image.digest.clone()).collect()),
            blind: report.blind.is_some(),
            waits: wanted()
                .filter(|image| image.reason.as_deref() == Some(WAITS_FOR_TURN))
                .map(|image| image.image.clone())
                .collect(),
            cleaned: report.status.last_cleanup.as_ref().map(|cleanup| cleanup.time.clone()),
        }
    }
}

fn without_figures(status: &NodeCacheStatus) -> NodeCacheStatus {
    let image = |image: &NodeImage| NodeImage { last_used: None, ..image.clone() };
    NodeCacheStatus {
        bytes: NodeBytes { images: status.bytes.images, ..NodeBytes::default() },
        images: status.images.iter().map(image).collect(),
        ..status.clone()
    }
}

#[cfg(test)]
mod tests {
    use api::{NodeImage, NodeImageState};

    use super::*;

    fn report(states: &[(&str, NodeImageState)]) -> Report {
        let image = |(name, state): &(&str, NodeImageState)| NodeImage {
            image: (*name).to_owned(),
            digest: None,
            state: *state,
            pinned: false,
            private: false,
            bytes: None,
            last_used: None,
            reason: None,
            message: None,
            attempts: None,
            given_up: false,
        };
        let status = NodeCacheStatus {
            images: states.iter().map(image).collect(),
            wanted: states.len() as u32,
            ..Default::default()
        };
        let waits = |state: &NodeImageState| matches!(state, NodeImageState::Wanted | NodeImageState::Pulling);
        Report { status, settled: !states.iter().any(|(_, state)| waits(state)), ..Report::default() }
    }

    const PULLING: NodeImageState = NodeImageState::Pulling;
    const WARM: NodeImageState = NodeImageState::Warm;

    #[test]
    fn a_change_is_two_writes_however_many_images_it_brings() {
        let (mut bulletin, begun) = (Bulletin::default(), Instant::now());
        let first = report(&[("a", PULLING), ("b", PULLING), ("c", NodeImageState::Wanted)]);
        assert_eq!(bulletin.due(&first, begun), Some(begun + GATHER));
        bulletin.said(&first, begun);
        assert_eq!(bulletin.due(&first, begun), None);
        let on_the_way = report(&[("a", WARM), ("b", PULLING), ("c", PULLING)]);
        assert_eq!(bulletin.due(&on_the_way, begun), Some(begun + LEISURE));
        let done = report(&[("a", WARM), ("b", WARM), ("c", WARM)]);
        assert_eq!(bulletin.due(&done, begun), Some(begun + APART));
        bulletin.said(&done, begun + APART);
        assert_eq!(bulletin.due(&done, begun + FIGURES), None);
    }

    #[test]
    fn what_somebody_waits_for_is_not_held_back() {
        let (mut bulletin, begun) = (Bulletin::default(), Instant::now());
        let base = report(&[("a", PULLING), ("b", PULLING)]);
        bulletin.said(&base, begun);
        let soon = Some(begun + APART);
        let complete = Report { complete: BTreeSet::from(["shop/web".to_owned()]), ..base.clone() };
        assert_eq!(bulletin.due(&complete, begun), soon, "an ImageCache is ready here");
        let failing =
            Report { failing: vec![("ghcr.io/a/b:1".parse().unwrap(), Reason::ImageNotFound)], ..base.clone() };
        assert_eq!(bulletin.due(&failing, begun), soon);
        let blind = Report { blind: Some("it is gone".into()), ..base.clone() };
        assert_eq!(bulletin.due(&blind, begun), soon);
        assert_eq!(bulletin.due(&report(&[("a", PULLING)]), begun), soon, "less is wanted");
        bulletin.said(&base, begun);
        let later = begun + LEISURE;
        assert_eq!(bulletin.due(&failing, later), Some(later + GATHER), "what goes with it comes with it");
        assert_eq!(bulletin.due(&failing, later + GATHER), Some(later + GATHER));
        bulletin.said(&failing, later + GATHER);
        bulletin.forget();
        assert_eq!(bulletin.due(&failing, later + APART), Some(later + APART + GATHER));
    }

    #[test]
    fn that_something_waits_for_its_turn_is_news_and_that_it_comes_is_none() {
        let (mut bulletin, begun) = (Bulletin::default(), Instant::now());
        let base = report(&[("a", NodeImageState::Wanted), ("b", NodeImageState::Wanted)]);
        let mut waiting = base.clone();
        waiting.status.images[0].reason = Some(WAITS_FOR_TURN.to_owned());
        bulletin.said(&base, begun);
        assert_eq!(bulletin.due(&waiting, begun), Some(begun + APART));
        bulletin.said(&waiting, begun);
        let coming = report(&[("a", PULLING), ("b", NodeImageState::Wanted)]);
        assert_eq!(bulletin.due(&coming, begun), Some(begun + LEISURE));
        let done = report(&[("a", WARM), ("b", WARM)]);
        assert_eq!(bulletin.due(&done, begun), Some(begun + APART), "an edit is two writes");
    }

    #[test]
    fn figures_of_the_disk_and_tries_are_told_at_leisure() {
        let (mut bulletin, begun) = (Bulletin::default(), Instant::now());
        let settled = report(&[("a", WARM)]);
        bulletin.said(&settled, begun);
        let mut fuller = settled.clone();
        fuller.status.bytes.available = 7;
        assert_eq!(bulletin.due(&fuller, begun), Some(begun + FIGURES));
        let mut moved = settled.clone();
        moved.status.images[0].digest = Some("sha256:2".to_owned());
        assert_eq!(bulletin.due(&moved, begun + GATHER), Some(begun + APART), "a tag that moved has come");
        assert_eq!(bulletin.due(&settled, begun), None);
        let trying = Report { settled: false, ..settled };
        assert_eq!(bulletin.due(&trying, begun), None);
    }
}
