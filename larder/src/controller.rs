use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use apiserver::ApiServer;
use controller::{Certificates, Controller, LeaseSettings, Metrics, Settings};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry as MetricsRegistry;
use rand::Rng;
use serve::{Admin, Port};
use tokio_util::sync::CancellationToken;

use crate::cli::ControllerArgs;
use crate::config::{Config, Listener};
use crate::failure::Failure;
use crate::process::Signals;
use crate::registries::Registries;
use crate::serving;
use crate::upstreams::{Endpoints, Following};
use crate::watchdog::Watchdog;

/// The threads beside the first, which decides and writes. Each has free memory of its own: with one for each processor of a large machine, that would
/// be most of what the controller has.
const THREADS: usize = 2;

/// Runs `larder controller`.
pub fn run(args: &ControllerArgs) -> Result<ExitCode, Failure> {
    serving::run_as(|| Config::load_controller(args), args.check, Some(THREADS), control)
}

/// Does a controller's work until a signal.
async fn control(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let _watchdog = Watchdog::start();
    let mut registry = MetricsRegistry::default();
    registry.register("larder_build", "This program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    let upstream_metrics = upstream::Metrics::register(&mut registry);
    let metrics = Metrics::register(registry.sub_registry_with_prefix("larder"));
    let admin_port = match config.metrics {
        Listener::On(address) => Some(Port::take(address).context("--metrics")?),
        Listener::Off => None,
    };
    let identity = config.controller.identity.clone().unwrap_or_else(identity);
    let lease = LeaseSettings {
        namespace: config.controller.namespace.clone(),
        name: config.controller.lease.clone(),
        identity,
    };
    let certificates = config.controller.certificates.as_deref();
    let certificates = certificates.map(|prefix| Certificates::named(&config.controller.namespace, prefix));
    let rules = config.rules.clone();
    let registries = Arc::new(Registries::new(config, upstream_metrics)?);
    let listed = registries.clone();
    let following = Following::of_asker(Box::new(move |settings| listed.replace(settings)), rules);
    let settings = Settings {
        server: ApiServer::Environment,
        lease: lease.clone(),
        certificates,
        resolver: registries.clone(),
        keeper: registries.clone(),
        provider: registries,
        prober: Arc::new(Endpoints),
    };
    let controller = Controller::new(settings, metrics);

    let draining = Arc::new(AtomicBool::new(false));
    let admin = admin_port.map(|port| admin(port, registry, controller.clone(), draining.clone()));
    let address = admin.as_ref().map(Admin::local_addr).map(tracing::field::display);
    tracing::info!(metrics = address, lease = %format!("{}/{}", lease.namespace, lease.name), identity = lease.identity, "controlling");

    let (stop, stop_admin) = (CancellationToken::new(), CancellationToken::new());
    let admin = admin.map(|admin| tokio::spawn(admin.run(stop_admin.clone())));
    let drain = async {
        let signal = signals.next().await;
        tracing::info!(signal, "ending: another replica takes over; a second signal ends at once");
        draining.store(true, Ordering::Relaxed);
        stop.cancel();
        signals.next().await
    };
    tokio::select! {
        () = controller.run(stop.clone()) => {}
        signal = drain => {
            tracing::warn!(signal, "ending at once");
            std::process::exit(1);
        }
    }
    following.end().await;
    stop_admin.cancel();
    if let Some(admin) = admin {
        admin.await.context("the metrics listener")?;
    }
    tracing::info!("ended");
    Ok(())
}

fn admin(port: Port, registry: MetricsRegistry, controller: Arc<Controller>, draining: Arc<AtomicBool>) -> Admin {
    let ready = move || match draining.load(Ordering::Relaxed) {
        true => Err("larder is ending".to_owned()),
        false => controller.ready(),
    };
    Admin::new(port, Arc::new(registry), ready)
}

/// A name that no other replica has, even one on the same machine or before a crash.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{:08x}", host.trim(), rand::rng().random::<u32>())
}
