use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::{CertificateError, Error};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::metrics::Metrics;
use crate::service::Guest;
use crate::settings::{KeeperChoice, TlsChoice};

/// A refusal for one reason is logged no more often than this; the others are counted.
const QUIET: Duration = Duration::from_secs(10);

/// Whom an address is for: a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// Anybody.
    Clients,
    /// Those whom TLS itself knows.
    Nodes,
}

impl Door {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Door::Clients => "clients",
            Door::Nodes => "nodes",
        }
    }
}

/// Why a TLS connection did not come about: a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The client shows no certificate.
    NoCertificate,
    /// No authority that is believed here signed the client's.
    UnknownAuthority,
    /// The client's has expired, or is not good yet.
    Expired,
    /// The client's does not say that it is who may come.
    WrongRole,
    /// Something else is wrong with the client's.
    BadCertificate,
    /// The client does not believe the certificate from here, or refuses for a reason of its own.
    ByClient,
    /// No TLS, or none of a version that is spoken here.
    Protocol,
    /// The client took too long.
    Timeout,
    /// The client went away, as whoever only looks whether somebody listens does.
    Closed,
}

impl Refusal {
    const ALL: [Refusal; 9] = [
        Refusal::NoCertificate,
        Refusal::UnknownAuthority,
        Refusal::Expired,
        Refusal::WrongRole,
        Refusal::BadCertificate,
        Refusal::ByClient,
        Refusal::Protocol,
        Refusal::Timeout,
        Refusal::Closed,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Refusal::NoCertificate => "no_certificate",
            Refusal::UnknownAuthority => "unknown_authority",
            Refusal::Expired => "expired",
            Refusal::WrongRole => "wrong_role",
            Refusal::BadCertificate => "bad_certificate",
            Refusal::ByClient => "by_client",
            Refusal::Protocol => "protocol",
            Refusal::Timeout => "timeout",
            Refusal::Closed => "closed",
        }
    }

    fn of(error: &io::Error) -> Refusal {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return Refusal::Closed;
        };
        match error {
            Error::NoCertificatesPresented => Refusal::NoCertificate,
            Error::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer => Refusal::UnknownAuthority,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Refusal::Expired,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Refusal::WrongRole
                }
                _ => Refusal::BadCertificate,
            },
            Error::AlertReceived(_) => Refusal::ByClient,
            _ => Refusal::Protocol,
        }
    }

    /// Whether somebody should know: who is sent away here might be one who should get in.
    fn is_worth_a_word(self) -> bool {
        !matches!(self, Refusal::Timeout | Refusal::Closed)
    }
}

/// TLS at one address.
pub(crate) struct Handshake {
    door: Door,
    choice: TlsChoice,
    keeper: Option<KeeperChoice>,
    metrics: Metrics,
    said: Mutex<[Said; Refusal::ALL.len()]>,
}

/// What was logged of one reason.
#[derive(Clone, Copy, Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl Said {
    /// Whether to log one more now, and then how many were not logged before it.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < QUIET) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

impl Handshake {
    pub(crate) fn new(door: Door, choice: TlsChoice, metrics: Metrics) -> Handshake {
        Handshake { door, choice, keeper: None, metrics, said: Mutex::default() }
    }

    /// Lets some of those who come say what is in use.
    pub(crate) fn with_keeper(self, keeper: KeeperChoice) -> Handshake {
        Handshake { keeper: Some(keeper), ..self }
    }

    /// Who is at the other end.
    pub(crate) fn guest(&self, stream: &TlsStream<TcpStream>) -> Guest {
        if self.door == Door::Clients {
            return Guest::Anybody;
        }
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        match (&self.keeper, shown) {
            (Some(keeper), Some(certificate)) if keeper(certificate) => Guest::Keeper,
            _ => Guest::Node,
        }
    }

    /// Begins TLS with a client. Where that fails, the socket comes back if the client is to hear why, which an early close
    /// could keep from it.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        within: Duration,
    ) -> Result<TlsStream<TcpStream>, Option<TcpStream>> {
        let accept = TlsAcceptor::from((self.choice)()).accept(stream).into_fallible();
        match tokio::time::timeout(within, accept).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err((error, stream))) => {
                self.refused(client, Refusal::of(&error), &error);
                Err(Some(stream))
            }
            Err(_) => {
                self.refused(client, Refusal::Timeout, &io::ErrorKind::TimedOut.into());
                Err(None)
            }
        }
    }

    fn refused(&self, client: SocketAddr, refusal: Refusal, error: &io::Error) {
        self.metrics.handshake_failed(self.door, refusal);
        let reason = refusal.as_str();
        // Whoever scans ports comes to an address for anybody; at one for nodes, nobody else should.
        if self.door == Door::Nodes && refusal.is_worth_a_word() {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(unsaid) = said[refusal as usize].one_more(Instant::now()) {
                tracing::warn!(%client, reason, %error, unsaid, "refused: not a node that is known here");
            }
        } else {
            tracing::debug!(%client, reason, %error, "TLS handshake failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_at_its_place() {
        for (place, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, place, "{refusal:?}");
        }
    }

    #[test]
    fn one_reason_is_logged_now_and_then() {
        let (mut said, start) = (Said::default(), Instant::now());
        assert_eq!(said.one_more(start), Some(0));
        for _ in 0..1000 {
            assert_eq!(said.one_more(start + QUIET / 2), None);
        }
        assert_eq!(said.one_more(start + QUIET), Some(1000));
        assert_eq!(said.one_more(start + 2 * QUIET), Some(0));
    }

    #[test]
    fn reasons() {
        let of = |error: Error| Refusal::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(of(Error::NoCertificatesPresented), Refusal::NoCertificate);
        assert_eq!(of(CertificateError::UnknownIssuer.into()), Refusal::UnknownAuthority);
        assert_eq!(of(CertificateError::Expired.into()), Refusal::Expired);
        assert_eq!(of(CertificateError::NotValidForName.into()), Refusal::WrongRole);
        assert_eq!(of(CertificateError::BadSignature.into()), Refusal::BadCertificate);
        assert_eq!(of(Error::AlertReceived(rustls::AlertDescription::UnknownCA)), Refusal::ByClient);
        assert_eq!(of(Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)), Refusal::Protocol);
        assert_eq!(Refusal::of(&io::ErrorKind::UnexpectedEof.into()), Refusal::Closed);
    }
}
