use std::borrow::Cow;
use std::time::Duration;

use cache::FailureKind;
use http::{HeaderValue, StatusCode, header};
use oci::{ErrorBody, ErrorCode, NameError, ReferenceError, RouteError};

use crate::answer::Answer;
use crate::body::Body;
use crate::metrics::Kind;

/// An answer that is an error (distribution specification, "Error Codes").
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) code: ErrorCode,
    pub(crate) message: Cow<'static, str>,
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Failure {
        Failure { status, code, message: message.into(), retry_after: None }
    }

    /// 429.
    pub(crate) fn wait(retry_after: Duration, message: impl Into<Cow<'static, str>>) -> Failure {
        Failure {
            retry_after: Some(retry_after),
            ..Failure::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
        }
    }

    /// What the engine said. The specification has no code for a gateway's troubles; 502 and 504 are what clients look at.
    pub(crate) fn of(kind: Kind, error: &cache::Error) -> Failure {
        let message = error.reason.to_string();
        let (status, code) = match error.kind {
            FailureKind::NotFound => (StatusCode::NOT_FOUND, unknown(kind)),
            FailureKind::Refused => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
            FailureKind::Unauthorized => (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized),
            FailureKind::Denied => (StatusCode::FORBIDDEN, ErrorCode::Denied),
            FailureKind::RateLimited { retry_after } => return Failure::wait(retry_after, message),
            FailureKind::Unavailable | FailureKind::Invalid => (StatusCode::BAD_GATEWAY, ErrorCode::Unknown),
            FailureKind::Timeout => (StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unknown),
        };
        Failure::new(status, code, message)
    }

    /// The answer; a 401 has the challenge in it.
    pub(crate) fn answer(&self, challenge: &HeaderValue) -> Answer {
        let body = ErrorBody::new(self.code, &*self.message).to_json();
        let mut answer = Answer::new(self.status);
        answer.header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer.header(header::CONTENT_LENGTH, body.len().into());
        answer.header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            answer.header(header::WWW_AUTHENTICATE, challenge.clone());
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            answer.header(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if let Some(wait) = self.retry_after {
            answer.header(header::RETRY_AFTER, whole_seconds(wait).into());
        }
        answer.body = Body::memory(body.into());
        answer
    }
}

/// Rounded up, so that who waits as long as told does not come too early; at least 1.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

fn unknown(kind: Kind) -> ErrorCode {
    match kind {
        Kind::Manifest => ErrorCode::ManifestUnknown,
        Kind::Blob => ErrorCode::BlobUnknown,
        _ => ErrorCode::NameUnknown,
    }
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Failure {
        let (status, code) = match error {
            RouteError::Unknown | RouteError::Name(NameError::NoRegistry) => {
                (StatusCode::NOT_FOUND, ErrorCode::NameUnknown)
            }
            RouteError::Name(_) => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
            RouteError::Reference(ReferenceError::Digest(_)) => (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),
            RouteError::Reference(ReferenceError::Tag) => (StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid),
        };
        Failure::new(status, code, error.to_string())
    }
}
