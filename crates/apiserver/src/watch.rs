use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::line::{self, ApiServer};
use crate::need::{Need, reason};

/// Which objects are followed.
///
/// Lists come whole and from the API server's memory, and not from etcd, unless [`paged`](Watch::paged) says otherwise: what every node of
/// a cluster follows must cost little.
pub struct Watch<K> {
    what: Arc<str>,
    namespace: Option<String>,
    api: fn(Client, Option<&str>) -> Api<K>,
    config: watcher::Config,
}

impl<K: Resource<DynamicType: Default>> Watch<K> {
    /// The objects of the whole cluster. `what` is what messages call them, as in "cannot follow the list of nodes".
    pub fn everywhere(what: &str) -> Watch<K> {
        Watch::new(what, None, |client, _| Api::all(client))
    }

    /// Those of a namespace.
    pub fn within(what: &str, namespace: &str) -> Watch<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Watch::new(what, Some(namespace), |client, namespace| match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        })
    }

    fn new(what: &str, namespace: Option<&str>, api: fn(Client, Option<&str>) -> Api<K>) -> Watch<K> {
        let config = watcher::Config { page_size: None, ..watcher::Config::default().any_semantic() };
        Watch { what: what.into(), namespace: namespace.map(str::to_owned), api, config }
    }

    /// Of them, those that a selector of labels selects.
    #[must_use]
    pub fn labels(mut self, selector: &str) -> Watch<K> {
        self.config.label_selector = Some(selector.to_owned());
        self
    }

    /// Of them, the one of this name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Watch<K> {
        self.config.field_selector = Some(format!("metadata.name={name}"));
        self
    }

    /// Of them, those that a selector of fields selects, such as `type=kubernetes.io/basic-auth`.
    #[must_use]
    pub fn fields(mut self, selector: &str) -> Watch<K> {
        self.config.field_selector = Some(selector.to_owned());
        self
    }

    /// Lists come in pages of so many objects, so that only these are in memory at once. The API server asks etcd for each.
    #[must_use]
    pub fn paged(mut self, objects: u32) -> Watch<K> {
        self.config.page_size = Some(objects);
        self.config.list_semantic = watcher::ListSemantic::MostRecent;
        self
    }

    /// What messages call the objects.
    pub fn what(&self) -> &Arc<str> {
        &self.what
    }

    /// What whoever follows them must be allowed.
    pub fn need(&self) -> Need {
        Need::of::<K>("list, watch", self.namespace.as_deref())
    }

    pub(crate) fn config(&self) -> watcher::Config {
        self.config.clone()
    }

    pub(crate) fn api(&self, client: Client) -> Api<K> {
        (self.api)(client, self.namespace.as_deref())
    }
}

/// The objects at this moment, asked once. Cancellation safe.
///
/// # Errors
/// The API server is not reached, refuses, or takes longer than `limit`: why, with what to do about it where that is known.
pub async fn list<K>(server: &ApiServer, watch: &Watch<K>, limit: Duration) -> Result<Vec<K>, String>
where
    K: Resource<DynamicType: Default> + Clone + DeserializeOwned + Debug,
{
    let listed = async {
        let client = line::connect(server, Arc::new(|| {})).await.map_err(|error| error.to_string())?;
        let params = ListParams {
            label_selector: watch.config.label_selector.clone(),
            field_selector: watch.config.field_selector.clone(),
            ..ListParams::default().match_any()
        };
        let found = watch.api(client).list(&params).await.map_err(|error| reason(&error, &watch.need()))?;
        Ok(found.items)
    };
    tokio::time::timeout(limit, listed).await.unwrap_or_else(|_| Err("the API server does not answer".to_owned()))
}
