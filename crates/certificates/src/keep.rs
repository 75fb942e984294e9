use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver::{Need, NoWay, Session, reason};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use peers::AuthorityError;
use serde_json::json;

use crate::plan::{Step, plan};
use crate::standing::{Data, Found, HOLDERS, OURS, Standing};
use crate::terms::Terms;

/// Who writes the Secrets.
const FIELD_MANAGER: &str = "larder-certificates";

/// The annotation of a holder's Secret that tells since when it has held the authorities that it holds.
const SINCE: &str = "larder.dev/trusted-since";

/// How often the Secrets are looked at. Nothing in them is due to the minute; what somebody deleted is back after one.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The same, after it failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the certificates are, and how long they are good.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace of the Secrets.
    pub namespace: String,
    /// The Secret of the authority.
    pub authority: String,
    /// The Secrets of [`HOLDERS`].
    pub holders: [String; HOLDERS.len()],
    /// How long certificates are good.
    pub terms: Terms,
}

impl Settings {
    /// The Secrets whose names begin with `prefix`, and a dash and what they are of, as the chart calls them.
    pub fn named(namespace: &str, prefix: &str) -> Settings {
        let holders = HOLDERS.map(|(_, name)| format!("{prefix}-{name}"));
        Settings {
            namespace: namespace.to_owned(),
            authority: format!("{prefix}-authority"),
            holders,
            terms: Terms::default(),
        }
    }
}

/// Why the certificates could not be looked after. Those that are there stay in use.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// There is no way to the API server.
    #[error(transparent)]
    Way(#[from] NoWay),
    /// A Secret could not be read, or not be written; where somebody else has changed it meanwhile, all is looked at anew.
    #[error("the Secret {name}: {}", reason(source, &Need::of::<Secret>(verb, Some(namespace))))]
    Secret {
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
        /// What was being done to it.
        verb: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A certificate could not be made.
    #[error("cannot make certificates: {0}")]
    Make(#[from] AuthorityError),
    /// The API server is silent.
    #[error("the API server does not answer")]
    Silent,
}

/// A Secret of the API server.
struct Kept {
    name: String,
    version: Option<String>,
    found: Found,
}

/// Looks after the certificates for ever, and logs what it does and, once, each failure. Cancellation safe: what is written is whole.
pub async fn keep(session: Arc<Session>, settings: Settings) -> Infallible {
    let mut complaint = None;
    loop {
        let looked = tokio::time::timeout(PATIENCE, async {
            let looked = look(&session.client().await?, &settings, SystemTime::now()).await;
            if let Err(KeepError::Secret { source, .. }) = &looked {
                session.failed(&**source);
            }
            looked
        });
        let looked = looked.await;
        match looked.unwrap_or(Err(KeepError::Silent)) {
            Ok(steps) => {
                for step in steps {
                    tracing::info!("certificates: {step}");
                }
                if complaint.take().is_some() {
                    tracing::info!("the certificates are looked after again");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(error) => {
                let text = error.to_string();
                if complaint.as_ref() != Some(&text) {
                    tracing::warn!(error = %text, "the certificates cannot be looked after; those that are there stay in use");
                    complaint = Some(text);
                }
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// Reads the Secrets, and writes those that shall hold something else at `now`. Each write is about the version that was read: of two that do this
/// at once, one fails.
///
/// # Errors
/// The API server refuses something, or does not answer as it should.
pub async fn look(client: &Client, settings: &Settings, now: SystemTime) -> Result<Vec<Step>, KeepError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let authority = read(&secrets, &settings.authority).await?;
    let [nodes, registry, controller] = &settings.holders;
    let holders = [read(&secrets, nodes).await?, read(&secrets, registry).await?, read(&secrets, controller).await?];
    let found = std::array::from_fn(|at| holders[at].found.clone());
    let plan = plan(Standing::of(&authority.found, &found), &settings.terms, now)?;
    if plan.authority != authority.found.data {
        write(&secrets, &authority, &plan.authority, None).await?;
    }
    for (kept, (data, since)) in holders.iter().zip(&plan.holders) {
        if *data != kept.found.data || kept.found.trusted_since.is_none() {
            write(&secrets, kept, data, Some(*since)).await?;
        }
    }
    Ok(plan.steps)
}

async fn read(secrets: &Api<Secret>, name: &str) -> Result<Kept, KeepError> {
    let Some(secret) = secrets.get_opt(name).await.map_err(|source| failed(secrets, name, "get", source))? else {
        return Ok(Kept { name: name.to_owned(), version: None, found: Found::default() });
    };
    let since = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SINCE));
    let trusted_since = since.and_then(|since| since.parse::<Timestamp>().ok()).map(SystemTime::from);
    // What somebody else put there is nobody's business here.
    let own = secret.data.unwrap_or_default().into_iter().filter(|(key, _)| OURS.contains(&key.as_str()));
    let data = own.map(|(key, value)| (key, value.0)).collect();
    let found = Found { data, trusted_since };
    Ok(Kept { name: name.to_owned(), version: secret.metadata.resource_version, found })
}

async fn write(secrets: &Api<Secret>, kept: &Kept, data: &Data, since: Option<SystemTime>) -> Result<(), KeepError> {
    let encoded = data.iter().map(|(key, value)| (key.clone(), json!(STANDARD.encode(value))));
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": kept.name},
        "data": encoded.collect::<serde_json::Map<_, _>>(),
    });
    if let Some(version) = &kept.version {
        object["metadata"]["resourceVersion"] = json!(version);
    }
    if let Some(since) = since.and_then(|since| Timestamp::try_from(since).ok()) {
        object["metadata"]["annotations"] = json!({SINCE: since.to_string()});
    }
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let written = secrets.patch(&kept.name, &parameters, &Patch::Apply(&object)).await;
    written.map(drop).map_err(|source| failed(secrets, &kept.name, "patch", source))
}

fn failed(secrets: &Api<Secret>, name: &str, verb: &'static str, source: kube::Error) -> KeepError {
    let namespace = secrets.namespace().unwrap_or_default().to_owned();
    KeepError::Secret { name: name.to_owned(), namespace, verb, source: Box::new(source) }
}
