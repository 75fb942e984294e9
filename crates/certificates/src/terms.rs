use std::time::{Duration, SystemTime};

use peers::Certificate;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long certificates are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The authority's certificate. At two thirds, another takes over.
    pub authority: Duration,
    /// Those of nodes and registry, which are renewed at two thirds.
    pub certificate: Duration,
    /// How long a new authority is believed by all before it signs anything, and an old one after everything is signed by the new. Must be far longer
    /// than kubelets take to bring a changed Secret to pods, which is two minutes where all is well; and at most a quarter of
    /// `certificate`, lest one renewal come before what the last one needed is over.
    pub overlap: Duration,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { authority: 365 * DAY, certificate: 30 * DAY, overlap: DAY }
    }
}

impl Terms {
    /// Whether two thirds of a certificate's time are over.
    pub(crate) fn aged(certificate: &Certificate, now: SystemTime) -> bool {
        let whole = certificate.until().duration_since(certificate.issued()).unwrap_or_default();
        now.duration_since(certificate.issued()).is_ok_and(|age| age >= whole * 2 / 3)
    }
}
