use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use node::{Finding, Settings, Severity};
use tokio_util::sync::CancellationToken;

use crate::cli::NodeArgs;
use crate::config::{Certificates, Config};
use crate::failure::Failure;
use crate::{logging, serving};

/// How often the runtimes' files are looked at: others write them too, some distributions at each of their starts.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Runs `larder node`.
pub fn run(args: &NodeArgs) -> Result<ExitCode, Failure> {
    if args.uninstall {
        return uninstall(args);
    }
    serving::run(|| Config::load_node(args, Certificates::Needed), args.check)
}

/// Takes back what was written for the runtimes of this machine. Nobody is spoken to, and whoever uninstalls may have removed
/// the certificates first.
fn uninstall(args: &NodeArgs) -> Result<ExitCode, Failure> {
    let config = Config::load_node(args, Certificates::Examined)?;
    logging::start_plainly();
    let findings = node::uninstall(&config.node.setup(config.listen)).context("cannot restore the runtimes' files")?;
    for finding in &findings {
        println!("{finding}");
    }
    unpin(&config)?;
    match findings.iter().map(|finding| finding.severity).max() {
        None => println!("the runtimes of this machine are as they were before larder"),
        Some(Severity::Error) => return Err(Failure::Runtime(anyhow!("not everything could be restored"))),
        Some(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes off the pins that are there for ImageCaches.
fn unpin(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    match runtime.block_on(node::prefetch::release(&config.node.host_root)) {
        Ok(0) => {}
        Ok(images) => println!("{images} images are no longer pinned"),
        // A runtime that does not run is no reason to leave its files as they are.
        Err(error) if config.node.cluster.is_some() => {
            eprintln!("{error}; start the runtime and repeat this, for images were kept ready here");
        }
        Err(error) => tracing::debug!(%error, "no pins were looked for"),
    }
    Ok(())
}

/// Points the runtimes of this machine at the mirror, now and whenever somebody changes their files, until `stop`. What is
/// written stays when larder ends, for a runtime that finds nobody there goes on to the origin; unless it is to be taken back,
/// as where larder is a pod, which may never come again and whose place nobody tidies. After the first look, `told` is cancelled.
pub async fn keep_pointed(config: &Config, mirror: SocketAddr, stop: CancellationToken, told: &CancellationToken) {
    let settings = config.node.setup(mirror);
    let mut said = Vec::new();
    loop {
        let looked = point(&settings).await;
        match looked {
            Ok(findings) => {
                tell(&findings, &said);
                said = findings;
            }
            Err(error) => tracing::warn!(error = %format!("{error:#}"), "the runtime cannot be pointed at larder"),
        }
        told.cancel();
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    if config.node.restore {
        restore(settings).await;
    }
}

/// Takes back what was written, while pulls in progress go on.
async fn restore(settings: Settings) {
    match tokio::task::spawn_blocking(move || node::uninstall(&settings)).await {
        Ok(Ok(findings)) if findings.is_empty() => tracing::info!("the runtimes' files are as they were before larder"),
        Ok(Ok(findings)) => tell(&findings, &[]),
        Ok(Err(error)) => tracing::error!(%error, "cannot restore the runtimes' files"),
        Err(error) => tracing::error!(%error, "cannot restore the runtimes' files"),
    }
}

async fn point(settings: &Settings) -> anyhow::Result<Vec<Finding>> {
    let runtimes = node::detect(&settings.host_root).await?;
    let settings = settings.clone();
    let installing = tokio::task::spawn_blocking(move || node::install(&settings, &runtimes));
    let installed = installing.await.context("the runtime's files could not be looked at")??;
    for path in &installed.written {
        tracing::info!(path = %path.display(), "pointed at larder");
    }
    if installed.reload_crio {
        tracing::warn!("CRI-O reads its registries when it is told to: systemctl reload crio");
    }
    Ok(installed.findings)
}

/// Logs what was not said before, and what is over.
fn tell(findings: &[Finding], before: &[Finding]) {
    for Finding { severity, code, what, remedy } in findings.iter().filter(|finding| !before.contains(finding)) {
        match severity {
            Severity::Info => tracing::info!(code, what, remedy),
            Severity::Warning => tracing::warn!(code, what, remedy),
            Severity::Error => tracing::error!(code, what, remedy),
        }
    }
    for over in before.iter().filter(|finding| !findings.contains(finding)) {
        tracing::info!(code = over.code, "no longer so: {}", over.what);
    }
}
