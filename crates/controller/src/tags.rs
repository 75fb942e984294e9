use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use api::names::{REFRESH_ANNOTATION, REFRESH_NOW};
use api::{CachePolicySpec, Freshness, FreshnessPattern, ImageCache, ImageCacheStatus, UpstreamFreshness};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use oci::{Digest, Image, Pattern, Reference};
use warm::{Standing, Standings};

use crate::index::{CacheKey, Index};
use crate::refresh::Resolved;

/// No tag is asked for more often by itself.
const SHORTEST: Duration = Duration::from_secs(60);
/// What was wished for at once is asked for again after so long if that failed; each further failure doubles it,
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// up to this, or the tag's own interval if that is less.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// An outage is told of when it has lasted for so many questions: one may pass before anybody has read of it.
const OUTAGE: u32 = 3;
/// While no tag moves, that they were asked for is written down so often: each write goes to every node of the cluster.
const WRITTEN: i64 = 3600;
/// How long an annotation that was taken away may take to be seen gone. After it, somebody has set it anew.
const ECHO: Duration = Duration::from_secs(10);

/// Why nobody knows what a tag means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// In one word for programs, as agents say it.
    pub reason: &'static str,
    /// For people. Holds no credential.
    pub message: String,
    /// The registry gives it to nobody without a credential.
    pub private: bool,
    /// It is a no, not an outage.
    pub definite: bool,
    /// How long the registry wants not to be asked.
    pub pause: Duration,
}

/// What tags mean, and when they are to be asked for again: each once for all ImageCaches that want it. Asks nobody itself: it is told, with
/// the time.
#[derive(Debug, Default)]
pub struct Tags {
    known: HashMap<Image, Known>,
    wishes: HashMap<CacheKey, Wish>,
}

/// What is known of a tag, for whoever tells of images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fact {
    /// What it means.
    pub digest: Option<Digest>,
    /// When the last answer came.
    pub checked: Option<Time>,
    /// How long an answer is believed; for ever if not given.
    pub fresh_for: Option<Duration>,
    /// Why nobody knows what it means, if that is to be told.
    pub failure: Option<Unresolved>,
}

/// What is known of a tag.
#[derive(Debug, Default)]
struct Known {
    digest: Option<Digest>,
    /// When the last question that was answered began, and when its answer came.
    asked: Option<(Instant, Time)>,
    /// When the question on its way began.
    asking: Option<Instant>,
    /// Whoever answered gives it to nobody without a credential.
    private: bool,
    /// The next question may be answered otherwise, and is not to wait.
    anew: bool,
    /// Questions since one was answered well, and how the last one failed.
    failures: u32,
    failure: Option<Unresolved>,
    /// How long an answer is believed, by whoever wants it asked for most often; for ever if nobody says.
    fresh_for: Option<Duration>,
}

/// That somebody wants the tags of an ImageCache asked for at once.
#[derive(Debug)]
struct Wish {
    since: Instant,
    /// When the annotation was taken away.
    cleared: Option<Instant>,
}

impl Tags {
    /// The tags that are to be asked for now, which then count as being asked for, and when to come again.
    pub fn due(&mut self, index: &Index, now: &Time, at: Instant) -> (Vec<Image>, Option<Instant>) {
        let (standings, freshness) = (index.standings(), index.freshness());
        let mut whens: HashMap<Image, Option<Instant>> = HashMap::new();
        let mut annotated = HashSet::new();
        let mut intervals: HashMap<Image, Option<Duration>> = HashMap::new();
        for (key, cache) in index.caches() {
            let wished = self.wish(key, cache, at);
            if wished.is_some() {
                annotated.insert(key.clone());
            }
            for image in tags_of(index, key, cache, &standings) {
                let known = self.known.entry(image.clone()).or_insert_with(|| Known::of(cache, &image, now, at));
                let interval = interval(cache, &image, index.policy(), freshness.get(&image.name.registry).copied());
                let when = known.when(interval, wished, at);
                let least = intervals.entry(image.clone()).or_insert(interval);
                *least = (*least).into_iter().chain(interval).min();
                let first = whens.entry(image).or_default();
                *first = match (*first, when) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
        }
        for (image, interval) in intervals {
            if let Some(known) = self.known.get_mut(&image) {
                known.fresh_for = interval;
            }
        }
        self.wishes.retain(|key, _| annotated.contains(key));
        self.known.retain(|image, known| known.asking.is_some() || whens.contains_key(image));
        let mut due: Vec<Image> = Vec::new();
        let mut next: Option<Instant> = None;
        for (image, when) in whens {
            let Some(when) = when else { continue };
            let Some(known) = self.known.get_mut(&image).filter(|known| known.asking.is_none()) else { continue };
            if when <= at {
                known.asking = Some(at);
                known.anew = false;
                due.push(image);
            } else {
                next = Some(next.map_or(when, |next| next.min(when)));
            }
        }
        due.sort_by_cached_key(ToString::to_string);
        (due, next)
    }

    /// Since when the tags of an ImageCache are wished for, if they are.
    fn wish(&mut self, key: &CacheKey, cache: &ImageCache, at: Instant) -> Option<Instant> {
        if !is_annotated(cache) {
            return None;
        }
        let wish = self.wishes.entry(key.clone()).or_insert(Wish { since: at, cleared: None });
        if wish.cleared.is_some_and(|cleared| at >= cleared + ECHO) {
            *wish = Wish { since: at, cleared: None };
        }
        Some(wish.since)
    }

    /// Takes what a tag means, or why nobody knows.
    pub fn answered(&mut self, image: &Image, answer: Result<Resolved, Unresolved>, now: &Time) {
        let Some(known) = self.known.get_mut(image) else { return };
        let begun = known.asking.take();
        known.asked = begun.map(|begun| (begun, now.clone())).or(known.asked.take());
        match answer {
            Ok(Resolved { digest, private }) => {
                known.digest = Some(digest);
                known.private = private;
                (known.failures, known.failure) = (0, None);
            }
            Err(why) => {
                known.failures = known.failures.saturating_add(1);
                known.failure = Some(why);
            }
        }
    }

    /// Those who are asked may by now know a credential: what needs one is asked for again, and what is being asked for too.
    pub fn try_private_anew(&mut self) {
        for known in self.known.values_mut() {
            known.anew |= known.asking.is_some() || known.failure.as_ref().is_some_and(|failure| failure.private);
        }
    }

    /// The ImageCaches whose wish is granted, and whose status says so: their annotation is to be taken away.
    pub fn granted(&self, index: &Index) -> Vec<CacheKey> {
        if self.wishes.is_empty() {
            return Vec::new();
        }
        let standings = index.standings();
        let wishes = self.wishes.iter().filter(|(_, wish)| wish.cleared.is_none());
        let granted = wishes.filter(|(key, wish)| {
            index.cache(key).is_some_and(|cache| {
                let told = cache.status.as_ref().and_then(|status| status.last_refresh.as_ref());
                let mut tags = tags_of(index, key, cache, &standings).into_iter();
                tags.all(|tag| {
                    let asked = self.known.get(&tag).and_then(|known| known.asked.as_ref());
                    asked.is_some_and(|(begun, when)| *begun >= wish.since && told.is_some_and(|told| told >= when))
                })
            })
        });
        granted.map(|(key, _)| key.clone()).collect()
    }

    /// The annotation of an ImageCache was taken away.
    pub fn cleared(&mut self, key: &CacheKey, at: Instant) {
        if let Some(wish) = self.wishes.get_mut(key) {
            wish.cleared = Some(at);
        }
    }

    /// What a tag means, if anybody has found out.
    pub(crate) fn digest(&self, image: &Image) -> Option<Digest> {
        self.known.get(image)?.digest
    }

    /// Whether a tag needs a credential, if anybody has found out.
    pub(crate) fn is_private(&self, image: &Image) -> Option<bool> {
        let known = self.known.get(image)?;
        match &known.failure {
            Some(failure) if failure.private => Some(true),
            Some(_) => None,
            None => known.asked.as_ref().map(|_| known.private),
        }
    }

    /// Why nobody knows what a tag means, if that is to be told.
    pub(crate) fn failure(&self, image: &Image) -> Option<&Unresolved> {
        let known = self.known.get(image)?;
        known.failure.as_ref().filter(|failure| failure.definite || known.failures >= OUTAGE)
    }

    /// All that is known.
    pub fn facts(&self) -> HashMap<Image, Fact> {
        let fact = |(image, known): (&Image, &Known)| {
            let fact = Fact {
                digest: known.digest,
                checked: known.asked.as_ref().map(|(_, when)| when.clone()),
                fresh_for: known.fresh_for,
                failure: self.failure(image).cloned(),
            };
            (image.clone(), fact)
        };
        self.known.iter().map(fact).collect()
    }

    /// When the tags of an ImageCache were last asked for, as its status is to say: newer than it says when one has moved or somebody
    /// waits for it, and now and then.
    pub(crate) fn refreshed(&self, key: &CacheKey, images: &[Image], old: &ImageCacheStatus) -> Option<Time> {
        let known = || images.iter().filter_map(|image| Some((image, self.known.get(image)?)));
        let Some(newest) = known().filter_map(|(_, known)| Some(&known.asked.as_ref()?.1)).max() else {
            return old.last_refresh.clone();
        };
        let Some(told) = &old.last_refresh else { return Some(newest.clone()) };
        let says = |image: &Image| {
            let text = image.to_string();
            old.images.iter().find(|one| one.image == text).and_then(|one| one.digest.as_deref()?.parse().ok())
        };
        let moved = || known().any(|(image, known)| known.digest.is_some() && known.digest != says(image));
        let is_old = newest.0.as_second() - told.0.as_second() >= WRITTEN;
        let new = newest > told && (self.wishes.contains_key(key) || is_old || moved());
        Some(if new { newest.clone() } else { told.clone() })
    }
}

impl Known {
    /// Of a tag that this process has not asked for: whoever led before wrote down what it meant, and when.
    fn of(cache: &ImageCache, image: &Image, now: &Time, at: Instant) -> Known {
        let text = image.to_string();
        let told = cache.status.iter().flat_map(|status| &status.images).find(|one| one.image == text);
        let digest = told.and_then(|one| one.digest.as_deref()?.parse().ok());
        let refreshed =
            cache.status.as_ref().and_then(|status| status.last_refresh.clone()).filter(|_| digest.is_some());
        let asked = refreshed.and_then(|refreshed| {
            let age = u64::try_from(now.0.as_second() - refreshed.0.as_second()).unwrap_or_default();
            Some((at.checked_sub(Duration::from_secs(age))?, refreshed))
        });
        Known { digest, asked, ..Known::default() }
    }

    /// When it is to be asked for; never again if nothing is said.
    fn when(&self, interval: Option<Duration>, wished: Option<Instant>, at: Instant) -> Option<Instant> {
        let Some((begun, _)) = self.asked.as_ref().filter(|_| !self.anew) else { return Some(at) };
        if wished.is_some_and(|since| *begun < since) {
            return Some(at);
        }
        let pause = match &self.failure {
            None => return interval.map(|interval| *begun + interval),
            Some(failure) => {
                let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.saturating_sub(1).min(10));
                let least = interval.map_or(LONGEST_PAUSE, |interval| interval.min(LONGEST_PAUSE));
                // A no may be for ever, and asking for it at once again is of no use.
                let pause = if failure.definite { least } else { doubled.min(least) };
                pause.max(failure.pause)
            }
        };
        Some(*begun + pause)
    }
}

fn is_annotated(cache: &ImageCache) -> bool {
    let annotations = cache.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(REFRESH_ANNOTATION)).is_some_and(|value| value == REFRESH_NOW)
}

/// The images of an ImageCache that are named by tags.
fn tags_of(index: &Index, key: &CacheKey, cache: &ImageCache, standings: &Standings) -> Vec<Image> {
    if standings.standing(cache) != Standing::Counts {
        return Vec::new();
    }
    let images = index.wanted(key, cache).0.images;
    images.into_iter().filter(|image| matches!(image.reference, Reference::Tag(_))).collect()
}

/// How long what a tag means is believed; for ever if nothing is said. What an Upstream says of its registry comes before the policy.
fn interval(
    cache: &ImageCache,
    image: &Image,
    policy: &CachePolicySpec,
    upstream: Option<&UpstreamFreshness>,
) -> Option<Duration> {
    if let Some(interval) = cache.spec.refresh_interval {
        return Some(interval.0.max(SHORTEST));
    }
    let text = format!("{}:{}", image.name.repository, image.reference);
    let (rules, own) = (&policy.freshness, upstream.and_then(|upstream| upstream.default));
    let before: &[FreshnessPattern] = upstream.map_or(&[], |upstream| &upstream.patterns);
    // Beside an own default, the patterns of the policy do not count.
    let patterns = before.iter().chain(rules.patterns.iter().filter(|_| own.is_none()));
    let matching = patterns.into_iter().find(|rule| Pattern::new(&rule.r#match).matches(&text));
    match matching.map_or(own.unwrap_or(rules.default), |rule| rule.r#for) {
        Freshness::For(span) => Some(span.0.max(SHORTEST)),
        Freshness::Immutable => None,
    }
}

#[cfg(test)]
mod tests;
