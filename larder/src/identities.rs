use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use peers::{Files, Identity};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry as MetricsRegistry, Unit};
use tokio::task::JoinSet;

/// How often the certificates' files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The certificates that this process shows others: one identity for each folder, kept as its files are.
#[derive(Default)]
pub struct Identities {
    loaded: Vec<(PathBuf, Arc<Identity>)>,
    uses: Vec<(&'static str, Arc<Identity>)>,
    keepers: JoinSet<()>,
}

impl Identities {
    /// The identity in a folder that a setting names. Needs a runtime.
    pub fn load(&mut self, setting: &'static str, folder: &Path) -> anyhow::Result<Arc<Identity>> {
        let known = self.loaded.iter().find(|(path, _)| path == folder).map(|(_, identity)| identity.clone());
        let identity = match known {
            Some(identity) => identity,
            None => {
                let identity = Arc::new(Identity::load(Files::in_folder(folder)).context(setting)?);
                self.keepers.spawn(identity.clone().keep_fresh(LOOK_EVERY));
                self.loaded.push((folder.to_owned(), identity.clone()));
                identity
            }
        };
        self.uses.push((setting, identity.clone()));
        Ok(identity)
    }

    /// Has a registry of metrics tell until when all that is loaded is good.
    pub fn register(&self, metrics: &mut MetricsRegistry) {
        if !self.uses.is_empty() {
            metrics.register_collector(Box::new(Ends(self.uses.clone())));
        }
    }
}

/// How a registry lets nodes and the controller in, and nobody else.
pub fn letting_in_nodes(identity: Arc<Identity>) -> serve::TlsChoice {
    Arc::new(move || identity.server(&[peers::Role::Node, peers::Role::Controller]))
}

/// Who of them tells a registry what is in use: a node could have what others use dropped.
pub fn keeper() -> serve::KeeperChoice {
    Arc::new(|certificate| peers::Role::named_in(certificate).contains(&peers::Role::Controller))
}

/// How a node speaks to a registry: nobody else is taken for one, least of all another node.
pub fn as_node(identity: Arc<Identity>) -> upstream::TlsChoice {
    Arc::new(move || identity.client(peers::Role::Registry))
}

/// Until when certificates are good, by the settings that name them.
struct Ends(Vec<(&'static str, Arc<Identity>)>);

impl Collector for Ends {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "When the certificate or its authority expires, whichever is first, in seconds since 1970";
        let mut metric = encoder.encode_descriptor(
            "certificate_expires_timestamp",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for (setting, identity) in &self.0 {
            let ends = identity.expiry();
            let end = ends.certificate.min(ends.authority);
            let seconds = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let seconds = ConstGauge::new(i64::try_from(seconds).unwrap_or(i64::MAX));
            seconds.encode(metric.encode_family(&[("setting", *setting)])?)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(setting, _)| setting)).finish()
    }
}
