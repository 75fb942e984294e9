use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::drain::linger;
use crate::handshake::Handshake;
use crate::service::{Client, Guest, Shared};
use crate::settings::Limits;
use crate::tls::TlsIo;
use crate::watch::{Phase, Watch};
use crate::zero_copy::{Mappings, PlainIo};

/// The most that is read of a request's head, in bytes; credentials are the longest part. (Of headers, hyper takes 100 unless told
/// otherwise, and is faster if not told.)
const HEAD_LIMIT: usize = 64 << 10;

/// What connections need of their server.
pub(crate) struct Host {
    pub(crate) shared: Arc<Shared>,
    pub(crate) limits: Limits,
    /// Told when connections are to end after the request that they are at.
    pub(crate) drain: CancellationToken,
    /// Told when connections are to end.
    pub(crate) abort: CancellationToken,
    /// Told while others wait for a connection: those that do nothing are to end.
    pub(crate) pressure: Notify,
}

/// Where a connection's socket comes back when hyper is done with it.
#[derive(Clone, Default)]
pub(crate) struct Returned(Arc<Mutex<Option<TcpStream>>>);

impl Returned {
    pub(crate) fn put(&self, stream: TcpStream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }

    fn take(&self) -> Option<TcpStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Host {
    /// Serves one connection to its end, which begins with a TLS handshake if there is one.
    pub(crate) async fn serve(&self, stream: TcpStream, address: SocketAddr, tls: Option<&Handshake>) {
        let _open = self.shared.metrics.connection();
        // Answers leave at once: what should share a packet is written in one go.
        let _ = stream.set_nodelay(true);
        let (phase, returned) = (Phase::new(), Returned::default());
        let state = phase.clone();
        let served = async {
            let Some(tls) = tls else {
                let mappings = Arc::new(Mappings::default());
                let watch = Watch::new(phase.clone(), &self.limits);
                let io = PlainIo::new(stream, mappings.clone(), watch, returned.clone());
                return self.speak(io, phase, (address, Guest::Anybody), Some(mappings)).await;
            };
            let stream = match tls.accept(stream, address, self.limits.head).await {
                Ok(stream) => stream,
                Err(Some(stream)) => {
                    returned.put(stream);
                    return true;
                }
                Err(None) => return false,
            };
            let watch = Watch::new(phase.clone(), &self.limits);
            let guest = tls.guest(&stream);
            self.speak(TlsIo::new(stream, watch, returned.clone()), phase, (address, guest), None).await
        };
        let abrupt = tokio::select! {
            abrupt = served => abrupt,
            () = self.abort.cancelled() => return,
        };
        match returned.take() {
            // A runtime that is cut off goes on from where it was, wherever it can: nothing can be made of wrong bytes.
            Some(stream) if state.is_spoilt() => {
                let _ = stream.set_zero_linger();
            }
            Some(stream) if abrupt => linger(stream).await,
            _ => {}
        }
    }

    /// Speaks HTTP; whether the client may still be sending at the end.
    async fn speak<IO>(
        &self,
        io: IO,
        phase: Arc<Phase>,
        (address, guest): (SocketAddr, Guest),
        mappings: Option<Arc<Mappings>>,
    ) -> bool
    where
        IO: Read + Write + Unpin + Send + 'static,
    {
        let idle = phase.clone();
        let client = Arc::new(Client { guest, shared: self.shared.clone(), address, phase, mappings });
        let cut = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let service = service_fn(|request| {
            let (client, cut) = (client.clone(), cut.clone());
            async move {
                let response = client.answer(request).await;
                if response.headers().contains_key(http::header::CONNECTION) {
                    cut.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection =
            http1::Builder::new().max_header_size(HEAD_LIMIT).max_buf_size(HEAD_LIMIT).serve_connection(io, service);
        let mut connection = pin!(connection);
        let mut draining = pin!(self.drain.cancelled());
        let mut pressed = pin!(self.pressure.notified());
        let (mut told, mut shutting) = (false, false);
        let ended = std::future::poll_fn(|cx| {
            while !told && pressed.as_mut().poll(cx).is_ready() {
                told = idle.is_idle();
                pressed.set(self.pressure.notified());
            }
            told |= draining.as_mut().poll(cx).is_ready();
            if told && !shutting {
                shutting = true;
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        })
        .await;
        match ended {
            Ok(()) => cut.load(std::sync::atomic::Ordering::Relaxed),
            Err(error) => {
                tracing::debug!(client = %address, error = %chain(&error), "connection ended");
                error.is_parse()
            }
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
