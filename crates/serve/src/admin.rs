use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::port::Port;

/// Most connections at once: a scraper, two probes and a person.
const CONNECTIONS: usize = 32;

/// How long a connection may take for its request, or wait for the next one.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one connection may last, so that slow readers cannot hold all of them.
const LIFE: Duration = Duration::from_secs(60);

type Ready = dyn Fn() -> Result<(), String> + Send + Sync;

/// The port for machines that look after this one: `/metrics` (OpenMetrics), `/healthz` (the process is alive), `/readyz`
/// (it can serve; otherwise 503 with the reason).
pub struct Admin {
    listener: TcpListener,
    addr: SocketAddr,
    registry: Arc<Registry>,
    ready: Arc<Ready>,
}

impl Admin {
    /// Answers those who come to `port` from [`Admin::run`] on. `ready` says why not, and is called at each `/readyz`; it must
    /// not block.
    pub fn new(
        port: Port,
        registry: Arc<Registry>,
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Admin {
        let Port { listener, addr } = port;
        Admin { listener, addr, registry, ready: Arc::new(ready) }
    }

    /// The address in use, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `cancel`: to be told after the server that it speaks for has drained, so that `/readyz` can tell of it.
    pub async fn run(self, cancel: CancellationToken) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let connections = TaskTracker::new();
        let accept = async {
            loop {
                let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
                let Ok((stream, _)) = self.listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let (registry, ready, cancel) = (self.registry.clone(), self.ready.clone(), cancel.clone());
                connections.spawn(async move {
                    let service = service_fn(|request| {
                        let response = answer(&request, &registry, &*ready);
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(PATIENCE)
                        .max_buf_size(16 << 10)
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = tokio::time::timeout(LIFE, connection) => {}
                        () = cancel.cancelled() => {}
                    }
                    drop(slot);
                });
            }
        };
        tokio::select! {
            () = accept => {}
            () = cancel.cancelled() => {}
        }
        connections.close();
        connections.wait().await;
    }
}

fn answer<B>(request: &http::Request<B>, registry: &Registry, ready: &Ready) -> Response<Full<Bytes>> {
    const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
    const OPEN_METRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET and HEAD only\n".to_owned());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/healthz" => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => match ready() {
            Ok(()) => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
            Err(reason) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        },
        "/metrics" => {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, registry) {
                Ok(()) => respond(StatusCode::OK, OPEN_METRICS, text),
                Err(_) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "metrics cannot be written\n".to_owned()),
            }
        }
        _ => respond(StatusCode::NOT_FOUND, TEXT, "/metrics, /healthz, /readyz\n".to_owned()),
    }
}

fn respond(status: StatusCode, content_type: HeaderValue, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
