//! K-08. Many ImageCaches that overlap are edited while nodes come and go and the controller dies again and again. In the end there is in statuses and on nodes what `warm` says.

use std::collections::{BTreeMap, BTreeSet};

use api::{CachePolicySpec, ImageCache, NodeCache, NodeImageState};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use oci::Image;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use warm::{Plan, Standing, Standings, Wanted, selects};

use crate::gate::Release;
use crate::index::{self, CacheKey, Index, KnownNode, Report, Texts, cache_reduced, workload_reduced};
use crate::sample::{at, key};
use crate::tags::Tags;

const CACHES: usize = 50;
const NODES: usize = 12;
const IMAGES: usize = 40;
const WORKLOADS: usize = 10;
const NAMESPACES: usize = 3;

/// The most rounds of agents and controller until nothing changes any more.
const ROUNDS: usize = 6;

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// An ImageCache is made or edited.
    Want(usize, Value),
    /// One is deleted.
    Unwant(usize),
    /// A node joins or has other labels.
    Join(usize, &'static str, bool),
    /// A node is gone; its NodeCache may stay for a while.
    Leave(usize, bool),
    /// A workload has these images from now on, or none.
    Roll(usize, Option<Vec<usize>>),
    /// The policy changes.
    Rule(Value),
    /// The agent of a node does some of its work and tells of it.
    Agent(usize, u64),
    /// The controller writes some of what is to be written.
    Write(u64),
    /// It decides on taints, and dies before or after some of that is done.
    Gate(u64),
    /// It dies, and another one begins from what the API server has.
    Die,
}

/// An object as the controller reads it of the API server's answer.
fn read<T: DeserializeOwned>(object: &impl Serialize) -> T {
    serde_json::to_value(object).and_then(serde_json::from_value).expect("it can be read")
}

fn image(number: usize) -> String {
    format!("quay.io/app-{}:{}", number % IMAGES, number % 3)
}

/// What can never be pulled.
fn is_broken(image: &str) -> bool {
    image.starts_with("quay.io/app-13:")
}

fn cache_name(number: usize) -> String {
    format!("team-{}/cache-{number}", number % NAMESPACES)
}

fn node_name(number: usize) -> String {
    format!("node-{number}")
}

fn spec() -> impl Strategy<Value = Value> {
    let images = prop::collection::btree_set(0..IMAGES, 0..8);
    let selector = prop_oneof![
        Just(json!({})),
        Just(json!({"pool": "web"})),
        Just(json!({"pool": "db"})),
        Just(json!({"x": "y"}))
    ];
    let tolerations = prop_oneof![Just(json!([])), Just(json!([{"operator": "Exists"}]))];
    let workloads = prop_oneof![
        2 => Just(Value::Null),
        1 => Just(json!({"selector": {}})),
        1 => Just(json!({"selector": {"matchLabels": {"app": "a"}}, "kinds": ["Deployment"]})),
    ];
    (images, selector, tolerations, workloads, any::<bool>(), -5..5).prop_map(
        |(images, selector, tolerations, workloads, gates, priority)| {
            let images: Vec<String> = images.into_iter().map(image).collect();
            json!({
                "images": images, "nodeSelector": selector, "tolerations": tolerations, "workloads": workloads,
                "gateNodes": gates, "priority": priority,
            })
        },
    )
}

fn policy() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"imageCaches": {"images": 3}})),
        Just(json!({"imageCaches": {"perNamespace": 5}})),
        Just(json!({"imageCaches": {"gateNodes": "Refuse"}, "images": {"exclude": [{"repository": "app-1*"}]}})),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let pool = prop_oneof![Just("web"), Just("db"), Just("none")];
    let images = prop::option::weighted(0.8, prop::collection::vec(0..IMAGES, 1..4));
    prop_oneof![
        8 => (0..CACHES, spec()).prop_map(|(number, spec)| Step::Want(number, spec)),
        2 => (0..CACHES).prop_map(Step::Unwant),
        4 => (0..NODES, pool, any::<bool>()).prop_map(|(number, pool, taint)| Step::Join(number, pool, taint)),
        2 => (0..NODES, any::<bool>()).prop_map(|(number, clean)| Step::Leave(number, clean)),
        2 => (0..WORKLOADS, images).prop_map(|(number, images)| Step::Roll(number, images)),
        1 => policy().prop_map(Step::Rule),
        8 => (0..NODES, any::<u64>()).prop_map(|(number, some)| Step::Agent(number, some)),
        4 => any::<u64>().prop_map(Step::Write),
        2 => any::<u64>().prop_map(Step::Gate),
        1 => Just(Step::Die),
    ]
}

/// What the API server has, and a controller that follows it.
#[derive(Default)]
struct World {
    nodes: BTreeMap<String, Node>,
    told: BTreeMap<String, NodeCache>,
    caches: BTreeMap<CacheKey, ImageCache>,
    workloads: BTreeMap<String, Deployment>,
    policy: CachePolicySpec,
    has_policy: bool,
    index: Index,
    /// What a controller that died had decided, which reaches the API server late.
    late: Vec<Release>,
    lives: u32,
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Want(number, spec) => self.want(&cache_name(number), spec),
            Step::Unwant(number) => {
                let key = key(&cache_name(number));
                self.caches.remove(&key);
                self.index.delete_cache(&key);
            }
            Step::Join(number, pool, taint) => self.join(&node_name(number), pool, taint),
            Step::Leave(number, clean) => {
                let name = node_name(number);
                self.nodes.remove(&name);
                self.index.delete_node(&name);
                if clean {
                    self.told.remove(&name);
                    self.index.delete_report(&name);
                }
            }
            Step::Roll(number, images) => self.roll(number, images),
            Step::Rule(spec) => {
                self.policy = serde_json::from_value(spec).expect("a policy");
                self.has_policy = true;
                self.index.set_policy(Some(self.policy.clone()));
            }
            Step::Agent(number, some) => self.agent(&node_name(number), some),
            Step::Write(some) => drop(self.write(some)),
            Step::Gate(some) => self.gate(some),
            Step::Die => self.die(),
        }
    }

    fn want(&mut self, name: &str, spec: Value) {
        let key = key(name);
        let old = self.caches.get(&key);
        let mut cache: ImageCache = serde_json::from_value(json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache",
            "metadata": {"namespace": key.namespace, "name": key.name}, "spec": spec,
        }))
        .expect("an ImageCache");
        cache.metadata.generation = Some(old.and_then(|old| old.metadata.generation).unwrap_or(0) + 1);
        cache.status = old.and_then(|old| old.status.clone());
        self.put_cache(key, cache);
    }

    fn put_cache(&mut self, key: CacheKey, cache: ImageCache) {
        self.index.apply_cache(key.clone(), cache_reduced(cache.clone()));
        self.caches.insert(key, cache);
    }

    fn join(&mut self, name: &str, pool: &str, taint: bool) {
        // A node of that name that was there before is another one, with a taint of its own.
        let is_new = !self.nodes.contains_key(name);
        let taints = match self.nodes.get(name).and_then(|node| node.spec.as_ref()?.taints.as_ref()) {
            Some(taints) => json!(taints),
            None if taint && is_new => {
                json!([{"key": "gpu", "effect": "NoSchedule"}, {"key": api::names::WARMING_TAINT, "effect": "NoSchedule"}])
            }
            None => json!([]),
        };
        let node = json!({
            "metadata": {"name": name, "uid": format!("uid-of-{name}"), "labels": {"pool": pool}, "creationTimestamp": at(0, 0)},
            "spec": {"taints": taints},
        });
        self.put_node(name, serde_json::from_value(node).expect("a node"));
    }

    fn put_node(&mut self, name: &str, node: Node) {
        let known = KnownNode::of(&read(&node), self.index.texts());
        self.index.apply_node(known);
        self.nodes.insert(name.to_owned(), node);
    }

    fn roll(&mut self, number: usize, images: Option<Vec<usize>>) {
        let name = format!("app-{number}");
        let containers: Vec<_> =
            images.iter().flatten().map(|number| json!({"name": "c", "image": image(*number)})).collect();
        let app = if number.is_multiple_of(2) { "a" } else { "b" };
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"namespace": format!("team-{}", number % NAMESPACES), "name": name, "labels": {"app": app}},
            "spec": {"selector": {}, "template": {"spec": {"containers": containers}}},
        }))
        .expect("a Deployment");
        let (key, workload) = workload_reduced::<index::Deployment>(&read(&deployment), self.index.texts());
        self.index.apply_workload(key, workload.filter(|_| images.is_some()));
        match images {
            Some(_) => drop(self.workloads.insert(name, deployment)),
            None => drop(self.workloads.remove(&name)),
        }
    }

    fn node(&self, name: &str) -> Option<warm::Node> {
        self.nodes.get(name).map(|node| KnownNode::of(&read(node), &mut Texts::default()).node)
    }

    /// What a node is to have by what the API server says now.
    fn plan(&self, name: &str) -> Option<Plan> {
        let caches: Vec<&ImageCache> = self.caches.values().collect();
        Some(Plan::of(&self.node(name)?, &caches, &self.policy))
    }

    /// The agent tells of each image of its plan, some of which it has not got yet.
    fn agent(&mut self, name: &str, some: u64) {
        let Some(plan) = self.plan(name) else { return };
        let images: Vec<Value> = plan
            .wishes
            .iter()
            .enumerate()
            .map(|(place, wish)| match wish.image.to_string() {
                image if is_broken(&image) => {
                    json!({"image": image, "state": "Failed", "reason": "ImageNotFound", "message": "it is not there"})
                }
                image if some >> (place % 64) & 1 == 1 => json!({"image": image, "state": "Warm"}),
                image => json!({"image": image, "state": "Pulling"}),
            })
            .collect();
        let ready = json!({
            "type": "Ready", "status": "True", "reason": "Working", "message": "", "lastTransitionTime": at(0, 0),
        });
        let told: NodeCache = serde_json::from_value(json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": name},
            "status": {"conditions": [ready], "images": images},
        }))
        .expect("a NodeCache");
        let report = Report::of(&read(&told), self.index.texts());
        self.index.apply_report(report);
        self.told.insert(name.to_owned(), told);
    }

    /// Writes some of the statuses that are not as they should be, which come back from the API server; how many.
    fn write(&mut self, some: u64) -> usize {
        let stale = self.index.stale_statuses(&Tags::default(), &at(1, 0));
        let mut written = 0;
        for (place, (key, status)) in stale.into_iter().enumerate() {
            if some >> (place % 64) & 1 == 0 {
                continue;
            }
            let Some(cache) = self.caches.get(&key) else { panic!("{key} is written and is not there") };
            let mut cache = cache.clone();
            let status = serde_json::to_value(status).expect("a status is JSON");
            cache.status = Some(serde_json::from_value(status).expect("what is written is read"));
            self.put_cache(key, cache);
            written += 1;
        }
        written
    }

    /// Some decisions reach the API server, and some only after the controller that made them has died.
    fn gate(&mut self, some: u64) {
        for release in std::mem::take(&mut self.late) {
            self.release(&release);
        }
        let (releases, _) = self.index.releases(&at(1, 0));
        for (place, release) in releases.into_iter().enumerate() {
            match some >> (place % 32 * 2) & 3 {
                0 => self.release(&release),
                1 => self.late.push(release),
                2 => {
                    self.release(&release);
                    self.late.push(release);
                }
                _ => {}
            }
        }
    }

    /// As the API server takes a JSON Patch: all of it or nothing.
    fn release(&mut self, release: &Release) {
        let Some(node) = self.nodes.get(&*release.node) else { return };
        let mut object = serde_json::to_value(node).expect("a node is JSON");
        for step in release.patch.as_array().expect("a list of steps") {
            let path = step["path"].as_str().expect("a path");
            match step["op"].as_str() {
                Some("test") if object.pointer(path) != Some(&step["value"]) => return,
                Some("test") => {}
                Some("remove") => {
                    let (list, place) = path.rsplit_once('/').expect("a place in a list");
                    let list = object.pointer_mut(list).and_then(Value::as_array_mut).expect("a list");
                    list.remove(place.parse().expect("a number"));
                }
                other => panic!("{other:?} is not what the gate says"),
            }
        }
        let (name, node) = (release.node.to_string(), serde_json::from_value(object).expect("a node"));
        self.put_node(&name, node);
    }

    /// Another controller begins, which knows what the API server has and nothing else.
    fn die(&mut self) {
        self.lives += 1;
        let mut index = Index::default();
        let nodes = self.nodes.values().map(|node| KnownNode::of(&read(node), index.texts())).collect();
        index.replace_nodes(nodes);
        let reports = self.told.values().map(|told| Report::of(&read(told), index.texts())).collect();
        index.replace_reports(reports);
        index.replace_caches(
            self.caches.iter().map(|(key, cache)| (key.clone(), cache_reduced(cache.clone()))).collect(),
        );
        let workloads = self
            .workloads
            .values()
            .map(|one| workload_reduced::<index::Deployment>(&read(one), index.texts()))
            .collect();
        index.replace_workloads(api::WorkloadKind::Deployment, workloads);
        index.set_policy(self.has_policy.then(|| self.policy.clone()));
        self.index = index;
    }

    /// Agents and controller do all they can until nothing changes.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < ROUNDS, "it does not come to rest");
            for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
                self.agent(&name, u64::MAX);
            }
            for release in self.index.releases(&at(1, 0)).0 {
                self.release(&release);
            }
            if self.write(u64::MAX) == 0 {
                return;
            }
        }
    }

    fn images_of_workloads(&self, key: &CacheKey, cache: &ImageCache) -> Vec<Image> {
        let Some(asked) = &cache.spec.workloads else { return Vec::new() };
        let mut selected: Vec<_> = self
            .workloads
            .values()
            .filter(|one| one.metadata.namespace.as_ref() == Some(&key.namespace))
            .filter(|one| {
                let labels: warm::Labels = one.metadata.labels.iter().flatten().map(|(k, v)| (&**k, &**v)).collect();
                warm::selects_labels(&asked.selector, &labels)
            })
            .collect();
        selected.sort_by_key(|one| one.metadata.name.clone());
        let pods = selected.into_iter().filter_map(|one| one.spec.template.spec.as_ref());
        let images = pods.flat_map(|pod| &pod.containers).filter_map(|container| container.image.as_deref());
        images.map(|image| image.parse().expect("it names an image")).collect()
    }

    /// Whether a node's agent has told that it has all of these.
    fn has(&self, node: &str, images: &[Image]) -> bool {
        let Some(status) = self.told.get(node).and_then(|told| told.status.as_ref()) else { return false };
        let warm: BTreeSet<&str> =
            status.images.iter().filter(|one| one.state == NodeImageState::Warm).map(|one| &*one.image).collect();
        images.iter().all(|image| warm.contains(&*image.to_string()))
    }

    /// Compares what is there with what `warm` says of the objects alone.
    fn check(&self) {
        let caches: Vec<&ImageCache> = self.caches.values().collect();
        let standings = Standings::of(&caches, &self.policy);
        let mut wanted_on: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (key, cache) in &self.caches {
            let status = cache.status.as_ref().unwrap_or_else(|| panic!("{key} has no status"));
            assert_eq!(status.observed_generation, cache.metadata.generation, "{key}");
            let counts = standings.standing(cache) == Standing::Counts;
            let wanted = match counts {
                true => Wanted::of(cache, self.images_of_workloads(key, cache), &self.policy).images,
                false => Vec::new(),
            };
            let nodes = self
                .nodes
                .keys()
                .filter(|name| counts && self.node(name).is_some_and(|node| selects(&cache.spec, &node)));
            let nodes: Vec<&String> = nodes.collect();
            let warm = nodes.iter().filter(|name| self.has(name, &wanted)).count();
            let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            let listed: Vec<String> = status.images.iter().map(|one| one.image.clone()).collect();
            assert_eq!(listed, names, "{key}");
            assert_eq!(
                (status.image_count as usize, status.nodes as usize, status.warm_nodes as usize),
                (names.len(), nodes.len(), warm),
                "{key}"
            );
            let broken = names.iter().filter(|image| is_broken(image)).count();
            assert_eq!(status.failed as usize, broken * nodes.len(), "{key}");
            let is_warm = counts && !names.is_empty() && !nodes.is_empty() && broken == 0;
            assert_eq!(api::conditions::holds(&status.conditions, api::conditions::WARM, None), is_warm, "{key}");
            for node in nodes {
                wanted_on.entry(node).or_default().extend(names.iter().cloned());
            }
        }
        for name in self.nodes.keys() {
            let told = self.told[name].status.as_ref().expect("the agent has told something");
            let told: BTreeSet<String> = told.images.iter().map(|one| one.image.clone()).collect();
            assert_eq!(told, wanted_on.remove(&**name).unwrap_or_default(), "{name}");
        }
        self.check_gates(&standings);
    }

    /// Only nodes that wait for what never comes are still closed.
    fn check_gates(&self, standings: &Standings) {
        for name in self.nodes.keys() {
            let node = self.node(name).expect("it is there");
            let waits = self.caches.iter().any(|(key, cache)| {
                warm::gates(&cache.spec, &self.policy)
                    && standings.standing(cache) == Standing::Counts
                    && selects(&cache.spec, &node)
                    && !self.has(name, &Wanted::of(cache, self.images_of_workloads(key, cache), &self.policy).images)
            });
            assert!(!node.is_warming() || waits, "{name} is closed for nothing");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn in_the_end_all_is_as_warm_says_whatever_happened(
        specs in prop::collection::vec(spec(), CACHES),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut world = World::default();
        for number in 0..NODES {
            world.join(&node_name(number), ["web", "db"][number % 2], number.is_multiple_of(3));
        }
        for (number, spec) in specs.into_iter().enumerate() {
            world.want(&cache_name(number), spec);
        }
        for step in steps {
            world.step(step);
        }
        world.settle();
        world.check();
        // Whoever comes after it finds nothing to do.
        let late = std::mem::take(&mut world.late);
        world.die();
        prop_assert!(world.index.stale_statuses(&Tags::default(), &at(2, 0)).is_empty());
        prop_assert!(world.index.releases(&at(1, 0)).0.is_empty());
        // What one that died had still on its way does no harm.
        let before: Vec<Option<warm::Node>> = world.nodes.keys().map(|name| world.node(name)).collect();
        for release in &late {
            world.release(release);
        }
        let gpu = |node: &Option<warm::Node>| node.as_ref().map(|node| node.taints.iter().any(|taint| &*taint.key == "gpu"));
        for (before, name) in before.iter().zip(world.nodes.keys()) {
            prop_assert_eq!(gpu(before), gpu(&world.node(name)), "a taint of somebody else is gone");
        }
    }
}
