use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{Need, NodeEvent, Session, reason};
use http::{Request, header};
use k8s_openapi::api::core::v1::Node;

use crate::FIELD_MANAGER;
use crate::gate::{Release, Why};
use crate::metrics::{Metrics, Released};

/// How long a node that was released is left alone: until then its change has come back by the watch.
const REST: Duration = Duration::from_secs(5);

/// How long a release may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Takes the taint from nodes that are to lose it.
pub(crate) struct Gatekeeper {
    session: Arc<Session>,
    metrics: Metrics,
    released: HashMap<Arc<str>, Instant>,
}

impl Gatekeeper {
    pub fn new(session: Arc<Session>, metrics: Metrics) -> Gatekeeper {
        Gatekeeper { session, metrics, released: HashMap::new() }
    }

    /// Releases nodes. Says when to come again, if some could not be.
    pub async fn release(&mut self, releases: Vec<Release>) -> Option<Instant> {
        let now = Instant::now();
        self.released.retain(|_, released| now.duration_since(*released) < REST);
        let mut next = None;
        for release in releases {
            if self.released.contains_key(&release.node) {
                next = Some(now + REST);
                continue;
            }
            self.released.insert(release.node.clone(), now);
            let patched = tokio::time::timeout(LIMIT, self.patch(&release)).await;
            match patched.unwrap_or_else(|_| Err("the API server does not answer".to_owned())) {
                Ok(()) => self.tell(&release).await,
                Err(why) => {
                    tracing::warn!(node = %release.node, why, "cannot take the taint larder.dev/warming away; trying again");
                    next = Some(now + REST);
                }
            }
        }
        next
    }

    /// By hand, since kube has JSON Patch only with another library.
    async fn patch(&self, release: &Release) -> Result<(), String> {
        let client = self.session.client().await.map_err(|error| error.to_string())?;
        let request = Request::patch(format!("/api/v1/nodes/{}?fieldManager={FIELD_MANAGER}", release.node))
            .header(header::CONTENT_TYPE, "application/json-patch+json")
            .body(release.patch.to_string().into_bytes())
            .map_err(|error| error.to_string())?;
        match client.request::<kube::core::PartialObjectMeta<Node>>(request).await {
            Ok(_) => Ok(()),
            // It is gone.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => {
                self.session.failed(&error);
                Err(reason(&error, &Need::of::<Node>("patch", None)))
            }
        }
    }

    /// Says it in the log, the metrics and, where the node did not get what it waited for, in an event.
    async fn tell(&self, release: &Release) {
        let node = &release.node;
        let (reason_label, event) = match &release.why {
            Why::Warm(caches) => {
                tracing::info!(%node, caches, "the node is warm and takes pods");
                ("warm", None)
            }
            Why::Timeout { after, missing } => {
                tracing::warn!(%node, ?after, missing, "the node was not warm in time and takes pods all the same");
                (
                    "timeout",
                    Some(format!("not warm after {} s, and open for pods all the same: {missing}", after.as_secs())),
                )
            }
        };
        self.metrics.releases.get_or_create(&Released { reason: reason_label }).inc();
        let Some(message) = event else { return };
        let event = NodeEvent {
            node,
            uid: &release.uid,
            warning: true,
            reason: "WarmingTimeout",
            message: &message,
            component: FIELD_MANAGER,
        };
        let written = tokio::time::timeout(LIMIT, event.write(&self.session)).await;
        if let Ok(Err(why)) | Err(why) = written.map_err(|_| "the API server does not answer".to_owned()) {
            tracing::warn!(%node, why, "cannot write an event");
        }
    }
}
