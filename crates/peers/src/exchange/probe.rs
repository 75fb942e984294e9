use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError};

use super::sockets::connect;
use super::wire::{NODE, WHO};
use crate::identity::Identity;
use crate::members::NodeId;

/// A node that answers as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What it calls itself.
    pub node: NodeId,
    /// What its clock said while it answered, in whole seconds.
    pub date: Option<SystemTime>,
}

/// Why nothing is heard of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// There is no connection, or it ends.
    #[error("{0}")]
    Unreachable(String),
    /// It gave no answer in time.
    #[error("it does not answer")]
    Silent,
    /// It shows a certificate that this node does not believe.
    #[error("its certificate {0}")]
    NotBelieved(Distrust),
    /// It does not believe the certificate of this node.
    #[error("to it this node's certificate {0}")]
    Disbelieves(Distrust),
    /// It is no node of larder.
    #[error("{0}")]
    Strange(String),
}

/// Why a certificate is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// By the clock of who looked at it, it is not good any more.
    Expired,
    /// By the clock of who looked at it, it is not good yet.
    NotYetValid,
    /// One of both: TLS has one word for them.
    OutOfDate,
    /// No authority of who looked at it has signed it.
    OtherAuthority,
    /// It is not one of a node.
    OtherRole,
    /// Something else.
    Other(String),
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Distrust::Expired => "has expired",
            Distrust::NotYetValid => "is not good yet",
            Distrust::OutOfDate => "has expired or is not good yet",
            Distrust::OtherAuthority => "is signed by another authority",
            Distrust::OtherRole => "is not one of a node",
            Distrust::Other(why) => return write!(f, "is not believed: {why}"),
        })
    }
}

/// Asks whoever is at an address who it is, over a connection of its own. Cancellation safe.
///
/// # Errors
/// It is no node that believes this one and is believed, or takes longer than `limit`.
pub async fn probe(identity: &Identity, address: SocketAddr, limit: Duration) -> Result<Heard, Unheard> {
    let asked = async {
        let stream = connect(identity, address, limit).await.map_err(|error| unheard(&error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unheard(&error))?;
        let answer = ask(sender, connection, address).await.map_err(|error| unheard(&error))?;
        heard(&answer)
    };
    tokio::time::timeout(limit, asked).await.unwrap_or(Err(Unheard::Silent))
}

async fn ask(
    mut sender: http1::SendRequest<Empty<Bytes>>,
    connection: impl Future<Output = hyper::Result<()>>,
    address: SocketAddr,
) -> hyper::Result<Response<Incoming>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = http::Uri::from_static(WHO);
    if let Ok(host) = header::HeaderValue::try_from(address.to_string()) {
        request.headers_mut().insert(header::HOST, host);
    }
    let (mut answer, mut connection) = (pin!(sender.send_request(request)), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The answer may have come with the end.
        ended = &mut connection => match (answer.await, ended) {
            (Ok(answer), _) => Ok(answer),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        },
    }
}

fn heard(answer: &Response<Incoming>) -> Result<Heard, Unheard> {
    let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let strange = |what: String| Err(Unheard::Strange(what));
    match (answer.status(), text(NODE)) {
        (StatusCode::OK, Some(node)) => {
            let date = text(header::DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
            Ok(Heard { node: node.into(), date })
        }
        (StatusCode::OK, None) => strange("it does not say which node it is".to_owned()),
        (status, _) => strange(format!("it answers {status}")),
    }
}

fn unheard(error: &(dyn Error + 'static)) -> Unheard {
    let mut innermost = error.to_string();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            // What an error of the system wraps is not among its causes.
            if let Some(error) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return distrusted(error);
            }
            if io.kind() == io::ErrorKind::TimedOut {
                return Unheard::Silent;
            }
        }
        innermost = error.to_string();
        next = error.source();
    }
    Unheard::Unreachable(innermost)
}

fn distrusted(error: &rustls::Error) -> Unheard {
    match error {
        rustls::Error::InvalidCertificate(why) => Unheard::NotBelieved(match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Distrust::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Distrust::NotYetValid,
            CertificateError::UnknownIssuer => Distrust::OtherAuthority,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Distrust::OtherRole,
            other => Distrust::Other(other.to_string()),
        }),
        rustls::Error::AlertReceived(alert) => Unheard::Disbelieves(match alert {
            AlertDescription::CertificateExpired => Distrust::OutOfDate,
            AlertDescription::UnknownCA => Distrust::OtherAuthority,
            AlertDescription::BadCertificate => Distrust::OtherRole,
            other => Distrust::Other(format!("{other:?}")),
        }),
        other => Unheard::Strange(format!("it does not speak TLS as nodes do: {other}")),
    }
}
