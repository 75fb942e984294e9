use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cache::{Blob, Claim, Content as Found, DocumentQuery, Outcome, Purpose, Spent};
use http::{HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use oci::{Digest, Endpoint, ErrorCode, MediaType, Name, Reference, Registry, Route};

use crate::answer::{Answer, FILTERS_APPLIED, Keep, NAMESPACE, names};
use crate::authorization;
use crate::body::{Account, Body, Image, Subject};
use crate::content::Content;
use crate::failure::Failure;
use crate::metrics::{Kind, Metrics, Verb};
use crate::query::{Query, encode};
use crate::range::{Asked, Part};
use crate::settings::Mirror;
use crate::throttle::Throttle;
use crate::watch::Phase;
use crate::zero_copy::Mappings;

/// By this header nodes tell the larder registry that they ask for what ImageCaches want.
const PREFETCH: &str = "larder-prefetch";

/// Most tags that one page of a list holds.
const TAGS_AT_ONCE: u32 = 10_000;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<cache::Engine>,
    pub(crate) metrics: Metrics,
    pub(crate) unqualified: Option<Registry>,
    pub(crate) mirror: Option<Mirror>,
    pub(crate) login: bool,
    pub(crate) challenge: HeaderValue,
    pub(crate) throttle: Throttle,
}

/// Who is at the other end of a connection, as far as that is known without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    /// Whoever reaches the address for clients.
    Anybody,
    /// Somebody whom TLS let in at the address for nodes.
    Node,
    /// The same, who may also say what is in use.
    Keeper,
}

/// One client's connection.
pub(crate) struct Client {
    pub(crate) guest: Guest,
    pub(crate) shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    pub(crate) phase: Arc<Phase>,
    /// Where files may go out by sendfile(2).
    pub(crate) mappings: Option<Arc<Mappings>>,
}

/// An answer, and what the account of it needs.
struct Answered {
    answer: Answer,
    kind: Kind,
    outcome: Option<Outcome>,
    subject: Option<Subject>,
}

impl Answered {
    fn plain(kind: Kind, answer: Answer) -> Answered {
        Answered { answer, kind, outcome: None, subject: None }
    }
}

/// Added to a 401 for who sent no credentials, where clients that send them only if `/v2/` asks are not asked.
const LOGIN: &str = "; no credentials came: log in as at the image's own registry, and if the client keeps them to itself (skopeo, \
                     crane, Podman, Docker), have larder ask for them with login = true in [access]";

impl Client {
    /// Answers one request.
    pub(crate) async fn answer(&self, mut request: http::Request<Incoming>) -> Response<Body> {
        self.phase.serving();
        let started = Instant::now();
        let verb = match *request.method() {
            Method::GET => Verb::Get,
            Method::HEAD => Verb::Head,
            _ => Verb::Other,
        };
        if crate::tell::is_told(request.uri().path()) && self.guest != Guest::Anybody {
            let answered = self.kept(&mut request).await;
            return self.finish(verb, started, answered);
        }
        let query = Query::parse(request.uri().query());
        let mut answered = match &query {
            Ok(query) => self.routed(verb, &request, query).await,
            Err(bad) => {
                let failure = Failure::new(StatusCode::BAD_REQUEST, ErrorCode::NameInvalid, bad.0);
                self.failed(Kind::Other, None, &failure)
            }
        };
        if let Ok(Query { ns: Some(ns), .. }) = &query
            && let Ok(ns) = HeaderValue::from_str(ns)
        {
            answered.answer.header(NAMESPACE, ns);
        }
        drop(query);
        if verb == Verb::Other && !crate::drain::small(&mut request).await {
            answered.answer.header(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.finish(verb, started, answered)
    }

    /// Takes what is in use.
    async fn kept(&self, request: &mut http::Request<Incoming>) -> Answered {
        let answer = match self.guest {
            Guest::Keeper => crate::tell::answer(&self.shared.engine, request).await,
            Guest::Node | Guest::Anybody => {
                let message = "this certificate is not that of a controller, who alone says what is in use";
                Err(Failure::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message))
            }
        };
        match answer {
            Ok(answer) => Answered::plain(Kind::Other, answer),
            Err(failure) => {
                let mut answered = self.failed(Kind::Other, None, &failure);
                if !crate::drain::small(request).await {
                    answered.answer.header(header::CONNECTION, HeaderValue::from_static("close"));
                }
                answered
            }
        }
    }

    fn finish(&self, verb: Verb, started: Instant, answered: Answered) -> Response<Body> {
        let Answered { mut answer, kind, outcome, subject } = answered;
        let metrics = &self.shared.metrics;
        metrics.answered(kind, verb, answer.status, outcome, started.elapsed().as_secs_f64());
        if verb == Verb::Head {
            answer.body = Body::empty();
        }
        let streams = kind == Kind::Blob && verb == Verb::Get && answer.status.is_success();
        let name = subject.as_ref().filter(|_| streams && self.shared.mirror.is_some()).map(|subject| &subject.name);
        let pull = name.and_then(|name| self.shared.engine.pulls().answering(name));
        let account = Account {
            kind,
            status: answer.status,
            outcome,
            started,
            client: self.address,
            bytes: 0,
            failure: None,
            subject: subject.filter(|_| verb == Verb::Get),
            metrics: metrics.clone(),
            phase: self.phase.clone(),
            _stream: streams.then(|| metrics.stream()),
            _pull: pull,
        };
        answer.body = answer.body.with_account(account);
        answer.into_response()
    }

    fn failed(&self, kind: Kind, image: Option<Image<'_>>, failure: &Failure) -> Answered {
        if self.shared.mirror.is_some() && failure.status == StatusCode::TOO_MANY_REQUESTS {
            // Runtimes ask again at once, several times, before they turn to the origin.
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return self.failed(kind, image, &Failure { status, ..failure.clone() });
        }
        let (status, client, reason) = (failure.status.as_u16(), self.address, &*failure.message);
        let image = image.map(tracing::field::display);
        let endpoint = kind.as_str();
        if failure.status.is_server_error() {
            tracing::warn!(image, endpoint, status, %client, reason, "failed");
        } else {
            tracing::info!(image, endpoint, status, %client, reason, "refused");
        }
        Answered::plain(kind, failure.answer(&self.shared.challenge))
    }

    async fn routed(&self, verb: Verb, request: &http::Request<Incoming>, query: &Query<'_>) -> Answered {
        let path = request.uri().path();
        let route = match Route::parse(path, query.ns.as_deref(), self.shared.unqualified.as_ref()) {
            Ok(route) => route,
            Err(error) => return self.failed(Kind::Other, None, &error.into()),
        };
        let kind = kind(&route);
        if verb == Verb::Other {
            let message = "what is cached here comes from its origin: push there";
            let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message);
            return self.failed(kind, None, &failure);
        }
        let (name, endpoint) = match route {
            Route::Ping if self.shared.login && !request.headers().contains_key(header::AUTHORIZATION) => {
                // No refusal: clients begin with this, to learn what to send.
                let message = "credentials for an image are those of its registry";
                let failure = Failure::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message);
                return Answered::plain(kind, failure.answer(&self.shared.challenge));
            }
            Route::Ping => return Answered::plain(kind, ping()),
            Route::Catalog => {
                let message = "there is no catalog: ask the registries themselves";
                let failure = Failure::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, message);
                return self.failed(kind, None, &failure);
            }
            Route::Repository { name, endpoint } => (name, endpoint),
        };
        let reference = match &endpoint {
            Endpoint::Manifest(reference) => Some(reference.clone()),
            Endpoint::Blob(digest) | Endpoint::Referrers(digest) => Some(Reference::Digest(*digest)),
            Endpoint::Tags | Endpoint::Upload => None,
        };
        match self.within(verb, request, query, name.clone(), endpoint).await {
            Ok(answered) => answered,
            Err(mut failure) => {
                let silent = !self.shared.login
                    && self.shared.mirror.is_none()
                    && !request.headers().contains_key(header::AUTHORIZATION);
                if silent && failure.status == StatusCode::UNAUTHORIZED {
                    failure.message = format!("{}{LOGIN}", failure.message).into();
                }
                let image = reference.as_ref().map(|reference| Image { name: &name, reference });
                self.failed(kind, image, &failure)
            }
        }
    }

    /// Answers what is asked of a repository.
    async fn within(
        &self,
        verb: Verb,
        request: &http::Request<Incoming>,
        query: &Query<'_>,
        name: Name,
        endpoint: Endpoint,
    ) -> Result<Answered, Failure> {
        let throttle = &self.shared.throttle;
        let (ip, now) = (self.address.ip(), Instant::now());
        let wait = |wait| Failure::wait(wait, "too many wrong credentials came from this address");
        let credential = authorization::read(request.headers().get(header::AUTHORIZATION)).map_err(|_| {
            if let Some(time) = throttle.wait(ip, now) {
                return wait(time);
            }
            throttle.refused(ip, now);
            let message = "only Basic authorization is read here";
            Failure::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
        })?;
        // Whoever comes in by the door for nodes has shown that it is one; what nobody wants it has no business with.
        let purpose = request.headers().get(PREFETCH).and_then(|value| Purpose::parse(value.as_bytes()));
        let purpose = purpose.filter(|_| self.guest != Guest::Anybody && self.shared.engine.is_wanted(&name));
        let claim = match (purpose, credential) {
            (Some(purpose), _) => Some(Claim::Prefetch(purpose)),
            (None, Some(credential)) => Some(self.shared.engine.claim(credential, &name).map_err(|Spent| {
                let message = "this password was good for one pull, which has ended";
                Failure::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
            })?),
            (None, None) => None,
        };
        let asked = cache::Request { name, claim };
        if let Some(time) = throttle.wait_for(ip, &asked, now) {
            return Err(wait(time));
        }
        let answered = match self.shared.mirror {
            None => self.found(verb, request, query, &asked, endpoint).await,
            Some(Mirror { answer }) => {
                match tokio::time::timeout(answer, self.found(verb, request, query, &asked, endpoint)).await {
                    Ok(answered) => answered,
                    // What was begun goes on: the next request may find it done.
                    Err(_) => {
                        let message = "nothing has come from the origin yet";
                        Err(Failure::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unknown, message))
                    }
                }
            }
        };
        match &answered {
            Ok(_) => throttle.accepted(&asked),
            Err(Failure { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. })
                if matches!(asked.claim, Some(Claim::Credential(_))) =>
            {
                throttle.refused(ip, Instant::now());
            }
            Err(_) => {}
        }
        answered
    }

    async fn found(
        &self,
        verb: Verb,
        request: &http::Request<Incoming>,
        query: &Query<'_>,
        asked: &cache::Request,
        endpoint: Endpoint,
    ) -> Result<Answered, Failure> {
        match endpoint {
            Endpoint::Manifest(reference) => self.manifest(request, asked, reference).await,
            Endpoint::Blob(digest) => self.blob(verb, request, asked, digest).await,
            Endpoint::Tags => self.tags(request, asked, query).await,
            Endpoint::Referrers(digest) => {
                let page = (!query.rest.is_empty()).then(|| query.rest.clone());
                let artifact_type = query.artifact_type.as_deref().map(str::to_owned);
                let list = DocumentQuery::Referrers { digest, artifact_type, page };
                self.document(request, asked, query, Kind::Referrers, list).await
            }
            Endpoint::Upload => {
                let message = "there are no uploads here";
                Err(Failure::new(StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown, message))
            }
        }
    }

    async fn manifest(
        &self,
        request: &http::Request<Incoming>,
        asked: &cache::Request,
        reference: Reference,
    ) -> Result<Answered, Failure> {
        if let Reference::Tag(tag) = &reference
            && wants_new(request)
        {
            self.shared.engine.renew(&asked.name, tag).await;
        }
        let reply =
            self.shared.engine.manifest(asked, &reference).await.map_err(|e| Failure::of(Kind::Manifest, &e))?;
        let keep = match reference {
            Reference::Digest(_) => Keep::Forever,
            Reference::Tag(_) => Keep::Ask,
        };
        let mut answer = Answer::new(StatusCode::OK);
        answer.digest(&reply.digest, keep);
        if let Some(warning) = &reply.warning {
            answer.warning(warning);
        }
        if unchanged(request, &reply.digest) {
            answer.status = StatusCode::NOT_MODIFIED;
        } else {
            answer.media_type(&reply.media_type);
            let size = reply.bytes.len() as u64;
            if let Some(range) = part(request, &reply.digest, size, &mut answer)? {
                answer.body = Body::memory(reply.bytes.slice(range.start as usize..range.end as usize));
            }
        }
        let subject = Some(Subject { name: asked.name.clone(), reference, digest: reply.digest });
        Ok(Answered { answer, kind: Kind::Manifest, outcome: Some(reply.outcome), subject })
    }

    async fn blob(
        &self,
        verb: Verb,
        request: &http::Request<Incoming>,
        asked: &cache::Request,
        digest: Digest,
    ) -> Result<Answered, Failure> {
        let engine = &self.shared.engine;
        let failed = |error: cache::Error| Failure::of(Kind::Blob, &error);
        let mut answer = Answer::new(StatusCode::OK);
        answer.digest(&digest, Keep::Forever);
        answer.header(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let unchanged = unchanged(request, &digest);
        // Both need no byte of the blob, and must not have it fetched.
        let outcome = if verb == Verb::Head || unchanged {
            let (size, outcome) = engine.head_blob(asked, &digest).await.map_err(failed)?;
            if unchanged {
                answer.status = StatusCode::NOT_MODIFIED;
            } else {
                answer.media_type(&MediaType::OCTET_STREAM);
                part(request, &digest, size, &mut answer)?;
            }
            outcome
        } else {
            answer.media_type(&MediaType::OCTET_STREAM);
            let reply = engine.blob(asked, &digest).await.map_err(failed)?;
            match reply.content {
                Found::Whole(blob) => {
                    if let Some(range) = part(request, &digest, blob.size(), &mut answer)? {
                        answer.body = self.whole(blob, range);
                    }
                }
                Found::Filling(filling) => match filling.size() {
                    Some(size) => {
                        if let Some(range) = part(request, &digest, size, &mut answer)? {
                            let length = range.end - range.start;
                            let content = Content::fill(filling.reader(range), self.mappings.clone());
                            answer.body = Body::content(content, Some(length));
                        }
                    }
                    // Chunked, and whole: no range can be named of what has no known end.
                    None => {
                        let content = Content::fill(filling.reader(0..u64::MAX), self.mappings.clone());
                        answer.body = Body::content(content, None);
                    }
                },
            }
            reply.outcome
        };
        let subject = Some(Subject { name: asked.name.clone(), reference: Reference::Digest(digest), digest });
        Ok(Answered { answer, kind: Kind::Blob, outcome: Some(outcome), subject })
    }

    fn whole(&self, blob: Blob, range: std::ops::Range<u64>) -> Body {
        match blob {
            Blob::Memory(bytes) => Body::memory(bytes.slice(range.start as usize..range.end as usize)),
            Blob::File { file, .. } => {
                let length = range.end - range.start;
                Body::content(Content::file(file, range, self.mappings.clone()), Some(length))
            }
        }
    }

    async fn tags(
        &self,
        request: &http::Request<Incoming>,
        asked: &cache::Request,
        query: &Query<'_>,
    ) -> Result<Answered, Failure> {
        let n = query.n.as_deref().map(count).transpose()?;
        let last = query.last.as_deref().map(str::to_owned);
        if n != Some(0) {
            let list = DocumentQuery::Tags { n, last };
            return self.document(request, asked, query, Kind::Tags, list).await;
        }
        // Nobody needs to be asked for no tags, but for whether the repository is there and the client may see it.
        let list = DocumentQuery::Tags { n: Some(1), last: None };
        let mut answered = self.document(request, asked, query, Kind::Tags, list).await?;
        let body = format!("{{\"name\":\"{}\",\"tags\":[]}}", asked.name.repository);
        answered.answer.headers.remove(header::LINK);
        answered.answer.header(header::CONTENT_LENGTH, body.len().into());
        answered.answer.body = Body::memory(body.into());
        Ok(answered)
    }

    async fn document(
        &self,
        request: &http::Request<Incoming>,
        asked: &cache::Request,
        query: &Query<'_>,
        kind: Kind,
        list: DocumentQuery,
    ) -> Result<Answered, Failure> {
        let reply = self.shared.engine.document(asked, &list).await.map_err(|e| Failure::of(kind, &e))?;
        let mut answer = Answer::new(StatusCode::OK);
        answer.media_type(&reply.document.media_type);
        answer.header(header::CONTENT_LENGTH, reply.document.bytes.len().into());
        answer.header(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        if let Some(filters) = &reply.document.filters_applied
            && let Ok(filters) = HeaderValue::from_str(filters)
        {
            answer.header(FILTERS_APPLIED, filters);
        }
        if let Some(next) = &reply.document.next
            && let Ok(link) = link(request.uri().path(), next, query.ns.as_deref())
        {
            answer.header(header::LINK, link);
        }
        if let Some(warning) = &reply.warning {
            answer.warning(warning);
        }
        answer.body = Body::memory(reply.document.bytes);
        Ok(Answered { answer, kind, outcome: Some(reply.outcome), subject: None })
    }
}

fn kind(route: &Route) -> Kind {
    match route {
        Route::Ping => Kind::Ping,
        Route::Catalog | Route::Repository { endpoint: Endpoint::Upload, .. } => Kind::Other,
        Route::Repository { endpoint: Endpoint::Manifest(_), .. } => Kind::Manifest,
        Route::Repository { endpoint: Endpoint::Blob(_), .. } => Kind::Blob,
        Route::Repository { endpoint: Endpoint::Tags, .. } => Kind::Tags,
        Route::Repository { endpoint: Endpoint::Referrers(_), .. } => Kind::Referrers,
    }
}

fn ping() -> Answer {
    let mut answer = Answer::new(StatusCode::OK);
    answer.media_type(&MediaType::JSON);
    answer.header(header::CONTENT_LENGTH, HeaderValue::from_static("2"));
    answer.body = Body::memory(Bytes::from_static(b"{}"));
    answer
}

/// Whether the client wants no answer that was found before (RFC 9111, section 5.2.1.4).
fn wants_new(request: &http::Request<Incoming>) -> bool {
    let lines = request.headers().get_all(header::CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|one| one.trim().eq_ignore_ascii_case("no-cache"))
}

/// Whether the client has it already.
fn unchanged(request: &http::Request<Incoming>, digest: &Digest) -> bool {
    request.headers().get_all(header::IF_NONE_MATCH).iter().any(|tags| names(tags, digest))
}

/// Sets status, length and range of an answer from content of `size` bytes; `None` if none of it is to be sent.
fn part(
    request: &http::Request<Incoming>,
    digest: &Digest,
    size: u64,
    answer: &mut Answer,
) -> Result<Option<std::ops::Range<u64>>, Failure> {
    let headers = request.headers();
    // RFC 9110, 13.1.5: a range of something else is no range. A date never matches, since none is sent.
    let stale =
        headers.get(header::IF_RANGE).is_some_and(|tag| tag.as_bytes().starts_with(b"W/") || !names(tag, digest));
    let range = headers.get(header::RANGE).filter(|_| !stale).and_then(|range| range.to_str().ok());
    match Asked::parse(range).of(size) {
        Part::Whole => {
            answer.header(header::CONTENT_LENGTH, size.into());
            Ok(Some(0..size))
        }
        Part::Range(range) => {
            answer.status = StatusCode::PARTIAL_CONTENT;
            answer.header(header::CONTENT_LENGTH, (range.end - range.start).into());
            let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            answer.header(header::CONTENT_RANGE, HeaderValue::try_from(text).expect("digits are a valid value"));
            Ok(Some(range))
        }
        // Without a body: the specification has no code for it.
        Part::Unsatisfiable => {
            answer.status = StatusCode::RANGE_NOT_SATISFIABLE;
            answer.headers.remove(header::CONTENT_TYPE);
            answer.header(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            let text = format!("bytes */{size}");
            answer.header(header::CONTENT_RANGE, HeaderValue::try_from(text).expect("digits are a valid value"));
            Ok(None)
        }
    }
}

/// Reads `n`, cut to what a page may hold.
fn count(text: &str) -> Result<u32, Failure> {
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        let message = "n is a number of tags";
        return Err(Failure::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message));
    }
    Ok(text.parse().unwrap_or(u32::MAX).min(TAGS_AT_ONCE))
}

/// The next page at the address that the client used, in the form that it used.
fn link(path: &str, next: &str, ns: Option<&str>) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let ns = ns.map(|ns| format!("&ns={}", encode(ns))).unwrap_or_default();
    HeaderValue::try_from(format!("<{path}?{next}{ns}>; rel=\"next\""))
}
