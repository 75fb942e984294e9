use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::CachedImage;
use apiserver::{Need, Session, reason};
use futures_util::future::join_all;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use oci::Image;
use serde_json::json;
use warm::cached_image_name;

use crate::FIELD_MANAGER;
use crate::images::Change;
use crate::index::Said;
use crate::metrics::{Metrics, Write};

/// Between two writes to an object at least. Pods come and go all the time, and what is written goes to whoever watches.
const REST: Duration = Duration::from_secs(10);

/// How long after it failed a write is tried again at first, and at last.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_AT_MOST: Duration = Duration::from_secs(300);

/// How many writes are on their way at once, and how many are made at a time.
const AT_ONCE: usize = 4;
const AT_A_TIME: usize = 200;

/// How long a write may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Makes, writes and deletes CachedImages, each at most every ten seconds.
pub(crate) struct Recorder {
    session: Arc<Session>,
    metrics: Metrics,
    resting: HashMap<String, Resting>,
    told: Option<String>,
}

struct Resting {
    until: Instant,
    failures: u32,
}

/// What became of an object: as it is now, or that it is gone.
pub(crate) enum Recorded {
    /// It is like this.
    Is(Box<CachedImage>),
    /// It is not there.
    Gone(String),
}

impl Recorder {
    pub fn new(session: Arc<Session>, metrics: Metrics) -> Recorder {
        Recorder { session, metrics, resting: HashMap::new(), told: None }
    }

    /// Forgets what was written: another replica may have written since.
    pub fn forget(&mut self) {
        self.resting.clear();
    }

    /// Makes those of the changes whose time has come. Says what became of these, and whether others are left.
    pub async fn record(&mut self, changes: Vec<Change>) -> (Vec<Recorded>, bool) {
        let now = Instant::now();
        self.resting.retain(|_, resting| now < resting.until + RETRY_AT_MOST);
        let all = changes.len();
        let rests = |change: &Change| self.resting.get(&change.name()).is_some_and(|resting| now < resting.until);
        let mut due: Vec<Change> = changes.into_iter().filter(|change| !rests(change)).collect();
        // What is new is worth more than a count.
        due.sort_by_key(|change| matches!(change, Change::Write(..)));
        due.truncate(AT_A_TIME);
        let mut left = all > due.len();
        let session = &self.session;
        let mut written = Vec::with_capacity(due.len());
        let mut due = due.into_iter();
        loop {
            let some: Vec<Change> = due.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                break;
            }
            let made = join_all(some.into_iter().map(|change| async move {
                let name = change.name();
                let made = tokio::time::timeout(LIMIT, make(session, change)).await;
                (name, made.unwrap_or_else(|_| Err("the API server does not answer".to_owned())))
            }));
            let made = made.await;
            let fails = made.iter().all(|(_, made)| made.is_err());
            written.extend(made);
            // Where nothing is taken, the others need not be waited for one by one.
            if fails {
                left |= due.len() > 0;
                break;
            }
        }
        let mut recorded = Vec::new();
        for (name, made) in written {
            let result = if made.is_ok() { "done" } else { "failed" };
            self.metrics.writes.get_or_create(&Write { kind: "CachedImage", result }).inc();
            match made {
                Ok(one) => {
                    self.resting.insert(name, Resting { until: Instant::now() + REST, failures: 0 });
                    self.told = None;
                    recorded.push(one);
                }
                Err(why) => {
                    let failures = self.resting.get(&name).map_or(0, |resting| resting.failures);
                    let rest = RETRY.saturating_mul(1 << failures.min(6)).min(RETRY_AT_MOST);
                    if self.told.as_ref() != Some(&why) {
                        tracing::warn!(name, why, "cannot write a CachedImage; trying again");
                        self.told = Some(why);
                    }
                    self.resting.insert(name, Resting { until: Instant::now() + rest, failures: failures + 1 });
                }
            }
        }
        (recorded, left)
    }
}

async fn make(session: &Session, change: Change) -> Result<Recorded, String> {
    let client = session.client().await.map_err(|error| error.to_string())?;
    let images: Api<CachedImage> = Api::all(client);
    let failed = |error: kube::Error, need: Need| {
        session.failed(&error);
        reason(&error, &need)
    };
    match change {
        Change::Delete(name) => match images.delete(&name, &DeleteParams::default()).await {
            Ok(_) => Ok(Recorded::Gone(name)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Recorded::Gone(name)),
            Err(error) => Err(failed(error, Need::of::<CachedImage>("delete", None))),
        },
        Change::Make(image, said) => {
            let name = cached_image_name(&image);
            let object = json!({
                "apiVersion": "larder.dev/v1alpha1", "kind": "CachedImage",
                "metadata": {"name": name}, "spec": {"image": image},
            });
            let applied = images.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object)).await;
            applied.map_err(|error| failed(error, Need::of::<CachedImage>("create, patch", None)))?;
            tracing::debug!(%image, name, "a new image");
            write(&images, &image, &said).await.map_err(|error| failed(error, status_need()))
        }
        Change::Write(image, said) => write(&images, &image, &said).await.map_err(|error| failed(error, status_need())),
    }
}

fn status_need() -> Need {
    Need::of::<CachedImage>("patch", None).part("status")
}

async fn write(images: &Api<CachedImage>, image: &Image, said: &Said) -> Result<Recorded, kube::Error> {
    let name = cached_image_name(image);
    let object = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "CachedImage", "metadata": {"name": name}, "status": said.whole(),
    });
    // The status is nobody else's: whatever others wrote there is taken over.
    match images.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object)).await {
        Ok(written) => Ok(Recorded::Is(Box::new(written))),
        // It was deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Recorded::Gone(name)),
        Err(error) => Err(error),
    }
}
