use std::sync::Arc;

use async_trait::async_trait;
use cache::{
    Ask, Authority, BlobBody, BlobHead, Document, DocumentQuery, FailureKind, ManifestBody, ManifestHead, Source,
    SourceError, SourceKind,
};
use http::{HeaderValue, Method, StatusCode};
use oci::{Digest, MANIFEST_LIMIT, MANIFEST_TYPES, MediaType, Reference};
use url::form_urlencoded::byte_serialize;

use crate::exchange::{self, Answer, Call, Exchange};
use crate::failure::{Failure, label};
use crate::front::Health;
use crate::header;

const ANY: HeaderValue = HeaderValue::from_static("*/*");
const MANIFESTS: HeaderValue = HeaderValue::from_static(MANIFEST_TYPES);
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const INDEX: HeaderValue = HeaderValue::from_static("application/vnd.oci.image.index.v1+json");

/// An endpoint of an upstream, asked by the distribution API.
pub(crate) struct Origin {
    exchange: Exchange,
    kind: SourceKind,
    health: Option<Arc<Health>>,
}

impl Origin {
    pub(crate) fn new(exchange: Exchange) -> Origin {
        Origin { exchange, kind: SourceKind::Origin, health: None }
    }

    /// A larder registry in front of an upstream's own endpoints.
    pub(crate) fn front(exchange: Exchange, health: Arc<Health>) -> Origin {
        Origin { exchange, kind: SourceKind::Registry, health: Some(health) }
    }

    /// Sends a request; the answer's status is one that gives what was asked.
    async fn ask(&self, ask: &Ask, call: Call) -> Result<Answer, Failure> {
        let answer = self.exchange.send(ask, &call).await?;
        let status = answer.response.status();
        let wanted = status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT && call.is_ranged();
        if !wanted {
            let mut failure = refusal(status, answer.redirected);
            if self.kind == SourceKind::Registry
                && ask.authority == Authority::Prefetch
                && matches!(failure.kind, FailureKind::Unauthorized | FailureKind::Denied)
            {
                failure.reason = "the larder registry has no credential that the origin accepts for this".to_owned();
            }
            exchange::drain(answer.response).await;
            return Err(failure);
        }
        header::refuse_encoding(answer.response.headers())?;
        Ok(answer)
    }

    fn fail(&self, failure: Failure) -> SourceError {
        self.exchange.metrics().error(label(failure.kind));
        if let Some(health) = &self.health {
            health.failed(self.exchange.label(), &failure);
        }
        failure.into_error(self.exchange.label())
    }

    async fn try_head_manifest(&self, ask: &Ask, reference: &Reference) -> Result<ManifestHead, Failure> {
        let answer = self.ask(ask, call(Method::HEAD, format!("/manifests/{reference}"), MANIFESTS)).await?;
        let headers = answer.response.headers();
        Ok(ManifestHead {
            digest: header::digest(headers),
            media_type: header::media_type(headers)?,
            size: header::length(headers)?,
        })
    }

    async fn try_blob(&self, ask: &Ask, digest: &Digest, from: u64, until: Option<u64>) -> Result<BlobBody, Failure> {
        // Nothing is a part that cannot be named.
        let until = until.filter(|until| *until > from);
        let answer = self.ask(ask, Call { from, until, ..call(Method::GET, format!("/blobs/{digest}"), ANY) }).await?;
        let headers = answer.response.headers();
        let length = header::length(headers)?;
        let (offset, size) = match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => match header::content_range(headers) {
                Some((first, whole)) if first == from => (first, whole),
                _ => return Err(Failure::invalid("the answer holds another range than was asked for")),
            },
            _ => (0, length),
        };
        Ok(BlobBody { size, offset, stream: Box::pin(self.exchange.body(answer)), placed: None })
    }
}

fn call(method: Method, target: String, accept: HeaderValue) -> Call {
    Call { method, target, accept, from: 0, until: None }
}

/// What it means that the status is not the one that was hoped for. 401, 429 and 5xx of the endpoint itself are dealt with
/// before, except that a credential was refused.
fn refusal(status: StatusCode, redirected: bool) -> Failure {
    let reason = format!("the answer's status is {status}");
    match status.as_u16() {
        404 | 410 => Failure::new(FailureKind::NotFound, format!("it has no such thing ({status})")),
        // Stores behind a registry say so of links that ran out, which is not about who asks.
        401 | 403 if redirected => Failure::unavailable(format!("{reason}, where the registry redirects to")),
        401 => Failure::new(FailureKind::Unauthorized, reason),
        403 => Failure::new(FailureKind::Denied, reason),
        500.. => Failure::unavailable(reason),
        _ => Failure::invalid(reason),
    }
}

#[async_trait]
impl Source for Origin {
    fn label(&self) -> &str {
        self.exchange.label()
    }

    fn is_scarce(&self) -> bool {
        self.exchange.is_scarce()
    }

    fn kind(&self) -> SourceKind {
        self.kind
    }

    async fn head_manifest(&self, ask: &Ask, reference: &Reference) -> Result<ManifestHead, SourceError> {
        self.try_head_manifest(ask, reference).await.map_err(|failure| self.fail(failure))
    }

    async fn manifest(&self, ask: &Ask, reference: &Reference) -> Result<ManifestBody, SourceError> {
        let request = call(Method::GET, format!("/manifests/{reference}"), MANIFESTS);
        let answer = self.ask(ask, request).await.map_err(|failure| self.fail(failure))?;
        let headers = answer.response.headers();
        let media_type = header::media_type(headers).map_err(|failure| self.fail(failure))?;
        let digest = header::digest(headers);
        let bytes = self.exchange.body(answer).collect(MANIFEST_LIMIT).await?;
        Ok(ManifestBody { bytes, media_type: media_type.unwrap_or(MediaType::OCI_MANIFEST), digest })
    }

    async fn head_blob(&self, ask: &Ask, digest: &Digest) -> Result<BlobHead, SourceError> {
        let request = call(Method::HEAD, format!("/blobs/{digest}"), ANY);
        let answer = self.ask(ask, request).await.map_err(|failure| self.fail(failure))?;
        let size = header::length(answer.response.headers()).map_err(|failure| self.fail(failure))?;
        Ok(BlobHead { size })
    }

    async fn blob(&self, ask: &Ask, digest: &Digest, from: u64, until: Option<u64>) -> Result<BlobBody, SourceError> {
        self.try_blob(ask, digest, from, until).await.map_err(|failure| self.fail(failure))
    }

    async fn document(&self, ask: &Ask, query: &DocumentQuery) -> Result<Document, SourceError> {
        let (target, accept, usual) = document_target(query).map_err(|failure| self.fail(failure))?;
        let answer = self.ask(ask, call(Method::GET, target, accept)).await.map_err(|failure| self.fail(failure))?;
        let headers = answer.response.headers();
        let media_type = header::media_type(headers).map_err(|failure| self.fail(failure))?.unwrap_or(usual);
        let (next, filters_applied) = (header::next_page(headers), header::filters_applied(headers));
        let bytes = self.exchange.body(answer).collect(Document::LIMIT).await?;
        Ok(Document { bytes, media_type, next, filters_applied })
    }
}

/// What follows the repository in a list's URL, what to accept, and what it is where the answer does not say.
fn document_target(query: &DocumentQuery) -> Result<(String, HeaderValue, MediaType), Failure> {
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let (path, parts, accept, usual) = match query {
        DocumentQuery::Tags { n, last } => {
            let n = n.map(|n| format!("n={n}"));
            let last = last.as_ref().map(|last| format!("last={}", encode(last)));
            ("/tags/list".to_owned(), [n, last], JSON, MediaType::JSON)
        }
        DocumentQuery::Referrers { digest, artifact_type, page } => {
            let page = match page {
                Some(page) => {
                    Some(header::page(page).ok_or_else(|| Failure::invalid("the next page's query is not sound"))?)
                }
                None => None,
            };
            // A page's query says all that the first one said.
            let repeats =
                page.as_ref().is_some_and(|page| page.split('&').any(|part| part.starts_with("artifactType=")));
            let filter =
                artifact_type.as_ref().filter(|_| !repeats).map(|kind| format!("artifactType={}", encode(kind)));
            (format!("/referrers/{digest}"), [filter, page], INDEX, MediaType::OCI_INDEX)
        }
    };
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let query = if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) };
    Ok((path + &query, accept, usual))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents() {
        let digest = Digest::sha256(b"");
        let target = |query: DocumentQuery| document_target(&query).unwrap().0;
        assert_eq!(target(DocumentQuery::Tags { n: None, last: None }), "/tags/list");
        assert_eq!(target(DocumentQuery::Tags { n: Some(2), last: Some("a&b".into()) }), "/tags/list?n=2&last=a%26b");
        let referrers = |artifact_type: Option<&str>, page: Option<&str>| DocumentQuery::Referrers {
            digest,
            artifact_type: artifact_type.map(str::to_owned),
            page: page.map(str::to_owned),
        };
        assert_eq!(target(referrers(None, None)), format!("/referrers/{digest}"));
        let wanted = format!("/referrers/{digest}?artifactType=a%2Fb&page=2");
        assert_eq!(target(referrers(Some("a/b"), Some("ns=x&page=2"))), wanted);
        assert_eq!(target(referrers(Some("a/b"), Some("artifactType=a%2Fb&page=2"))), wanted);
        assert!(document_target(&referrers(None, Some("a b"))).is_err());
    }
}
