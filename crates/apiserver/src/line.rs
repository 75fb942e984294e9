use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode, Uri};
use http_body_util::combinators::MapErr;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower_service::Service;

use crate::cause::{causes, innermost};

/// How long a connection may take, without its handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take to begin, handshake included. Watches begin to be answered at once, also if nothing happens.
const ANSWER: Duration = Duration::from_secs(30);
/// A watch is silent for minutes where nothing happens. Whether somebody is still at its other end is asked after so long,
const SILENCE: Duration = Duration::from_secs(20);
/// and again in this rhythm,
const PROBE: Duration = Duration::from_secs(10);
/// until it is over after so many.
const PROBES: u32 = 3;
/// What is read of an answer that refuses, in bytes.
const REFUSAL: usize = 64 << 10;

type Answer = Response<MapErr<Incoming, fn(hyper::Error) -> Broken>>;
/// Is told when the API server lets us watch.
pub(crate) type Opened = Arc<dyn Fn() + Send + Sync>;
type Failure = Box<dyn Error + Send + Sync>;

/// Where the API server is, and who we are to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ApiServer {
    /// As `KUBECONFIG` says; where that is not set, as a pod is told by its service account.
    #[default]
    Environment,
    /// As this kubeconfig says.
    Kubeconfig(PathBuf),
    /// As for kubectl: `KUBECONFIG`, or `~/.kube/config`, or as a pod is told; with the context of that name, if one is given.
    Person(Option<String>),
}

/// Nothing tells where the API server is or who we are to it, or what tells it is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoWay {
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    /// The kubeconfig has no such context.
    #[error("there is no context {0:?} in the kubeconfig: see kubectl config get-contexts")]
    NoContext(String),
    /// There is no kubeconfig, and no service account either.
    #[error("this is no pod with a service account ({0}); elsewhere, let KUBECONFIG name a kubeconfig")]
    NoPod(#[from] InClusterError),
    /// What they say is of no use.
    #[error("cannot set up a client of the API server: {0}")]
    Client(#[from] kube::Error),
}

impl ApiServer {
    /// Its URL, for people.
    ///
    /// # Errors
    /// Nothing tells where it is.
    pub async fn url(&self) -> Result<String, NoWay> {
        Ok(self.config().await?.cluster_url.to_string())
    }

    async fn config(&self) -> Result<Config, NoWay> {
        let kubeconfig = match self {
            ApiServer::Environment => Kubeconfig::from_env()?,
            ApiServer::Kubeconfig(path) => Some(Kubeconfig::read_from(path)?),
            ApiServer::Person(context) => match Kubeconfig::read() {
                Ok(file) => Some(file),
                // Without any, this may be a pod.
                Err(error) if context.is_some() || Config::incluster().is_err() => return Err(error.into()),
                Err(_) => None,
            },
        };
        let context = match self {
            ApiServer::Person(context) => context.clone(),
            ApiServer::Environment | ApiServer::Kubeconfig(_) => None,
        };
        Ok(match kubeconfig {
            Some(file) => {
                if let Some(name) = context.as_ref().filter(|name| !file.contexts.iter().any(|one| one.name == **name))
                {
                    return Err(NoWay::NoContext(name.clone()));
                }
                let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
                Config::from_custom_kubeconfig(file, &options).await?
            }
            None => Config::incluster()?,
        })
    }
}

/// Makes a client, which connects when it is first used. `opened` is told of every watch that opens.
pub(crate) async fn connect(server: &ApiServer, opened: Opened) -> Result<Client, NoWay> {
    let config = server.config().await?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(SILENCE));
    tcp.set_keepalive_interval(Some(PROBE));
    tcp.set_keepalive_retries(Some(PROBES));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let http = legacy::Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(tls);
    let line = Line { http, opened };
    let builder = ClientBuilder::new(line, &*config.default_namespace).with_layer(&config.extra_headers_layer()?);
    Ok(match config.auth_layer()? {
        Some(credentials) => builder.with_layer(&credentials).with_layer(&config.base_uri_layer()).build(),
        None => builder.with_layer(&config.base_uri_layer()).build(),
    })
}

/// The way to the API server: bounds how long it may be silent, and tells of what it refuses and what it lets us watch.
#[derive(Clone)]
struct Line<C> {
    http: legacy::Client<C, Body>,
    opened: Opened,
}

impl<C: Connect + Clone + Send + Sync + 'static> Service<Request<Body>> for Line<C> {
    type Response = Answer;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let watch = is_watch(request.uri());
        let answer = self.http.request(request);
        let opened = self.opened.clone();
        Box::pin(async move {
            let answer = tokio::time::timeout(ANSWER, answer).await.map_err(|_| Silent)??;
            match answer.status() {
                status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    return Err(Refused { status, message: message_of(answer).await }.into());
                }
                status if watch && status.is_success() => opened(),
                _ => {}
            }
            Ok(answer.map(|body| body.map_err(Broken::from as fn(hyper::Error) -> Broken)))
        })
    }
}

fn is_watch(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"))
}

/// The API server said nothing for [`ANSWER`].
#[derive(Debug, thiserror::Error)]
#[error("the API server does not answer")]
struct Silent;

/// An answer broke off. An error of our own, as kube would warn of each.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(String);

impl From<hyper::Error> for Broken {
    fn from(error: hyper::Error) -> Broken {
        let end = |cause: &(dyn Error + 'static)| {
            cause.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof)
        };
        if causes(&error).any(end) { Broken("the API server broke off".to_owned()) } else { Broken(innermost(&error)) }
    }
}

/// The API server does not know us, or does not allow us what we need. An error of our own, as kube would log each time.
#[derive(Debug, thiserror::Error)]
#[error("the API server answers {status}: {message}")]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    /// Its own words.
    pub(crate) message: String,
}

/// The API server's words: those of the `Status` that it sends, or whatever else it is.
async fn message_of(answer: Response<Incoming>) -> String {
    #[derive(serde::Deserialize)]
    struct Status {
        message: String,
    }
    let body = Limited::new(answer.into_body(), REFUSAL).collect();
    let Ok(Ok(body)) = tokio::time::timeout(ANSWER, body).await else { return String::new() };
    let body = body.to_bytes();
    match serde_json::from_slice::<Status>(&body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(&body).trim().chars().take(500).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named() {
        let missing = ApiServer::Kubeconfig("/nowhere/kubeconfig".into());
        let text = missing.config().await.expect_err("there is none").to_string();
        assert!(text.contains("/nowhere/kubeconfig") && text.contains("No such file"), "{text}");
    }

    #[test]
    fn a_watch_is_told_from_a_list() {
        let slices = "https://10.0.0.1/apis/discovery.k8s.io/v1/namespaces/larder/endpointslices";
        assert!(is_watch(&format!("{slices}?&watch=true&timeoutSeconds=290").parse().unwrap()));
        assert!(!is_watch(&format!("{slices}?&labelSelector=a%3Db").parse().unwrap()));
        assert!(!is_watch(&slices.parse().unwrap()));
    }
}
