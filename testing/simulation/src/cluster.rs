use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cache::{Ask, Authority, Source};
use futures_util::StreamExt;
use oci::{Digest, Name};
use peers::{Changes, Health, Member, Members, Metrics, Peers, Placement, Settings, Swarm};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, JoinSet};

use crate::figures::{Figures, Spread};
use crate::ground::{Counted, Site};
use crate::network::{Condition, Host, Network, Plan, mix};
use crate::origin::{Only, Origin};
use crate::scenario::{Churn, Scenario};
use crate::store::Lengths;

/// Who has not got the blob by then does not get it.
const PATIENCE: Duration = Duration::from_secs(600);
/// In so many steps nodes go and come.
const STEPS: u32 = 10;

/// Simulates a scenario, on a runtime of one thread whose clock is paused (`start_paused`), which is used up.
///
/// # Panics
/// Where the machine has no `/dev/null`.
pub fn run(runtime: Runtime, scenario: &Scenario) -> Figures {
    runtime.block_on(simulate(scenario))
}

/// All that there is, and what becomes of it.
struct Cluster {
    scenario: Scenario,
    network: Arc<Network>,
    sites: Arc<Vec<Site>>,
    members: Vec<Arc<Member>>,
    /// What each node can send and take.
    rates: Vec<f64>,
    digest: Digest,
    ask: Ask,
    nothing: Arc<std::fs::File>,
    pulls: JoinSet<(Host, Pull)>,
    nodes: BTreeMap<Host, Node>,
}

struct Node {
    swarm: Arc<Swarm>,
    members: Arc<Members>,
    health: Arc<Health>,
    pull: AbortHandle,
}

/// How a pull went.
struct Pull {
    seconds: Option<f64>,
    fell_back: bool,
}

/// Who is there from some moment on, and what has changed by then.
struct List {
    at: Duration,
    placement: Arc<Placement>,
    changes: Changes,
    gone: Vec<(Host, Condition)>,
    new: Vec<Host>,
}

async fn simulate(scenario: &Scenario) -> Figures {
    let mut random = SmallRng::seed_from_u64(mix(scenario.seed));
    let mut cluster = Cluster::new(scenario, &mut random);
    let network = cluster.network.clone();
    let moving = tokio::spawn(async move { network.run().await });
    let lists = cluster.lists(&mut random);
    let old = cluster.old_list(&lists[0].placement, &mut random);
    for host in 0..scenario.nodes as Host {
        let stale = old.as_ref().filter(|_| random.random_bool(scenario.stale.map_or(0.0, |stale| stale.share)));
        let after = scenario.within.mul_f64(f64::from(host) / scenario.nodes as f64);
        cluster.start(host, stale.unwrap_or(&lists[0].placement), after);
    }
    let delays =
        Delays { seed: scenario.seed, most: scenario.churn.map_or(Duration::ZERO, |churn| churn.heard_within) };
    let begun = tokio::time::Instant::now();
    for list in lists.iter().skip(1) {
        tokio::time::sleep_until(begun + list.at).await;
        cluster.change(list, delays);
    }
    let mut outcomes = BTreeMap::new();
    let all = async {
        while let Some(ended) = cluster.pulls.join_next().await {
            if let Ok((host, pull)) = ended {
                outcomes.insert(host, pull);
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, all).await;
    moving.abort();
    cluster.figures(&outcomes)
}

fn member(host: Host, zones: usize) -> Arc<Member> {
    let address = SocketAddr::from((Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + host), 7440));
    Arc::new(Member::new(format!("node-{host:05}"), address, &format!("zone-{}", host as usize % zones)))
}

fn host_of(member: &Member) -> Host {
    match member.address {
        SocketAddr::V4(address) => u32::from(*address.ip()) - u32::from(Ipv4Addr::new(10, 0, 0, 1)),
        SocketAddr::V6(_) => Host::MAX,
    }
}

/// How long after a change each node hears of it.
#[derive(Clone, Copy)]
struct Delays {
    seed: u64,
    most: Duration,
}

impl Delays {
    fn of(&self, host: Host) -> Duration {
        self.most.mul_f64(mix(self.seed ^ mix(u64::from(host))) as f64 / u64::MAX as f64)
    }
}

impl Cluster {
    fn new(scenario: &Scenario, random: &mut SmallRng) -> Cluster {
        let share = |share: f64| (scenario.nodes as f64 * share).round() as usize;
        let new = share(scenario.churn.map_or(0.0, |churn| churn.share));
        let gone = share(scenario.stale.map_or(0.0, |stale| stale.differs));
        let hosts = scenario.nodes + new + gone;
        let slow = scenario.uneven.map_or((0.0, 1.0), |uneven| (uneven.share, uneven.times));
        let rate = |_| scenario.link / if random.random_bool(slow.0) { slow.1 } else { 1.0 };
        let rates: Vec<f64> = (0..hosts).map(rate).collect();
        let network = Network::new(Plan {
            nodes: rates.iter().enumerate().map(|(host, rate)| (host % scenario.zones, *rate)).collect(),
            zones: scenario.zones,
            between_zones: scenario.between_zones,
            origin: scenario.origin,
            latency: scenario.latency,
            seed: scenario.seed,
        });
        for host in scenario.nodes + new..hosts {
            network.set(host as Host, Condition::Gone);
        }
        let name = Name::parse("registry.example/team/app").expect("it is a name");
        Cluster {
            scenario: scenario.clone(),
            network,
            sites: Arc::new((0..hosts).map(|_| Site::default()).collect()),
            members: (0..hosts as Host).map(|host| member(host, scenario.zones)).collect(),
            rates,
            digest: Digest::sha256(&scenario.seed.to_le_bytes()),
            ask: Ask { name, authority: Authority::Anonymous },
            nothing: Lengths::file().expect("there is /dev/null"),
            pulls: JoinSet::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// Who is there, from the beginning on and after each step.
    fn lists(&self, random: &mut SmallRng) -> Vec<List> {
        let mut there: Vec<Host> = (0..self.scenario.nodes as Host).collect();
        let placement =
            |there: &[Host]| Arc::new(Placement::new(there.iter().map(|&host| self.members[host as usize].clone())));
        let mut lists = vec![List {
            at: Duration::ZERO,
            placement: placement(&there),
            changes: Changes::default(),
            gone: Vec::new(),
            new: Vec::new(),
        }];
        let Some(Churn { share, within, .. }) = self.scenario.churn else { return lists };
        let count = (self.scenario.nodes as f64 * share).round() as usize;
        let mut leaving = there.clone();
        leaving.shuffle(random);
        leaving.truncate(count);
        for step in 1..=STEPS {
            let part = |all: usize| {
                let at = |step: u32| all * step as usize / STEPS as usize;
                at(step - 1)..at(step)
            };
            let gone: Vec<(Host, Condition)> = part(count)
                .map(|index| (leaving[index], if index % 2 == 0 { Condition::Gone } else { Condition::Ended }))
                .collect();
            let new: Vec<Host> = part(count).map(|index| (self.scenario.nodes + index) as Host).collect();
            there.retain(|host| !gone.iter().any(|(other, _)| other == host));
            there.extend(&new);
            let id = |host: Host| self.members[host as usize].id.clone();
            let changes = Changes {
                added: new.iter().map(|&host| id(host)).collect(),
                removed: gone.iter().map(|&(host, _)| id(host)).collect(),
                ..Changes::default()
            };
            lists.push(List { at: within * step / STEPS, placement: placement(&there), changes, gone, new });
        }
        lists
    }

    /// The list that some nodes have instead of the right one.
    fn old_list(&self, right: &Placement, random: &mut SmallRng) -> Option<Arc<Placement>> {
        let stale = self.scenario.stale?;
        let known = right.members().iter().filter(|_| !random.random_bool(stale.differs)).cloned().collect::<Vec<_>>();
        let gone = self.members[self.scenario.nodes..].iter().cloned();
        Some(Arc::new(Placement::new(known.into_iter().chain(gone))))
    }

    /// A node begins, and pulls after a while.
    fn start(&mut self, host: Host, placement: &Arc<Placement>, after: Duration) {
        let me = self.members[host as usize].clone();
        let members = Arc::new(Members::new((*me).clone()));
        members.share(placement.clone());
        let health = Arc::new(Health::seeded(mix(self.scenario.seed ^ u64::from(host))));
        let ground =
            Counted { me: host, id: me.id.clone(), network: self.network.clone(), sites: self.sites.clone(), host_of };
        let origin = Arc::new(Origin { network: self.network.clone(), me: host, size: self.scenario.blob });
        let store = Arc::new(Lengths::new(self.nothing.clone()));
        let swarm = Swarm::on(
            Arc::new(ground),
            Settings::default(),
            members.clone(),
            health.clone(),
            store.clone(),
            Arc::new(Only::new(self.ask.name.registry.clone(), origin.clone())),
            Metrics::default(),
        );
        let _ = self.sites[host as usize].swarm.set(Arc::downgrade(&swarm));
        let tidying = swarm.clone();
        tokio::spawn(async move { tidying.tidy().await });
        let (ask, digest, size) = (self.ask.clone(), self.digest, self.scenario.blob);
        let peers = Peers::new(swarm.clone());
        let pull = self.pulls.spawn(async move {
            tokio::time::sleep(after).await;
            (host, pull(&peers, &*origin, &store, &ask, &digest, size).await)
        });
        self.nodes.insert(host, Node { swarm, members, health, pull });
    }

    /// Nodes go and come, and the others hear of it.
    fn change(&mut self, list: &List, delays: Delays) {
        for &(host, condition) in &list.gone {
            let Some(node) = self.nodes.remove(&host) else { continue };
            self.network.set(host, condition);
            self.sites[host as usize].end.cancel();
            node.pull.abort();
            tokio::spawn(async move { node.swarm.shutdown().await });
        }
        for &host in &list.new {
            self.start(host, &list.placement, Duration::ZERO);
        }
        let changes = Arc::new(list.changes.clone());
        for (&host, node) in &self.nodes {
            let (members, health, changes) = (node.members.clone(), node.health.clone(), changes.clone());
            let placement = list.placement.clone();
            tokio::spawn(async move {
                tokio::time::sleep(delays.of(host)).await;
                members.share(placement);
                health.follow(&changes, tokio::time::Instant::now().into_std());
            });
        }
    }

    fn figures(&self, outcomes: &BTreeMap<Host, Pull>) -> Figures {
        let blob = self.scenario.blob as f64;
        let there = || outcomes.iter().filter(|(host, _)| self.nodes.contains_key(host));
        let seconds = |(host, pull): (&Host, &Pull)| Some((*host, pull.seconds?));
        let ideal = |host: Host| blob / self.rates[host as usize].min(self.scenario.origin);
        let counts: Vec<_> = self.nodes.keys().map(|&host| self.network.count(host)).collect();
        Figures {
            nodes: there().filter_map(seconds).count(),
            failed: self.nodes.len() - there().filter_map(seconds).count(),
            seconds: Spread::of(there().filter_map(seconds).map(|(_, seconds)| seconds)),
            times: Spread::of(there().filter_map(seconds).map(|(host, seconds)| seconds / ideal(host))),
            origin: self.network.carried_from_origin() as f64 / blob,
            into_zone: (0..self.scenario.zones).map(|zone| self.network.carried_into_zone(zone)).max().unwrap_or(0)
                as f64
                / blob,
            upload: Spread::of(counts.iter().map(|count| count.sent as f64 / blob)),
            asks: Spread::of(counts.iter().map(|count| count.asks as f64)),
            beats: Spread::of(counts.iter().map(|count| count.beats as f64)),
            connects: Spread::of(counts.iter().map(|count| count.connects as f64)),
            fell_back: there().filter(|(_, pull)| pull.fell_back).count(),
            fingerprint: self.network.fingerprint(),
        }
    }
}

/// Takes the blob as an engine would: from the other nodes and, where those fail, from the origin.
async fn pull(peers: &Peers, origin: &dyn Source, store: &Lengths, ask: &Ask, digest: &Digest, size: u64) -> Pull {
    let begun = tokio::time::Instant::now();
    let (mut at, mut fell_back) = (0, false);
    for source in [peers as &dyn Source, origin] {
        fell_back = source.kind() == origin.kind();
        let Ok(mut body) = source.blob(ask, digest, at, None).await else { continue };
        while let Some(Ok(bytes)) = body.stream.next().await {
            at += bytes.len() as u64;
        }
        if at == size {
            break;
        }
    }
    if at == size {
        store.insert(*digest, size);
        peers.settled(digest, true);
    }
    Pull { seconds: (at == size).then(|| begun.elapsed().as_secs_f64()), fell_back }
}
