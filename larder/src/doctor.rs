//! `larder doctor`: asks all that a pull of this machine depends on, at once, and says what is wrong.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use node::{Clock, Finding, Settings, Severity, examine_clocks};

use crate::cli::DoctorArgs;
use crate::config::{Certificates, Config};
use crate::failure::Failure;
use crate::logging;

mod mirror;
mod registry;
mod sharing;

/// How long an answer may take: more than one needs on a network that is well.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long each matter may take, of which some need an answer after another.
const LIMIT: Duration = Duration::from_secs(6);

/// What is to be said of one matter, and what others' clocks say.
#[derive(Default)]
struct Told {
    findings: Vec<Finding>,
    clocks: Vec<Clock>,
}

impl From<Vec<Finding>> for Told {
    fn from(findings: Vec<Finding>) -> Told {
        Told { findings, clocks: Vec::new() }
    }
}

/// Runs `larder doctor`.
pub fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let config = Config::load_node(&args.node(), Certificates::Examined)?;
    logging::start_plainly();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let findings = runtime.block_on(examine(&config));
    // A disk or a name server that does not answer is not waited for.
    runtime.shutdown_background();
    args.output.print(&findings, || match findings.is_empty() {
        true => "every pull of this machine goes through larder\n".to_owned(),
        false => findings.iter().map(|finding| format!("{finding}\n")).collect(),
    })?;
    let worst = findings.iter().map(|finding| finding.severity).max();
    Ok(if worst >= Some(Severity::Warning) { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// All that is to be said, worst first.
async fn examine(config: &Config) -> Vec<Finding> {
    let (runtimes, mirror, sharing, registry) = tokio::join!(
        within("the container runtime", runtimes(config.node.setup(config.listen))),
        within("larder on this machine", mirror::examine(config.listen)),
        within("the other nodes", sharing::examine(config.node.peers.as_ref())),
        within("the larder registry", registry::examine(config)),
    );
    let down = !mirror.findings.is_empty();
    let mut told = Told::default();
    for one in [runtimes, mirror, sharing, registry] {
        told.findings.extend(one.findings);
        told.clocks.extend(one.clocks);
    }
    told.findings.extend(examine_clocks(&told.clocks));
    // Where larder does not run, that it gives nothing to others is no news.
    told.findings.retain(|finding| !(down && finding.code == "peers-port-closed"));
    told.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    told.findings
}

/// What a matter comes to, or that it took too long.
async fn within(matter: &str, work: impl Future<Output = Told>) -> Told {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| {
        let what = format!("{matter} could not be looked at within {} seconds", LIMIT.as_secs());
        let remedy = "Something on this machine hangs: see whether its disks and its name server answer.";
        vec![Finding::new(Severity::Warning, "unfinished", what, remedy)].into()
    })
}

async fn runtimes(settings: Settings) -> Told {
    let runtimes = match node::detect(&settings.host_root).await {
        Ok(runtimes) => runtimes,
        Err(error) => {
            let remedy =
                "Correct it: containerd does not start with it either, and larder cannot tell where its mirrors are.";
            return vec![Finding::new(Severity::Error, "runtime-unreadable", error.to_string(), remedy)].into();
        }
    };
    let examined = tokio::task::spawn_blocking(move || node::examine(&settings, &runtimes)).await;
    examined.expect("looking at files does not panic").into()
}
