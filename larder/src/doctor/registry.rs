use std::sync::Arc;
use std::time::SystemTime;

use node::{Clock, Finding, Severity};
use peers::{Files, Identity};

use super::{PATIENCE, Told};
use crate::config::Config;
use crate::identities::as_node;

/// Whether the larder registry that this node asks first is there.
pub async fn examine(config: &Config) -> Told {
    let unusable = |error| {
        let remedy = "Put the file back, or correct the configuration.";
        vec![Finding::new(Severity::Warning, "registry-unusable", error, remedy)].into()
    };
    let known = match &config.node.registry_certificates {
        None => None,
        Some(folder) => match Identity::load(Files::in_folder(folder)) {
            Ok(identity) => Some(as_node(Arc::new(identity))),
            Err(error) => return unusable(format!("node.registry_certificates: {error}")),
        },
    };
    let front = match config.front(known) {
        Ok(Some(front)) => front,
        Ok(None) => return Told::default(),
        Err(error) => return unusable(error),
    };
    let asked = SystemTime::now();
    match upstream::probe(&front, PATIENCE).await {
        Ok(answered) => {
            let clock = |date| Clock::read("the larder registry", date, asked, SystemTime::now());
            Told { findings: Vec::new(), clocks: answered.date.map(clock).into_iter().collect() }
        }
        Err(unanswered) => {
            let what = format!("the larder registry at {} is of no use: {unanswered}", front.url);
            let remedy = match unanswered.out_of_date {
                true => {
                    "Let this machine and that one keep time by NTP (chrony, systemd-timesyncd), or give that one a new \
                     certificate; until then pulls go to the origins."
                }
                false => {
                    "Start it, or correct `registry` in [node]; https needs a certificate of an authority that the system, \
                     `registry_ca` or `registry_certificates` names. Until then pulls go to the origins."
                }
            };
            vec![Finding::new(Severity::Warning, "registry-unreachable", what, remedy)].into()
        }
    }
}
