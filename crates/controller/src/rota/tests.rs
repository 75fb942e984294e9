use serde_json::{Value, json};

use super::*;
use crate::index::Pulse;
use crate::sample::key;

const MINUTE: Duration = Duration::from_secs(60);

/// A cluster whose agents do as they are told, and whose turns are counted after every write.
struct Cluster {
    index: Index,
    rota: Rota,
    now: Instant,
    agents: BTreeMap<String, Agent>,
    /// The images of each ImageCache and whether it has a limit.
    caches: BTreeMap<String, (Vec<String>, bool)>,
    policy: bool,
    turns: BTreeMap<String, usize>,
    /// The most turns that there were at once, by ImageCaches and, under an empty name, over all.
    most: BTreeMap<String, usize>,
    writes: BTreeMap<String, usize>,
}

#[derive(Clone, Default)]
struct Agent {
    images: Vec<(String, &'static str)>,
    turns: Turns,
    pulse: u64,
    ready: bool,
}

impl Cluster {
    fn new(nodes: usize) -> Cluster {
        let mut cluster = Cluster {
            index: Index::default(),
            rota: Rota::default(),
            now: Instant::now(),
            agents: BTreeMap::new(),
            caches: BTreeMap::new(),
            policy: false,
            turns: BTreeMap::new(),
            most: BTreeMap::new(),
            writes: BTreeMap::new(),
        };
        for number in 0..nodes {
            cluster.join(&format!("n{number}"), json!({}));
        }
        cluster
    }

    fn join(&mut self, name: &str, labels: Value) {
        self.index.node(name, labels, json!([]));
        self.agents.insert(name.to_owned(), Agent { ready: true, ..Agent::default() });
        self.plan(name);
    }

    fn leave(&mut self, name: &str) {
        self.index.delete_node(name);
        self.index.delete_report(name);
        let agent = self.agents.remove(name).unwrap();
        self.count(&agent.turns, &Turns::default());
    }

    fn wants(&mut self, name: &str, images: &[&str], spec: Value) {
        let mut all = json!({ "images": images });
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.caches.insert(
            name.to_owned(),
            (images.iter().map(|image| (*image).to_owned()).collect(), !all["parallelism"]["nodes"].is_null()),
        );
        self.index.wants(name, all);
        self.plan_all();
    }

    fn rules(&mut self, nodes_at_once: Option<u32>) {
        self.policy = nodes_at_once.is_some();
        self.index.rules(json!({"imageCaches": {"nodesAtOnce": nodes_at_once}}));
        self.plan_all();
    }

    fn plan_all(&mut self) {
        for name in self.agents.keys().cloned().collect::<Vec<_>>() {
            self.plan(&name);
        }
    }

    /// An agent hears what is wanted and what it may pull, and says how far it is.
    fn plan(&mut self, name: &str) {
        let agent = self.agents.get_mut(name).unwrap();
        let known = self.index.known_node(name).unwrap();
        let mine = self
            .caches
            .iter()
            .filter(|(cache, _)| self.index.cache(&key(cache)).is_some_and(|cache| selects(&cache.spec, &known.node)));
        let mut images: BTreeMap<&String, bool> = BTreeMap::new();
        for (cache, (wanted, limited)) in mine {
            for image in wanted {
                *images.entry(image).or_default() |= !limited || agent.turns.caches.contains(cache);
            }
        }
        let before: BTreeMap<_, _> = agent.images.drain(..).collect();
        for (image, lets) in images {
            let lets = lets && (!self.policy || agent.turns.cluster);
            let state = match before.get(image) {
                Some(state) if !["Waits", "Wanted"].contains(state) => state,
                _ if lets => "Pulling",
                _ => "Waits",
            };
            agent.images.push((image.clone(), state));
        }
        self.tell(name);
    }

    fn tell(&mut self, name: &str) {
        let agent = self.agents.get_mut(name).unwrap();
        agent.pulse += 1;
        let agent = agent.clone();
        self.write(name, &agent);
    }

    fn write(&mut self, name: &str, agent: &Agent) {
        let images: Vec<(&str, &str)> = agent.images.iter().map(|(image, state)| (&**image, *state)).collect();
        self.index.tells(name, agent.ready, &images);
        let mut report = self.index.report(name).unwrap().clone();
        report.turns = agent.turns.clone();
        report.pulse = Pulse(agent.pulse);
        self.index.apply_report(report);
    }

    /// Gives and takes until there is nothing to do.
    fn turn(&mut self) {
        for _ in 0..10_000 {
            let changes = self.rota.changes(&self.index, self.now).0;
            if changes.is_empty() {
                return;
            }
            for change in changes {
                self.rota.wrote(&change, self.now);
                *self.writes.entry(change.node.to_string()).or_default() += 1;
                let agent = self.agents.get_mut(&*change.node).unwrap();
                let before = std::mem::replace(&mut agent.turns, change.turns);
                let agent = agent.clone();
                // The agent says nothing by this.
                self.write(&change.node, &agent);
                self.count(&before, &agent.turns);
            }
        }
        panic!("it goes on and on");
    }

    fn count(&mut self, before: &Turns, after: &Turns) {
        let names = |turns: &Turns| {
            let cluster = turns.cluster.then(String::new);
            turns.caches.iter().cloned().chain(cluster).collect::<Vec<_>>()
        };
        for name in names(before) {
            *self.turns.get_mut(&name).unwrap() -= 1;
        }
        for name in names(after) {
            let count = self.turns.entry(name.clone()).or_default();
            *count += 1;
            let most = self.most.entry(name).or_default();
            *most = (*most).max(*count);
        }
    }

    /// Everybody who may pulls, and what was coming has come.
    fn pull(&mut self) -> usize {
        self.now += MINUTE;
        let mut came = 0;
        for name in self.agents.keys().cloned().collect::<Vec<_>>() {
            self.plan(&name);
            let agent = self.agents.get_mut(&name).unwrap();
            let coming: Vec<_> = agent.images.iter_mut().filter(|(_, state)| *state == "Pulling").collect();
            if coming.is_empty() {
                continue;
            }
            came += 1;
            coming.into_iter().for_each(|(_, state)| *state = "Warm");
            self.tell(&name);
        }
        came
    }

    /// Goes on until all is ready, and says how many rounds that took.
    fn finish(&mut self) -> usize {
        for round in 0..2000 {
            if self.agents.values().all(|agent| agent.images.iter().all(|(_, state)| *state == "Warm")) {
                return round;
            }
            self.turn();
            self.pull();
        }
        panic!("it does not end");
    }

    fn holders(&self, cache: &str) -> Vec<&str> {
        let holds = |(_, agent): &(&String, &Agent)| agent.turns.caches.contains(cache);
        self.agents.iter().filter(holds).map(|(name, _)| name.as_str()).collect()
    }

    fn set(&mut self, node: &str, image: &str, state: &'static str) {
        let images = &mut self.agents.get_mut(node).unwrap().images;
        images.iter_mut().find(|(name, _)| name == image).unwrap().1 = state;
        self.tell(node);
    }
}

const A: &str = "quay.io/a:1";
const B: &str = "quay.io/b:1";
const C: &str = "quay.io/c:1";

fn at_once(nodes: u32) -> Value {
    json!({"parallelism": {"nodes": nodes}})
}

#[test]
fn without_limits_nobody_is_told_anything() {
    let mut cluster = Cluster::new(20);
    cluster.wants("shop/web", &[A], json!({}));
    assert!(cluster.rota.changes(&cluster.index, cluster.now).0.is_empty());
    cluster.turn();
    assert!(cluster.writes.is_empty());
    assert_eq!(cluster.pull(), 20);
}

#[test]
fn thousands_of_nodes_come_in_turn_and_two_writes_suffice_for_each() {
    let mut cluster = Cluster::new(3000);
    cluster.wants("shop/web", &[A, B], at_once(100));
    let rounds = cluster.finish();
    assert!((30..=32).contains(&rounds), "{rounds} rounds");
    assert_eq!(cluster.most["shop/web"], 100);
    assert!(cluster.writes.values().all(|writes| *writes <= 2));
    let last = cluster.holders("shop/web").len();
    assert_eq!(last, 100, "where nobody waits, nothing is written");
    // The next change is for all of them again.
    cluster.wants("shop/web", &[A, B, C], at_once(100));
    assert_eq!(cluster.pull(), 100, "those that have their turn still");
    cluster.finish();
    assert_eq!(cluster.most["shop/web"], 100);
    assert!(cluster.writes.values().all(|writes| *writes <= 4));
}

#[test]
fn where_all_nodes_may_it_is_one_write_for_each_once() {
    let mut cluster = Cluster::new(30);
    cluster.wants("shop/web", &[A], at_once(40));
    assert_eq!(cluster.finish(), 1);
    cluster.wants("shop/web", &[A, B], at_once(40));
    assert_eq!(cluster.finish(), 1);
    assert!(cluster.writes.values().all(|writes| *writes == 1));
}

#[test]
fn an_edit_in_the_middle_counts_for_all_that_follow() {
    let mut cluster = Cluster::new(1000);
    cluster.wants("shop/web", &[A], at_once(50));
    for _ in 0..5 {
        cluster.turn();
        cluster.pull();
    }
    cluster.turn();
    assert_eq!(cluster.holders("shop/web").len(), 50);
    // Fewer, and another image: those that have begun go on.
    cluster.wants("shop/web", &[A, B], at_once(10));
    cluster.turn();
    assert_eq!(cluster.holders("shop/web").len(), 50);
    cluster.pull();
    cluster.most.clear();
    cluster.turn();
    assert_eq!(cluster.holders("shop/web").len(), 10);
    cluster.pull();
    cluster.most.clear();
    // More.
    cluster.wants("shop/web", &[A, B], at_once(200));
    cluster.turn();
    assert_eq!(cluster.holders("shop/web").len(), 200);
    cluster.finish();
    assert_eq!(cluster.most["shop/web"], 200);
    // None any more: the words go.
    cluster.wants("shop/web", &[A, B], json!({}));
    cluster.turn();
    assert!(cluster.holders("shop/web").is_empty());
    cluster.wants("shop/web", &[A, B, C], at_once(3));
    cluster.finish();
    cluster.index.delete_cache(&key("shop/web"));
    cluster.turn();
    assert!(cluster.holders("shop/web").is_empty());
}

#[test]
fn whoever_comes_to_lead_finds_the_turns_where_they_are() {
    let mut cluster = Cluster::new(1000);
    cluster.wants("shop/web", &[A], at_once(20));
    for round in 0..60 {
        cluster.turn();
        if round % 3 == 0 {
            cluster.rota.forget(cluster.now);
            let (changes, next) = cluster.rota.changes(&cluster.index, cluster.now);
            assert!(
                changes.is_empty() && next == Some(cluster.now + SETTLE),
                "what the one before wrote may be on its way"
            );
            cluster.now += SETTLE;
            cluster.turn();
        }
        cluster.pull();
    }
    assert_eq!(cluster.agents.values().filter(|agent| agent.images[0].1 == "Warm").count(), 1000);
    assert_eq!(cluster.most["shop/web"], 20);
}

#[test]
fn what_was_written_counts_before_it_comes_back() {
    let mut cluster = Cluster::new(10);
    cluster.wants("shop/web", &[A], at_once(3));
    let (changes, _) = cluster.rota.changes(&cluster.index, cluster.now);
    assert_eq!(changes.len(), 3);
    for change in &changes {
        cluster.rota.wrote(change, cluster.now);
    }
    assert!(cluster.rota.changes(&cluster.index, cluster.now + Duration::from_secs(9)).0.is_empty());
    // Two of them are told of by the watch and are ready; the third is still on its way.
    for change in &changes[..2] {
        cluster.agents.get_mut(&*change.node).unwrap().turns = change.turns.clone();
        cluster.set(&change.node, A, "Warm");
    }
    let (taken, _) = cluster.rota.changes(&cluster.index, cluster.now + Duration::from_secs(9));
    assert!(taken.len() == 2 && taken.iter().all(|change| change.turns.is_empty()), "{taken:?}");
    let again = cluster.rota.changes(&cluster.index, cluster.now + Duration::from_secs(9)).0;
    assert_eq!(again, taken, "what could not be written is tried again, and not given to others");
}

#[test]
fn nodes_that_leave_or_are_away_or_silent_hold_nobody_up() {
    let mut cluster = Cluster::new(2000);
    cluster.wants("shop/web", &[A], at_once(4));
    cluster.turn();
    let holders: Vec<String> = cluster.holders("shop/web").into_iter().map(str::to_owned).collect();
    // One leaves, one is not ready, one's agent is in trouble, and one says nothing for long.
    cluster.leave(&holders[0]);
    let mut away = cluster.index.nodes().find(|known| *known.node.name == *holders[1]).unwrap().clone();
    away.away = true;
    cluster.index.apply_node(away);
    cluster.agents.get_mut(&holders[2]).unwrap().ready = false;
    cluster.tell(&holders[2]);
    cluster.turn();
    let now: Vec<String> = cluster.holders("shop/web").into_iter().map(str::to_owned).collect();
    assert!(now.len() == 4 && now.contains(&holders[3]) && !now.contains(&holders[1]) && !now.contains(&holders[2]));
    for _ in 0..14 {
        cluster.now += MINUTE;
        for name in now.iter().filter(|name| **name != holders[3]) {
            cluster.tell(name);
        }
        cluster.turn();
    }
    assert!(cluster.holders("shop/web").contains(&&*holders[3]), "large images take their time");
    cluster.now += 2 * MINUTE;
    cluster.turn();
    assert!(!cluster.holders("shop/web").contains(&&*holders[3]));
    // It is passed over until it says something.
    for _ in 0..1000 {
        cluster.turn();
        for name in cluster.holders("shop/web").into_iter().map(str::to_owned).collect::<Vec<_>>() {
            cluster.set(&name, A, "Warm");
        }
    }
    assert_eq!(cluster.agents[&holders[3]].images[0].1, "Waits");
    assert!(!cluster.holders("shop/web").contains(&&*holders[3]));
    cluster.tell(&holders[3]);
    cluster.turn();
    assert!(cluster.holders("shop/web").contains(&&*holders[3]));
    assert_eq!(cluster.most["shop/web"], 4);
}

#[test]
fn a_node_on_which_it_fails_lets_those_go_first_that_have_not_tried() {
    let mut cluster = Cluster::new(3);
    cluster.wants("shop/web", &[A], at_once(1));
    cluster.turn();
    let first = cluster.holders("shop/web")[0].to_owned();
    cluster.set(&first, A, "Failed");
    cluster.turn();
    let second = cluster.holders("shop/web")[0].to_owned();
    assert_ne!(first, second);
    cluster.set(&second, A, "Failed");
    cluster.turn();
    let third = cluster.holders("shop/web")[0].to_owned();
    assert!(third != first && third != second);
    cluster.set(&third, A, "Failed");
    let writes: usize = cluster.writes.values().sum();
    for _ in 0..14 {
        cluster.now += MINUTE;
        cluster.tell(&third);
        cluster.turn();
    }
    assert_eq!(cluster.writes.values().sum::<usize>(), writes, "it keeps its turn to try again");
    cluster.now += 2 * MINUTE;
    cluster.tell(&third);
    cluster.turn();
    let fourth = cluster.holders("shop/web")[0].to_owned();
    assert_ne!(fourth, third, "and not for ever");
    // What has failed for good needs no turn.
    cluster.set(&fourth, A, "GivenUp");
    cluster.turn();
    assert_ne!(cluster.holders("shop/web"), [&*fourth]);
    assert_eq!(cluster.most["shop/web"], 1);
}

#[test]
fn two_image_caches_that_overlap_each_have_their_own_turns() {
    let mut cluster = Cluster::new(2000);
    cluster.wants("shop/few", &[A, B], at_once(20));
    cluster.wants("shop/more", &[B, C], at_once(50));
    let rounds = cluster.finish();
    assert!((100..=102).contains(&rounds), "{rounds} rounds");
    assert_eq!((cluster.most["shop/few"], cluster.most["shop/more"]), (20, 50));
    assert!(cluster.writes.values().all(|writes| *writes <= 4));
}

#[test]
fn both_limits_hold_and_neither_keeps_the_other_waiting() {
    let mut cluster = Cluster::new(1000);
    cluster.wants("shop/few", &[A], at_once(5));
    cluster.wants("shop/all", &[B, C], json!({}));
    cluster.rules(Some(40));
    let rounds = cluster.finish();
    assert_eq!((cluster.most["shop/few"], cluster.most[""]), (5, 40));
    // Five at once for the one: the rest of the forty does what else there is.
    assert!((200..=230).contains(&rounds), "{rounds} rounds");
    // It has no limit any more.
    cluster.rules(None);
    cluster.turn();
    assert!(cluster.agents.values().all(|agent| !agent.turns.cluster));
}

#[test]
fn a_turn_for_all_is_not_kept_by_who_waits_for_another_turn() {
    let mut cluster = Cluster::new(0);
    for name in ["n1", "n2", "n3"] {
        cluster.join(name, json!({}));
    }
    cluster.wants("shop/one", &[A], at_once(1));
    cluster.rules(Some(2));
    cluster.turn();
    assert_eq!(cluster.agents.values().filter(|agent| agent.turns.cluster).count(), 1, "more is of no use");
    // Another that has no limit: two nodes may.
    cluster.wants("shop/all", &[B], json!({}));
    cluster.turn();
    assert_eq!(cluster.agents.values().filter(|agent| agent.turns.cluster).count(), 2);
    cluster.finish();
    assert_eq!((cluster.most["shop/one"], cluster.most[""]), (1, 2));
}

#[test]
fn priority_comes_first_and_then_nodes_that_take_no_pods_yet() {
    let mut cluster = Cluster::new(5);
    cluster.wants("shop/late", &[A], json!({"priority": -1, "nodeSelector": {"pool": "late"}}));
    cluster.wants("shop/web", &[B], json!({"nodeSelector": {"pool": "web"}}));
    cluster.rules(Some(1));
    cluster.join("a", json!({"pool": "late"}));
    cluster.join("b", json!({"pool": "web"}));
    cluster.index.node(
        "c",
        json!({"pool": "web"}),
        json!([{"key": api::names::WARMING_TAINT, "effect": "NoSchedule"}]),
    );
    cluster.agents.insert("c".to_owned(), Agent { ready: true, ..Agent::default() });
    cluster.plan("c");
    let mut order = Vec::new();
    for _ in 0..3 {
        cluster.turn();
        order.extend(cluster.agents.iter().filter(|(_, agent)| agent.turns.cluster).map(|(name, _)| name.clone()));
        cluster.pull();
    }
    assert_eq!(order, ["c", "b", "a"]);
}
