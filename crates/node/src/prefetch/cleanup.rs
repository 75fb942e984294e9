use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use api::{Cleanup, CleanupMode, LastCleanup, Removal};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use oci::Image;

use super::keeper::{Disk, Held, Keeper};
use crate::cri::LastUse;

/// How old what is remembered of an image in use may be. It is only needed where nobody sees the use end: where larder was not there then.
const REMEMBERED_ANEW: Duration = Duration::from_secs(3600);
/// So much below `diskAbove` a cleanup ends, in hundredths of the filesystem, where the policy does not say where.
const BELOW: u32 = 5;
/// The most images in a [`LastCleanup`].
const LISTED: usize = 64;

/// An image that a cleanup removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removable {
    /// Its ID.
    pub id: String,
    /// A name of it, for people.
    pub name: String,
    /// Its size as the runtime counts it.
    pub bytes: u64,
    /// Why it goes.
    pub why: Why,
}

/// Why an image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Nothing has used it for too long.
    Unused,
    /// The filesystem of images is too full. It stays if that is over when its turn comes.
    DiskFull,
}

impl Why {
    /// In one word, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Unused => "Unused",
            Why::DiskFull => "DiskFull",
        }
    }
}

impl Keeper {
    /// What is to be remembered of when images were of use; nothing where there is no cleanup.
    pub fn uses(&self, now: SystemTime) -> Vec<(String, LastUse)> {
        if self.rules().is_none() || self.blind.is_some() {
            return Vec::new();
        }
        let old = |last: Option<LastUse>| match last {
            Some(LastUse::Used(at)) => now.duration_since(at).is_ok_and(|age| age >= REMEMBERED_ANEW),
            Some(LastUse::Seen(_)) | None => true,
        };
        let new = |held: &Held| match (held.used, held.last_use) {
            (true, last) => old(last).then_some(LastUse::Used(now)),
            (false, _) if self.left.contains(&held.image.id) => Some(LastUse::Used(now)),
            (false, None) => Some(LastUse::Seen(now)),
            (false, Some(_)) => None,
        };
        self.held.iter().filter_map(|held| Some((held.image.id.clone(), new(held)?))).collect()
    }

    /// What a cleanup removes, in its order: what has been unused for too long, then, where the filesystem is too full, what was used
    /// longest ago, as much as seems to be needed. What is not yet known to be unused stays.
    pub fn removable(&self, now: SystemTime) -> Vec<Removable> {
        let Some(rules) = self.rules().filter(|_| self.may_clean()) else { return Vec::new() };
        let wanted = self.wanted_ids();
        let age = |last: LastUse| now.duration_since(last.at()).unwrap_or_default();
        let mut unused: Vec<(Duration, &Held)> = self
            .held
            .iter()
            .filter(|held| !held.used && !held.image.pinned && !self.left.contains(&held.image.id))
            .filter(|held| !wanted.contains(held.image.id.as_str()) && !stays(rules, held))
            .filter_map(|held| Some((age(held.last_use?), held)))
            .collect();
        unused.sort_by_key(|(age, held)| (Reverse(*age), &held.image.id));

        let mut surplus = surplus(rules, &self.disk);
        let mut removable = Vec::new();
        for (age, held) in unused {
            let why = if age >= rules.unused_for.0 {
                Why::Unused
            } else if surplus > 0 && age >= rules.minimum_age.0 {
                Why::DiskFull
            } else {
                continue;
            };
            surplus = surplus.saturating_sub(held.image.bytes);
            let (id, name, bytes) = (held.image.id.clone(), held.name().to_owned(), held.image.bytes);
            removable.push(Removable { id, name, bytes, why });
        }
        removable
    }

    /// Whether it is known what is there, and nothing is coming that may be of the same layers as what would go.
    pub fn may_clean(&self) -> bool {
        self.blind.is_none() && !self.is_busy()
    }

    /// How much must be free on the filesystem for a cleanup to leave what has not been unused for too long, in bytes.
    pub fn enough(&self) -> u64 {
        self.rules().map_or(0, |rules| self.disk.capacity.saturating_sub(allowed(rules, &self.disk)))
    }

    /// How often is looked, if there is a cleanup, and whether it removes anything.
    pub fn cleanup(&self) -> Option<(Duration, CleanupMode)> {
        self.rules().map(|rules| (rules.interval.0, rules.mode))
    }

    /// A cleanup was made, or would have been. One that would do the same as the last one said is not another.
    pub fn cleaned(&mut self, removed: &[Removable], dry_run: bool, now: SystemTime) {
        let mut images: Vec<&Removable> = removed.iter().collect();
        images.sort_by_key(|one| Reverse(one.bytes));
        let of = |one: &&Removable| Removal {
            image: one.name.clone(),
            bytes: one.bytes,
            reason: one.why.as_str().to_owned(),
        };
        let second = now.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|now| i64::try_from(now.as_secs()).ok());
        let second = second.unwrap_or_default();
        let new = LastCleanup {
            time: Time(Timestamp::from_second(second).unwrap_or_default()),
            dry_run,
            removed: u32::try_from(removed.len()).unwrap_or(u32::MAX),
            freed_bytes: removed.iter().map(|one| one.bytes).sum(),
            images: images.iter().take(LISTED).map(of).collect(),
        };
        // What would have gone before may be none that would go now.
        let before = self.cleaned.as_ref().filter(|last| dry_run && last.dry_run);
        match before {
            Some(last) if (last.removed, &last.images) == (new.removed, &new.images) => {}
            Some(_) => self.cleaned = (new.removed > 0).then_some(new),
            None if new.removed > 0 => self.cleaned = Some(new),
            None => {}
        }
    }

    fn rules(&self) -> Option<&Cleanup> {
        self.plan.as_ref()?.cleanup.as_ref()
    }

    fn wanted_ids(&self) -> HashSet<&str> {
        let wishes = self.plan.iter().flat_map(|plan| &plan.wishes);
        wishes.filter_map(|wish| self.there(wish)).map(|held| held.image.id.as_str()).collect()
    }
}

/// Whether an image stays whatever its age. Runtimes pin the image of sandboxes; one that was renamed or whose pin was taken off stays too.
fn stays(rules: &Cleanup, held: &Held) -> bool {
    held.image.tags.iter().chain(&held.image.digests).filter_map(|name| name.parse::<Image>().ok()).any(|image| {
        let repository = image.name.repository.as_str();
        let last = repository.rsplit('/').next().unwrap_or(repository);
        last == "pause" || last.starts_with("pause-") || last.ends_with("-pause") || warm::keeps(&rules.keep, &image)
    })
}

/// How much is used of the filesystem beyond what the policy allows, in bytes.
fn surplus(rules: &Cleanup, disk: &Disk) -> u64 {
    let used = disk.capacity.saturating_sub(disk.available);
    let above = rules.disk_above.is_some_and(|above| used > hundredths(disk.capacity, above));
    if above { used.saturating_sub(allowed(rules, disk)) } else { 0 }
}

/// How much may be used of the filesystem after a cleanup, in bytes.
fn allowed(rules: &Cleanup, disk: &Disk) -> u64 {
    let below = rules.disk_below.or_else(|| Some(rules.disk_above?.saturating_sub(BELOW)));
    below.map_or(disk.capacity, |below| hundredths(disk.capacity, below))
}

fn hundredths(of: u64, share: u32) -> u64 {
    of / 100 * u64::from(share)
}
