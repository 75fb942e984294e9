use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{ImageCache, ImageCacheStatus};
use apiserver::Session;
use kube::Api;
use serde_json::json;

use crate::apply::apply_status;
use crate::index::CacheKey;
use crate::metrics::Metrics;

/// Between two writes to an object at least.
const REST: Duration = Duration::from_secs(1);

/// The same where nothing but figures has changed, for each node that is selected: every node's agent hears of each write, so that what all of it costs
/// does not grow with the square of their number.
const REST_OF_FIGURES: Duration = Duration::from_millis(10);

/// How long after it failed a write is tried again at first, and at last.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_AT_MOST: Duration = Duration::from_secs(60);

/// How long what was written may take to come back by the watch. What has not come back by then was changed by somebody else.
const ECHO: Duration = Duration::from_secs(10);

/// Writes statuses, each only when it has changed and at most once a second.
pub(crate) struct Writer {
    session: Arc<Session>,
    metrics: Metrics,
    written: HashMap<CacheKey, Written>,
    told: Option<String>,
}

struct Written {
    /// What the API server took, which may not have come back by its watch yet.
    status: Option<ImageCacheStatus>,
    not_before: Instant,
    /// Before then figures alone are not written.
    figures_not_before: Instant,
    failures: u32,
}

impl Writer {
    pub fn new(session: Arc<Session>, metrics: Metrics) -> Writer {
        Writer { session, metrics, written: HashMap::new(), told: None }
    }

    /// Forgets what was written: another replica may have written since.
    pub fn forget(&mut self) {
        self.written.clear();
    }

    /// Writes those of the statuses whose time has come, and says when to come again for the others.
    pub async fn write(&mut self, statuses: Vec<(CacheKey, ImageCacheStatus)>) -> Option<Instant> {
        let now = Instant::now();
        self.written
            .retain(|key, written| now < written.figures_not_before || statuses.iter().any(|(stale, _)| stale == key));
        let mut next: Option<Instant> = None;
        for (key, status) in statuses {
            if let Some(written) = self.written.get(&key) {
                let same = written.status.as_ref() == Some(&status);
                let figures = || written.status.as_ref().map(without_figures) == Some(without_figures(&status));
                let not_before = match same {
                    true => written.not_before + ECHO,
                    false if figures() => written.figures_not_before,
                    false => written.not_before,
                };
                if now < not_before {
                    next = Some(next.map_or(not_before, |next| next.min(not_before)));
                    continue;
                }
            }
            let not_before = self.write_one(key, status).await;
            next = Some(next.map_or(not_before, |next| next.min(not_before)));
        }
        next
    }

    /// Writes one, and says when it may be written again.
    async fn write_one(&mut self, key: CacheKey, status: ImageCacheStatus) -> Instant {
        let api = |client| Api::<ImageCache>::namespaced(client, &key.namespace);
        let written = apply_status(&self.session, &self.metrics, "ImageCache", (&key.name, api), json!(status)).await;
        let now = Instant::now();
        match written {
            Ok(()) => {
                self.told = None;
                let figures_not_before = now + REST.max(REST_OF_FIGURES * status.nodes);
                let not_before = now + REST;
                let written = Written { status: Some(status), not_before, figures_not_before, failures: 0 };
                self.written.insert(key, written);
                not_before
            }
            Err(why) => {
                if self.told.as_ref() != Some(&why) {
                    tracing::warn!(cache = %key, why, "cannot write the status of an ImageCache; trying again");
                    self.told = Some(why);
                }
                let failures = self.written.get(&key).map_or(0, |written| written.failures);
                let rest = RETRY.saturating_mul(1 << failures.min(6)).min(RETRY_AT_MOST);
                let not_before = now + rest;
                let written =
                    Written { status: None, not_before, figures_not_before: not_before, failures: failures + 1 };
                self.written.insert(key, written);
                not_before
            }
        }
    }
}

/// What is left of a status when it does not matter on how many nodes something is so.
fn without_figures(status: &ImageCacheStatus) -> ImageCacheStatus {
    let mut left = status.clone();
    (left.nodes, left.warm_nodes, left.failed) = (0, 0, 0);
    for image in &mut left.images {
        (image.warm, image.failed) = (0, 0);
    }
    for failure in &mut left.failures {
        failure.nodes = 0;
        failure.node.clear();
    }
    for condition in &mut left.conditions {
        condition.message.clear();
    }
    left
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn how_far_it_is_is_a_figure_and_that_it_is_done_is_none() {
        let status = |warm: u32, ready: &str| -> ImageCacheStatus {
            let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "x", "message": format!("{warm} of 9"), "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let images = json!([{"image": "quay.io/a:1", "warm": warm, "digest": "sha256:1"}]);
            serde_json::from_value(
                json!({"nodes": 9, "warmNodes": warm, "conditions": [condition("Warm", ready)], "images": images}),
            )
            .unwrap()
        };
        assert_eq!(without_figures(&status(3, "False")), without_figures(&status(4, "False")));
        assert_ne!(without_figures(&status(8, "False")), without_figures(&status(9, "True")));
        let mut moved = status(3, "False");
        moved.images[0].digest = Some("sha256:2".to_owned());
        assert_ne!(without_figures(&status(3, "False")), without_figures(&moved));
    }
}
