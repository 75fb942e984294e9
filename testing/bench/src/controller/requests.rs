//! Requests to the API server, as its administrator, many at a time.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

/// How many requests are on their way at once.
const AT_ONCE: usize = 32;

/// How a body is to be understood.
#[derive(Clone, Copy)]
pub(super) enum Body {
    /// An object that is to be made.
    Object,
    /// What this manager says of an object, by a server-side apply.
    Applied(&'static str),
    /// What is different, lists being merged by their keys.
    Strategic,
    /// What is different.
    Merge,
}

/// The API server.
#[derive(Clone)]
pub(super) struct Server {
    client: Client,
}

impl Server {
    pub(super) async fn of(kubeconfig: &Path) -> Result<Server> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        Ok(Server { client: Client::try_from(config)? })
    }

    /// Makes or changes what is at a path.
    pub(super) async fn write(&self, path: &str, how: Body, body: &Value) -> Result<Value> {
        let (method, kind, query) = match how {
            Body::Object => (Method::POST, "application/json", String::new()),
            Body::Applied(manager) => {
                (Method::PATCH, "application/apply-patch+yaml", format!("?force=true&fieldManager={manager}"))
            }
            Body::Strategic => (Method::PATCH, "application/strategic-merge-patch+json", String::new()),
            Body::Merge => (Method::PATCH, "application/merge-patch+json", String::new()),
        };
        let request = Request::builder().method(method).uri(format!("{path}{query}")).header("Content-Type", kind);
        let request = request.body(body.to_string().into_bytes())?;
        self.client.request(request).await.with_context(|| format!("{path} was to be written"))
    }

    /// What is at a path.
    pub(super) async fn read(&self, path: &str) -> Result<Value> {
        self.client.request(Request::get(path).body(Vec::new())?).await.with_context(|| format!("{path} was asked for"))
    }

    /// Does something for each number below `count`, many at a time.
    pub(super) async fn each<F: Future<Output = Result<()>>>(count: usize, act: impl Fn(usize) -> F) -> Result<()> {
        stream::iter((0..count).map(act)).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// How many requests that change something it has answered so far, by the plural names of larder's kinds and `leases`.
    pub(super) async fn writes(&self) -> Result<Writes> {
        let text = self.client.request_text(Request::get("/metrics").body(Vec::new())?).await?;
        let mut writes = BTreeMap::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("apiserver_request_total{") else { continue };
            let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
            let label = |name: &str| {
                let (_, after) = labels.split_once(&format!("{name}=\""))?;
                after.split_once('"').map(|(value, _)| value)
            };
            let changes = matches!(label("verb"), Some("APPLY" | "PATCH" | "POST" | "PUT" | "DELETE"));
            let ours = label("group") == Some("larder.dev") || label("resource") == Some("leases");
            if let (true, true, Some(resource)) = (changes, ours, label("resource")) {
                *writes.entry(resource.to_owned()).or_default() += value.trim().parse::<f64>()?;
            }
        }
        Ok(Writes(writes))
    }
}

/// Requests that changed something, by what they changed.
#[derive(Clone, Debug)]
pub(super) struct Writes(BTreeMap<String, f64>);

impl Writes {
    /// Of a kind.
    pub(super) fn of(&self, plural: &str) -> f64 {
        self.0.get(plural).copied().unwrap_or(0.0)
    }

    /// Of all of larder's kinds.
    pub(super) fn larder(&self) -> f64 {
        self.0.iter().filter(|(plural, _)| *plural != "leases").map(|(_, count)| count).sum()
    }

    /// What has come since `before`.
    pub(super) fn since(&self, before: &Writes) -> Writes {
        Writes(self.0.iter().map(|(plural, count)| (plural.clone(), count - before.of(plural))).collect())
    }
}
