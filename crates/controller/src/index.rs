use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use api::{CachePolicy, CachePolicySpec, ImageCache};
use oci::Image;
use warm::{Standings, Wanted};

use crate::provision::{SecretKey, SecretProblem};

mod cache;
mod fits;
mod known;
mod node;
mod part;
mod pod;
mod policy;
mod report;
mod texts;
mod upstream;
mod workload;

pub use cache::CacheKey;
pub(crate) use cache::reduce as cache_reduced;
pub(crate) use known::reduce as known_reduced;
pub use known::{KnownImage, Said};
pub use node::KnownNode;
pub(crate) use node::Node;
pub(crate) use pod::{Pod, reduce as pod_reduced};
pub use pod::{PodImages, PodKey};
pub use policy::KnownPolicy;
pub(crate) use report::NodeCache;
#[cfg(test)]
pub use report::Pulse;
pub use report::{HeldHere, Report, State};
pub use texts::Texts;
pub use upstream::KnownUpstream;
pub(crate) use upstream::reduce as upstream_reduced;
pub(crate) use workload::{CronJob, DaemonSet, Deployment, Job, StatefulSet, Template, reduce as workload_reduced};
pub use workload::{Workload, WorkloadKey};

/// What the API server tells, as far as it matters here. Small: there may be thousands of nodes, each with hundreds of images.
///
/// [`take_change`](Index::take_change) says whether anything is different since it was last asked.
#[derive(Default)]
pub struct Index {
    policy: CachePolicySpec,
    has_policy: bool,
    policy_object: Option<KnownPolicy>,
    nodes: BTreeMap<Arc<str>, KnownNode>,
    reports: HashMap<Arc<str>, Report>,
    caches: BTreeMap<CacheKey, Arc<ImageCache>>,
    workloads: HashMap<WorkloadKey, Workload>,
    pods: HashMap<PodKey, PodImages>,
    known: BTreeMap<String, KnownImage>,
    upstreams: BTreeMap<String, KnownUpstream>,
    /// What is wrong with pull secrets.
    problems: HashMap<SecretKey, SecretProblem>,
    texts: Texts,
    changed: bool,
    uses_changed: bool,
    wanted_changed: bool,
    provided: bool,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("nodes", &self.nodes.len())
            .field("reports", &self.reports.len())
            .field("caches", &self.caches.len())
            .field("workloads", &self.workloads.len())
            .finish_non_exhaustive()
    }
}

impl Index {
    /// Texts that objects share.
    pub fn texts(&mut self) -> &mut Texts {
        &mut self.texts
    }

    /// Whether something is different since this was last asked.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether what uses images, who has them or what is known of them is different since this was last asked.
    pub fn take_change_of_uses(&mut self) -> bool {
        std::mem::take(&mut self.uses_changed)
    }

    /// The larder registry has been told of something new that ImageCaches want.
    pub fn note_provided(&mut self) {
        (self.provided, self.changed) = (true, true);
    }

    /// Whether it has been told of something new since this was last asked.
    pub fn take_provided(&mut self) -> bool {
        std::mem::take(&mut self.provided)
    }

    /// Whether what ImageCaches want may be different since this was last asked.
    pub fn take_change_of_wanted(&mut self) -> bool {
        std::mem::take(&mut self.wanted_changed)
    }

    /// Whether something is different that [`take_change`](Index::take_change) tells, without forgetting it.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// Takes in what is wrong with the Secrets that ImageCaches name; says whether that is something new.
    pub fn set_problems(&mut self, problems: HashMap<SecretKey, SecretProblem>) -> bool {
        let news = self.problems != problems;
        self.changed |= news;
        self.problems = problems;
        news
    }

    /// What is wrong with the Secrets that an ImageCache names.
    pub(crate) fn problems<'a>(
        &'a self,
        key: &'a CacheKey,
        cache: &'a ImageCache,
    ) -> impl Iterator<Item = &'a SecretProblem> {
        cache.spec.image_pull_secrets.iter().filter_map(|secret| {
            self.problems.get(&SecretKey { namespace: key.namespace.clone(), name: secret.name.clone() })
        })
    }

    /// The policy that counts; the defaults if there is none.
    pub fn policy(&self) -> &CachePolicySpec {
        &self.policy
    }

    /// Whether there is one.
    pub(crate) fn has_policy(&self) -> bool {
        self.has_policy
    }

    /// Takes in the policy, or that there is none.
    pub fn set_policy(&mut self, policy: Option<CachePolicySpec>) {
        let has_policy = policy.is_some();
        let policy = policy.unwrap_or_default();
        let changed = self.policy != policy || self.has_policy != has_policy;
        self.has_policy = has_policy;
        self.changed |= changed;
        self.uses_changed |= changed;
        self.wanted_changed |= changed;
        self.policy = policy;
    }

    /// The CachePolicy as an object, if there is one.
    pub fn policy_object(&self) -> Option<&KnownPolicy> {
        self.policy_object.as_ref()
    }

    /// The CachePolicy is there or has changed.
    pub fn apply_policy(&mut self, policy: CachePolicy) {
        self.set_policy_object(Some(KnownPolicy::of(&policy)));
        self.set_policy(Some(policy.spec));
    }

    /// There is no CachePolicy.
    pub fn delete_policy(&mut self) {
        self.set_policy_object(None);
        self.set_policy(None);
    }

    /// Takes in what there is of the CachePolicy besides [what it says](Index::set_policy).
    pub fn set_policy_object(&mut self, object: Option<KnownPolicy>) {
        self.uses_changed |= self.policy_object != object;
        self.policy_object = object;
    }

    /// These are all nodes.
    pub fn replace_nodes(&mut self, nodes: Vec<KnownNode>) {
        let nodes = nodes.into_iter().map(|known| (known.node.name.clone(), known)).collect();
        self.changed |= self.nodes != nodes;
        self.nodes = nodes;
    }

    /// A node is new or has changed.
    pub fn apply_node(&mut self, known: KnownNode) {
        self.changed |= self.nodes.get(&known.node.name) != Some(&known);
        self.nodes.insert(known.node.name.clone(), known);
    }

    /// A node is gone.
    pub fn delete_node(&mut self, name: &str) {
        self.changed |= self.nodes.remove(name).is_some();
    }

    /// These are all NodeCaches.
    pub fn replace_reports(&mut self, reports: Vec<Report>) {
        let reports: HashMap<_, _> = reports.into_iter().map(|report| (report.node.clone(), report)).collect();
        let same = |(node, report): (&Arc<str>, &Report)| {
            self.reports.get(node).is_some_and(|before| before.is_as_wanted(report))
        };
        self.changed |= reports.len() != self.reports.len() || !reports.iter().all(same);
        self.uses_changed |= self.reports != reports;
        self.reports = reports;
    }

    /// A NodeCache is new or has changed.
    pub fn apply_report(&mut self, report: Report) {
        let before = self.reports.get(&report.node);
        self.changed |= !before.is_some_and(|before| before.is_as_wanted(&report));
        self.uses_changed |= before != Some(&report);
        self.reports.insert(report.node.clone(), report);
    }

    /// A NodeCache is gone.
    pub fn delete_report(&mut self, node: &str) {
        let gone = self.reports.remove(node).is_some();
        self.changed |= gone;
        self.uses_changed |= gone;
    }

    /// These are all ImageCaches.
    pub fn replace_caches(&mut self, caches: Vec<(CacheKey, ImageCache)>) {
        self.caches = caches.into_iter().map(|(key, cache)| (key, Arc::new(cache))).collect();
        (self.changed, self.uses_changed, self.wanted_changed) = (true, true, true);
    }

    /// An ImageCache is new or has changed.
    pub fn apply_cache(&mut self, key: CacheKey, cache: ImageCache) {
        self.caches.insert(key, Arc::new(cache));
        (self.changed, self.uses_changed, self.wanted_changed) = (true, true, true);
    }

    /// An ImageCache is gone, or cannot be read.
    pub fn delete_cache(&mut self, key: &CacheKey) {
        let gone = self.caches.remove(key).is_some();
        self.changed |= gone;
        self.uses_changed |= gone;
        self.wanted_changed |= gone;
    }

    /// These are all workloads of a kind.
    pub fn replace_workloads(&mut self, kind: api::WorkloadKind, workloads: Vec<(WorkloadKey, Option<Workload>)>) {
        self.workloads.retain(|key, _| key.kind != kind);
        self.workloads.extend(workloads.into_iter().filter_map(|(key, workload)| Some((key, workload?))));
        (self.changed, self.uses_changed, self.wanted_changed) = (true, true, true);
    }

    /// A workload is new or has changed; none if it has nothing to run any more.
    pub fn apply_workload(&mut self, key: WorkloadKey, workload: Option<Workload>) {
        let same = self.workloads.get(&key) == workload.as_ref();
        self.changed |= !same;
        self.uses_changed |= !same;
        self.wanted_changed |= !same;
        match workload {
            Some(workload) => drop(self.workloads.insert(key, workload)),
            None => drop(self.workloads.remove(&key)),
        }
    }

    /// These are all pods.
    pub fn replace_pods(&mut self, pods: Vec<(PodKey, PodImages)>) {
        self.pods = pods.into_iter().collect();
        self.uses_changed = true;
    }

    /// A pod is new or has changed.
    pub fn apply_pod(&mut self, key: PodKey, images: PodImages) {
        self.uses_changed |= self.pods.get(&key) != Some(&images);
        self.pods.insert(key, images);
    }

    /// A pod is gone.
    pub fn delete_pod(&mut self, key: &PodKey) {
        self.uses_changed |= self.pods.remove(key).is_some();
    }

    /// These are all CachedImages, by their names.
    pub fn replace_known(&mut self, known: Vec<(String, KnownImage)>) {
        self.known = known.into_iter().collect();
        self.uses_changed = true;
    }

    /// A CachedImage is new or has changed; none if it is gone.
    pub fn apply_known(&mut self, name: String, known: Option<KnownImage>) {
        self.uses_changed |= self.known.get(&name) != known.as_ref();
        match known {
            Some(known) => drop(self.known.insert(name, known)),
            None => drop(self.known.remove(&name)),
        }
    }

    /// How many there are: nodes, NodeCaches, ImageCaches, workloads, pods, CachedImages.
    pub fn sizes(&self) -> [usize; 6] {
        let [nodes, reports, caches] = [self.nodes.len(), self.reports.len(), self.caches.len()];
        [nodes, reports, caches, self.workloads.len(), self.pods.len(), self.known.len()]
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = (&PodKey, &PodImages)> {
        self.pods.iter()
    }

    pub(crate) fn workloads(&self) -> impl Iterator<Item = (&WorkloadKey, &Workload)> {
        self.workloads.iter()
    }

    pub(crate) fn reports(&self) -> impl Iterator<Item = &Report> {
        self.reports.values()
    }

    pub(crate) fn known(&self) -> &BTreeMap<String, KnownImage> {
        &self.known
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &KnownNode> {
        self.nodes.values()
    }

    #[cfg(test)]
    pub(crate) fn known_node(&self, name: &str) -> Option<&KnownNode> {
        self.nodes.get(name)
    }

    pub(crate) fn report(&self, node: &str) -> Option<&Report> {
        self.reports.get(node)
    }

    pub(crate) fn caches(&self) -> impl Iterator<Item = (&CacheKey, &Arc<ImageCache>)> {
        self.caches.iter()
    }

    /// An ImageCache as it was last seen.
    pub fn cache(&self, key: &CacheKey) -> Option<&Arc<ImageCache>> {
        self.caches.get(key)
    }

    /// Which ImageCaches count.
    pub(crate) fn standings(&self) -> Standings {
        let caches: Vec<&ImageCache> = self.caches.values().map(|cache| &**cache).collect();
        Standings::of(&caches, &self.policy)
    }

    /// What an ImageCache keeps ready, and what in its workloads is no image.
    pub(crate) fn wanted(&self, key: &CacheKey, cache: &ImageCache) -> (Wanted, Vec<workload::NoImage>) {
        let (images, none) = self.images_of_workloads(key, cache);
        (Wanted::of(cache, images, &self.policy), none)
    }

    fn images_of_workloads(&self, key: &CacheKey, cache: &ImageCache) -> (Vec<Image>, Vec<workload::NoImage>) {
        let Some(asked) = &cache.spec.workloads else { return Default::default() };
        let mut selected: Vec<(&WorkloadKey, &Workload)> = self
            .workloads
            .iter()
            .filter(|(workload, _)| workload.namespace == key.namespace && asked.kinds.contains(&workload.kind))
            .filter(|(_, workload)| warm::selects_labels(&asked.selector, &workload.labels))
            .collect();
        // In an order that stays, so that the same images are left out each time if there are too many.
        selected.sort_by_key(|(key, _)| *key);
        let mut images = Vec::new();
        let mut none = Vec::new();
        for (key, workload) in selected {
            for text in &workload.images {
                match oci::Image::in_short(text) {
                    Ok(image) => images.push(image),
                    Err(error) => none.push(workload::NoImage::new(key, text, &error)),
                }
            }
        }
        (images, none)
    }
}
