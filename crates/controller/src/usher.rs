use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{NodeCache, NodeTurns};
use apiserver::Session;
use futures_util::StreamExt;
use kube::Api;
use serde_json::json;

use crate::apply::apply_status;
use crate::metrics::Metrics;
use crate::rota::{Change, Rota};

/// Writes that are on their way at once.
const AT_ONCE: usize = 16;

/// How long after some failed writes are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Gives nodes their turns: writes them into their NodeCaches.
pub(crate) struct Usher {
    session: Arc<Session>,
    metrics: Metrics,
    /// Whose turn it is.
    pub rota: Rota,
    told: Option<String>,
    not_before: Option<Instant>,
}

impl Usher {
    pub fn new(session: Arc<Session>, metrics: Metrics) -> Usher {
        Usher { session, metrics, rota: Rota::default(), told: None, not_before: None }
    }

    /// When something may be written again, if not yet.
    pub fn rests(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|then| *then > now)
    }

    /// Writes these. What fails is decided on anew later.
    pub async fn write(&mut self, changes: Vec<Change>) {
        let (session, metrics) = (&self.session, &self.metrics);
        let write = |change: Change| async move {
            // Without turns, the field goes. Without an agent, there is nothing to write to.
            let turns = (!change.turns.is_empty()).then(|| NodeTurns::from(&change.turns));
            let status = turns.map_or_else(|| json!({}), |turns| json!({ "turns": turns }));
            let object = (&*change.node, Api::<NodeCache>::all);
            let written = apply_status(session, metrics, "NodeCache", object, status).await;
            (change, written)
        };
        let mut writes = futures_util::stream::iter(changes.into_iter().map(write)).buffer_unordered(AT_ONCE);
        while let Some((change, written)) = writes.next().await {
            match written {
                Ok(()) => {
                    let Change { node, turns } = &change;
                    tracing::debug!(%node, cluster = turns.cluster, caches = ?turns.caches, "the turns of a node");
                    self.rota.wrote(&change, Instant::now());
                    self.told = None;
                }
                Err(why) => {
                    if self.told.as_ref() != Some(&why) {
                        tracing::warn!(node = %change.node, why, "cannot give a node its turn to pull; trying again");
                        self.told = Some(why);
                    }
                    self.not_before = Some(Instant::now() + RETRY);
                }
            }
        }
    }
}
