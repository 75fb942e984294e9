use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cache::{NoUpstream, Rules, Source, Upstream, Upstreams};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use oci::Registry;
use url::Url;

use crate::address::{Resolver, SystemResolver, is_global};
use crate::breaker::Breaker;
use crate::dial::{Dialer, HostRule, Hosts};
use crate::exchange::{Client, Exchange, Shared};
use crate::front::FrontDoor;
use crate::handshake::Named;
use crate::limit::Limiter;
use crate::metrics::Metrics;
use crate::origin::Origin;
use crate::pause::Pauses;
use crate::quota::Quota;
use crate::settings::{Limits, Settings, SettingsError, UpstreamSettings, endpoint_url, host_entry};
use crate::token::Tokens;
use crate::trust::{Authorities, Trust};

/// So many upstreams that are not listed are remembered. Each costs little, but anybody can name one.
const MOST_UNLISTED: usize = 1000;
/// So many of them have metrics of their own; the others count as `other`.
const MOST_LABELS: usize = 50;
/// The longest head of an answer, and the most that is read of a body at a time, in bytes.
const BUFFER: usize = 64 * 1024;
/// Connections that nobody uses are closed after so long.
const KEPT_IDLE: Duration = Duration::from_secs(60);
const KEPT_IDLE_PER_HOST: usize = 16;

/// Finds the upstream of a registry: a listed one, or any public registry where the settings are open.
///
/// Those that the settings list stay. Others may be listed while it is in use, by [`replace`](Directory::replace).
pub struct Directory {
    settings: Settings,
    metrics: Metrics,
    resolver: Arc<dyn Resolver>,
    listed: HashMap<Registry, Option<Arc<Upstream>>>,
    added: RwLock<HashMap<Registry, Added>>,
    client: Client,
    front: Option<FrontDoor>,
    unlisted: Mutex<Unlisted>,
}

/// One that was listed later.
#[derive(Clone)]
struct Added {
    settings: UpstreamSettings,
    upstream: Arc<Upstream>,
}

/// What became of an upstream that was to be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// It is in use.
    InUse,
    /// The settings list its registry already, and come first.
    Overruled,
    /// The settings exclude its registry.
    Excluded,
}

#[derive(Default)]
struct Unlisted {
    upstreams: HashMap<Registry, (Arc<Upstream>, Instant)>,
    labels: HashSet<Registry>,
}

impl Directory {
    /// Prepares the listed upstreams. Makes no connection and reads no file.
    ///
    /// # Errors
    /// When a URL, certificate, host or limit in the settings is not usable.
    pub fn new(settings: Settings, metrics: Metrics) -> Result<Arc<Directory>, SettingsError> {
        Directory::with_resolver(settings, metrics, Arc::new(SystemResolver::new()))
    }

    /// The same, with another way to look up hosts.
    ///
    /// # Errors
    /// As [`new`](Directory::new).
    pub fn with_resolver(
        settings: Settings,
        metrics: Metrics,
        resolver: Arc<dyn Resolver>,
    ) -> Result<Arc<Directory>, SettingsError> {
        let front = match &settings.front {
            Some(front) => Some(FrontDoor::new(front, &settings, &metrics, &resolver)?),
            None => None,
        };
        let mut listed = HashMap::new();
        for upstream in &settings.upstreams {
            let made = match upstream.excluded {
                true => None,
                false => Some(listed_upstream(upstream, &settings, &metrics, &resolver, front.as_ref())?),
            };
            listed.insert(upstream.registry.clone(), made);
        }
        let client = client(Dialer::new(resolver.clone(), Hosts::new(), settings.deadlines.connect));
        let (added, unlisted) = Default::default();
        Ok(Arc::new(Directory { settings, metrics, resolver, listed, added, client, front, unlisted }))
    }

    /// Lists these besides those of the settings, and none that were listed so before. Of two with the same registry the first
    /// counts. Makes no connection.
    ///
    /// What does not change stays as it is, connections, limits and tokens included, and requests in progress keep what they have.
    /// An upstream whose new settings are not usable stays as it was, unless they also change who may have its content.
    ///
    /// Says of each in turn what became of it, or why its settings are not usable.
    pub fn replace(&self, upstreams: Vec<UpstreamSettings>) -> Vec<Result<Listing, SettingsError>> {
        let before = self.added.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut after = HashMap::with_capacity(upstreams.len());
        let mut told = Vec::with_capacity(upstreams.len());
        for settings in upstreams {
            let registry = settings.registry.clone();
            let told_of_it = match self.listed.get(&registry) {
                Some(Some(_)) => Ok(Listing::Overruled),
                Some(None) => Ok(Listing::Excluded),
                None if after.contains_key(&registry) => Ok(Listing::Overruled),
                None => {
                    let last = before.get(&registry);
                    let made = self.made(&settings, last);
                    let (added, told_of_it) = match made {
                        Ok(upstream) => (Some(Added { settings, upstream }), Ok(Listing::InUse)),
                        Err(error) => (last.filter(|last| same_right(&last.settings, &settings)).cloned(), Err(error)),
                    };
                    after.extend(added.map(|added| (registry, added)));
                    told_of_it
                }
            };
            told.push(told_of_it);
        }
        *self.added.write().unwrap_or_else(PoisonError::into_inner) = after;
        told
    }

    /// An upstream with these settings, which keeps what it can of the last one.
    fn made(&self, settings: &UpstreamSettings, last: Option<&Added>) -> Result<Arc<Upstream>, SettingsError> {
        if let Some(last) = last {
            if last.settings == *settings {
                return Ok(last.upstream.clone());
            }
            // With other rules, its content comes from where it came from.
            let alike = UpstreamSettings { rules: settings.rules.clone(), ..last.settings.clone() };
            if alike == *settings {
                let (registry, sources) = (settings.registry.clone(), last.upstream.sources.clone());
                return Ok(Arc::new(Upstream { registry, sources, rules: rules(settings) }));
            }
        }
        listed_upstream(settings, &self.settings, &self.metrics, &self.resolver, self.front.as_ref())
    }

    fn unlisted(&self, registry: &Registry) -> Arc<Upstream> {
        let mut unlisted = self.unlisted.lock().expect("no panic while held");
        let now = Instant::now();
        if let Some((upstream, used)) = unlisted.upstreams.get_mut(registry) {
            *used = now;
            return upstream.clone();
        }
        if unlisted.upstreams.len() >= MOST_UNLISTED
            && let Some(oldest) =
                unlisted.upstreams.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| name.clone())
        {
            unlisted.upstreams.remove(&oldest);
        }
        let labelled = unlisted.labels.contains(registry)
            || (unlisted.labels.len() < MOST_LABELS && unlisted.labels.insert(registry.clone()));
        let label = if labelled { registry.to_string() } else { "other".to_owned() };
        let shared =
            shared(&self.settings, UpstreamSettings::new(registry.clone()), self.client.clone(), &self.metrics, label);
        let front = self.front.as_ref().map(|front| front.source(registry, &self.settings, &self.metrics));
        let sources = front.into_iter().chain([source(&shared, &self.settings, default_url(registry))]).collect();
        let upstream = Arc::new(Upstream { registry: registry.clone(), sources, rules: self.settings.rules.clone() });
        unlisted.upstreams.insert(registry.clone(), (upstream.clone(), now));
        upstream
    }
}

impl Upstreams for Directory {
    fn find(&self, registry: &Registry) -> Result<Arc<Upstream>, NoUpstream> {
        let none = |reason| NoUpstream { registry: registry.clone(), reason };
        match self.listed.get(registry) {
            Some(Some(upstream)) => return Ok(upstream.clone()),
            Some(None) => return Err(none("it is excluded")),
            None => {}
        }
        if let Some(added) = self.added.read().unwrap_or_else(PoisonError::into_inner).get(registry) {
            return Ok(added.upstream.clone());
        }
        if !self.settings.open {
            return Err(none("only the upstreams in the configuration are"));
        }
        // What can be told without a lookup; the rest is told when the address is known.
        let host = registry.host();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| !is_global(address)) {
            return Err(none("its address is not public and no upstream names it"));
        }
        Ok(self.unlisted(registry))
    }
}

/// Whether the same people may have the same by both.
fn same_right(one: &UpstreamSettings, other: &UpstreamSettings) -> bool {
    one.credential == other.credential && one.rules.shared == other.rules.shared
}

fn rules(upstream: &UpstreamSettings) -> Rules {
    Rules { own: upstream.credential.clone(), ..upstream.rules.clone() }
}

fn default_url(registry: &Registry) -> Url {
    let (host, port) = registry.default_endpoint();
    Url::parse(&format!("https://{host}:{port}/")).expect("a registry is a host with an optional port")
}

fn listed_upstream(
    upstream: &UpstreamSettings,
    settings: &Settings,
    metrics: &Metrics,
    resolver: &Arc<dyn Resolver>,
    front: Option<&FrontDoor>,
) -> Result<Arc<Upstream>, SettingsError> {
    check_limits(upstream)?;
    let registry = &upstream.registry;
    let (urls, client) = reach(upstream, resolver, settings.deadlines.connect)?;
    let shared = shared(settings, upstream.clone(), client, metrics, registry.to_string());
    let front = front.map(|front| front.source(registry, settings, metrics));
    let sources = front.into_iter().chain(urls.into_iter().map(|url| source(&shared, settings, url))).collect();
    Ok(Arc::new(Upstream { registry: registry.clone(), sources, rules: rules(upstream) }))
}

/// The endpoints of an upstream, and a client that connects to them, and to what else it names.
pub(crate) fn reach(
    upstream: &UpstreamSettings,
    resolver: &Arc<dyn Resolver>,
    connect: Duration,
) -> Result<(Vec<Url>, Client), SettingsError> {
    let registry = &upstream.registry;
    let texts = upstream.endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.ca_pem.as_deref()?)));
    for (endpoint, pem) in texts.clone() {
        let (registry, url) = (registry.clone(), endpoint.url.clone());
        Authorities::read([pem]).map_err(|reason| SettingsError::Ca { registry, url, reason })?;
    }
    let pems: Vec<&str> = texts.map(|(_, pem)| pem).collect();
    let trust = match pems.is_empty() {
        true => Trust::System,
        false => Trust::With(Authorities::read(pems).expect("each was read before")),
    };
    let mut hosts = Hosts::new();
    for host in upstream.token_hosts.iter().chain(&upstream.allowed_hosts) {
        let entry =
            host_entry(host).ok_or_else(|| SettingsError::Host { registry: registry.clone(), host: host.clone() })?;
        hosts.insert(entry, HostRule { trust: trust.clone(), named: Named::Upstream });
    }
    let mut urls = Vec::new();
    for endpoint in &upstream.endpoints {
        let url = endpoint_url(&endpoint.url).map_err(|reason| {
            let url = if endpoint.url.contains('@') { String::new() } else { endpoint.url.clone() };
            SettingsError::Endpoint { registry: registry.clone(), url, reason }
        })?;
        let trust = if endpoint.insecure_skip_verify { Trust::Anybody } else { trust.clone() };
        name_host(&mut hosts, &url, trust);
        urls.push(url);
    }
    if urls.is_empty() {
        let url = default_url(registry);
        name_host(&mut hosts, &url, trust);
        urls.push(url);
    }
    Ok((urls, client(Dialer::new(resolver.clone(), hosts, connect))))
}

fn name_host(hosts: &mut Hosts, url: &Url, trust: Trust) {
    let host = url.host_str().unwrap_or_default().to_owned();
    hosts.insert((host, url.port_or_known_default()), HostRule { trust, named: Named::Upstream });
}

fn check_limits(upstream: &UpstreamSettings) -> Result<(), SettingsError> {
    let Limits { concurrency, requests_per_second, bytes_per_second } = upstream.limits;
    let zero = [
        ("limits.concurrency", concurrency == Some(0)),
        ("limits.requests_per_second", requests_per_second.is_some_and(|rate| !(rate.is_finite() && rate > 0.0))),
        ("limits.bytes_per_second", bytes_per_second == Some(0)),
    ];
    match zero.into_iter().find(|(_, zero)| *zero) {
        Some((limit, _)) => Err(SettingsError::Limit { registry: upstream.registry.clone(), limit }),
        None => Ok(()),
    }
}

pub(crate) fn shared(
    settings: &Settings,
    upstream: UpstreamSettings,
    client: Client,
    metrics: &Metrics,
    label: String,
) -> Arc<Shared> {
    Arc::new(Shared {
        client,
        limiter: Limiter::new(upstream.limits, settings.deadlines.queue),
        deadlines: settings.deadlines,
        retries: settings.retries,
        metrics: Arc::new(metrics.of(label)),
        credential: upstream.credential,
        token_hosts: upstream.token_hosts.iter().filter_map(|host| host_entry(host)).collect(),
        tokens: Tokens::default(),
        pauses: Pauses::default(),
        quota: Quota::default(),
    })
}

fn source(shared: &Arc<Shared>, settings: &Settings, url: Url) -> Arc<dyn Source> {
    let breaker = Breaker::new(settings.breaker, shared.metrics.open_breakers.clone());
    Arc::new(Origin::new(Exchange::new(shared.clone(), url, Arc::new(breaker))))
}

pub(crate) fn client(dialer: Dialer) -> Client {
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(KEPT_IDLE)
        .pool_max_idle_per_host(KEPT_IDLE_PER_HOST)
        .http1_max_buf_size(BUFFER)
        .build(dialer)
}
