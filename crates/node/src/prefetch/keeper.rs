use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Instant;

use api::{LastCleanup, PrivateImages};
use cache::{PodsPull, WholeImage};
use oci::{Digest, Image, Reference};
use warm::{Plan, Wish};

use super::effort::Effort;
use super::failure::{Failure, Reason};
use super::giving_way::GivingWay;
use super::queue::{Heard, Queue};
use crate::cri::{CriImage, LastUse, Mark};

/// An image that the runtime has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// What the runtime says of it.
    pub image: CriImage,
    /// What larder has to do with it.
    pub mark: Option<Mark>,
    /// A container has it.
    pub used: bool,
    /// When it was last of use, as it is remembered.
    pub last_use: Option<LastUse>,
    /// Larder had it pulled, and it needs a credential.
    pub private: bool,
}

/// The filesystem that images are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its size, in bytes.
    pub capacity: u64,
    /// What is free on it, in bytes.
    pub available: u64,
    /// What prefetch leaves free, in bytes.
    pub margin: u64,
}

impl Disk {
    /// Whether nothing more may be pulled. A disk of which nothing is known is not.
    pub(super) fn is_full(&self) -> bool {
        self.capacity > 0 && self.available < self.margin
    }
}

/// Why nothing is pulled onto it. Without what changes all the time, as nobody needs to read it anew for that.
impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (capacity, margin) = (gib(self.capacity), gib(self.margin));
        write!(
            f,
            "less than {margin:.1} GiB of the {capacity:.1} GiB of the filesystem of images are free, which prefetch leaves to pods"
        )
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// A pull to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// What.
    pub image: Image,
    /// What its tag means now: an older answer does not count.
    pub digest: Option<Digest>,
    /// By whom and where to.
    pub way: Way,
}

/// By whom an image is pulled, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the runtime, as far as everybody may have it.
    Public,
    /// By the runtime, with a pass for what not everybody may have.
    Pass,
    /// By larder, into its store only: not everybody may have it.
    Store,
}

/// What a pull brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// The runtime has the image.
    Runtime {
        /// Its pass was asked for.
        private: bool,
    },
    /// Larder's store has it.
    Store(WholeImage),
}

/// What a runtime lets others do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Pin images.
    pub pins: bool,
    /// Give credentials for the mirror.
    pub passes: bool,
    /// There is a larder registry behind the mirror, which may come to know a credential.
    pub registry: bool,
}

/// What is wanted on a node and what is there, and so what to do. Does nothing itself and asks nobody: it is told, with the time.
#[derive(Debug, Default)]
pub struct Keeper {
    /// `None` until it is known: nothing may be unpinned or removed for not being wanted before.
    pub(super) plan: Option<Plan>,
    pub(super) held: Vec<Held>,
    /// Where in `held` a name is.
    names: HashMap<String, usize>,
    pub(super) efforts: HashMap<Image, Effort>,
    pub(super) pulling: HashSet<Image>,
    /// IDs that came by a pull of ours and have no mark yet.
    pub(super) ours: HashSet<String>,
    pub(super) disk: Disk,
    /// IDs that came by a pull of ours for which a credential was needed, and are not remembered as such yet.
    pub(super) private: HashSet<String>,
    pub(super) abilities: Abilities,
    /// Why nobody knows what is there, if so.
    pub(super) blind: Option<String>,
    /// IDs of images that a container had when it was looked last time, and none has now.
    pub(super) left: HashSet<String>,
    /// The last cleanup that removed something, or would have.
    pub(super) cleaned: Option<LastCleanup>,
    /// Where the node stands in line where only some pull at once.
    pub(super) queue: Queue,
    /// It has waited in vain for its turn, and goes on without.
    pub(super) alone: bool,
    /// What is pulled without the turn that it needs.
    pub(super) unbidden: HashSet<Image>,
    pub(super) giving_way: GivingWay,
}

impl Keeper {
    /// For a runtime that nobody has asked yet what it has.
    pub fn new(abilities: Abilities) -> Keeper {
        Keeper { abilities, blind: Some("it has not been asked yet".to_owned()), ..Keeper::default() }
    }

    /// The same on a node of that name.
    pub fn on(self, node: &str) -> Keeper {
        Keeper { queue: Queue::of(node), ..self }
    }

    /// Takes what is heard of the node's turns. What is being pulled goes on, whatever it is.
    pub fn hear(&mut self, heard: Heard, now: Instant) {
        self.queue.hear(heard, now);
    }

    /// Takes whether pods pull, which come first. What is being pulled goes on.
    pub fn give_way(&mut self, pods: PodsPull, now: Instant) {
        self.giving_way.to(pods, now);
    }

    /// Whether something waits until pods have pulled.
    pub fn gives_way(&self) -> bool {
        self.giving_way.holds_back()
    }

    /// Takes what is wanted now. Gives what is being pulled and is not wanted any more: these pulls are to be ended.
    pub fn want(&mut self, plan: Plan) -> Vec<Image> {
        let wanted: HashMap<&Image, &Wish> = plan.wishes.iter().map(|wish| (&wish.image, wish)).collect();
        self.efforts.retain(|image, _| wanted.contains_key(image));
        for (image, effort) in &mut self.efforts {
            effort.serve(wanted[image]);
        }
        let ended: Vec<Image> = self.pulling.iter().filter(|image| !wanted.contains_key(image)).cloned().collect();
        self.pulling.retain(|image| wanted.contains_key(image));
        self.unbidden.retain(|image| wanted.contains_key(image));
        self.plan = Some(plan);
        ended
    }

    /// Takes what the runtime has, which was asked for after the last outcome of a pull was told, and how full the disk is.
    pub fn see(&mut self, held: Vec<Held>, disk: Disk, now: Instant) {
        let unused: HashSet<&str> = held.iter().filter(|one| !one.used).map(|one| one.image.id.as_str()).collect();
        let left = self.held.iter().filter(|was| was.used && unused.contains(was.image.id.as_str()));
        self.left = left.map(|was| was.image.id.clone()).collect();
        let before: HashSet<String> = self.held.drain(..).map(|held| held.image.id).collect();
        self.disk = disk;
        self.blind = None;
        self.held = held;
        self.names.clear();
        for (index, Held { image, .. }) in self.held.iter().enumerate() {
            for name in image.tags.iter().chain(&image.digests) {
                self.names.insert(name.clone(), index);
            }
        }
        let plan = self.plan.take();
        for wish in plan.iter().flat_map(|plan| &plan.wishes) {
            self.follow(wish, &before, now);
        }
        self.plan = plan;
        let marked: HashMap<&str, bool> =
            self.held.iter().map(|held| (held.image.id.as_str(), held.mark.is_some())).collect();
        self.ours.retain(|id| marked.get(id.as_str()) == Some(&false));
        self.private.retain(|id| marked.contains_key(id.as_str()));
    }

    /// Nobody knows what the runtime has.
    pub fn lose_sight(&mut self, why: String) {
        self.blind = Some(why);
    }

    /// What has become of an image.
    fn follow(&mut self, wish: &Wish, before: &HashSet<String>, now: Instant) {
        let there = self.there(wish);
        let warm = self.is_warm(wish);
        let id = there.map(|held| (held.image.id.clone(), held.mark.is_some(), digest_of(held, wish)));
        let pulling = self.pulling.contains(&wish.image);
        let Some(effort) = self.efforts.get_mut(&wish.image) else {
            if warm {
                self.efforts.entry(wish.image.clone()).or_insert_with(|| Effort::new(wish)).warm(now);
            }
            return;
        };
        let arrived = effort.arrived;
        match (warm, &id) {
            (true, _) => effort.warm(now),
            (false, Some((_, _, digest))) if arrived => {
                effort.fail(differs(digest.as_deref(), wish), wish.retries, now)
            }
            (false, None) if arrived || effort.was_warm() => {
                let message = "it was there, and was removed by somebody else";
                effort.fail(Failure::new(Reason::Removed, message), wish.retries, now);
            }
            (false, _) => effort.outdated(),
        }
        // The runtime may show what a pull brought before the pull says that it has ended.
        if let Some((id, ..)) = &id
            && arrived
            && effort.private
        {
            self.private.insert(id.clone());
        }
        if let Some((id, marked, _)) = id
            && (arrived || pulling)
            && !marked
            && !before.contains(&id)
        {
            self.ours.insert(id);
        }
    }

    /// Takes the outcome of a pull. What the runtime has is to be looked at next.
    pub fn pulled(&mut self, image: &Image, way: Way, outcome: Result<Pulled, Failure>, now: Instant) {
        self.pulling.remove(image);
        self.unbidden.remove(image);
        let retries = self.wish(image).map(|wish| wish.retries);
        let (Some(effort), Some(retries)) = (self.efforts.get_mut(image), retries) else { return };
        match outcome {
            Ok(Pulled::Runtime { private }) => {
                effort.arrived = true;
                effort.private = private;
            }
            Ok(Pulled::Store(whole)) => effort.stored(whole),
            // No failure yet: there may be a credential for it, with a pass or for larder's store.
            Err(Failure { reason: Reason::CredentialNeeded, .. }) if way == Way::Public => effort.private = true,
            // Without a larder registry nobody will come to know a credential.
            Err(failure) if failure.reason == Reason::CredentialNeeded && !self.abilities.registry => {
                effort.fail(failure, 0, now);
            }
            Err(failure) => effort.fail(failure, retries, now),
        }
    }

    /// Images that are ready in larder's store only.
    pub fn stored(&self) -> Vec<(Image, WholeImage)> {
        let stored = self.efforts.iter().filter_map(|(image, effort)| Some((image.clone(), effort.whole?)));
        stored.filter(|(image, _)| !self.names.contains_key(&image.to_string())).collect()
    }

    /// Larder's store has dropped an image.
    pub fn lost(&mut self, image: &Image, now: Instant) {
        let retries = self.wish(image).map(|wish| wish.retries);
        if let (Some(effort), Some(retries)) = (self.efforts.get_mut(image), retries) {
            effort.whole = None;
            effort.fail(
                Failure::new(Reason::Removed, "larder's store had it, and had no room for it any more"),
                retries,
                now,
            );
        }
    }

    /// How an image is to come.
    fn way(&self, wish: &Wish) -> Way {
        match wish.private_images {
            PrivateImages::Runtime if self.abilities.passes => Way::Pass,
            _ if self.efforts.get(&wish.image).is_some_and(|effort| effort.private) => Way::Store,
            _ => Way::Public,
        }
    }

    /// What larder's store has of a wish, where that is enough.
    pub(super) fn in_store(&self, wish: &Wish) -> Option<WholeImage> {
        let whole = self.efforts.get(&wish.image)?.whole.filter(|_| self.way(wish) == Way::Store)?;
        wish.digest.is_none_or(|digest| digest == whole.digest).then_some(whole)
    }

    /// Pulls that are to begin now; from now on they count as begun.
    pub fn pulls(&mut self, now: Instant) -> Vec<Pull> {
        let Some(plan) = self.plan.as_ref().filter(|_| self.blind.is_none() && !self.disk.is_full()) else {
            return Vec::new();
        };
        let lacks = |wish: &Wish| !plan.lets(wish, self.queue.turns());
        let waits = |wish: &&Wish| lacks(wish) && !self.pulling.contains(&wish.image) && self.is_wish_due(wish, now);
        let waits = plan.wishes.iter().any(|wish| waits(&wish));
        self.queue.wait(waits, now);
        self.alone = self.queue.is_over(now);
        let turns = (!self.alone).then(|| self.queue.turns());
        let mut begun = plan.next(&self.pulling, turns, |wish| self.is_wish_due(wish, now));
        begun.truncate(self.giving_way.lets(begun.len(), self.pulling.len(), now));
        for wish in &begun {
            if !plan.lets(wish, self.queue.turns()) {
                self.unbidden.insert(wish.image.clone());
            }
            self.pulling.insert(wish.image.clone());
            self.efforts.entry(wish.image.clone()).or_insert_with(|| Effort::new(wish)).attempts += 1;
        }
        let pull = |wish: &&Wish| Pull {
            image: wish.image.clone(),
            digest: wish.digest.filter(|_| is_by_tag(wish)),
            way: self.way(wish),
        };
        begun.iter().map(pull).collect()
    }

    /// When there may be something to pull although nothing was told: the end of the next pause, or of the wait for a turn or for pods.
    pub fn wakes(&self, now: Instant) -> Option<Instant> {
        let pauses = self.efforts.values().filter_map(Effort::resumes);
        pauses.chain(self.queue.ends()).chain(self.giving_way.ends()).filter(|then| *then > now).min()
    }

    /// Whether an image is pulled without the turn that it needs.
    pub fn is_unbidden(&self, image: &Image) -> bool {
        self.unbidden.contains(image)
    }

    /// Whether a pull of it was begun and has not ended.
    pub fn is_pulling(&self, image: &Image) -> bool {
        self.pulling.contains(image)
    }

    /// Whether nobody knows what the runtime has.
    pub fn is_blind(&self) -> bool {
        self.blind.is_some()
    }

    /// How often a pull of an image was begun, and when it is tried again if it rests.
    pub fn tried(&self, image: &Image) -> (u32, Option<Instant>) {
        self.efforts.get(image).map_or((0, None), |effort| (effort.attempts, effort.resumes()))
    }

    /// Whether an image is to be pulled as soon as its turn comes.
    pub fn is_due(&self, image: &Image, now: Instant) -> bool {
        self.wish(image).is_some_and(|wish| self.is_wish_due(wish, now))
    }

    fn is_wish_due(&self, wish: &Wish, now: Instant) -> bool {
        !self.is_warm(wish) && self.efforts.get(&wish.image).is_none_or(|effort| effort.is_due(now))
    }

    fn wish(&self, image: &Image) -> Option<&Wish> {
        self.plan.as_ref()?.wish(image)
    }

    /// What the runtime has under that name, whatever its tag meant when it came.
    pub(super) fn there(&self, wish: &Wish) -> Option<&Held> {
        self.names.get(&wish.image.to_string()).map(|index| &self.held[*index])
    }

    /// Whether it is ready.
    pub(super) fn is_warm(&self, wish: &Wish) -> bool {
        self.is_in_runtime(wish) || self.in_store(wish).is_some()
    }

    pub(super) fn is_in_runtime(&self, wish: &Wish) -> bool {
        let Some(held) = self.there(wish) else { return false };
        match wish.digest.filter(|_| is_by_tag(wish)) {
            Some(digest) => held.image.digests.iter().any(|name| name.ends_with(&format!("@{digest}"))),
            None => true,
        }
    }
}

fn is_by_tag(wish: &Wish) -> bool {
    matches!(wish.image.reference, Reference::Tag(_))
}

/// The digest under which an image is there in the repository of a wish.
pub(super) fn digest_of(held: &Held, wish: &Wish) -> Option<String> {
    let name = format!("{}@", wish.image.name);
    held.image.digests.iter().find_map(|text| text.strip_prefix(&name)).map(str::to_owned)
}

fn differs(came: Option<&str>, wish: &Wish) -> Failure {
    let expected = wish.digest.map(|digest| digest.to_string()).unwrap_or_default();
    let came = came.unwrap_or("one without a digest");
    Failure::new(Reason::TagDiffers, format!("the tag means {expected} now, and what came is {came}"))
}
