use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use rustls_pki_types::UnixTime;

/// So many of the names of a certificate are told, and so much of each.
const MOST_NAMES: usize = 3;
const LONGEST_NAME: usize = 80;
/// The last second that an HTTP date can tell.
const LAST: u64 = 253_402_300_799;

/// Why a server and larder did not come to speak TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// Nobody who is trusted vouches for its certificate.
    UnknownAuthority,
    /// Its certificate is that of an authority, as a simple `openssl req -x509` makes it.
    AuthorityAsServer,
    /// Its certificate ended before what the clock here says.
    Expired { end: String, now: String },
    /// Its certificate begins after what the clock here says.
    NotYetValid { begin: String, now: String },
    /// Its certificate is for these names.
    OtherName(Vec<String>),
    /// What it says is not TLS.
    NotTls,
    /// It knows only versions that are not safe.
    TooOld,
    /// It wants what larder does not have, or has nothing that larder takes.
    NothingInCommon(String),
    /// It ended the connection instead of an answer.
    HungUp(String),
    /// It took the connection and said nothing.
    Silent,
    /// Anything else, in the words of the layer below.
    Other(String),
}

/// What says whom to trust at a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Named {
    /// Nothing: the system's authorities count.
    #[default]
    Nowhere,
    /// An upstream, as its endpoint or as where that leads.
    Upstream,
    /// `[node]`, as the larder registry.
    Registry,
}

impl Problem {
    /// Reads what a handshake ended with.
    pub(crate) fn of(error: &io::Error) -> Problem {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return Problem::HungUp(error.to_string());
        };
        match error {
            Error::InvalidCertificate(error) => Problem::of_certificate(error),
            Error::InvalidMessage(_) => Problem::NotTls,
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            )
            | Error::AlertReceived(AlertDescription::ProtocolVersion) => Problem::TooOld,
            Error::PeerIncompatible(_)
            | Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity) => {
                Problem::NothingInCommon(error.to_string())
            }
            other => Problem::Other(other.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Problem {
        let now = || date(UnixTime::now());
        match error {
            // An authority that was made anew often has its old name, and another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Problem::UnknownAuthority,
            CertificateError::ExpiredContext { time, not_after } => {
                Problem::Expired { end: date(*not_after), now: date(*time) }
            }
            CertificateError::Expired => Problem::Expired { end: "an earlier day".to_owned(), now: now() },
            CertificateError::NotValidYetContext { time, not_before } => {
                Problem::NotYetValid { begin: date(*not_before), now: date(*time) }
            }
            CertificateError::NotValidYet => Problem::NotYetValid { begin: "a later day".to_owned(), now: now() },
            CertificateError::NotValidForNameContext { presented, .. } => {
                Problem::OtherName(presented.iter().map(|name| bare(name)).collect())
            }
            CertificateError::NotValidForName => Problem::OtherName(Vec::new()),
            // The verifier below has no kind for it, only this word.
            CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => Problem::AuthorityAsServer,
            other => Problem::Other(format!("its certificate is not good: {other}")),
        }
    }

    /// Whether it would be the same if it were tried again at once.
    pub(crate) fn stays(&self) -> bool {
        !matches!(self, Problem::HungUp(_) | Problem::Silent)
    }

    /// Whether the clock of this machine, or of that one, is a likely reason.
    pub(crate) fn is_out_of_date(&self) -> bool {
        matches!(self, Problem::Expired { .. } | Problem::NotYetValid { .. })
    }

    /// What to do about it, where there is anything.
    pub(crate) fn remedy(&self, named: Named) -> Option<String> {
        let url = match named {
            Named::Nowhere => "the `url` of an [[upstream.endpoint]] for this registry",
            Named::Upstream => "`url` of the [[upstream.endpoint]]",
            Named::Registry => "`registry` in [node]",
        };
        Some(match self {
            Problem::UnknownAuthority => match named {
                Named::Nowhere => "if it is to be trusted, list the registry as [[upstream]], with a file of its authority's \
                    certificate as `ca` of an [[upstream.endpoint]], and hosts that it leads to in `redirect_hosts` or \
                    `token_hosts` there"
                    .to_owned(),
                Named::Upstream => "name a file of its authority's certificate as `ca` of the [[upstream.endpoint]], or set \
                    `insecure = true` there to take any certificate"
                    .to_owned(),
                Named::Registry => {
                    "name a file of its authority's certificate as `registry_ca` in [node], or the folder that larder certs \
                     made for this node as `registry_certificates`"
                        .to_owned()
                }
            },
            Problem::AuthorityAsServer => {
                let else_take = if named == Named::Upstream { ", or set `insecure = true` at the [[upstream.endpoint]]" } else { "" };
                format!("it needs one that is no authority's (CA:FALSE){else_take}")
            }
            Problem::Expired { .. } => "set this machine's clock if that is not the time (NTP does); if it is, the server needs a \
                 new certificate"
                .to_owned(),
            Problem::NotYetValid { .. } => "set this machine's clock if that is not the time (NTP does); if it is, the clock of who \
                 made the certificate was wrong"
                .to_owned(),
            Problem::OtherName(_) if named == Named::Registry => {
                "let `registry` in [node] lead to a larder registry with a certificate that larder certs --registry made, or, where \
                 it has one of another authority, write the name that it is for there"
                    .to_owned()
            }
            Problem::OtherName(_) => {
                format!("write a name that the certificate is for into {url}, or let the server have one for this name")
            }
            Problem::NotTls | Problem::HungUp(_) | Problem::Silent => {
                format!("look at the port in {url}; if the server is meant to go without TLS, begin it with http://")
            }
            Problem::TooOld => format!(
                "have the server speak TLS 1.2 or 1.3, or name another that does, such as a proxy in front of it, in {url}"
            ),
            Problem::NothingInCommon(_) => {
                "have the server offer TLS 1.3, or TLS 1.2 with ECDHE, and ask for no certificate of its clients".to_owned()
            }
            Problem::Other(_) => return None,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::UnknownAuthority => f.write_str("its certificate is of no authority that is trusted here"),
            Problem::AuthorityAsServer => f.write_str("its certificate is that of an authority and not of a server"),
            Problem::Expired { end, now } => {
                write!(f, "its certificate has expired: it ended on {end}, and the clock here says {now}")
            }
            Problem::NotYetValid { begin, now } => {
                write!(f, "its certificate is not valid yet: it begins on {begin}, and the clock here says {now}")
            }
            Problem::OtherName(names) if names.is_empty() => f.write_str("its certificate is for another name"),
            Problem::OtherName(names) => {
                let more = if names.len() > MOST_NAMES { " and others" } else { "" };
                let names = &names[..names.len().min(MOST_NAMES)];
                write!(f, "its certificate is for another name: it is for {}{more}", names.join(", "))
            }
            Problem::NotTls => f.write_str("it answers, but not in TLS"),
            Problem::TooOld => f.write_str("it speaks no TLS newer than 1.1"),
            Problem::NothingInCommon(error) => write!(f, "it and larder find no way of TLS in common ({error})"),
            Problem::HungUp(error) => write!(f, "it ended the connection in place of an answer ({error})"),
            Problem::Silent => f.write_str("it took the connection and said nothing in time"),
            Problem::Other(error) => f.write_str(error),
        }
    }
}

fn date(time: UnixTime) -> String {
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs().min(LAST)))
}

/// The name within `DnsName("a.example")` or `IpAddress(10.0.0.1)`, as the verifier below puts it; what a server wrote there
/// goes into logs and answers, so nothing but what can stand in a name is kept.
fn bare(presented: &str) -> String {
    let inner = presented.split_once('(').map_or(presented, |(_, rest)| rest.trim_end_matches(')')).trim_matches('"');
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || "-._*:".contains(*letter);
    inner.chars().filter(plain).take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: Error) -> Problem {
        Problem::of(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn a_remedy_names_the_setting_that_counts() {
        let unknown = of(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        for (named, settings) in [
            (Named::Nowhere, &["[[upstream]]", "`ca`"][..]),
            (Named::Upstream, &["`ca` of the [[upstream.endpoint]]", "`insecure = true`"]),
            (Named::Registry, &["`registry_ca` in [node]", "`registry_certificates`"]),
        ] {
            let remedy = unknown.remedy(named).unwrap();
            assert!(settings.iter().all(|setting| remedy.contains(setting)), "{remedy}");
            let silent = Problem::Silent.remedy(named).unwrap();
            assert!(silent.contains("http://"), "{silent}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let hung_up = Problem::of(&io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(!hung_up.stays() && !Problem::Silent.stays());
        assert!(of(Error::InvalidCertificate(CertificateError::Expired)).stays());
    }

    #[test]
    fn what_a_certificate_says_does_not_get_out_of_hand() {
        assert_eq!(bare("DnsName(\"*.a.example\")"), "*.a.example");
        assert_eq!(bare("IpAddress(10.0.0.1)"), "10.0.0.1");
        assert_eq!(bare("DnsName(\"a\n\u{1b}[31m<b>\")"), "a31mb");
        let many = Problem::OtherName(
            (0..5).map(|number| bare(&format!("DnsName(\"{number}{}\")", "x".repeat(900)))).collect(),
        );
        assert!(many.to_string().ends_with(" and others") && many.to_string().len() < 400, "{many}");
        assert_eq!(
            date(UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX / 2))),
            "Fri, 31 Dec 9999 23:59:59 GMT"
        );
    }
}
