use std::sync::Arc;
use std::time::Duration;

use cache::Source;
use oci::Registry;
use url::Url;

use crate::address::Resolver;
use crate::breaker::Breaker;
use crate::dial::{Dialer, HostRule, Hosts};
use crate::directory::{client, shared};
use crate::exchange::{Client, Exchange};
use crate::metrics::Metrics;
use crate::origin::Origin;
use crate::settings::{
    Deadlines, Front, RetrySettings, Settings, SettingsError, TlsChoice, UpstreamSettings, endpoint_url,
};
use crate::trust::{Authorities, Trust};

/// A registry nearby that takes longer to connect to is down, and the origin is asked instead.
const CONNECT: Duration = Duration::from_secs(1);

/// TLS with the system's authorities and these besides.
///
/// # Errors
/// The text holds no usable certificate in PEM.
pub fn trusting(ca_pem: &str) -> Result<TlsChoice, String> {
    let trust = Trust::With(Authorities::read([ca_pem])?);
    Ok(Arc::new(move || trust.config()))
}

/// The larder registry in front of all origins. It is asked for `registry/repository`, as any client would.
pub(crate) struct FrontDoor {
    url: Url,
    client: Client,
    /// One for all registries: it is one server.
    breaker: Arc<Breaker>,
}

impl FrontDoor {
    pub(crate) fn new(
        front: &Front,
        settings: &Settings,
        metrics: &Metrics,
        resolver: &Arc<dyn Resolver>,
    ) -> Result<FrontDoor, SettingsError> {
        let url = endpoint_url(&front.url).and_then(|url| match url.path() {
            "/" => Ok(url),
            _ => Err("it must not have a path".to_owned()),
        });
        let url = url.map_err(|reason| {
            let url = if front.url.contains('@') { String::new() } else { front.url.clone() };
            SettingsError::Front { url, reason }
        })?;
        let trust = front.tls.clone().map_or(Trust::System, Trust::Chosen);
        let host = url.host_str().unwrap_or_default().to_owned();
        let hosts = Hosts::from([((host, url.port_or_known_default()), HostRule { trust })]);
        let client = client(Dialer::new(resolver.clone(), hosts, settings.deadlines.connect.min(CONNECT)));
        let gauge = metrics.of("registry".to_owned()).open_breakers.clone();
        Ok(FrontDoor { url, client, breaker: Arc::new(Breaker::new(settings.breaker, gauge)) })
    }

    /// The source for one registry's content.
    pub(crate) fn source(&self, registry: &Registry, settings: &Settings, metrics: &Metrics) -> Arc<dyn Source> {
        let mut url = self.url.clone();
        url.set_path(&format!("/v2/{}", registry.to_element()));
        let deadlines = Deadlines { connect: settings.deadlines.connect.min(CONNECT), ..settings.deadlines };
        let settings = Settings {
            deadlines,
            // There is somebody else to ask.
            retries: RetrySettings { count: 1, ..settings.retries },
            ..Settings::default()
        };
        let shared = shared(
            &settings,
            UpstreamSettings::new(registry.clone()),
            self.client.clone(),
            metrics,
            "registry".to_owned(),
        );
        Arc::new(Origin::front(Exchange::new(shared, url, self.breaker.clone())))
    }
}
