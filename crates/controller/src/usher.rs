use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{NodeCache, NodeTurns};
use apiserver::{Need, Session, reason};
use futures_util::StreamExt;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::FIELD_MANAGER;
use crate::metrics::{Metrics, Write};
use crate::rota::{Change, Rota};

/// Writes that are on their way at once.
const AT_ONCE: usize = 16;

/// How long after some failed writes are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How long a write may take.
const LIMIT: Duration = Duration::from_secs(30);

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
            let written = tokio::time::timeout(LIMIT, apply(session, &change)).await;
            let written = written.unwrap_or_else(|_| Err("the API server does not answer".to_owned()));
            let result = if written.is_ok() { "done" } else { "failed" };
            metrics.writes.get_or_create(&Write { kind: "NodeCache", result }).inc();
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

async fn apply(session: &Session, change: &Change) -> Result<(), String> {
    let client = session.client().await.map_err(|error| error.to_string())?;
    let caches: Api<NodeCache> = Api::all(client);
    // Without turns, the field goes.
    let turns = (!change.turns.is_empty()).then(|| NodeTurns::from(&change.turns));
    let mut patch = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": &*change.node}, "status": {},
    });
    if let Some(turns) = turns {
        patch["status"] = json!({ "turns": turns });
    }
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match caches.patch_status(&change.node, &params, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        // It has no agent any more.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => {
            session.failed(&error);
            Err(reason(&error, &Need::of::<NodeCache>("patch", None).part("status")))
        }
    }
}
