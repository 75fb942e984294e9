use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Upstream, UpstreamSpec, UpstreamStatus};
use apiserver::Session;
use futures_util::future::BoxFuture;
use kube::Api;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::apply::apply_status;
use crate::follow::Followed;
use crate::metrics::Metrics;
use crate::run::now;
use crate::upstreams::{Answered, Answers};

/// How many Upstreams are asked at once.
const AT_ONCE: usize = 8;
/// All is looked at anew after so long, whatever happens.
const LOOK: Duration = Duration::from_secs(60);
/// Between two looks at least.
const REST: Duration = Duration::from_secs(1);
/// How long after it failed a write is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long what was written may take to come back by the watch.
const ECHO: Duration = Duration::from_secs(10);

/// Asks endpoints whether they are there.
pub trait Prober: Send + Sync + 'static {
    /// What the endpoints of an Upstream say, each within seconds, with nobody's right; or why they cannot be asked. Cancellation safe.
    fn probe<'a>(&'a self, spec: &'a UpstreamSpec) -> BoxFuture<'a, Result<Vec<Answered>, String>>;
}

/// An Upstream, what was asked by, and what its endpoints said.
type Answer = (String, UpstreamSpec, Result<Vec<Answered>, String>);

/// Keeps what statuses of Upstreams say about their endpoints up to date.
pub(crate) struct Attendance {
    followed: Arc<Followed>,
    answers: Answers,
    prober: Arc<dyn Prober>,
    places: Arc<Semaphore>,
    questions: JoinSet<Answer>,
    session: Arc<Session>,
    metrics: Metrics,
    written: HashMap<String, (UpstreamStatus, Instant)>,
    told: Option<String>,
}

impl Attendance {
    pub fn new(
        followed: Arc<Followed>,
        prober: Arc<dyn Prober>,
        session: Arc<Session>,
        metrics: Metrics,
    ) -> Attendance {
        Attendance {
            followed,
            answers: Answers::default(),
            prober,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            questions: JoinSet::new(),
            session,
            metrics,
            written: HashMap::new(),
            told: None,
        }
    }

    /// Asks and writes until dropped. Whatever was known before is forgotten: another replica may have written since.
    pub async fn lead(&mut self) {
        self.questions.shutdown().await;
        (self.answers, self.written) = Default::default();
        loop {
            let looked = Instant::now();
            let next = self.step().await;
            tokio::select! {
                () = self.followed.upstreams.notified() => {}
                Some(answer) = self.questions.join_next() => self.take(answer),
                () = tokio::time::sleep_until(next.into()) => {}
            }
            tokio::time::sleep_until((looked + REST).into()).await;
            while let Some(answer) = self.questions.try_join_next() {
                self.take(answer);
            }
        }
    }

    /// Asks whom it is time to ask, writes what there is to say, and says when to look again if nothing happens.
    async fn step(&mut self) -> Instant {
        let at = Instant::now();
        let (due, next, stale) = {
            let index = self.followed.index();
            let (due, next) = self.answers.due(&index, at);
            (due, next, self.answers.stale_statuses(&index, &now()))
        };
        for (name, spec) in due {
            let (prober, places) = (self.prober.clone(), self.places.clone());
            self.questions.spawn(async move {
                // Nobody closes it.
                let _place = places.acquire_owned().await;
                let answers = prober.probe(&spec).await;
                (name, spec, answers)
            });
        }
        let written = self.write(stale).await;
        next.into_iter().chain(written).fold(at + LOOK, Instant::min)
    }

    fn take(&mut self, answer: Result<Answer, tokio::task::JoinError>) {
        match answer {
            Ok((name, spec, answers)) => {
                tracing::debug!(upstream = name, ?answers, "its endpoints were asked");
                self.answers.answered(&name, &spec, answers, (Instant::now(), &now()));
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Writes the statuses, and says when to come again, if some are left.
    async fn write(&mut self, stale: Vec<(String, UpstreamStatus)>) -> Option<Instant> {
        self.written.retain(|name, _| stale.iter().any(|(stale, _)| stale == name));
        let mut next = None;
        for (name, status) in stale {
            if let Some((written, when)) = self.written.get(&name)
                && *written == status
                && when.elapsed() < ECHO
            {
                next = Some(*when + ECHO);
                continue;
            }
            // Of the status this part is nobody else's; whether it is in use the registry says, under a name of its own.
            let object = (&*name, Api::<Upstream>::all);
            let written = apply_status(&self.session, &self.metrics, "Upstream", object, json!(status)).await;
            match written {
                Ok(()) => {
                    self.told = None;
                    self.written.insert(name, (status, Instant::now()));
                }
                Err(why) => {
                    if self.told.as_ref() != Some(&why) {
                        tracing::warn!(upstream = name, why, "cannot write the status of an Upstream; trying again");
                        self.told = Some(why);
                    }
                    // The others would fail alike.
                    return Some(Instant::now() + RETRY);
                }
            }
        }
        next
    }
}
