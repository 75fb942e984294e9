use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Permission, PrivateImages};
use futures_util::future::BoxFuture;
use oci::Name;
use warm::Standing;

use crate::follow::Followed;
use crate::index::Index;
use crate::metrics::{Metrics, Question};

/// Between two looks at what is wanted.
const LOOK: Duration = Duration::from_secs(1);

/// All is told anew after so long, whatever happens: the registry may have been restarted, which knows nothing of it then, and what is in a
/// Secret may be another one.
const AGAIN: Duration = Duration::from_secs(60);

/// How long after a failure it is tried again.
const REST: Duration = Duration::from_secs(5);

/// How long telling may take, reading the Secrets included.
const LIMIT: Duration = Duration::from_secs(60);

/// A Secret of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A repository of which ImageCaches want something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provision {
    /// The repository.
    pub name: Name,
    /// The Secrets that these ImageCaches name, and whether what they open may go into the container runtime.
    pub secrets: BTreeMap<SecretKey, bool>,
}

/// What is wrong with a Secret. Holds nothing of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretProblem {
    /// In one word for programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// The larder registry, as far as it gets what nodes want for ImageCaches.
pub trait Provider: Send + Sync + 'static {
    /// Tells it what is wanted, with what the Secrets hold; gives what is wrong with them. Cancellation safe.
    fn provide(&self, wanted: Vec<Provision>) -> BoxFuture<'_, Result<HashMap<SecretKey, SecretProblem>, String>>;
}

impl Index {
    /// The repositories of which ImageCaches want something, by their names.
    pub fn provisions(&self) -> Vec<Provision> {
        let standings = self.standings();
        let mut all: HashMap<Name, BTreeMap<SecretKey, bool>> = HashMap::new();
        for (key, cache) in self.caches() {
            if standings.standing(cache) != Standing::Counts {
                continue;
            }
            let runtime = cache.spec.private_images == PrivateImages::Runtime
                && self.policy().image_caches.private_in_runtime == Permission::Allow;
            let names: BTreeSet<Name> = self.wanted(key, cache).0.images.into_iter().map(|image| image.name).collect();
            for name in names {
                let secrets = all.entry(name).or_default();
                for secret in &cache.spec.image_pull_secrets {
                    let secret = SecretKey { namespace: key.namespace.clone(), name: secret.name.clone() };
                    *secrets.entry(secret).or_default() |= runtime;
                }
            }
        }
        let mut all: Vec<_> = all.into_iter().map(|(name, secrets)| Provision { name, secrets }).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }
}

/// Tells the registry what ImageCaches want, for as long as this replica leads.
pub(crate) async fn provide(followed: &Arc<Followed>, provider: &dyn Provider, metrics: &Metrics) {
    let mut told: Option<(Vec<Provision>, Instant)> = None;
    let mut complaint = None;
    loop {
        tokio::time::sleep(LOOK).await;
        if !followed.is_heard_of() {
            continue;
        }
        let is_recent = told.as_ref().is_some_and(|(_, when)| when.elapsed() < AGAIN);
        let wanted = {
            let mut index = followed.index();
            if !index.take_change_of_wanted() && is_recent {
                continue;
            }
            index.provisions()
        };
        if is_recent && told.as_ref().is_some_and(|(before, _)| *before == wanted) {
            continue;
        }
        let answer = tokio::time::timeout(LIMIT, provider.provide(wanted.clone())).await;
        let answer = answer.unwrap_or_else(|_| Err("it does not answer in time".to_owned()));
        let result = if answer.is_ok() { "done" } else { "failed" };
        metrics.provisions.get_or_create(&Question { result }).inc();
        match answer {
            Ok(problems) => {
                if complaint.take().is_some() {
                    tracing::info!("the larder registry knows again what ImageCaches want");
                }
                let is_new = told.as_ref().is_none_or(|(before, _)| *before != wanted);
                let is_other = {
                    let mut index = followed.index();
                    if is_new {
                        index.note_provided();
                    }
                    index.set_problems(problems)
                };
                if is_new || is_other {
                    followed.changes.notify_one();
                }
                told = Some((wanted, Instant::now()));
            }
            Err(why) => {
                if complaint.as_ref() != Some(&why) {
                    tracing::warn!(why, "the larder registry is not told what ImageCaches want; trying again");
                    complaint = Some(why);
                }
                told = None;
                tokio::time::sleep(REST).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(index: &Index) -> Vec<String> {
        let secrets = |one: &Provision| {
            let secrets = one.secrets.iter().map(|(secret, runtime)| format!(" {secret}={runtime}"));
            secrets.collect::<String>()
        };
        index.provisions().iter().map(|one| format!("{}{}", one.name, secrets(one))).collect()
    }

    #[test]
    fn each_repository_is_told_with_the_secrets_of_those_who_want_it() {
        let mut index = Index::default();
        index.wants(
            "shop/web",
            json!({"images": ["ghcr.io/shop/a:1", "ghcr.io/shop/a:2"], "imagePullSecrets": [{"name": "pull"}]}),
        );
        index.wants("team/one", json!({"images": ["ghcr.io/shop/a:1", "quay.io/b:1"]}));
        assert_eq!(texts(&index), ["ghcr.io/shop/a shop/pull=false", "quay.io/b"]);
        // Whoever shows no Secret does not get into the runtime what another one may only have kept in the store.
        index.wants("team/one", json!({"images": ["ghcr.io/shop/a:1"], "privateImages": "Runtime"}));
        assert_eq!(texts(&index), ["ghcr.io/shop/a shop/pull=false"]);
        index.wants(
            "team/one",
            json!({"images": ["ghcr.io/shop/a:1"], "privateImages": "Runtime", "imagePullSecrets": [{"name": "own"}]}),
        );
        assert_eq!(texts(&index), ["ghcr.io/shop/a shop/pull=false team/own=true"]);
        index.rules(json!({"imageCaches": {"privateInRuntime": "Refuse"}}));
        assert_eq!(texts(&index), ["ghcr.io/shop/a shop/pull=false team/own=false"]);
        // What does not count is not wanted.
        index.rules(json!({"imageCaches": {"perNamespace": 0}}));
        assert!(texts(&index).is_empty());
    }
}
