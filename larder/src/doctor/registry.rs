use std::time::SystemTime;

use node::{Clock, Finding, Severity};

use super::{PATIENCE, Told};
use crate::config::Config;

/// Whether the larder registry that this node asks first is there.
pub async fn examine(config: &Config) -> Told {
    let front = match config.front() {
        Ok(Some(front)) => front,
        Ok(None) => return Told::default(),
        Err(error) => {
            let remedy = "Put the file back, or correct the configuration.";
            return vec![Finding::new(Severity::Warning, "registry-unusable", error, remedy)].into();
        }
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
                    "Start it, or correct `registry` in [node]; https needs a certificate of an authority that the system \
                     or `registry_ca` names. Until then pulls go to the origins."
                }
            };
            vec![Finding::new(Severity::Warning, "registry-unreachable", what, remedy)].into()
        }
    }
}
