use std::error::Error;
use std::sync::Arc;

use cache::{FailureKind, SourceError};
use hyper_util::client::legacy;

use crate::dial::DialError;
use crate::handshake::Problem;

/// Why a request failed, before it is known as a source's error.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) reason: String,
    /// What to do about it, where that is known.
    pub(crate) remedy: Option<String>,
    /// The same request may succeed at once.
    pub(crate) again: bool,
    /// It tells that the endpoint is not well, rather than what it says about the request.
    pub(crate) unwell: bool,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, reason: impl Into<String>) -> Failure {
        Failure { kind, reason: reason.into(), remedy: None, again: false, unwell: false }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Invalid, reason)
    }

    pub(crate) fn unavailable(reason: impl Into<String>) -> Failure {
        Failure { again: true, unwell: true, ..Failure::new(FailureKind::Unavailable, reason) }
    }

    pub(crate) fn timeout(reason: impl Into<String>) -> Failure {
        Failure { unwell: true, ..Failure::new(FailureKind::Timeout, reason) }
    }

    /// What it means that no answer came. Messages of the layers below hold host names, no URLs.
    pub(crate) fn of_request(error: &legacy::Error) -> Failure {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<DialError>() {
                return Failure::of_dial(error);
            }
            if let Some(error) = error.downcast_ref::<hyper::Error>() {
                return Failure::of_hyper(error);
            }
            cause = error.source();
        }
        Failure::unavailable("the connection failed")
    }

    fn of_dial(error: &DialError) -> Failure {
        let reason = error.to_string();
        match error {
            DialError::Refused(_) => Failure::new(FailureKind::Refused, reason),
            DialError::Timeout(_) => Failure::timeout(reason),
            DialError::Lookup { .. } | DialError::Connect { .. } => Failure::unavailable(reason),
            DialError::Tls { problem, named, .. } => {
                let failure = match problem {
                    Problem::Silent => Failure::timeout(reason),
                    // A certificate does not get better by asking again.
                    _ => Failure { again: !problem.stays(), ..Failure::unavailable(reason) },
                };
                Failure { remedy: problem.remedy(*named), ..failure }
            }
        }
    }

    pub(crate) fn of_hyper(error: &hyper::Error) -> Failure {
        let mut reason = error.to_string();
        if let Some(cause) = error.source() {
            reason = format!("{reason}: {cause}");
        }
        if error.is_parse() {
            Failure::invalid(format!("the answer is no HTTP: {reason}"))
        } else {
            Failure::unavailable(format!("the connection broke: {reason}"))
        }
    }

    /// What happened, and what to do about it.
    pub(crate) fn told(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("{}; {remedy}", self.reason),
            None => self.reason.clone(),
        }
    }

    /// The error of the endpoint `label`, which its message names once: what failed below knows the host only.
    pub(crate) fn into_error(mut self, label: &Arc<str>) -> SourceError {
        let host = label.rsplit_once(':').map_or(&**label, |(host, _)| host);
        for name in [&**label, host] {
            for end in [": ", " "] {
                if let Some(rest) = self.reason.strip_prefix(name).and_then(|rest| rest.strip_prefix(end)) {
                    self.reason = rest.to_owned();
                }
                for with in [" to ", " with ", " from "] {
                    self.reason = self.reason.replacen(&format!("{with}{name}{end}"), end, 1);
                }
            }
        }
        SourceError::new(self.kind, label.clone(), self.told())
    }
}

/// The kind as a metric's label.
pub(crate) fn label(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::NotFound => "not_found",
        FailureKind::Unauthorized => "unauthorized",
        FailureKind::Denied => "denied",
        FailureKind::RateLimited { .. } => "rate_limited",
        FailureKind::Unavailable => "unavailable",
        FailureKind::Timeout => "timeout",
        FailureKind::Invalid => "invalid",
        FailureKind::Refused => "refused",
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::handshake::Named;

    #[test]
    fn a_message_names_the_endpoint_once() {
        let host = || "up.test".to_owned();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        for (error, text) in [
            (DialError::Timeout(host()), "up.test: no connection in time"),
            (DialError::Lookup { host: host(), error: refused() }, "up.test: cannot be looked up: connection refused"),
            (DialError::Connect { host: host(), error: refused() }, "up.test: no connection: connection refused"),
            (
                DialError::Tls { host: host(), problem: Problem::Other("no luck".into()), named: Named::Upstream },
                "up.test: TLS failed: no luck",
            ),
        ] {
            assert_eq!(Failure::of_dial(&error).into_error(&"up.test".into()).to_string(), text);
        }
        let timeout = |label: &str| Failure::of_dial(&DialError::Timeout(host())).into_error(&label.into()).to_string();
        assert_eq!(timeout("up.test:5000"), "up.test:5000: no connection in time");
        // Another host, such as that of a redirect, is named.
        assert_eq!(timeout("reg.test"), "reg.test: no connection to up.test in time");
        let longer = DialError::Timeout("up.test.example".into());
        let error = Failure::of_dial(&longer).into_error(&"up.test".into());
        assert_eq!(error.to_string(), "up.test: no connection to up.test.example in time");
    }
}
