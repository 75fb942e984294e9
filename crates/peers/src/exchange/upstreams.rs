use std::sync::Arc;

use cache::{NoUpstream, Source, Upstream, Upstreams};
use moka::sync::Cache;
use oci::Registry;

use super::source::Peers;

/// How many registries are remembered with the nodes in front.
const KNOWN: u64 = 1000;

/// Upstreams whose first source are the other nodes.
pub struct WithPeers {
    inner: Arc<dyn Upstreams>,
    peers: Arc<Peers>,
    known: Cache<Registry, (Arc<Upstream>, Arc<Upstream>)>,
}

impl WithPeers {
    /// Puts the nodes before the sources of each upstream.
    pub fn new(inner: Arc<dyn Upstreams>, peers: Peers) -> WithPeers {
        WithPeers { inner, peers: Arc::new(peers), known: Cache::new(KNOWN) }
    }
}

impl Upstreams for WithPeers {
    fn find(&self, registry: &Registry) -> Result<Arc<Upstream>, NoUpstream> {
        let inner = self.inner.find(registry)?;
        if let Some((from, upstream)) = self.known.get(registry)
            && Arc::ptr_eq(&from, &inner)
        {
            return Ok(upstream);
        }
        let peers: Arc<dyn Source> = self.peers.clone();
        let upstream = Arc::new(Upstream {
            registry: registry.clone(),
            sources: std::iter::once(peers).chain(inner.sources.iter().cloned()).collect(),
            rules: inner.rules.clone(),
        });
        self.known.insert(registry.clone(), (inner, upstream.clone()));
        Ok(upstream)
    }
}
