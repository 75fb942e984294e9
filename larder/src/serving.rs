use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use cache::{DiskStore, Engine, EngineSettings, StoreSettings, Upstreams};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry as MetricsRegistry;
use serve::{Admin, Mirror, Port, ServeSettings, Server, TlsFiles};
use tokio_util::sync::CancellationToken;
use upstream::Directory;

use crate::config::{Budget, Config, ForNodes, Listener, Role, Size, Store};
use crate::failure::Failure;
use crate::identities::{self, Identities};
use crate::keeping::Keeping;
use crate::logging;
use crate::process::{self, Signals};
use crate::sharing::Sharing;
use crate::upstreams::Following;
use crate::watchdog::Watchdog;

/// Threads for what blocks: reading and writing files. Disks gain nothing from more at a time, and each costs memory.
const BLOCKING_THREADS: usize = 64;

/// How long such a thread stays when there is nothing to do, so that an idle server is small.
const BLOCKING_IDLE: Duration = Duration::from_secs(5);

/// Runs a role that serves, until a signal.
pub fn run(load: impl FnOnce() -> Result<Config, Failure>, check: bool) -> Result<ExitCode, Failure> {
    run_as(load, check, None, serve)
}

/// Runs a role, whose work is `role`, until a signal, on so many threads beside the first; on one for each processor if not given.
pub fn run_as<F: Future<Output = anyhow::Result<()>>>(
    load: impl FnOnce() -> Result<Config, Failure>,
    check: bool,
    threads: Option<usize>,
    role: impl FnOnce(Config) -> F,
) -> Result<ExitCode, Failure> {
    // Before the configuration is read, whose defaults depend on it.
    let raised = process::raise_file_limit();
    let config = load()?;
    if check {
        print!("{config}");
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        if !config.expired.is_empty() {
            return Err(Failure::Usage(config.expired.join("\n")));
        }
        return Ok(ExitCode::SUCCESS);
    }
    logging::start(logging::filter(&config.log).expect("the configuration was checked"), config.log_format);
    process::log_panics();
    process::keep_files_private();
    if let Err(error) = process::forgo_huge_pages() {
        tracing::debug!(%error, "memory may be taken in huge pages");
    }
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // Not the end: whatever else larder does goes on, and new certificates are taken when they come.
    for expired in &config.expired {
        tracing::error!("{expired}");
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().thread_name("larder").max_blocking_threads(BLOCKING_THREADS).thread_keep_alive(BLOCKING_IDLE);
    if let Some(threads) = threads {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.build().context("cannot start threads")?;
    let ended = runtime.block_on(role(config));
    // Nothing is left to wait for but reads of a disk that does not answer.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// The cryptography works some 50 ms before it gives its first random number: now, and not in the first handshake, for
/// which somebody waits.
fn gather_randomness() {
    if let Some(provider) = rustls::crypto::CryptoProvider::get_default() {
        // What fails here fails again, with an error of its own, where it is needed.
        let _ = provider.secure_random.fill(&mut [0; 32]);
    }
}

/// Serves until a signal, then drains.
async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let _watchdog = Watchdog::start();
    tokio::task::spawn_blocking(gather_randomness);
    let mut registry = MetricsRegistry::default();
    registry.register("larder_build", "This program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    let upstream_metrics = upstream::Metrics::register(&mut registry);
    let named = registry.sub_registry_with_prefix("larder");
    let (engine_metrics, serve_metrics) = (cache::Metrics::register(named), serve::Metrics::register(named));

    // All that the start takes from others comes before the store, whose folder is made if it is not there.
    let port = Port::take(config.listen).context("--listen")?;
    let admin_port = match config.metrics {
        Listener::On(address) => Some(Port::take(address).context("--metrics")?),
        Listener::Off => None,
    };
    let mut identities = Identities::default();
    let peering = match &config.node.peers {
        Some(peering) if config.role == Role::Node => {
            let port = Port::take(peering.listen).context("node.peers.listen")?;
            Some((peering, port, identities.load("node.peers.certificates", &peering.certificates)?))
        }
        _ => None,
    };
    let for_nodes = match &config.registry.nodes {
        Some(ForNodes { listen, certificates }) if config.role == Role::Registry => {
            let port = Port::take(*listen).context("registry.nodes.listen")?;
            Some((port, identities::letting_in_nodes(identities.load("registry.nodes.certificates", certificates)?)))
        }
        _ => None,
    };
    let known_registry = match &config.node.registry_certificates {
        Some(folder) if config.role == Role::Node && config.node.registry.is_some() => {
            Some(identities::as_node(identities.load("node.registry_certificates", folder)?))
        }
        _ => None,
    };
    identities.register(named);
    let store = match shelf(&config).await {
        Some(shelf) => DiskStore::open_beside(store_settings(&config.store), Arc::new(shelf)),
        None => DiskStore::open(store_settings(&config.store)),
    };
    let store = store.context("cannot open the store")?;
    let folder = store.root().to_owned();
    let store: Arc<dyn cache::Store> = Arc::new(store);
    let directory = Directory::new(config.upstream_settings(known_registry)?, upstream_metrics)?;
    let upstreams: Arc<dyn Upstreams> = directory.clone();
    let sharing = match peering {
        Some((peering, port, identity)) => {
            Some(Sharing::start(peering, port, identity, store.clone(), upstreams.clone(), named).await?)
        }
        None => None,
    };
    let upstreams = sharing.as_ref().map_or(upstreams.clone(), |sharing| sharing.before(upstreams));
    let engine = Engine::start(store, upstreams, engine_settings(&config), engine_metrics);
    let following = follow_upstreams(&config, directory, &engine);
    let mut server = Server::new(port, serve_settings(&config), engine.clone(), serve_metrics)?;
    if let Some((port, tls)) = for_nodes {
        server = server.with_nodes(port, tls, Some(identities::keeper()));
    }
    let clients = server.local_addr();
    let told = CancellationToken::new();
    let keeping = match &config.node.cluster {
        Some(cluster) if config.role == Role::Node => Some(Keeping::start(
            cluster,
            (&config.node.setup(clients), config.node.registry.is_some()),
            engine.clone(),
            told.clone(),
            registry.sub_registry_with_prefix("larder"),
        )),
        _ => None,
    };
    let draining = Arc::new(AtomicBool::new(false));
    let admin = admin_port.map(|port| admin(port, registry, engine.clone(), draining.clone()));

    let nodes = server.nodes_addr().map(tracing::field::display);
    let metrics = admin.as_ref().map(Admin::local_addr).map(tracing::field::display);
    let budget = engine.usage().budget;
    // One in bytes was warned of with the configuration.
    if !matches!(config.store.budget, Budget::Bytes(_))
        && let Some(warning) = Budget::warning(budget)
    {
        tracing::warn!("{warning}");
    }
    let budget = Size(budget).about();
    tracing::info!(%clients, tls = config.tls.is_some(), nodes, metrics, store = %folder.display(), %budget, "serving");
    if config.unlisted && config.role == Role::Registry {
        tracing::info!("try it: {}", example(clients, config.tls.is_some()));
    }

    let stop = CancellationToken::new();
    let stop_admin = CancellationToken::new();
    let pointing = config.role == Role::Node && config.node.hosts;
    let pointed = async {
        if pointing {
            crate::node::keep_pointed(&config, clients, stop.clone(), &told).await;
        } else {
            told.cancel();
        }
    };
    let admin = admin.map(|admin| tokio::spawn(admin.run(stop_admin.clone())));
    let drain = async {
        let signal = signals.next().await;
        tracing::info!(signal, grace = ?config.grace, "ending: answers in progress may finish; a second signal cuts them");
        draining.store(true, Ordering::Relaxed);
        stop.cancel();
        signals.next().await
    };
    // Both go on until the stop, and may take a while then.
    let served = async { tokio::join!(server.run(stop.clone(), config.grace), pointed) };
    tokio::select! {
        _ = served => {}
        signal = drain => {
            tracing::warn!(signal, "ending at once");
            std::process::exit(1);
        }
    }
    if let Some(keeping) = keeping {
        keeping.end().await;
    }
    if let Some(following) = following {
        following.end().await;
    }
    engine.shutdown().await;
    if let Some(sharing) = sharing {
        sharing.end().await;
    }
    stop_admin.cancel();
    if let Some(admin) = admin {
        admin.await.context("the metrics listener")?;
    }
    tracing::info!("ended");
    Ok(())
}

/// Heeds the Upstreams of the cluster, where this is part of one. Nobody waits for it.
fn follow_upstreams(config: &Config, directory: Arc<Directory>, engine: &Arc<Engine>) -> Option<Following> {
    let rules = config.rules.clone();
    match (config.role, &config.registry.cluster, &config.node.cluster) {
        (Role::Registry, Some(cluster), _) => Some(Following::of_registry(directory, &cluster.namespace, rules)),
        (Role::Node, _, Some(_)) => Some(Following::of_node(directory, engine.clone(), rules)),
        _ => None,
    }
}

fn admin(port: Port, registry: MetricsRegistry, engine: Arc<Engine>, draining: Arc<AtomicBool>) -> Admin {
    let ready = move || match draining.load(Ordering::Relaxed) {
        true => Err("larder is ending".to_owned()),
        false => engine.ready(),
    };
    Admin::new(port, Arc::new(registry), ready)
}

/// What the container runtime of a node has itself.
async fn shelf(config: &Config) -> Option<node::ContentStore> {
    if config.role != Role::Node {
        return None;
    }
    let settings = config.node.setup(config.listen);
    match node::detect(&settings.host_root).await {
        Ok(runtimes) => node::ContentStore::find(&settings, &runtimes),
        Err(error) => {
            tracing::warn!(%error, "what the runtime has is not shared: its configuration cannot be read");
            None
        }
    }
}

fn store_settings(store: &Store) -> StoreSettings {
    let budget = match store.budget {
        Budget::Bytes(bytes) => cache::Budget::Bytes(bytes),
        Budget::Percent(percent) => cache::Budget::Share(f64::from(percent) / 100.0),
        Budget::PercentUpTo(percent, bytes) => cache::Budget::ShareUpTo(f64::from(percent) / 100.0, bytes),
    };
    StoreSettings { root: store.path.clone(), budget }
}

fn engine_settings(config: &Config) -> EngineSettings {
    let usual = EngineSettings::default();
    EngineSettings {
        public_for: config.access.public,
        grant_for: config.access.grant,
        grant_outage: config.access.outage,
        memory: config.store.memory.map_or(usual.memory, |Size(bytes)| bytes),
        scrub_bytes_per_second: config.store.scrub.map_or(usual.scrub_bytes_per_second, |Size(bytes)| bytes),
        pins: config.pins.clone(),
        ..usual
    }
}

fn serve_settings(config: &Config) -> ServeSettings {
    let files = |tls: &crate::config::Tls| TlsFiles { cert_file: tls.certificate.clone(), key_file: tls.key.clone() };
    ServeSettings {
        tls: config.tls.as_ref().map(files),
        unqualified: config.unqualified.clone(),
        mirror: (config.role == Role::Node).then_some(Mirror { answer: config.node.answer }),
        login: config.access.login,
        limits: config.limits.clone(),
        ..ServeSettings::default()
    }
}

/// A pull for somebody who sees this for the first time.
fn example(clients: SocketAddr, tls: bool) -> String {
    let host = match clients {
        SocketAddr::V4(address) if address.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        SocketAddr::V6(address) if address.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        other => other,
    };
    let plain = if tls { "" } else { "--src-tls-verify=false " };
    format!("skopeo copy {plain}docker://{host}/docker.io/library/alpine:3.20 oci:/tmp/alpine:3.20")
}
