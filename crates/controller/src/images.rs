use std::collections::{HashMap, HashSet};
use std::time::Duration;

use api::conditions::{self, Finding, Status};
use api::{Budget, CachedImageStatus, Holders};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use oci::{Digest, Image, Reference};
use warm::cached_image_name;

use crate::index::{Index, KnownImage, Said};
use crate::tags::Fact;
use crate::uses::Use;

/// The most CachedImages: five times what is designed for. Beyond it those stay that most pods use.
const MOST: usize = 5000;

/// While nothing else changes, that an image is still used, or that its tag was asked for, is written down so often.
const WRITTEN: i64 = 3600;

/// Where the CachePolicy does not say how long what nothing uses is kept: so long nothing must have named an image before it is forgotten,
/// if nobody has it.
const FORGOTTEN: i64 = 3600;

/// What is told to the larder registry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// What nothing has used for so long goes though there is room.
    pub unused_for: Option<Duration>,
    /// The most that its store may hold, if there is a CachePolicy.
    pub budget: Option<Budget>,
    /// All images that are known, by their names.
    pub images: Vec<ToldImage>,
}

/// An image, as it is told to the larder registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldImage {
    /// Its name.
    pub image: Image,
    /// What nodes have under this name, and what its tag is known to mean.
    pub digests: Vec<Digest>,
    /// It is in use or pinned, and must not go.
    pub keep: bool,
}

/// What the larder registry says of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// What its tag meant when the origin was last asked, and how long ago that was.
    pub digest: Option<(Digest, Duration)>,
    /// How long such an answer is believed; for ever if not given.
    pub fresh_for: Option<Duration>,
    /// All of it is there.
    pub whole: bool,
    /// The bytes of it that are there.
    pub bytes: u64,
    /// What it runs on.
    pub platforms: Vec<String>,
}

/// What the larder registry said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holdings {
    /// It has not been asked, or not answered for a moment: what was known of it counts.
    Unknown,
    /// When it said so, and of which images. Those of which it says nothing are not there, as nothing is where there is no registry.
    Said(Time, HashMap<Image, Holding>),
}

impl Holdings {
    /// The bytes of all images that the registry has; what several have counts in each. Nothing while it has not said so.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Holdings::Unknown => None,
            Holdings::Said(_, all) => Some(all.values().map(|holding| holding.bytes).fold(0, u64::saturating_add)),
        }
    }
}

/// A change of a CachedImage.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is to be made.
    Make(Image, Box<Said>),
    /// Its status is to be written.
    Write(Image, Box<Said>),
    /// The object of this name is to go.
    Delete(String),
}

impl Change {
    /// The name of the object.
    pub fn name(&self) -> String {
        match self {
            Change::Make(image, _) | Change::Write(image, _) => cached_image_name(image),
            Change::Delete(name) => name.clone(),
        }
    }
}

/// What is to be done about images.
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// By the objects' names.
    pub changes: Vec<Change>,
    /// What the registry is told.
    pub told: Told,
    /// How many images there are no CachedImages of, because there are too many.
    pub left_out: usize,
}

impl Index {
    /// What is to be written about images, and told to the registry.
    pub fn images(&self, facts: &HashMap<Image, Fact>, holdings: &Holdings, now: &Time) -> Images {
        let mut uses: Vec<(Image, Use)> = self.uses().into_iter().collect();
        let last_used = |image: &Image| self.known_of(image)?.said.as_ref()?.status.last_used.clone();
        if uses.len() > MOST {
            // Those come first that more lose by it.
            uses.sort_by_cached_key(|(image, one)| {
                std::cmp::Reverse((one.is_named(), one.pods, last_used(image), image.to_string()))
            });
        }
        let left_out = uses.split_off(uses.len().min(MOST));
        uses.sort_by_cached_key(|(image, _)| image.to_string());
        let mut images = Images { left_out: left_out.len(), ..Images::default() };
        images.told.unused_for = self.policy().retention.unused_for.map(|span| span.0);
        images.told.budget = self.has_policy().then(|| self.policy().retention.budget.clone());
        let mut stays = HashSet::new();
        for (image, one) in uses {
            let name = cached_image_name(&image);
            let known = self.known().get(&name).filter(|known| known.image == image);
            let status = self.image_status(&image, &one, known, facts.get(&image), holdings, now);
            images.told.images.push(ToldImage {
                digests: digests(&one, &status, &image),
                keep: one.is_named(),
                image: image.clone(),
            });
            if !one.is_named() && self.is_over(&status, now) {
                continue;
            }
            stays.insert(name);
            let said = Said { status, node_names: one.node_names.into() };
            match known {
                None => images.changes.push(Change::Make(image, said.into())),
                Some(known) if known.said.as_ref() != Some(&said) => {
                    images.changes.push(Change::Write(image, said.into()));
                }
                Some(_) => {}
            }
        }
        // What is in use stays in the registry, whether or not there is room for an object.
        for (image, one) in left_out.into_iter().filter(|(_, one)| one.is_named()) {
            images.told.images.push(ToldImage { image, digests: parsed(&one.digests), keep: true });
        }
        let gone = self.known().keys().filter(|name| !stays.contains(*name));
        images.changes.extend(gone.map(|name| Change::Delete(name.clone())));
        images
    }

    fn known_of(&self, image: &Image) -> Option<&KnownImage> {
        self.known().get(&cached_image_name(image))
    }

    /// What there is to say about an image, but for the names of nodes.
    fn image_status(
        &self,
        image: &Image,
        one: &Use,
        known: Option<&KnownImage>,
        fact: Option<&Fact>,
        holdings: &Holdings,
        now: &Time,
    ) -> CachedImageStatus {
        let nothing = CachedImageStatus::default();
        let old = known.and_then(|known| known.said.as_ref()).map_or(&nothing, |said| &said.status);
        let last_used = match &old.last_used {
            // While pods use it, this is now, but need not be written each time.
            Some(last) if one.pods > 0 && old.pods > 0 && since(last, now) < WRITTEN => Some(last.clone()),
            _ if one.pods > 0 || old.pods > 0 => Some(now.clone()),
            last => last.clone(),
        };
        let unused_since = (!one.is_named()).then(|| old.unused_since.clone().unwrap_or_else(|| now.clone()));
        let expires = self.expiry(unused_since.as_ref(), last_used.as_ref());
        let holding = match holdings {
            Holdings::Unknown => None,
            Holdings::Said(when, all) => all.get(image).map(|holding| (when, holding)),
        };
        let (registry, bytes, platforms) = match (holdings, holding) {
            (Holdings::Unknown, _) => (old.held.registry, old.bytes, old.platforms.clone()),
            (_, None) => (false, old.bytes, old.platforms.clone()),
            (_, Some((_, holding))) => {
                let platforms = if holding.platforms.is_empty() { &old.platforms } else { &holding.platforms };
                let platforms: Vec<String> = platforms.iter().take(64).cloned().collect();
                (holding.whole, Some(holding.bytes).filter(|bytes| *bytes > 0).or(old.bytes), platforms)
            }
        };
        let mut status = CachedImageStatus {
            observed_generation: known.and_then(|known| known.generation),
            conditions: old.conditions.clone(),
            digest: old.digest.clone(),
            bytes,
            platforms,
            pods: one.pods,
            workloads: one.workloads,
            wanted_by: one.wanted_by.clone(),
            last_used,
            unused_since,
            last_checked: old.last_checked.clone(),
            fresh_until: old.fresh_until.clone(),
            held: Holders { registry, nodes: one.nodes, node_names: Vec::new() },
            expires,
        };
        match &image.reference {
            Reference::Digest(digest) => status.digest = Some(digest.to_string()),
            Reference::Tag(_) => tag(&mut status, fact, holding),
        }
        available(&mut status, fact, now);
        status
    }

    /// When the registry drops what nothing names.
    fn expiry(&self, unused_since: Option<&Time>, last_used: Option<&Time>) -> Option<Time> {
        let unused_for = i64::try_from(self.policy().retention.unused_for?.0.as_secs()).ok()?;
        let from = unused_since?.max(last_used.unwrap_or(unused_since?));
        Some(Time(Timestamp::from_second(from.0.as_second().checked_add(unused_for)?).ok()?))
    }

    /// Whether what nothing names is to be forgotten.
    fn is_over(&self, status: &CachedImageStatus, now: &Time) -> bool {
        if self.policy().retention.unused_for.is_some() {
            return status.expires.as_ref().is_some_and(|expires| expires <= now);
        }
        let long = status.unused_since.as_ref().is_some_and(|unused| since(unused, now) >= FORGOTTEN);
        long && status.held.nodes == 0 && !status.held.registry
    }
}

/// Seconds from then to now.
fn since(then: &Time, now: &Time) -> i64 {
    now.0.as_second() - then.0.as_second()
}

fn parsed<T: AsRef<str>>(digests: &[T]) -> Vec<Digest> {
    digests.iter().filter_map(|digest| digest.as_ref().parse().ok()).collect()
}

/// What runs under the name of an image, if that is a tag.
fn digests(one: &Use, status: &CachedImageStatus, image: &Image) -> Vec<Digest> {
    if matches!(image.reference, Reference::Digest(_)) {
        return Vec::new();
    }
    let mut digests = parsed(&one.digests);
    digests.extend(status.digest.as_ref().and_then(|digest| digest.parse::<Digest>().ok()));
    digests.sort_by_cached_key(ToString::to_string);
    digests.dedup();
    digests
}

/// Says what a tag means: by the controller's own question or the registry's, whichever came later.
fn tag(status: &mut CachedImageStatus, fact: Option<&Fact>, holding: Option<(&Time, &Holding)>) {
    let own = fact.and_then(|fact| Some((fact.digest?, fact.checked.clone()?, fact.fresh_for)));
    let registrys = holding.and_then(|(when, holding)| {
        let (digest, age) = holding.digest?;
        let age = i64::try_from(age.as_secs()).ok()?;
        let checked = Time(Timestamp::from_second(when.0.as_second().checked_sub(age)?).ok()?);
        Some((digest, checked, holding.fresh_for))
    });
    let latest = [own, registrys].into_iter().flatten().max_by(|one, other| one.1.cmp(&other.1));
    let Some((digest, checked, fresh_for)) = latest else { return };
    let digest = digest.to_string();
    let newer = |last: &Time| since(last, &checked);
    let moved = status.digest.as_ref() != Some(&digest);
    // What an earlier question gave is no news, even if the answer was another one.
    let is_news = status.last_checked.as_ref().is_none_or(|last| newer(last) > 0);
    let is_old = status.last_checked.as_ref().is_none_or(|last| newer(last) >= WRITTEN);
    if is_news && (moved || is_old) {
        let fresh = fresh_for.and_then(|fresh| i64::try_from(fresh.as_secs()).ok());
        let until = fresh.and_then(|fresh| checked.0.as_second().checked_add(fresh));
        status.fresh_until = until.and_then(|until| Timestamp::from_second(until).ok()).map(Time);
        status.digest = Some(digest);
        status.last_checked = Some(checked);
    }
}

/// Says whether the origin has it, if anybody has asked.
fn available(status: &mut CachedImageStatus, fact: Option<&Fact>, now: &Time) {
    let Some(fact) = fact else { return };
    let (holds, reason, message) = match &fact.failure {
        Some(failure) if failure.reason == "ImageNotFound" => (Status::False, failure.reason, &*failure.message),
        Some(failure) => (Status::Unknown, failure.reason, &*failure.message),
        None if fact.digest.is_some() => (Status::True, "Found", "the origin has it"),
        None => return,
    };
    let generation = status.observed_generation;
    let finding = Finding { kind: conditions::AVAILABLE, status: holds, reason, message, generation };
    conditions::set(&mut status.conditions, &finding, now);
}

#[cfg(test)]
mod tests;
