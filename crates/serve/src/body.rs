use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use cache::{Answering, FailureKind, Outcome};
use http::StatusCode;
use http_body::{Frame, SizeHint};

use crate::content::Content;
use crate::metrics::{Held, Kind, Metrics};
use crate::watch::Phase;

/// The body of an answer.
pub(crate) struct Body {
    inner: Inner,
    /// What is still to come, where that is known.
    left: Option<u64>,
    account: Option<Account>,
}

enum Inner {
    Memory(Bytes),
    Content(Box<Content>),
}

impl Body {
    pub(crate) fn empty() -> Body {
        Body::memory(Bytes::new())
    }

    pub(crate) fn memory(bytes: Bytes) -> Body {
        Body { left: Some(bytes.len() as u64), inner: Inner::Memory(bytes), account: None }
    }

    /// `size` is what the content will give, or `None` where nobody knows.
    pub(crate) fn content(content: Content, size: Option<u64>) -> Body {
        Body { left: size, inner: Inner::Content(Box::new(content)), account: None }
    }

    pub(crate) fn with_account(self, account: Account) -> Body {
        Body { account: Some(account), ..self }
    }

    fn given(&mut self, bytes: Bytes) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        if let Some(account) = &mut self.account {
            account.bytes += bytes.len() as u64;
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.inner {
            Inner::Memory(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Memory(bytes) => {
                let bytes = std::mem::take(bytes);
                self.given(bytes)
            }
            Inner::Content(content) => {
                let next = ready!(content.poll_next(cx));
                let error = match next {
                    Ok(Some(bytes)) => return self.given(bytes),
                    Ok(None) if self.left.is_none_or(|left| left == 0) => return Poll::Ready(None),
                    Ok(None) => io::Error::new(io::ErrorKind::UnexpectedEof, "a blob ended before its size"),
                    Err(error) => error,
                };
                // hyper closes the connection short of Content-Length, or without the last chunk's end.
                if let Some(account) = &mut self.account {
                    account.failure = Some(error.to_string());
                    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<cache::Error>());
                    if cause.is_some_and(|cause| cause.kind == FailureKind::Invalid) {
                        account.phase.spoilt();
                    }
                }
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// What became of an answer: counted and logged when its body is done with, whether or not all of it was taken.
pub(crate) struct Account {
    pub(crate) kind: Kind,
    pub(crate) status: StatusCode,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) started: Instant,
    pub(crate) client: SocketAddr,
    pub(crate) bytes: u64,
    pub(crate) failure: Option<String>,
    /// The image and digest of a pull to be logged.
    pub(crate) subject: Option<Subject>,
    pub(crate) metrics: Metrics,
    pub(crate) phase: Arc<Phase>,
    /// In the gauge of streams.
    pub(crate) _stream: Option<Held>,
    /// Among what a container runtime pulls for pods.
    pub(crate) _pull: Option<Answering>,
}

/// What a line of the log is about.
pub(crate) struct Subject {
    pub(crate) name: oci::Name,
    /// What was asked for.
    pub(crate) reference: oci::Reference,
    /// What it is.
    pub(crate) digest: oci::Digest,
}

impl Drop for Account {
    fn drop(&mut self) {
        self.phase.answered();
        if self.bytes > 0 {
            self.metrics.served(self.kind, self.bytes);
        }
        let Some(Subject { name, reference, digest }) = &self.subject else { return };
        let (status, bytes, client) = (self.status.as_u16(), self.bytes, self.client);
        let outcome = self.outcome.map_or("none", Outcome::as_str);
        let ms = self.started.elapsed().as_millis() as u64;
        let image = Image { name, reference };
        if let Some(reason) = &self.failure {
            tracing::warn!(%image, %digest, outcome, status, bytes, ms, %client, reason, "closed short");
        } else if self.kind == Kind::Manifest {
            tracing::info!(%image, %digest, outcome, status, bytes, ms, %client, "pulled");
        } else {
            tracing::debug!(%image, %digest, outcome, status, bytes, ms, %client, "sent");
        }
    }
}

/// An image's name as people write it.
pub(crate) struct Image<'a> {
    pub(crate) name: &'a oci::Name,
    pub(crate) reference: &'a oci::Reference,
}

impl std::fmt::Display for Image<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = match self.reference {
            oci::Reference::Tag(_) => ':',
            oci::Reference::Digest(_) => '@',
        };
        write!(f, "{}{separator}{}", self.name, self.reference)
    }
}
