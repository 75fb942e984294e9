use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use cache::{Store, Upstreams};
use node::membership::{ApiServer, Seen, follow};
use peers::{Exchange, Health, Identity, Member, Members, Peers, Settings, Swarm, WithPeers};
use prometheus_client::registry::Registry as MetricsRegistry;
use serve::Port;
use tokio::task::JoinSet;

use crate::config::{MemberList, Peering, Size};

/// A node's part among the nodes that share what they pull.
pub struct Sharing {
    swarm: Arc<Swarm>,
    tasks: JoinSet<()>,
}

impl Sharing {
    /// Begins to answer other nodes, who come to `port`, and are told by `identity`. `upstreams` are the sources beyond them.
    pub async fn start(
        peering: &Peering,
        port: Port,
        identity: Arc<Identity>,
        store: Arc<dyn Store>,
        upstreams: Arc<dyn Upstreams>,
        metrics: &mut MetricsRegistry,
    ) -> anyhow::Result<Sharing> {
        let me = Member::new(peering.name.as_str(), peering.listen, &peering.zone);
        let members = Arc::new(Members::new(me));
        let health = Arc::new(Health::default());
        let settings = Settings {
            upload: peering.upload.map(|Size(bytes)| bytes),
            download: peering.download.map(|Size(bytes)| bytes),
            // What a node keeps for others must leave room for what its own pods pull.
            keep_bytes: store.usage().budget / 4,
            ..Settings::default()
        };
        let metrics = peers::Metrics::register(metrics);
        let swarm = Swarm::new(settings, members.clone(), health.clone(), identity.clone(), store, upstreams, metrics);
        let exchange = Exchange::new(port.into_listener(), identity, swarm.clone()).context("node.peers.listen")?;
        tracing::info!(node = peering.name, address = %exchange.local_addr(), "sharing with other nodes");

        let mut tasks = JoinSet::new();
        tasks.spawn(exchange.run());
        let tidying = swarm.clone();
        tasks.spawn(async move { tidying.tidy().await });
        match &peering.members {
            MemberList::Fixed(list) => {
                let changes = members.replace(list.clone());
                for refused in &changes.refused {
                    tracing::warn!(node = %refused.id, address = %refused.address, "listed twice; left out");
                }
                health.follow(&changes, Instant::now());
            }
            MemberList::Service(service) => {
                let service = service.clone();
                let seen = Arc::new(Seen::default());
                tasks.spawn(
                    async move { match follow(&service, &ApiServer::Environment, members, health, seen).await {} },
                );
            }
        }
        Ok(Sharing { swarm, tasks })
    }

    /// The upstreams with the nodes in front of their sources.
    pub fn before(&self, upstreams: Arc<dyn Upstreams>) -> Arc<dyn Upstreams> {
        Arc::new(WithPeers::new(upstreams, Peers::new(self.swarm.clone())))
    }

    /// Ends all transfers.
    pub async fn end(mut self) {
        self.swarm.shutdown().await;
        self.tasks.shutdown().await;
    }
}
