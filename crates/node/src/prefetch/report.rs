use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};

use api::{IN_STORE, NODE_IMAGES, NodeBytes, NodeCacheStatus, NodeImage, NodeImageState, WAITS_FOR_TURN};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use oci::Image;
use warm::{Wanter, Wish};

use super::effort::Effort;
use super::failure::{Failure, Reason};
use super::keeper::{Held, Keeper, digest_of};
use crate::cri::LastUse;

/// Why a wanted image is ready although the runtime does not have it, for people.
const IN_STORE_MEANS: &str =
    "it needs a credential: larder's store has it, and gives it to pods with a pull secret that the registry accepts";

/// Why an image is pulled although it is not this node's turn, in a word.
const NO_TURN: &str = "NoTurnGiven";

/// What a node has, for its NodeCache.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The same, without conditions and what only others know of the disk.
    pub status: NodeCacheStatus,
    /// The ImageCaches of which every image is ready.
    pub complete: BTreeSet<String>,
    /// Nothing is coming or waiting for its turn.
    pub settled: bool,
    /// What is wanted and cannot be made ready, in its order.
    pub failing: Vec<(Image, Reason)>,
    /// Why nobody knows what the runtime has, if so.
    pub blind: Option<String>,
}

impl Keeper {
    /// What there is to tell of the node; `None` as long as it is not known what is wanted.
    pub fn report(&self) -> Option<Report> {
        let plan = self.plan.as_ref()?;
        let mut report = Report { settled: true, blind: self.blind.clone(), ..Report::default() };
        let mut lacking: HashSet<(&str, &str)> = HashSet::new();
        let mut told: HashSet<&str> = HashSet::new();
        for wish in &plan.wishes {
            let image = self.tell(wish);
            match image.state {
                NodeImageState::Warm => report.status.warm += 1,
                NodeImageState::Failed => report.status.failed += 1,
                _ => report.settled = false,
            }
            if image.state != NodeImageState::Warm {
                lacking.extend(wish.wanted_by.iter().map(|one| key(one)));
            }
            if let Some(failure) = self.failure(wish) {
                report.failing.push((wish.image.clone(), failure.reason));
            }
            if let Some(held) = self.there(wish) {
                told.insert(&held.image.id);
            }
            report.status.images.push(image);
        }
        let caches = plan.wishes.iter().flat_map(|wish| &wish.wanted_by);
        report.complete = caches.filter(|one| !lacking.contains(&key(one))).map(ToString::to_string).collect();
        let mut others: Vec<&Held> = self.held.iter().filter(|held| !told.contains(&*held.image.id)).collect();
        others.sort_by_key(|held| (Reverse(held.image.bytes), held.name()));
        report.status.images.extend(others.into_iter().map(present));
        // The API server takes each name once.
        let mut names = HashSet::new();
        report.status.images.retain(|image| names.insert(image.image.clone()));
        report.status.left_out = count(report.status.images.len().saturating_sub(NODE_IMAGES));
        report.status.images.truncate(NODE_IMAGES);
        report.status.present = count(self.held.len());
        report.status.wanted = count(plan.wishes.len());
        report.status.last_cleanup.clone_from(&self.cleaned);
        report.status.bytes = NodeBytes {
            images: self.held.iter().map(|held| held.image.bytes).sum(),
            store: 0,
            capacity: self.disk.capacity,
            available: self.disk.available,
        };
        Some(report)
    }

    fn tell(&self, wish: &Wish) -> NodeImage {
        let held = self.there(wish);
        let warm = self.is_warm(wish);
        let failure = self.failure(wish);
        let state = match failure {
            _ if warm => NodeImageState::Warm,
            Some(_) => NodeImageState::Failed,
            None if self.is_coming(&wish.image) => NodeImageState::Pulling,
            None => NodeImageState::Wanted,
        };
        let whole = self.in_store(wish).filter(|_| !self.is_in_runtime(wish));
        let given_up = failure.is_some() && self.efforts.get(&wish.image).is_some_and(Effort::is_given_up);
        let (reason, message) = match (failure, whole) {
            (Some(failure), _) => (Some(failure.reason.as_str()), Some(failure.message)),
            (None, Some(_)) => (Some(IN_STORE), Some(IN_STORE_MEANS.to_owned())),
            (None, None) if state == NodeImageState::Wanted => self.waits(wish).unzip(),
            (None, None) if state == NodeImageState::Pulling && self.is_unbidden(&wish.image) => {
                let minutes = self.queue.minutes();
                let why = format!(
                    "nobody was heard of for {minutes} minutes who gives nodes their turns: it goes on without"
                );
                (Some(NO_TURN), Some(why))
            }
            (None, None) => (None, None),
        };
        let attempts = self
            .efforts
            .get(&wish.image)
            .map(|effort| effort.attempts)
            .filter(|_| state != NodeImageState::Warm && reason.is_some());
        NodeImage {
            image: wish.image.to_string(),
            digest: match &whole {
                Some(whole) => Some(whole.digest.to_string()),
                None => held.and_then(|held| digest_of(held, wish)),
            },
            state,
            pinned: held.is_some_and(|held| held.image.pinned),
            private: self.is_private(wish),
            bytes: whole.map(|whole| whole.bytes).or(held.map(|held| held.image.bytes)),
            last_used: held.and_then(last_used),
            reason: reason.map(str::to_owned),
            message,
            attempts,
            given_up,
        }
    }

    /// Whether an image waits for the node's turn, and for which.
    fn waits(&self, wish: &Wish) -> Option<(&'static str, String)> {
        let (plan, turns) = (self.plan.as_ref().filter(|_| !self.alone)?, self.queue.turns());
        (!plan.lets(wish, turns)).then(|| (WAITS_FOR_TURN, plan.waits(wish, turns)))
    }

    /// Whether it is known to need a credential.
    fn is_private(&self, wish: &Wish) -> bool {
        let effort = self.efforts.get(&wish.image);
        self.there(wish).is_some_and(|held| held.private) || effort.is_some_and(|effort| effort.private)
    }

    fn is_coming(&self, image: &Image) -> bool {
        self.pulling.contains(image) || self.efforts.get(image).is_some_and(|effort| effort.arrived)
    }

    /// Why an image is not ready, if it should be and something is in the way. What is tried again after it failed has failed
    /// until it comes.
    fn failure(&self, wish: &Wish) -> Option<Failure> {
        if self.is_warm(wish) {
            return None;
        }
        let failure = self.efforts.get(&wish.image).and_then(|effort| {
            let failure = effort.failure.clone()?;
            let given_up =
                if effort.is_given_up() { " (given up until the ImageCache changes or is refreshed)" } else { "" };
            Some(Failure { message: failure.message + given_up, ..failure })
        });
        let full = self.disk.is_full() && !self.is_coming(&wish.image);
        failure.or_else(|| full.then(|| Failure::new(Reason::DiskFull, self.disk.to_string())))
    }
}

fn present(held: &Held) -> NodeImage {
    NodeImage {
        image: held.name().to_owned(),
        digest: held.image.digests.first().and_then(|name| name.split_once('@')).map(|(_, digest)| digest.to_owned()),
        state: NodeImageState::Present,
        pinned: held.image.pinned,
        private: held.private,
        bytes: Some(held.image.bytes),
        last_used: last_used(held),
        reason: None,
        message: None,
        attempts: None,
        given_up: false,
    }
}

/// When a container last used it, as far as is known.
fn last_used(held: &Held) -> Option<Time> {
    match held.last_use? {
        LastUse::Used(at) => Timestamp::try_from(at).ok().map(Time),
        LastUse::Seen(_) => None,
    }
}

fn key(wanter: &Wanter) -> (&str, &str) {
    (&wanter.namespace, &wanter.name)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
