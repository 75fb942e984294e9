use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use apiserver::Session;
use futures_util::future::BoxFuture;
use oci::Image;

use crate::follow::Followed;
use crate::images::{Holding, Holdings, Images, Told};
use crate::index::known_reduced;
use crate::metrics::{Metrics, Question};
use crate::policy::{Figures, PolicyWriter};
use crate::recorder::{Recorded, Recorder};
use crate::run::now;
use crate::tags::Fact;

/// Between two looks at all images, if something has changed. Thousands of pods that come at once are looked at together.
const LOOK: Duration = Duration::from_secs(5);

/// All is looked at anew, and the registry told again, after so long, whatever happens: it may have been restarted, or restored.
const AGAIN: Duration = Duration::from_secs(60);

/// How long the registry may take to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// How long what the registry said last counts while it says nothing.
const BELIEVED: Duration = Duration::from_secs(600);

/// The larder registry, as far as it keeps what is in use.
pub trait Keeper: Send + Sync + 'static {
    /// Tells it of all images, and gives what it says of them; nothing if there is no registry. Cancellation safe.
    fn tell(&self, told: Told) -> BoxFuture<'_, Result<Option<HashMap<Image, Holding>>, String>>;
}

/// What is known of tags, as whoever asks for them leaves it.
#[derive(Debug, Default)]
pub(crate) struct Facts(Mutex<Arc<HashMap<Image, Fact>>>);

impl Facts {
    pub fn set(&self, facts: HashMap<Image, Fact>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
    }

    fn get(&self) -> Arc<HashMap<Image, Fact>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Keeps the CachedImages as pods, workloads, nodes and the registry are, and tells the registry what is in use.
pub(crate) struct Discovery {
    followed: Arc<Followed>,
    facts: Arc<Facts>,
    keeper: Arc<dyn Keeper>,
    recorder: Recorder,
    policy: PolicyWriter,
    metrics: Metrics,
    holdings: Holdings,
    /// What the registry was told last, and when.
    told: Option<(Told, Instant)>,
    /// When it last answered, and why it did not since.
    answered: Option<Instant>,
    complaint: Option<String>,
    left_out: usize,
}

impl Discovery {
    pub fn new(
        followed: Arc<Followed>,
        facts: Arc<Facts>,
        keeper: Arc<dyn Keeper>,
        session: Arc<Session>,
        metrics: Metrics,
    ) -> Discovery {
        let policy = PolicyWriter::new(session.clone(), metrics.clone());
        let recorder = Recorder::new(session, metrics.clone());
        let holdings = Holdings::Unknown;
        Discovery {
            followed,
            facts,
            keeper,
            recorder,
            policy,
            metrics,
            holdings,
            told: None,
            answered: None,
            complaint: None,
            left_out: 0,
        }
    }

    /// Works for as long as this replica leads.
    pub async fn lead(&mut self) {
        self.recorder.forget();
        self.policy.forget();
        self.told = None;
        self.answered = Some(Instant::now());
        self.holdings = Holdings::Unknown;
        let mut looked: Option<Instant> = None;
        let mut left = false;
        loop {
            let changed = self.followed.index().take_change_of_uses();
            let is_time = looked.is_none_or(|looked| looked.elapsed() >= AGAIN);
            if (changed || left || is_time) && self.followed.never_heard_of().is_empty() {
                looked = Some(Instant::now());
                left = self.look().await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Looks at all images. Says whether something is left to be written.
    async fn look(&mut self) -> bool {
        let Images { mut changes, told, left_out } = self.images();
        if self.left_out != left_out {
            self.left_out = left_out;
            tracing::warn!(left_out = self.left_out, "there are more images than CachedImages are made of");
        }
        let due = self.told.as_ref().is_none_or(|(before, when)| *before != told || when.elapsed() >= AGAIN);
        if due {
            drop(changes);
            self.tell(told).await;
            // By now there is more to say.
            changes = self.images().changes;
        }
        let (recorded, left) = self.recorder.record(changes).await;
        self.keep(recorded);
        self.say_of_the_policy().await | left
    }

    fn keep(&self, recorded: Vec<Recorded>) {
        let mut index = self.followed.index();
        for one in recorded {
            match one {
                Recorded::Is(object) => {
                    let (name, known) = known_reduced(*object, index.texts());
                    index.apply_known(name, known);
                }
                Recorded::Gone(name) => index.apply_known(name, None),
            }
        }
    }

    /// Says in the status of the CachePolicy whether it is in force. Says whether something is left to be written.
    async fn say_of_the_policy(&mut self) -> bool {
        let untold = self.complaint.as_deref().filter(|_| self.is_long_unanswered());
        let (status, old, nodes) = {
            let index = self.followed.index();
            let figures = Figures { images: index.known().len(), bytes: self.holdings.bytes() };
            let Some(status) = index.policy_status(figures, untold, &now()) else { return false };
            let old = index.policy_object().map(|object| object.status.clone()).unwrap_or_default();
            (status, old, index.nodes().count())
        };
        self.policy.write(&status, &old, nodes).await
    }

    /// Whether the registry has been silent for so long that what it said last no longer counts.
    fn is_long_unanswered(&self) -> bool {
        self.answered.is_none_or(|answered| answered.elapsed() >= BELIEVED)
    }

    fn images(&self) -> Images {
        let facts = self.facts.get();
        self.followed.index().images(&facts, &self.holdings, &now())
    }

    async fn tell(&mut self, told: Told) {
        let answer = tokio::time::timeout(LIMIT, self.keeper.tell(told.clone())).await;
        let answer = answer.unwrap_or_else(|_| Err("it does not answer in time".to_owned()));
        let result = if answer.is_ok() { "done" } else { "failed" };
        self.metrics.tells.get_or_create(&Question { result }).inc();
        match answer {
            Ok(held) => {
                if self.complaint.take().is_some() {
                    tracing::info!("the larder registry knows again what is in use");
                }
                self.holdings = Holdings::Said(now(), held.unwrap_or_default());
                self.answered = Some(Instant::now());
                self.told = Some((told, Instant::now()));
            }
            Err(why) => {
                if self.complaint.as_ref() != Some(&why) {
                    tracing::warn!(why, "the larder registry is not told what is in use; trying again");
                    self.complaint = Some(why);
                }
                if self.is_long_unanswered() {
                    self.holdings = Holdings::Said(now(), HashMap::new());
                }
                self.told = None;
            }
        }
    }
}
