use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peers::{Frame, Lost};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::stream::{Item, Stream};

/// A machine: a node's number, or [`ORIGIN`].
pub(crate) type Host = u32;
/// The origin.
pub(crate) const ORIGIN: Host = u32::MAX;

/// How long a connection to a machine that does not answer is tried, as the exchange's sockets do.
const CONNECT: u64 = 500_000_000;
/// How long a connection that nobody uses is kept.
const KEPT_IDLE: u64 = 30_000_000_000;

/// How long it takes until each stream of a full link has had its turn, in seconds, and the least and the most bytes that each passes then:
/// on real links turns are shorter, and nobody takes a stream for silent that is only slow.
const ROUND: f64 = 0.016;
const LEAST_PART: u32 = 16 * 1024;
const MOST_PART: u32 = 256 * 1024;

/// How the machines are connected. Rates are in bytes per second.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Of each node: its zone, and how fast it sends and takes.
    pub nodes: Vec<(usize, f64)>,
    pub zones: usize,
    /// From each zone to each other one.
    pub between_zones: f64,
    /// How fast the origin sends.
    pub origin: f64,
    /// One way, within a zone, between two, and to the origin.
    pub latency: [Duration; 3],
    pub seed: u64,
}

/// Links that are only counted, and the messages on them.
///
/// Each link passes one part of a message after the other, in the order in which they come. A stream has one part at a time waiting
/// for the link that leads away from its sender, and a bounded number on the way: so the streams of a full link
/// share it evenly, part by part. Messages of an instant are put on their way once nothing else happens in it, in an order that
/// follows from what they are, and not from the order in which tasks ran: so the same seed gives the same outcome.
///
/// Tasks notice what arrives at the next whole millisecond, the step of their clock; the links reckon in nanoseconds.
pub(crate) struct Network {
    state: Mutex<State>,
    changed: Notify,
    began: Instant,
    plan: Plan,
}

struct State {
    links: Vec<Link>,
    inbox: Vec<Parcel>,
    events: BinaryHeap<Event>,
    hosts: Vec<Machine>,
    /// Connections between two machines that nobody uses, and since when.
    idle: HashMap<(Host, Host), (u32, u64)>,
    fingerprint: u64,
}

#[derive(Clone, Copy)]
struct Link {
    /// Nanoseconds per byte.
    pace: f64,
    free: u64,
    bytes: u64,
}

/// Whether a machine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Up,
    /// The program has ended: connections end, and new ones are refused.
    Ended,
    /// The machine is gone without a word.
    Gone,
}

struct Machine {
    condition: Condition,
    asks: u64,
    is_asked: u64,
    beats: u64,
    connects: u64,
    /// Streams that it gives and takes.
    gives: u32,
    takes: u32,
}

/// What one node did and had, in bytes and messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub sent: u64,
    pub taken: u64,
    pub asks: u64,
    pub is_asked: u64,
    pub beats: u64,
    pub connects: u64,
}

/// What tells a message from all others of an instant.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    /// What it belongs to.
    pub of: u64,
    /// Messages that belong together are put on their way in this order.
    pub order: u32,
}

impl Key {
    /// Of a message that belongs to no other.
    pub fn single(of: u64) -> Key {
        Key { of, order: 0 }
    }
}

struct Parcel {
    from: Host,
    to: Host,
    submitted: u64,
    key: u64,
    size: u32,
    /// It has to wait for its turn on links, as bytes do, and what follows them; single messages pass between those of other
    /// connections, as on links that queue fairly.
    queues: bool,
    /// How many links of its way are behind it, and when its last byte was at the end of those.
    stage: u8,
    last: u64,
    cargo: Cargo,
}

/// What is done when a message has arrived.
pub(crate) enum Cargo {
    /// A question, which needs a connection, and what becomes of it where there is none. Dropped, nothing comes of it.
    Question { arrived: Box<dyn FnOnce() + Send>, lost: Box<dyn FnOnce(Lost) + Send> },
    /// Anything.
    Run(Box<dyn FnOnce() + Send>),
    /// A part of a stream.
    Item(Arc<Stream>, Item),
}

struct Event {
    at: u64,
    key: u64,
    what: What,
}

enum What {
    Reaches(Box<Parcel>),
    /// The first link has all of a part of the stream.
    HasLeft(Arc<Stream>, u32),
    Arrives(Box<Parcel>),
    Fails(Box<dyn FnOnce(Lost) + Send>, &'static str),
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    /// The first to happen is the greatest.
    fn cmp(&self, other: &Event) -> Ordering {
        (other.at, other.key).cmp(&(self.at, self.key))
    }
}

impl Network {
    pub fn new(plan: Plan) -> Arc<Network> {
        let link = |rate: f64| Link { pace: 1e9 / rate, free: 0, bytes: 0 };
        let nodes = plan.nodes.iter().flat_map(|(_, rate)| [link(*rate); 2]);
        let zones = std::iter::repeat_n(link(plan.between_zones), plan.zones * plan.zones);
        let links = nodes.chain(zones).chain([link(plan.origin)]).collect();
        let hosts = plan.nodes.iter().map(|_| Machine::new()).collect();
        Arc::new(Network {
            state: Mutex::new(State {
                links,
                inbox: Vec::new(),
                events: BinaryHeap::new(),
                hosts,
                idle: HashMap::new(),
                fingerprint: plan.seed,
            }),
            changed: Notify::new(),
            began: Instant::now(),
            plan,
        })
    }

    /// Moves messages, for as long as it is polled.
    pub async fn run(&self) {
        loop {
            let next = self.turn();
            let wait = async {
                match next {
                    Some(at) => tokio::time::sleep_until(self.began + Duration::from_nanos(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = wait => {}
                // All that happens in this instant comes first.
                () = self.changed.notified() => tokio::time::sleep(Duration::from_nanos(1)).await,
            }
        }
    }

    /// A stream begins between two machines, or ends.
    pub fn streams(&self, from: Host, to: Host, begins: bool) {
        let change = |count: u32| if begins { count + 1 } else { count.saturating_sub(1) };
        let mut state = self.state();
        if let Some(host) = state.host(from) {
            host.gives = change(host.gives);
        }
        if let Some(host) = state.host(to) {
            host.takes = change(host.takes);
        }
    }

    /// How many bytes a stream sends at once: all streams of its links have their turn within [`ROUND`].
    pub fn part(&self, from: Host, to: Host) -> u32 {
        let mut state = self.state();
        let gives = state.host(from).map_or(1, |host| host.gives.max(1));
        let takes = state.host(to).map_or(1, |host| host.takes.max(1));
        drop(state);
        let up = self.plan.nodes.get(from as usize).map_or(self.plan.origin, |node| node.1) / f64::from(gives);
        let down = self.plan.nodes.get(to as usize).map_or(f64::MAX, |node| node.1) / f64::from(takes);
        ((up.min(down) * ROUND) as u32).clamp(LEAST_PART, MOST_PART)
    }

    /// Nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        (Instant::now() - self.began).as_nanos() as u64
    }

    /// Puts a message on its way, unless its sender is gone.
    pub fn send(&self, from: Host, to: Host, key: Key, size: u32, queues: bool, cargo: Cargo) {
        let submitted = self.now();
        let mut state = self.state();
        if state.host(from).is_some_and(|host| host.condition == Condition::Gone) {
            return;
        }
        if let Cargo::Question { .. } = cargo {
            if let Some(host) = state.host(from) {
                host.asks += 1;
            }
            if let Some(host) = state.host(to) {
                host.is_asked += 1;
            }
        }
        let key = mix(key.of ^ self.plan.seed) << 24 | u64::from(key.order & 0xff_ffff);
        state.inbox.push(Parcel { from, to, submitted, key, size, queues, stage: 0, last: submitted, cargo });
        drop(state);
        self.changed.notify_one();
    }

    /// A connection is free for another question.
    pub fn release(&self, from: Host, to: Host) {
        let now = self.now();
        let mut state = self.state();
        let (count, since) = state.idle.entry((from, to)).or_default();
        (*count, *since) = (*count + 1, now);
    }

    pub fn set(&self, host: Host, condition: Condition) {
        if let Some(host) = self.state().host(host) {
            host.condition = condition;
        }
    }

    pub fn condition(&self, host: Host) -> Condition {
        self.state().host(host).map_or(Condition::Up, |host| host.condition)
    }

    pub fn count(&self, host: Host) -> Count {
        let state = self.state();
        let Machine { asks, is_asked, beats, connects, .. } = state.hosts[host as usize];
        let links = &state.links[2 * host as usize..];
        Count { sent: links[0].bytes, taken: links[1].bytes, asks, is_asked, beats, connects }
    }

    /// Bytes that came to a zone from the others.
    pub fn carried_into_zone(&self, zone: usize) -> u64 {
        let state = self.state();
        (0..self.plan.zones).map(|from| state.links[self.between(from, zone)].bytes).sum()
    }

    /// Bytes that the origin has sent.
    pub fn carried_from_origin(&self) -> u64 {
        self.state().links.last().map_or(0, |link| link.bytes)
    }

    /// A number that follows from all messages, and when each arrived.
    pub fn fingerprint(&self) -> u64 {
        self.state().fingerprint
    }

    fn between(&self, from: usize, to: usize) -> usize {
        2 * self.plan.nodes.len() + from * self.plan.zones + to
    }

    /// The links from one machine to another.
    fn way(&self, from: Host, to: Host) -> [Option<usize>; 3] {
        let (up, down) = (|host: Host| 2 * host as usize, |host: Host| 2 * host as usize + 1);
        if from == ORIGIN {
            return [Some(2 * self.plan.nodes.len() + self.plan.zones * self.plan.zones), Some(down(to)), None];
        }
        if to == ORIGIN {
            return [Some(up(from)), None, None];
        }
        match (self.zone(from), self.zone(to)) {
            (here, there) if here == there => [Some(up(from)), Some(down(to)), None],
            (here, there) => [Some(up(from)), Some(self.between(here, there)), Some(down(to))],
        }
    }

    fn latency(&self, from: Host, to: Host) -> u64 {
        let [near, far, origin] = self.plan.latency;
        let latency = match (from, to) {
            (ORIGIN, _) | (_, ORIGIN) => origin,
            (from, to) if self.zone(from) == self.zone(to) => near,
            _ => far,
        };
        latency.as_nanos() as u64
    }

    fn zone(&self, host: Host) -> usize {
        self.plan.nodes[host as usize].0
    }

    /// Does what is due, and says when there is more to do.
    fn turn(&self) -> Option<u64> {
        let now = self.now();
        let mut state = self.state();
        let mut inbox = std::mem::take(&mut state.inbox);
        inbox.sort_unstable_by_key(|parcel| (parcel.submitted, parcel.key));
        for parcel in inbox {
            self.admit(&mut state, parcel);
        }
        let mut due = Vec::new();
        while let Some(event) = state.events.peek() {
            if event.at > now {
                break;
            }
            let Some(Event { at, key, what }) = state.events.pop() else { break };
            match what {
                What::Reaches(parcel) => self.pass(&mut state, *parcel, at),
                what => {
                    state.fingerprint = mix(state.fingerprint ^ mix(key ^ mix(at)));
                    due.push(what);
                }
            }
        }
        let next = state.events.peek().map(|event| event.at);
        drop(state);
        for what in due {
            self.happen(what);
        }
        next
    }

    fn happen(&self, what: What) {
        match what {
            What::Reaches(_) => {}
            What::HasLeft(stream, size) => stream.has_left(size),
            What::Fails(lost, why) => lost(Lost(why.to_owned())),
            What::Arrives(parcel) => {
                let Parcel { from, to, cargo, size, .. } = *parcel;
                if self.condition(to) != Condition::Up {
                    return;
                }
                match cargo {
                    Cargo::Question { arrived, .. } => arrived(),
                    Cargo::Run(run) => run(),
                    Cargo::Item(stream, item) => {
                        match &item {
                            Item::Frame(Frame::Beat) => {
                                if let Some(host) = self.state().host(to) {
                                    host.beats += 1;
                                }
                            }
                            Item::End => self.release(to, from),
                            _ => {}
                        }
                        stream.arrived(item, size);
                    }
                }
            }
        }
    }

    /// Begins to move a message.
    fn admit(&self, state: &mut State, parcel: Parcel) {
        let (from, to, at, key) = (parcel.from, parcel.to, parcel.submitted, parcel.key);
        let latency = self.latency(from, to);
        let Cargo::Question { arrived, lost } = parcel.cargo else {
            return self.pass(state, parcel, at);
        };
        let connected = match state.idle.get_mut(&(from, to)) {
            Some((count, since)) if *count > 0 && at < *since + KEPT_IDLE => {
                *count -= 1;
                true
            }
            _ => false,
        };
        match state.host(to).map_or(Condition::Up, |host| host.condition) {
            Condition::Up => {
                // A connection, and its handshake, take a round trip each.
                let more = if connected { 0 } else { 4 * latency };
                if let Some(host) = state.host(from).filter(|_| !connected) {
                    host.connects += 1;
                }
                let parcel = Box::new(Parcel { cargo: Cargo::Question { arrived, lost }, ..parcel });
                state.events.push(Event { at: at + more + latency, key, what: What::Arrives(parcel) });
            }
            Condition::Ended => {
                let what = What::Fails(lost, "connection refused");
                state.events.push(Event { at: at + 2 * latency, key, what });
            }
            Condition::Gone if !connected => {
                let what = What::Fails(lost, "no connection in time");
                state.events.push(Event { at: at + CONNECT, key, what });
            }
            // It is never answered.
            Condition::Gone => {}
        }
    }

    /// Has a message pass the next link of its way, or arrive.
    fn pass(&self, state: &mut State, mut parcel: Parcel, at: u64) {
        let (key, latency) = (parcel.key, self.latency(parcel.from, parcel.to));
        let way = self.way(parcel.from, parcel.to);
        if !parcel.queues {
            for link in way.into_iter().flatten() {
                state.links[link].bytes += u64::from(parcel.size);
            }
            state.events.push(Event { at: at + latency, key, what: What::Arrives(Box::new(parcel)) });
            return;
        }
        let stage = usize::from(parcel.stage);
        let Some(link) = way[stage] else { return };
        let link = &mut state.links[link];
        link.bytes += u64::from(parcel.size);
        let start = at.max(link.free);
        link.free = start + (f64::from(parcel.size) * link.pace) as u64;
        let end = link.free;
        let mut reaches = start;
        if stage == 0 {
            if let Cargo::Item(stream, _) = &parcel.cargo {
                state.events.push(Event { at: end, key, what: What::HasLeft(stream.clone(), parcel.size) });
            }
            (parcel.last, reaches) = (end + latency, start + latency);
        }
        parcel.last = parcel.last.max(end);
        parcel.stage += 1;
        let event = match way.get(stage + 1).copied().flatten() {
            Some(_) => Event { at: reaches, key, what: What::Reaches(Box::new(parcel)) },
            None => Event { at: parcel.last, key, what: What::Arrives(Box::new(parcel)) },
        };
        state.events.push(event);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn host(&mut self, host: Host) -> Option<&mut Machine> {
        self.hosts.get_mut(host as usize)
    }
}

impl Machine {
    fn new() -> Machine {
        Machine { condition: Condition::Up, asks: 0, is_asked: 0, beats: 0, connects: 0, gives: 0, takes: 0 }
    }
}

/// A one-to-one mixing of 64 bits (the finalizer of SplitMix64).
pub(crate) fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
