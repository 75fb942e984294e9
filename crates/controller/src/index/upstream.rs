use std::collections::HashMap;

use api::conditions::{AVAILABLE, find};
use api::{Upstream, UpstreamFreshness, UpstreamSpec, UpstreamStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use oci::Registry;

use super::Index;

/// What of an Upstream matters here.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownUpstream {
    /// What it says.
    pub spec: UpstreamSpec,
    /// The `metadata.generation` of that.
    pub generation: Option<i64>,
    created: Option<Time>,
    /// What its status says about its endpoints. The rest is the registry's.
    pub status: UpstreamStatus,
}

/// The name of an Upstream, and what of it matters.
pub fn reduce(upstream: Upstream) -> (String, KnownUpstream) {
    let status = upstream.status.unwrap_or_default();
    let status = UpstreamStatus {
        observed_generation: None,
        conditions: find(&status.conditions, AVAILABLE).cloned().into_iter().collect(),
        endpoints: status.endpoints,
    };
    let (generation, created) = (upstream.metadata.generation, upstream.metadata.creation_timestamp);
    (upstream.metadata.name.unwrap_or_default(), KnownUpstream { spec: upstream.spec, generation, created, status })
}

impl Index {
    /// These are all Upstreams; of those that cannot be read there is the name alone.
    pub fn replace_upstreams(&mut self, upstreams: Vec<(String, Option<KnownUpstream>)>) {
        self.upstreams = upstreams.into_iter().filter_map(|(name, upstream)| Some((name, upstream?))).collect();
        self.changed = true;
    }

    /// An Upstream is new or has changed; none if it is gone or cannot be read.
    pub fn apply_upstream(&mut self, name: String, upstream: Option<KnownUpstream>) {
        let said = |upstream: Option<&KnownUpstream>| upstream.map(|upstream| upstream.spec.freshness.clone());
        self.changed |= said(self.upstreams.get(&name)) != said(upstream.as_ref());
        match upstream {
            Some(upstream) => drop(self.upstreams.insert(name, upstream)),
            None => drop(self.upstreams.remove(&name)),
        }
    }

    /// All Upstreams, by their names.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = (&String, &KnownUpstream)> {
        self.upstreams.iter()
    }

    /// What Upstreams say about freshness. Of two about a registry the older counts.
    pub(crate) fn freshness(&self) -> HashMap<&Registry, &UpstreamFreshness> {
        let mut all: Vec<_> = self.upstreams.iter().collect();
        all.sort_by_key(|(name, upstream)| std::cmp::Reverse((&upstream.created, *name)));
        let said = all.into_iter().map(|(_, upstream)| (&upstream.spec.registry, upstream.spec.freshness.as_ref()));
        let eldest: HashMap<&Registry, Option<&UpstreamFreshness>> = said.collect();
        eldest.into_iter().filter_map(|(registry, freshness)| Some((registry, freshness?))).collect()
    }
}
