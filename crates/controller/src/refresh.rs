use std::sync::Arc;
use std::time::{Duration, Instant};

use api::ImageCache;
use api::names::REFRESH_ANNOTATION;
use apiserver::{Need, Session, reason};
use futures_util::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams};
use oci::{Digest, Image};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::index::CacheKey;
use crate::metrics::{Metrics, Question};
use crate::tags::{Tags, Unresolved};

/// How many tags are asked for at once.
const AT_ONCE: usize = 8;
/// How long an answer may take, all tries included.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a write may take.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// How long after it failed a write is tried again.
const REST: Duration = Duration::from_secs(5);

/// What a tag means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its digest.
    pub digest: Digest,
    /// The registry gives it to nobody without a credential.
    pub private: bool,
}

/// Asks registries what tags mean.
pub trait Resolver: Send + Sync + 'static {
    /// What an image's tag means, as everybody or as ImageCaches may know it. Cancellation safe.
    fn resolve<'a>(&'a self, image: &'a Image) -> BoxFuture<'a, Result<Resolved, Unresolved>>;
}

/// Keeps what is known of tags up to date.
pub(crate) struct Refresher {
    pub tags: Tags,
    resolver: Arc<dyn Resolver>,
    places: Arc<Semaphore>,
    /// One for each tag that is being asked for.
    questions: JoinSet<(Image, Result<Resolved, Unresolved>)>,
    session: Arc<Session>,
    metrics: Metrics,
    told: Option<String>,
}

impl Refresher {
    pub fn new(resolver: Arc<dyn Resolver>, session: Arc<Session>, metrics: Metrics) -> Refresher {
        Refresher {
            tags: Tags::default(),
            resolver,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            questions: JoinSet::new(),
            session,
            metrics,
            told: None,
        }
    }

    /// Forgets what is known: another replica may have asked since.
    pub async fn forget(&mut self) {
        self.questions.shutdown().await;
        self.tags = Tags::default();
    }

    /// Begins to ask.
    pub fn ask(&mut self, images: Vec<Image>) {
        for image in images {
            let (resolver, places) = (self.resolver.clone(), self.places.clone());
            self.questions.spawn(async move {
                // Nobody closes it.
                let _place = places.acquire_owned().await;
                let answer = tokio::time::timeout(LIMIT, resolver.resolve(&image)).await;
                let silent = || Unresolved {
                    reason: "RegistryUnavailable",
                    message: format!("the registry does not answer within {} s", LIMIT.as_secs()),
                    private: false,
                    definite: false,
                    pause: Duration::ZERO,
                };
                (image, answer.unwrap_or_else(|_| Err(silent())))
            });
        }
    }

    /// Waits for an answer, and takes all that have come. Cancellation safe.
    pub async fn hear(&mut self, now: impl Fn() -> Time) {
        let Some(first) = self.questions.join_next().await else { return std::future::pending().await };
        let mut answers = vec![first];
        answers.extend(std::iter::from_fn(|| self.questions.try_join_next()));
        for answered in answers {
            match answered {
                Ok((image, answer)) => self.take(&image, answer, &now()),
                Err(error) if error.is_cancelled() => {}
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    fn take(&mut self, image: &Image, answer: Result<Resolved, Unresolved>, now: &Time) {
        let result = answer.as_ref().map_or_else(|why| why.reason, |_| "answered");
        self.metrics.questions.get_or_create(&Question { result }).inc();
        let before = self.tags.digest(image);
        match &answer {
            Ok(Resolved { digest, .. }) if before.is_some_and(|before| before != *digest) => {
                tracing::info!(%image, %digest, "the tag has moved");
            }
            Ok(Resolved { digest, .. }) => tracing::debug!(%image, %digest, "what the tag means"),
            Err(why) => tracing::debug!(%image, reason = why.reason, "the tag's digest is not known: {}", why.message),
        }
        self.tags.answered(image, answer, now);
    }

    /// Takes annotations away from ImageCaches. Says when to come again, if one could not be.
    pub async fn clear(&mut self, caches: Vec<CacheKey>) -> Option<Instant> {
        let mut next = None;
        for key in caches {
            let cleared = tokio::time::timeout(WRITE_LIMIT, self.clear_one(&key)).await;
            match cleared.unwrap_or_else(|_| Err("the API server does not answer".to_owned())) {
                Ok(()) => {
                    tracing::info!(cache = %key, "its tags were asked for anew");
                    self.told = None;
                    self.tags.cleared(&key, Instant::now());
                }
                Err(why) => {
                    if self.told.as_ref() != Some(&why) {
                        tracing::warn!(cache = %key, why, "cannot take the annotation {REFRESH_ANNOTATION} away; trying again");
                        self.told = Some(why);
                    }
                    next = Some(Instant::now() + REST);
                }
            }
        }
        next
    }

    async fn clear_one(&self, key: &CacheKey) -> Result<(), String> {
        let client = self.session.client().await.map_err(|error| error.to_string())?;
        let caches: Api<ImageCache> = Api::namespaced(client, &key.namespace);
        let patch = json!({"metadata": {"annotations": {REFRESH_ANNOTATION: null}}});
        match caches.patch_metadata(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            // It was deleted meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => {
                self.session.failed(&error);
                Err(reason(&error, &Need::of::<ImageCache>("patch", None)))
            }
        }
    }
}
