use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::Upstream;
use apiserver::{ApiServer, Seen, Watch, follow};
use cache::{Engine, Rules};
use k8s_openapi::api::core::v1::Secret;
use kube::core::DeserializeGuard;
use oci::Registry;
use tokio::sync::watch;
use tokio::task::JoinSet;
use upstream::{Directory, Listing, SettingsError, UpstreamSettings};

use super::listed::{Listed, State, Verdict, known};
use super::secrets::{BASIC, DOCKER, Secrets, kept};
use super::tell::Teller;

/// Puts settings to use: [`Directory::replace`], or what stands for it.
pub type Replace = Box<dyn Fn(Vec<UpstreamSettings>) -> Vec<Result<Listing, SettingsError>> + Send + Sync>;

/// Keeps the upstreams of a directory as the Upstreams of a cluster say. While the API server is away, what was last known stays.
pub struct Following {
    tasks: JoinSet<()>,
}

impl Following {
    /// For a registry, which reads the Secrets that Upstreams name in this namespace, and says in each status whether it is in use.
    pub fn of_registry(directory: Arc<Directory>, namespace: &str, usual: Rules) -> Following {
        let listed = Listed::new(Some((Secrets::default(), namespace.to_owned())), usual);
        let (verdicts, told) = watch::channel(Vec::new());
        let replace = Box::new(move |settings| directory.replace(settings));
        let view = View::new(listed, replace, None, verdicts);
        let mut following = Following::start(&view);
        for of_type in [DOCKER, BASIC] {
            let (view, namespace) = (view.clone(), namespace.to_owned());
            following.tasks.spawn(async move { view.follow_secrets(&namespace, of_type).await });
        }
        let mut teller = Teller::new(ApiServer::Environment, told);
        following.tasks.spawn(async move { match teller.tell().await {} });
        following
    }

    /// For a node, which reads no Secrets: what an administrator's credential gives, the larder registry before it decides. What that gave to
    /// anyone by such a credential is asked for anew when the credential is another one, or none.
    pub fn of_node(directory: Arc<Directory>, engine: Arc<Engine>, usual: Rules) -> Following {
        let replace = Box::new(move |settings| directory.replace(settings));
        Following::start(&View::new(Listed::new(None, usual), replace, Some(engine), watch::channel(Vec::new()).0))
    }

    /// For whoever asks registries with nobody's right.
    pub fn of_asker(replace: Replace, usual: Rules) -> Following {
        Following::start(&View::new(Listed::new(None, usual), replace, None, watch::channel(Vec::new()).0))
    }

    fn start(view: &Arc<View>) -> Following {
        let mut tasks = JoinSet::new();
        let view = view.clone();
        tasks.spawn(async move { view.follow_upstreams().await });
        Following { tasks }
    }

    /// Ends it. What is in use stays so.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

struct View {
    seen: Mutex<Sight>,
    replace: Replace,
    engine: Option<Arc<Engine>>,
    verdicts: watch::Sender<Vec<Verdict>>,
}

struct Sight {
    listed: Listed,
    /// Whose content is lent to everybody, once that is known.
    lent: Option<BTreeMap<Registry, String>>,
}

impl View {
    fn new(
        listed: Listed,
        replace: Replace,
        engine: Option<Arc<Engine>>,
        verdicts: watch::Sender<Vec<Verdict>>,
    ) -> Arc<View> {
        Arc::new(View { seen: Mutex::new(Sight { listed, lent: None }), replace, engine, verdicts })
    }

    async fn follow_upstreams(&self) {
        let watch = Watch::<DeserializeGuard<Upstream>>::everywhere("the Upstreams");
        let take = |news| self.hear(|listed| listed.hear(news));
        match follow(&ApiServer::Environment, &watch, &Arc::new(Seen::default()), known, take).await {}
    }

    /// Follows the Secrets of a type: no others are read.
    async fn follow_secrets(&self, namespace: &str, of_type: &'static str) {
        let what = format!("the Secrets of type {of_type}");
        let watch = Watch::<Secret>::within(&what, namespace).fields(&format!("type={of_type}"));
        let take = |news| {
            self.hear(|listed| {
                if let Some(secrets) = &mut listed.secrets {
                    secrets.hear(of_type, news);
                }
            });
        };
        match follow(&ApiServer::Environment, &watch, &Arc::new(Seen::default()), kept, take).await {}
    }

    /// Takes news in, and puts to use what follows from them.
    fn hear(&self, take: impl FnOnce(&mut Listed)) {
        let mut sight = self.sight();
        take(&mut sight.listed);
        let Some(verdicts) = sight.listed.settle(|settings| (self.replace)(settings)) else { return };
        let lent = sight.listed.lent();
        if let (Some(engine), Some(before)) = (&self.engine, &sight.lent) {
            for registry in before.keys().chain(lent.keys()) {
                if before.get(registry) != lent.get(registry) {
                    engine.reconsider(registry);
                }
            }
        }
        sight.lent = Some(lent);
        self.verdicts.send_modify(|last| {
            log(last, &verdicts);
            *last = verdicts;
        });
    }

    fn sight(&self) -> MutexGuard<'_, Sight> {
        // Nothing that holds the lock leaves it half changed.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says what is new.
fn log(before: &[Verdict], after: &[Verdict]) {
    let last = |name: &str| before.iter().find(|verdict| verdict.name == name);
    for Verdict { name, state, settings, .. } in after {
        if last(name).is_some_and(|last| last.state == *state && last.settings == *settings) {
            continue;
        }
        match state {
            State::InUse | State::Awaiting => {
                let registry = settings.as_ref().map(|settings| tracing::field::display(&settings.registry));
                tracing::info!(upstream = name, registry, "an Upstream is in use");
            }
            state => tracing::warn!(
                upstream = name,
                reason = state.reason(),
                "an Upstream is not in use as it says: {state}"
            ),
        }
    }
    for gone in before.iter().filter(|last| !after.iter().any(|verdict| verdict.name == last.name)) {
        tracing::info!(upstream = gone.name, "an Upstream is gone");
    }
}
