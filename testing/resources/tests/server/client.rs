//! Requests to the API server, as its administrator.

use std::path::Path;

use anyhow::{Context as _, Result};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// The API server.
pub struct Server {
    client: Client,
    runtime: Runtime,
}

/// What was asked of the API server, or why it refused.
pub type Answer = std::result::Result<Value, String>;

impl Server {
    pub fn of(kubeconfig: &Path) -> Result<Server> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(async {
            let config = Kubeconfig::read_from(kubeconfig)?;
            let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Server { client, runtime })
    }

    /// Creates an object.
    pub fn create(&self, object: &Value) -> Answer {
        self.send(Method::POST, &format!("{}?fieldValidation=Strict", collection(object)), object)
    }

    /// Says what would come of its creation.
    pub fn try_create(&self, object: &Value) -> Answer {
        self.send(Method::POST, &format!("{}?fieldValidation=Strict&dryRun=All", collection(object)), object)
    }

    /// Replaces an object, or its `part` alone (`/status`).
    pub fn replace(&self, object: &Value, part: &str) -> Answer {
        self.send(Method::PUT, &format!("{}{part}", path(object)), object)
    }

    pub fn read(&self, object: &Value) -> Answer {
        self.send(Method::GET, &path(object), &Value::Null)
    }

    pub fn delete(&self, object: &Value) -> Answer {
        self.send(Method::DELETE, &path(object), &Value::Null)
    }

    /// All objects of a kind, as `kubectl get` asks for them.
    pub fn table(&self, kind: &str) -> Result<Value> {
        let request = Request::get(collection(&json!({ "kind": kind }))).header("Accept", TABLE).body(Vec::new())?;
        self.runtime.block_on(self.client.request(request)).context("a table was asked for")
    }

    fn send(&self, method: Method, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("Content-Type", "application/json");
        let request = request.body(body).map_err(|error| error.to_string())?;
        self.runtime.block_on(self.client.request(request)).map_err(|error| match error {
            kube::Error::Api(status) => status.message,
            other => format!("no answer: {other}"),
        })
    }
}

/// An object of larder.
pub fn object(kind: &str, name: &str, spec: Value) -> Value {
    let mut object = json!({ "apiVersion": "larder.dev/v1alpha1", "kind": kind, "metadata": { "name": name } });
    if kind == "ImageCache" {
        object["metadata"]["namespace"] = "default".into();
    }
    if !spec.is_null() {
        object["spec"] = spec;
    }
    object
}

fn collection(object: &Value) -> String {
    let base = "/apis/larder.dev/v1alpha1";
    match object["kind"].as_str() {
        Some("Upstream") => format!("{base}/upstreams"),
        Some("CachePolicy") => format!("{base}/cachepolicies"),
        Some("ImageCache") => format!("{base}/namespaces/default/imagecaches"),
        Some("CachedImage") => format!("{base}/cachedimages"),
        Some("NodeCache") => format!("{base}/nodecaches"),
        other => panic!("{other:?} is no kind of larder"),
    }
}

fn path(object: &Value) -> String {
    format!("{}/{}", collection(object), object["metadata"]["name"].as_str().unwrap_or_default())
}
