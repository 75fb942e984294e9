use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::ImageCache;
use warm::{Standing, Turns, selects};

use crate::index::{CacheKey, Index, KnownNode, Report, State};

/// A node that has its turn and of which nothing is heard for so long does not keep others waiting any more. An agent tells how full its disk is every ten minutes.
const STILL: Duration = Duration::from_secs(15 * 60);

/// How long what was written may take to come back by the watch.
const ECHO: Duration = Duration::from_secs(60);

/// How long whoever begins to lead waits for what the one before has written.
const SETTLE: Duration = Duration::from_secs(2);

/// The most changes at once; more follow.
const CHANGES: usize = 256;

/// What is to be written to a node's NodeCache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The node.
    pub node: Arc<str>,
    /// All turns that it has from now on.
    pub turns: Turns,
}

/// Whose turn it is to pull where only some nodes may at once. Decides, and does nothing itself.
///
/// A turn is a word in a NodeCache. There are never more of them than the limit says, whatever happens: one is given only when the word of another has gone. So
/// one that is of no use any more is taken away only when somebody waits for it, and whoever comes to lead finds all turns where they are.
#[derive(Debug, Default)]
pub struct Rota {
    /// What was written and may not have come back yet.
    written: HashMap<Arc<str>, (Turns, Instant)>,
    /// Since when nothing was heard of those that have turns, and what was heard last.
    still: HashMap<Arc<str>, (Option<u64>, Instant)>,
    /// Those that made nothing of their turn, with what was heard of them last: they are passed over until they say something.
    silent: HashMap<Arc<str>, u64>,
    /// When turns were last given to a node, as a number.
    served: HashMap<Arc<str>, u64>,
    rounds: u64,
    not_before: Option<Instant>,
}

/// What a node has to do with an ImageCache, from nothing to what is most urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// Everything is ready, or will never be.
    None,
    /// Something failed and is tried again.
    Retry,
    /// Something waits for its turn.
    Waits,
    /// Something is coming.
    Coming,
}

/// An ImageCache that counts.
struct Line<'a> {
    name: String,
    /// The most nodes at once.
    limit: Option<u32>,
    priority: i32,
    cache: &'a ImageCache,
    images: Vec<String>,
    /// Where its images are in lists of nodes, by these lists: nodes that want the same have the same list.
    places: HashMap<*const Arc<str>, Vec<usize>>,
    /// How many turns are left.
    free: i64,
    /// How many nodes would have one if they could, because something waits and because something failed.
    short: [i64; 2],
}

/// A node, and what it has to do with each line.
struct Stand<'a> {
    known: &'a KnownNode,
    held: Turns,
    /// By the places of lines; only of those that select it.
    needs: Vec<(usize, Need)>,
    /// It makes use of turns.
    able: bool,
}

impl Line<'_> {
    fn need(&mut self, report: &Report) -> Need {
        let (images, list) = (&self.images, report.images());
        let places = self.places.entry(list.as_ptr()).or_insert_with(|| {
            let place = |image: &String| list.binary_search_by(|known| (**known).cmp(image)).ok();
            images.iter().filter_map(place).collect()
        });
        let of = |place: &usize| match report.states()[*place] {
            State::Warm | State::GivenUp => Need::None,
            State::Failed => Need::Retry,
            State::Waits => Need::Waits,
            State::Coming => Need::Coming,
        };
        places.iter().map(of).max().unwrap_or(Need::None)
    }

    fn is_given(&self, held: &Turns) -> bool {
        held.caches.contains(&self.name)
    }
}

impl Rota {
    /// Forgets what was written: another replica may have written since.
    pub fn forget(&mut self, now: Instant) {
        *self = Rota { not_before: Some(now + SETTLE), ..Rota::default() };
    }

    /// These turns are written.
    pub fn wrote(&mut self, change: &Change, now: Instant) {
        self.written.insert(change.node.clone(), (change.turns.clone(), now));
    }

    /// The turns that are to be given and taken now, and when to look again if nothing else happens.
    pub fn changes(&mut self, index: &Index, now: Instant) -> (Vec<Change>, Option<Instant>) {
        if let Some(then) = self.not_before.filter(|then| *then > now) {
            return (Vec::new(), Some(then));
        }
        self.written.retain(|node, (turns, at)| {
            index.report(node).is_some_and(|report| report.turns != *turns) && now.duration_since(*at) < ECHO
        });
        let policy = index.policy().image_caches.nodes_at_once;
        let limited = policy.is_some() || index.caches().any(|(_, cache)| cache.spec.parallelism.nodes.is_some());
        if !limited && index.reports().all(|report| report.turns.is_empty()) {
            return (Vec::new(), None);
        }
        let mut lines = lines(index, policy.is_some());
        let mut stands = self.stands(index, &mut lines, now);
        let mut cluster = Cluster { limit: policy, free: i64::from(policy.unwrap_or(0)), short: [0, 0] };
        for stand in &stands {
            cluster.free -= i64::from(policy.is_some() && stand.held.cluster);
            for line in lines.iter_mut().filter(|line| line.is_given(&stand.held)) {
                line.free -= 1;
            }
        }
        self.order(&mut stands, &lines);
        let mut changes: BTreeMap<Arc<str>, Turns> = BTreeMap::new();
        let mut given = BTreeSet::new();
        for (class, urgency) in [Need::Waits, Need::Retry].into_iter().enumerate() {
            for stand in stands.iter().filter(|stand| stand.able) {
                let before = changes.get(&stand.known.node.name).unwrap_or(&stand.held).clone();
                let after = give(stand, before.clone(), (class, urgency), &mut cluster, &mut lines);
                if after != before {
                    given.insert(stand.known.node.name.clone());
                    changes.insert(stand.known.node.name.clone(), after);
                }
            }
        }
        for stand in &stands {
            let before = changes.get(&stand.known.node.name).unwrap_or(&stand.held).clone();
            let after = take(stand, before.clone(), &mut cluster, &mut lines);
            if after != before {
                changes.insert(stand.known.node.name.clone(), after);
            }
        }
        self.rounds += 1;
        self.served.extend(given.into_iter().map(|node| (node, self.rounds)));
        let changes: Vec<Change> =
            changes.into_iter().take(CHANGES).map(|(node, turns)| Change { node, turns }).collect();
        // What was taken may be given as soon as that is written.
        let next = (!changes.is_empty()).then_some(now);
        (changes, next)
    }

    /// All nodes whose agents have told something.
    fn stands<'a>(&mut self, index: &'a Index, lines: &mut [Line<'_>], now: Instant) -> Vec<Stand<'a>> {
        let mut stands = Vec::new();
        for known in index.nodes() {
            let name = &known.node.name;
            let Some(report) = index.report(name) else { continue };
            let held = self.written.get(name).map_or_else(|| report.turns.clone(), |(turns, _)| turns.clone());
            let selected = lines.iter_mut().enumerate().filter(|(_, line)| selects(&line.cache.spec, &known.node));
            let needs: Vec<(usize, Need)> = selected.map(|(place, line)| (place, line.need(report))).collect();
            let pulse = report.pulse.0;
            if !held.is_empty() {
                // Of one that only tries again what failed, no word tells that it will succeed.
                let busy = needs.iter().any(|(_, need)| *need >= Need::Waits).then_some(pulse);
                let still = self.still.entry(name.clone()).or_insert((busy, now));
                if still.0 != busy {
                    *still = (busy, now);
                } else if now.duration_since(still.1) >= STILL {
                    self.silent.insert(name.clone(), pulse);
                }
            } else {
                self.still.remove(name);
            }
            let silent = self.silent.get(name).is_some_and(|last| *last == pulse);
            if !silent {
                self.silent.remove(name);
            }
            stands.push(Stand { known, held, needs, able: report.ready && !known.away && !silent });
        }
        let here = |node: &Arc<str>| index.report(node).is_some();
        self.still.retain(|node, _| here(node));
        self.silent.retain(|node, _| here(node));
        self.served.retain(|node, _| here(node));
        stands
    }

    /// Who is served first: what has a higher priority, new nodes that take no pods before, who already has a turn for something, and
    /// who has waited longest.
    fn order(&self, stands: &mut [Stand<'_>], lines: &[Line<'_>]) {
        stands.sort_by_cached_key(|stand| {
            let wanting = stand.needs.iter().filter(|(_, need)| *need == Need::Waits);
            let priority = wanting.map(|(place, _)| lines[*place].priority).max().unwrap_or(i32::MIN);
            let served = self.served.get(&stand.known.node.name).copied().unwrap_or_default();
            let first = (!stand.known.node.is_warming(), stand.held.is_empty());
            (std::cmp::Reverse(priority), first, served, stand.known.node.name.clone())
        });
    }
}

/// How many nodes may pull at all.
struct Cluster {
    limit: Option<u32>,
    free: i64,
    short: [i64; 2],
}

/// The ImageCaches that count and have a limit; all that count where the policy has one for all.
fn lines<'a>(index: &'a Index, all: bool) -> Vec<Line<'a>> {
    let standings = index.standings();
    let counts = index.caches().filter(|(_, cache)| standings.standing(cache) == Standing::Counts);
    let limited = counts.filter(|(_, cache)| all || cache.spec.parallelism.nodes.is_some());
    let line = |(key, cache): (&CacheKey, &'a Arc<ImageCache>)| {
        let limit = cache.spec.parallelism.nodes;
        Line {
            name: key.to_string(),
            limit,
            priority: cache.spec.priority,
            cache,
            images: index.wanted(key, cache).0.images.iter().map(ToString::to_string).collect(),
            places: HashMap::new(),
            free: i64::from(limit.unwrap_or(0)),
            short: [0, 0],
        }
    };
    limited.map(line).collect()
}

/// Gives a node what it needs that urgently, as far as there is any.
fn give(
    stand: &Stand<'_>,
    mut turns: Turns,
    (class, urgency): (usize, Need),
    cluster: &mut Cluster,
    lines: &mut [Line<'_>],
) -> Turns {
    let needs = || stand.needs.iter().filter(move |(_, need)| *need == urgency).map(|(place, _)| *place);
    let (mut new, mut useful) = (Vec::new(), false);
    for place in needs() {
        let line = &mut lines[place];
        if line.limit.is_none() || line.is_given(&turns) {
            useful = true;
        } else if line.free > 0 {
            useful = true;
            new.push(place);
        } else {
            line.short[class] += 1;
        }
    }
    if cluster.limit.is_some() && !turns.cluster {
        if !useful {
            return turns;
        }
        if cluster.free <= 0 {
            cluster.short[class] += 1;
            return turns;
        }
        cluster.free -= 1;
        turns.cluster = true;
    }
    for place in new {
        lines[place].free -= 1;
        turns.caches.insert(lines[place].name.clone());
    }
    turns
}

/// Takes from a node what it has no use for and others wait for, or what there is too much of.
fn take(stand: &Stand<'_>, mut turns: Turns, cluster: &mut Cluster, lines: &mut [Line<'_>]) -> Turns {
    let need_of = |name: &str, lines: &[Line<'_>]| {
        let found = stand.needs.iter().find(|(place, _)| lines[*place].limit.is_some() && lines[*place].name == name);
        found.map(|(place, need)| (*place, if stand.able { *need } else { Need::None }))
    };
    for name in turns.caches.clone() {
        match need_of(&name, lines) {
            // It has no limit any more, is gone, or is not for this node.
            None => drop(turns.caches.remove(&name)),
            Some((place, need)) => {
                let Line { free, short, .. } = &mut lines[place];
                if is_to_go(need, free, short) {
                    turns.caches.remove(&name);
                }
            }
        }
    }
    if turns.cluster {
        let useful = |place: usize| lines[place].limit.is_none() || lines[place].is_given(&turns);
        let needs = stand.needs.iter().filter(|(place, need)| *need != Need::Waits || useful(*place));
        let need = needs.map(|(_, need)| *need).max().filter(|_| stand.able).unwrap_or(Need::None);
        if cluster.limit.is_none() || is_to_go(need, &mut cluster.free, &mut cluster.short) {
            turns.cluster = false;
        }
    }
    turns
}

/// Whether a turn goes that somebody has with this need: there are too many, or somebody needs it more.
fn is_to_go(need: Need, free: &mut i64, short: &mut [i64; 2]) -> bool {
    if need >= Need::Waits {
        return false;
    }
    let wanted = match need {
        Need::None => short.iter_mut().find(|short| **short > 0),
        _ => short.first_mut().filter(|short| **short > 0),
    };
    let goes = match wanted {
        Some(short) => {
            *short -= 1;
            true
        }
        None => *free < 0,
    };
    if goes {
        *free += 1;
    }
    goes
}

#[cfg(test)]
mod tests;
