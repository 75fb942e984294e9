use std::sync::Arc;

use apiserver::{ApiServer, Session};
use cache::Engine;
use node::prefetch::{Heard, Metrics, Publisher, Settings, follow_plan, keep};
use prometheus_client::registry::Registry as MetricsRegistry;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Cluster, Share};

/// Keeps ready on this node what the ImageCaches of its cluster want, and tells the API server how far it is.
pub struct Keeping {
    tasks: JoinSet<()>,
}

impl Keeping {
    /// Begins. Whatever becomes of it, pulls of pods are not concerned. Nothing is pulled before `pointed`, when the runtimes have been
    /// told of the mirror, lest each node go to the origin.
    pub fn start(
        cluster: &Cluster,
        (node, registry): (&node::Settings, bool),
        engine: Arc<Engine>,
        pointed: CancellationToken,
        metrics: &mut MetricsRegistry,
    ) -> Keeping {
        let metrics = Metrics::register(metrics);
        let Cluster { name, keep_free: Share(keep_free) } = cluster.clone();
        let settings = Settings {
            host_root: node.host_root.clone(),
            keep_free,
            mirror_url: node.mirror_url(),
            registry,
            node: name.clone(),
        };
        let (plans, plan) = watch::channel(None);
        let (nodes, node) = watch::channel(None);
        let (turns, turn) = watch::channel(Heard::default());
        let (reports, report) = watch::channel(None);
        let store = engine.clone();
        let publisher =
            Publisher::new(Session::new(ApiServer::Environment), metrics.clone(), move || store.usage().bytes);
        tracing::info!(node = name, "keeping ready what ImageCaches want");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match follow_plan(&ApiServer::Environment, &name, plans, nodes, turns).await {} });
        tasks.spawn(async move {
            pointed.cancelled().await;
            match keep(settings, engine, metrics, plan, turn, reports).await {}
        });
        tasks.spawn(async move { match publisher.publish(node, report).await {} });
        Keeping { tasks }
    }

    /// Ends it, and the pulls that it has begun.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}
