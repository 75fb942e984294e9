use std::fmt::Debug;
use std::time::Duration;

use apiserver::{Need, Session, reason};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::FIELD_MANAGER;
use crate::metrics::{Metrics, Write};

/// How long a write may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Applies the part of an object's status that is the controller's, whatever others wrote there, and counts the write under `kind`. An object that was deleted meanwhile
/// needs none. The error is why it was not taken.
pub(crate) async fn apply_status<K>(
    session: &Session,
    metrics: &Metrics,
    kind: &'static str,
    (name, api): (&str, impl FnOnce(Client) -> Api<K>),
    status: Value,
) -> Result<(), String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let applied = tokio::time::timeout(LIMIT, apply(session, (name, api), status)).await;
    let applied = applied.unwrap_or_else(|_| Err("the API server does not answer".to_owned()));
    let result = if applied.is_ok() { "done" } else { "failed" };
    metrics.writes.get_or_create(&Write { kind, result }).inc();
    applied
}

async fn apply<K>(
    session: &Session,
    (name, api): (&str, impl FnOnce(Client) -> Api<K>),
    status: Value,
) -> Result<(), String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let client = session.client().await.map_err(|error| error.to_string())?;
    let object = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "status": status,
    });
    match api(client).patch_status(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => {
            session.failed(&error);
            Err(reason(&error, &Need::of::<K>("patch", None).part("status")))
        }
    }
}
