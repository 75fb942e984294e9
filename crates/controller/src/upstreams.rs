use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use api::conditions::{self, AVAILABLE, Finding, Status};
use api::{EndpointStatus, UpstreamSpec, UpstreamStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::index::{Index, KnownUpstream};

/// How often endpoints are asked, and those that failed.
const INTERVAL: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(15);

/// While nothing changes, when endpoints were asked is written down so often: each write goes to every node of the cluster.
const WRITTEN: i64 = 3600;

/// The longest message of an endpoint, in characters, by its schema.
const MESSAGE_LIMIT: usize = 1024;

/// What an endpoint said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its URL.
    pub url: String,
    /// Why it did not answer as a registry does, if so. Holds no credential.
    pub failure: Option<String>,
}

/// What the endpoints of Upstreams said, and when each is to be asked again. Asks nobody itself: it is told, with the time.
#[derive(Debug, Default)]
pub struct Answers {
    known: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    /// What was asked by. Answers by another one are none.
    spec: UpstreamSpec,
    asking: bool,
    asked: Option<(Instant, Time)>,
    /// What is told, or why nothing can be asked.
    answers: Option<Result<Vec<Answered>, String>>,
    /// The endpoints that failed once after they had answered: that may be by chance, and is not told yet.
    doubted: HashSet<String>,
    /// Something failed the last time.
    unwell: bool,
}

impl Known {
    fn new(spec: &UpstreamSpec) -> Known {
        let (asked, answers, doubted) = Default::default();
        Known { spec: spec.clone(), asking: false, asked, answers, doubted, unwell: false }
    }

    fn when(&self, at: Instant) -> Instant {
        let pause = if self.unwell { AGAIN } else { INTERVAL };
        self.asked.as_ref().map_or(at, |(asked, _)| *asked + pause)
    }
}

impl Answers {
    /// The Upstreams whose endpoints are to be asked now, which then count as being asked, and when to come again.
    pub fn due(&mut self, index: &Index, at: Instant) -> (Vec<(String, UpstreamSpec)>, Option<Instant>) {
        let mut known = std::mem::take(&mut self.known);
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for (name, upstream) in index.upstreams() {
            let last = known.remove(name).filter(|last| last.spec == upstream.spec);
            let mut one = last.unwrap_or_else(|| Known::new(&upstream.spec));
            let when = one.when(at);
            if !one.asking && when <= at {
                one.asking = true;
                due.push((name.clone(), upstream.spec.clone()));
            } else if !one.asking {
                next = Some(next.map_or(when, |next| next.min(when)));
            }
            self.known.insert(name.clone(), one);
        }
        (due, next)
    }

    /// Takes what the endpoints of an Upstream said, or why they could not be asked.
    pub fn answered(
        &mut self,
        name: &str,
        spec: &UpstreamSpec,
        mut answers: Result<Vec<Answered>, String>,
        (at, now): (Instant, &Time),
    ) {
        let Some(known) = self.known.get_mut(name).filter(|known| known.spec == *spec) else { return };
        known.asking = false;
        known.asked = Some((at, now.clone()));
        known.unwell = answers.as_ref().map_or(true, |all| all.iter().any(|one| one.failure.is_some()));
        if let (Ok(answers), Some(Ok(before))) = (&mut answers, &known.answers) {
            for one in answers {
                let was_well = before.iter().any(|before| before.url == one.url && before.failure.is_none());
                match one.failure {
                    None => drop(known.doubted.remove(&one.url)),
                    Some(_) if was_well && known.doubted.insert(one.url.clone()) => one.failure = None,
                    Some(_) => {}
                }
            }
        }
        known.answers = Some(answers);
    }

    /// The statuses of Upstreams that are not as the API server has them, as far as endpoints are concerned.
    pub fn stale_statuses(&self, index: &Index, now: &Time) -> Vec<(String, UpstreamStatus)> {
        let stale = index.upstreams().filter_map(|(name, upstream)| {
            let known = self.known.get(name).filter(|known| known.spec == upstream.spec)?;
            let status = status(upstream, known, now)?;
            (status != upstream.status).then(|| (name.clone(), status))
        });
        stale.collect()
    }
}

/// What there is to say about the endpoints of an Upstream, once they were asked.
fn status(upstream: &KnownUpstream, known: &Known, now: &Time) -> Option<UpstreamStatus> {
    let (answers, (_, asked)) = (known.answers.as_ref()?, known.asked.as_ref()?);
    let told = &upstream.status;
    let answered = answers.as_ref().map(Vec::as_slice).unwrap_or_default();
    let endpoints = answered.iter().map(|one| {
        let message = one.failure.as_ref().map(|why| why.chars().take(MESSAGE_LIMIT).collect());
        let new = EndpointStatus { url: one.url.clone(), available: message.is_none(), message, last_asked: None };
        let before = told.endpoints.iter().find(|before| before.url == one.url);
        let kept = before.and_then(|before| {
            let last = before.last_asked.clone()?;
            let same = EndpointStatus { last_asked: None, ..before.clone() } == new;
            (same && asked.0.as_second() - last.0.as_second() < WRITTEN).then_some(last)
        });
        EndpointStatus { last_asked: Some(kept.unwrap_or_else(|| asked.clone())), ..new }
    });
    let (holds, reason, message) = match answers {
        Err(why) => (Status::Unknown, "InvalidSettings", format!("its endpoints cannot be asked: {why}")),
        Ok(answers) => {
            let failures = answers.iter().filter_map(|one| Some(format!("{}: {}", one.url, one.failure.as_ref()?)));
            let failures: Vec<String> = failures.collect();
            let well = answers.len() - failures.len();
            match (well, failures.is_empty()) {
                (0, _) => (Status::False, "NoEndpointAnswers", failures.join("; ")),
                (1, true) => (Status::True, "EndpointAnswers", "its endpoint answers".to_owned()),
                (_, true) => (Status::True, "EndpointAnswers", format!("all {well} endpoints answer")),
                (_, false) => (Status::True, "SomeEndpointsAnswer", failures.join("; ")),
            }
        }
    };
    let mut status = UpstreamStatus {
        observed_generation: None,
        conditions: told.conditions.clone(),
        endpoints: endpoints.collect(),
    };
    let finding =
        Finding { kind: AVAILABLE, status: holds, reason, message: &message, generation: upstream.generation };
    conditions::set(&mut status.conditions, &finding, now);
    Some(status)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sample::at;

    const ONE: &str = "https://one.example";
    const TWO: &str = "https://two.example";

    /// The Upstreams of a cluster, and what is known of them at a time.
    struct Cluster {
        index: Index,
        answers: Answers,
        begun: Instant,
        now: u64,
    }

    impl Cluster {
        fn new() -> Cluster {
            Cluster { index: Index::default(), answers: Answers::default(), begun: Instant::now(), now: 0 }
        }

        fn time(&self) -> Time {
            let now = k8s_openapi::jiff::SignedDuration::from_secs(self.now.try_into().unwrap());
            at(0, 0).0.checked_add(now).map(Time).unwrap()
        }

        /// Lets time pass, and says whose endpoints are to be asked then.
        fn pass(&mut self, seconds: u64) -> Vec<String> {
            self.now += seconds;
            let at = self.begun + Duration::from_secs(self.now);
            self.answers.due(&self.index, at).0.into_iter().map(|(name, _)| name).collect()
        }

        fn answer(&mut self, name: &str, answers: &[(&str, Option<&str>)]) {
            let one = |(url, failure): &(&str, Option<&str>)| Answered {
                url: (*url).to_owned(),
                failure: failure.map(str::to_owned),
            };
            let spec = self.index.upstreams().find(|(one, _)| *one == name).unwrap().1.spec.clone();
            let at = self.begun + Duration::from_secs(self.now);
            self.answers.answered(name, &spec, Ok(answers.iter().map(one).collect()), (at, &self.time()));
        }

        /// Writes what is to be written; says for which, and how they are available.
        fn write(&mut self) -> Vec<String> {
            let stale = self.answers.stale_statuses(&self.index, &self.time());
            let told = stale.iter().map(|(name, status)| {
                let [one] = &status.conditions[..] else { panic!("it has one condition") };
                assert_eq!((&*one.type_, one.observed_generation), (AVAILABLE, Some(4)));
                format!("{name} {} {} {}", one.status, one.reason, one.message)
            });
            let told = told.collect();
            for (name, status) in stale {
                let mut upstream = self.index.upstreams().find(|(one, _)| **one == name).unwrap().1.clone();
                // As it comes back from the API server.
                upstream.status = serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap();
                self.index.apply_upstream(name, Some(upstream));
            }
            assert!(self.answers.stale_statuses(&self.index, &self.time()).is_empty());
            told
        }
    }

    #[test]
    fn endpoints_are_asked_now_and_then_and_sooner_where_one_failed() {
        let mut cluster = Cluster::new();
        cluster.index.upstream("a", json!({"registry": "a.example"}));
        assert_eq!(cluster.pass(0), ["a"]);
        assert!(cluster.pass(100).is_empty() && cluster.write().is_empty(), "nobody has answered");
        cluster.answer("a", &[(ONE, None)]);
        assert!(cluster.pass(59).is_empty());
        assert_eq!(cluster.pass(1), ["a"]);
        cluster.answer("a", &[(ONE, Some("down"))]);
        assert_eq!(cluster.pass(15), ["a"]);
        // An answer by what it said before is none.
        let old = cluster.index.upstreams().next().unwrap().1.spec.clone();
        cluster.index.upstream("a", json!({"registry": "a.example", "endpoints": [{"url": TWO}]}));
        assert_eq!(cluster.pass(0), ["a"]);
        let (at, now) = (cluster.begun, cluster.time());
        cluster.answers.answered("a", &old, Ok(Vec::new()), (at, &now));
        assert!(cluster.pass(100).is_empty());
        cluster.index.apply_upstream("a".to_owned(), None);
        assert!(cluster.pass(100).is_empty());
    }

    #[test]
    fn what_changes_is_written_once() {
        let mut cluster = Cluster::new();
        cluster.index.upstream("a", json!({"registry": "a.example"}));
        cluster.pass(0);
        cluster.answer("a", &[(ONE, None), (TWO, None)]);
        assert_eq!(cluster.write(), ["a True EndpointAnswers all 2 endpoints answer"]);
        cluster.pass(60);
        cluster.answer("a", &[(ONE, None), (TWO, None)]);
        assert!(cluster.write().is_empty(), "nothing is new");
        cluster.pass(60);
        cluster.answer("a", &[(ONE, Some("no connection")), (TWO, None)]);
        assert!(cluster.write().is_empty(), "once is by chance");
        cluster.pass(15);
        cluster.answer("a", &[(ONE, Some("no connection")), (TWO, None)]);
        assert_eq!(cluster.write(), ["a True SomeEndpointsAnswer https://one.example: no connection"]);
        for _ in 0..2 {
            cluster.pass(15);
            cluster.answer("a", &[(ONE, Some("no connection")), (TWO, Some("it answers 500"))]);
        }
        let both = "https://one.example: no connection; https://two.example: it answers 500";
        assert_eq!(cluster.write(), [format!("a False NoEndpointAnswers {both}")]);
        cluster.pass(15);
        cluster.answer("a", &[(ONE, None), (TWO, None)]);
        assert_eq!(cluster.write().len(), 1);
        cluster.pass(3600);
        cluster.answer("a", &[(ONE, None), (TWO, None)]);
        assert_eq!(cluster.write().len(), 1, "now and then it says that they are asked");
    }

    #[test]
    fn whoever_leads_next_goes_on_from_what_is_told() {
        let mut cluster = Cluster::new();
        cluster.index.upstream("a", json!({"registry": "a.example"}));
        cluster.pass(0);
        cluster.answer("a", &[(ONE, None)]);
        cluster.write();
        cluster.answers = Answers::default();
        assert_eq!(cluster.pass(10), ["a"]);
        assert!(cluster.write().is_empty());
        cluster.answer("a", &[(ONE, None)]);
        assert!(cluster.write().is_empty());
    }

    #[test]
    fn what_cannot_be_asked_is_not_known() {
        let mut cluster = Cluster::new();
        cluster.index.upstream("a", json!({"registry": "a.example"}));
        cluster.pass(0);
        let spec = cluster.index.upstreams().next().unwrap().1.spec.clone();
        let now = (cluster.begun, &cluster.time());
        cluster.answers.answered("a", &spec, Err("the CA holds no certificate".to_owned()), now);
        let why = "its endpoints cannot be asked: the CA holds no certificate";
        assert_eq!(cluster.write(), [format!("a Unknown InvalidSettings {why}")]);
    }
}
