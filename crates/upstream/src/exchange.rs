mod authenticate;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cache::{Ask, Authority, Credential, FailureKind};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use oci::Repository;
use rand::Rng as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use url::Url;

use crate::body::Body;
use crate::breaker::Breaker;
use crate::challenge::Challenge;
use crate::dial::Dialer;
use crate::failure::Failure;
use crate::limit::Limiter;
use crate::metrics::UpstreamMetrics;
use crate::pause::{Pauses, retry_after};
use crate::quota::Quota;
use crate::redirect;
use crate::settings::{Deadlines, RetrySettings};
use crate::token::Tokens;

pub(crate) type Client = legacy::Client<Dialer, Empty<Bytes>>;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION")));
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
/// By this header a larder registry knows that a node asks for what ImageCaches want. It heeds it where nodes show who they are.
const PREFETCH: HeaderName = HeaderName::from_static("larder-prefetch");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
/// What is read of a body that nobody wants, so that its connection can be used again: bytes, and for how long.
const DRAIN: (usize, Duration) = (64 * 1024, Duration::from_millis(250));

/// What the endpoints of an upstream share.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) limiter: Limiter,
    pub(crate) deadlines: Deadlines,
    pub(crate) retries: RetrySettings,
    pub(crate) metrics: Arc<UpstreamMetrics>,
    pub(crate) credential: Option<Credential>,
    pub(crate) token_hosts: Vec<(String, Option<u16>)>,
    pub(crate) tokens: Tokens,
    pub(crate) pauses: Pauses,
    pub(crate) quota: Quota,
}

/// One request, as far as endpoints do not differ.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// What follows the repository: `/manifests/latest`, with a query where there is one.
    pub(crate) target: String,
    pub(crate) accept: HeaderValue,
    /// First byte wanted.
    pub(crate) from: u64,
    /// First byte not wanted any more.
    pub(crate) until: Option<u64>,
}

impl Call {
    /// Whether a part is asked for.
    pub(crate) fn is_ranged(&self) -> bool {
        self.from > 0 || self.until.is_some()
    }
}

/// The head of an answer that is neither redirect, challenge, 429 nor 5xx, and its body to come.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    /// It came from a place that the endpoint redirected to.
    pub(crate) redirected: bool,
    place: Option<OwnedSemaphorePermit>,
}

/// An endpoint of an upstream: sends requests with all that goes with them.
pub(crate) struct Exchange {
    shared: Arc<Shared>,
    label: Arc<str>,
    url: Url,
    /// What stands before the repository in the path, and which part of that belongs to the repository's name there.
    root: String,
    prefix: String,
    breaker: Arc<Breaker>,
    challenge: Mutex<Option<Challenge>>,
    /// It is larder's own.
    is_larder: bool,
    /// Caches on the way are to ask anew (RFC 9111, section 5.2.1.4).
    renew: bool,
}

struct Reply {
    response: Response<Incoming>,
    redirected: bool,
}

impl Exchange {
    /// `url` is one that [`crate::settings::endpoint_url`] accepted.
    pub(crate) fn new(shared: Arc<Shared>, url: Url, breaker: Arc<Breaker>) -> Exchange {
        let host = url.host_str().unwrap_or_default();
        let label = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let path = url.path().trim_matches('/').to_owned();
        let (root, prefix) = match path.split_once('/') {
            Some(("v2", prefix)) => (format!("/{path}/"), format!("{prefix}/")),
            None if path == "v2" || path.is_empty() => ("/v2/".to_owned(), String::new()),
            _ => (format!("/{path}/v2/"), String::new()),
        };
        Exchange {
            shared,
            label: label.into(),
            url,
            root,
            prefix,
            breaker,
            challenge: Mutex::new(None),
            is_larder: false,
            renew: false,
        }
    }

    /// The same for a larder registry in front: it may know what nodes do not, and is to ask anew if `renew` says so.
    pub(crate) fn of_larder(self, renew: bool) -> Exchange {
        Exchange { is_larder: true, renew, ..self }
    }

    pub(crate) fn label(&self) -> &Arc<str> {
        &self.label
    }

    pub(crate) fn metrics(&self) -> &UpstreamMetrics {
        &self.shared.metrics
    }

    /// Whether few pulls are left of those that the upstream allows.
    pub(crate) fn is_scarce(&self) -> bool {
        self.shared.quota.is_scarce()
    }

    /// The body of an answer.
    pub(crate) fn body(&self, answer: Answer) -> Body {
        let Shared { deadlines, limiter, metrics, .. } = &*self.shared;
        Body::new(
            answer.response.into_body(),
            self.label.clone(),
            deadlines.idle,
            deadlines.minimum_rate,
            limiter.bytes.clone(),
            metrics.clone(),
            answer.place,
        )
    }

    /// Sends a request until it is answered or not worth another try. Cancellation-safe.
    pub(crate) async fn send(&self, ask: &Ask, call: &Call) -> Result<Answer, Failure> {
        let authority = match &ask.authority {
            Authority::Own if self.shared.credential.is_none() => &Authority::Anonymous,
            // Another larder may know one.
            Authority::Prefetch if self.shared.credential.is_none() && !self.is_larder => &Authority::Anonymous,
            authority => authority,
        };
        self.shared.pauses.check(&self.label, authority)?;
        let place = self.shared.limiter.place().await?;
        self.shared.pauses.check(&self.label, authority)?;
        let whole = self.attempts(&ask.name.repository, authority, call);
        match tokio::time::timeout(self.shared.deadlines.answer, whole).await {
            Ok(reply) => reply.map(|Reply { response, redirected }| Answer { response, redirected, place }),
            Err(_) => Err(Failure::timeout("no answer in time")),
        }
    }

    async fn attempts(&self, repository: &Repository, authority: &Authority, call: &Call) -> Result<Reply, Failure> {
        let retries = self.shared.retries;
        let mut pause = retries.pause;
        let mut left = retries.count;
        loop {
            self.shared.limiter.turn().await?;
            let admission = self.breaker.admit()?;
            let last = left == 0 || admission.is_probe();
            let outcome = self.authorized(repository, authority, call).await;
            if let Ok(Reply { response, redirected: false }) = &outcome
                && !matches!(authority, Authority::Client(_))
            {
                self.shared.quota.note(&self.label, response.headers());
            }
            let failure = match outcome {
                Ok(reply) if reply.response.status() == StatusCode::TOO_MANY_REQUESTS => {
                    admission.well();
                    let wait = retry_after(reply.response.headers(), SystemTime::now());
                    drain(reply.response).await;
                    return Err(self.shared.pauses.begin(&self.label, authority, wait));
                }
                Ok(reply) if reply.response.status().is_server_error() => {
                    let failure = Failure::unavailable(format!("the answer's status is {}", reply.response.status()));
                    // It answers at least: counted once, when it did not help to try again.
                    if last && !reply.redirected {
                        admission.unwell();
                    }
                    drain(reply.response).await;
                    failure
                }
                Ok(reply) => {
                    admission.well();
                    return Ok(reply);
                }
                Err(failure) => {
                    if failure.unwell {
                        admission.unwell();
                    }
                    failure
                }
            };
            if last || !failure.again {
                return Err(failure);
            }
            left -= 1;
            self.shared.metrics.retries.inc();
            tracing::debug!(source = %self.label, reason = failure.reason, "trying again");
            let share = rand::rng().random_range(0.5..=1.0);
            tokio::time::sleep(pause.mul_f64(share)).await;
            pause *= 2;
        }
    }

    /// Sends a request and follows redirects. The credential goes to the endpoint's own host and port only, and no more once
    /// a redirect has led elsewhere.
    async fn follow(
        &self,
        repository: &Repository,
        authority: &Authority,
        call: &Call,
        credential: Option<&HeaderValue>,
    ) -> Result<Reply, Failure> {
        let prefetch = self.is_larder && *authority == Authority::Prefetch;
        let mut url = self.url.clone();
        url.set_path("");
        let text = format!("{}{}{repository}{}", url.as_str().trim_end_matches('/'), self.root, call.target);
        let mut url: Url = text.parse().map_err(|_| Failure::invalid("what is asked for makes no URL"))?;
        let mut redirected = false;
        let mut seen = Vec::new();
        loop {
            let credential = credential.filter(|_| !redirected);
            let response =
                self.request(&url, call, credential, prefetch && !redirected).await.map_err(|failure| match failure
                    .kind
                {
                    _ if !redirected => failure,
                    // Where the registry leads to says nothing about how it is itself, but that it leads there does.
                    FailureKind::Refused => Failure::invalid(format!("a redirect: {}", failure.reason)),
                    _ => Failure { unwell: false, ..failure },
                })?;
            if !redirect::is_redirect(response.status()) {
                if !redirected {
                    let headers = response.headers();
                    let quota = |name| crate::header::quota(headers, name);
                    self.shared.metrics.quota(quota("ratelimit-limit"), quota("ratelimit-remaining"));
                }
                return Ok(Reply { response, redirected });
            }
            let next = redirect::target(&url, response.headers())?;
            drain(response).await;
            seen.push(url);
            if seen.contains(&next) {
                return Err(Failure::invalid("redirects that lead in a circle"));
            }
            if seen.len() > redirect::MOST {
                return Err(Failure::invalid("too many redirects"));
            }
            redirected |= !redirect::same_server(&seen[seen.len() - 1], &next);
            url = next;
        }
    }

    /// One request and the head of its answer.
    async fn request(
        &self,
        url: &Url,
        call: &Call,
        credential: Option<&HeaderValue>,
        prefetch: bool,
    ) -> Result<Response<Incoming>, Failure> {
        let uri: Uri = url.as_str().parse().map_err(|_| Failure::invalid("a URL that cannot be asked for"))?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri;
        let headers: &mut HeaderMap = request.headers_mut();
        headers.insert(USER_AGENT, AGENT);
        headers.insert(ACCEPT, call.accept.clone());
        headers.insert(ACCEPT_ENCODING, IDENTITY);
        if call.is_ranged() {
            let last = call.until.map(|until| (until - 1).to_string()).unwrap_or_default();
            let range = format!("bytes={}-{last}", call.from);
            headers.insert(RANGE, range.parse().expect("digits are a header's value"));
        }
        if self.renew {
            headers.insert(CACHE_CONTROL, NO_CACHE);
        }
        if prefetch {
            headers.insert(PREFETCH, HeaderValue::from_static("true"));
        }
        if let Some(credential) = credential {
            headers.insert(AUTHORIZATION, credential.clone());
        }
        let started = Instant::now();
        let answer = tokio::time::timeout(self.shared.deadlines.headers, self.shared.client.request(request)).await;
        let took = started.elapsed();
        let host = url.host_str().unwrap_or_default();
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let failure = Failure::of_request(&error);
                tracing::debug!(source = %self.label, method = %call.method, host, reason = failure.reason, ?took, "no answer");
                return Err(failure);
            }
            Err(_) => return Err(Failure::timeout(format!("no answer from {host} in time"))),
        };
        self.shared.metrics.answer(response.status(), took);
        tracing::debug!(
            source = %self.label, method = %call.method, host, path = url.path(), status = response.status().as_u16(), ?took,
            "answer"
        );
        Ok(response)
    }
}

/// Reads the rest of a short body, so that its connection can be used again. What does not end soon is closed instead.
pub(crate) async fn drain(response: Response<Incoming>) {
    let body = Limited::new(response.into_body(), DRAIN.0);
    // Either way the answer's head is all that is needed.
    let _ = tokio::time::timeout(DRAIN.1, body.collect()).await;
}
