use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use cache::Source;
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_TYPE, DATE};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use oci::Registry;
use url::Url;

use crate::address::{Resolver, SystemResolver};
use crate::breaker::Breaker;
use crate::dial::{DialError, Dialer, HostRule, Hosts};
use crate::directory::{client, shared};
use crate::exchange::{Client, Exchange};
use crate::failure::Failure;
use crate::handshake::Named;
use crate::metrics::Metrics;
use crate::origin::Origin;
use crate::settings::{
    Deadlines, Front, RetrySettings, Settings, SettingsError, TlsChoice, UpstreamSettings, endpoint_url,
};
use crate::trust::{Authorities, Trust};

/// A registry nearby that takes longer to connect to is down, and the origin is asked instead.
const CONNECT: Duration = Duration::from_secs(1);

/// That it cannot be asked is said no more often than this.
const QUIET: Duration = Duration::from_secs(60);

/// TLS with the system's authorities and these besides.
///
/// # Errors
/// The text holds no usable certificate in PEM.
pub fn trusting(ca_pem: &str) -> Result<TlsChoice, String> {
    let trust = Trust::With(Authorities::read([ca_pem])?);
    Ok(Arc::new(move || trust.config()))
}

/// Its URL, and what connects to it and to nothing else that is not public.
fn reach(front: &Front, resolver: Arc<dyn Resolver>, connect: Duration) -> Result<(Url, Dialer), SettingsError> {
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
    let hosts = Hosts::from([((host, url.port_or_known_default()), HostRule { trust, named: Named::Registry })]);
    Ok((url, Dialer::new(resolver, hosts, connect)))
}

/// A larder registry that answers as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What its clock said while it answered, in whole seconds.
    pub date: Option<SystemTime>,
}

/// Why a larder registry does not answer as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unanswered {
    reason: String,
    /// The clock of this machine, or of that one, is a likely reason: its certificate is not good at this time.
    pub out_of_date: bool,
}

/// Asks a larder registry whether it is there. Cancellation safe.
///
/// # Errors
/// It gives no answer that a registry would give, or takes longer than `limit`.
pub async fn probe(front: &Front, limit: Duration) -> Result<Answered, Unanswered> {
    let failed = |reason: String| Unanswered { reason, out_of_date: false };
    let (mut url, dialer) =
        reach(front, Arc::new(SystemResolver::new()), limit).map_err(|error| failed(error.to_string()))?;
    let client: Client = client(dialer);
    url.set_path("/v2/");
    let mut request = http::Request::new(Empty::new());
    *request.uri_mut() = url.as_str().parse().map_err(|_| failed("its URL cannot be asked".to_owned()))?;
    let answer = match tokio::time::timeout(limit, client.request(request)).await {
        Err(_) => return Err(failed("it does not answer".to_owned())),
        Ok(Err(error)) => {
            return Err(Unanswered { reason: Failure::of_request(&error).reason, out_of_date: out_of_date(&error) });
        }
        Ok(Ok(answer)) => answer,
    };
    // 401 is how one that asks everybody for credentials answers.
    if !matches!(answer.status(), StatusCode::OK | StatusCode::UNAUTHORIZED) {
        return Err(failed(format!("it answers {}, as no registry does", answer.status())));
    }
    let date = answer.headers().get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    Ok(Answered { date })
}

/// Tells a larder registry something (`PUT`), and gives its answer, of at most `most` bytes. Each time over a connection of its own, so that
/// where there are several behind one name, each hears of it by and by. Cancellation safe.
///
/// # Errors
/// It takes longer than `limit` or answers anything but 200.
pub async fn tell(front: &Front, path: &str, text: Bytes, most: usize, limit: Duration) -> Result<Bytes, Unanswered> {
    let failed = |reason: String| Unanswered { reason, out_of_date: false };
    let (mut url, dialer) =
        reach(front, Arc::new(SystemResolver::new()), CONNECT).map_err(|error| failed(error.to_string()))?;
    url.set_path(path);
    let client: legacy::Client<Dialer, Full<Bytes>> = legacy::Client::builder(TokioExecutor::new()).build(dialer);
    let request = http::Request::put(url.as_str())
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Full::new(text))
        .map_err(|_| failed("its URL cannot be asked".to_owned()))?;
    let exchange = async {
        let answer = client.request(request).await.map_err(|error| Unanswered {
            reason: Failure::of_request(&error).reason,
            out_of_date: out_of_date(&error),
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), most).collect().await;
        let body = body.map_err(|_| failed("its answer broke off, or is too long".to_owned()))?.to_bytes();
        if status == StatusCode::OK { Ok(body) } else { Err(failed(format!("it answers {status}"))) }
    };
    tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| Err(failed("it does not answer in time".to_owned())))
}

/// Whether the other side's certificate is no longer or not yet good.
fn out_of_date(error: &legacy::Error) -> bool {
    let first = error as &(dyn Error + 'static);
    let causes = std::iter::successors(Some(first), |error: &&(dyn Error + 'static)| (*error).source());
    causes.filter_map(|cause| cause.downcast_ref::<DialError>()).any(|error| match error {
        DialError::Tls { problem, .. } => problem.is_out_of_date(),
        _ => false,
    })
}

/// The larder registry in front of all origins. It is asked for `registry/repository`, as any client would.
pub(crate) struct FrontDoor {
    url: Url,
    client: Client,
    /// One for all registries: it is one server.
    breaker: Arc<Breaker>,
    health: Arc<Health>,
    renew: bool,
}

/// Whether the registry in front can be asked, as far as the log is concerned: that it cannot shows nowhere else, since the
/// origin is asked instead.
#[derive(Default)]
pub(crate) struct Health {
    said: Mutex<Option<Instant>>,
}

impl Health {
    /// Says now and then why it did not answer.
    pub(crate) fn failed(&self, label: &str, failure: &Failure) {
        if !failure.unwell {
            return;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() >= QUIET) {
            *said = Some(Instant::now());
            tracing::warn!(
                registry = label,
                reason = failure.told(),
                "the larder registry gives nothing: the origin is asked"
            );
        }
    }
}

impl FrontDoor {
    pub(crate) fn new(
        front: &Front,
        settings: &Settings,
        metrics: &Metrics,
        resolver: &Arc<dyn Resolver>,
    ) -> Result<FrontDoor, SettingsError> {
        let (url, dialer) = reach(front, resolver.clone(), settings.deadlines.connect.min(CONNECT))?;
        let client = client(dialer);
        let gauge = metrics.of("registry".to_owned()).open_breakers.clone();
        let breaker = Arc::new(Breaker::new(settings.breaker, gauge));
        Ok(FrontDoor { url, client, breaker, health: Arc::default(), renew: front.renew })
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
        Arc::new(Origin::front(
            Exchange::new(shared, url, self.breaker.clone()).of_larder(self.renew),
            self.health.clone(),
        ))
    }
}
