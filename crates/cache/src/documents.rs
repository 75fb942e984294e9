use std::sync::Arc;

use bytes::Bytes;
use oci::{Digest, MediaType, Reference};
use serde::{Deserialize, Serialize};

use crate::access::age_of;
use crate::engine::{Engine, Inner};
use crate::manifests::is_outage;
use crate::pages::page;
use crate::reply::{DocumentReply, Error, Outcome, Request};
use crate::rules::Freshness;
use crate::source::{Document, DocumentQuery, FailureKind, Upstream};
use crate::store::{Record, RecordKind};

/// Anybody can think up any number of queries, so that no more lists than this are kept of one repository.
const KEPT: u8 = 251;

/// Where a list may be kept: in one of several places, so that some dozens that are asked for in turn do not push each
/// other out.
type Places = [Record; 4];

/// The longest part of a list that is kept, in bytes; a whole list may be as long as it is.
const LONGEST_PART: usize = 256 * 1024;

/// A list as the store keeps it. The list itself is JSON, so it is text.
#[derive(Serialize, Deserialize)]
struct Stored {
    query: String,
    /// Seconds since 1970.
    checked: u64,
    media_type: String,
    next: Option<String>,
    filters_applied: Option<String>,
    text: String,
}

impl Engine {
    /// Gives a list of tags or referrers: as it was within its freshness, else as the origin has it now.
    pub async fn document(&self, request: &Request, query: &DocumentQuery) -> Result<DocumentReply, Error> {
        let inner = &self.inner;
        let upstream = inner.upstreams.find(&request.name.registry)?;
        let known = inner.access.known(&upstream, request).await;
        let places = places(request, query);
        let stored = inner.stored_document(&places, query).await;
        let fresh = match upstream.rules.freshness {
            Freshness::For(time) => time,
            // Lists grow even where tags do not move.
            Freshness::Immutable => std::time::Duration::ZERO,
        };
        let reply = |(_, document): (u64, Document), outcome| DocumentReply { document, warning: None, outcome };
        if known.is_some()
            && let Some(stored) = &stored
            && age_of(stored.0) < fresh
        {
            inner.metrics.answered("list", Outcome::Hit);
            return Ok(reply(stored.clone(), Outcome::Hit));
        }
        let key = |who| (request.name.clone(), query.clone(), who);
        let work = |request: Request| {
            let (inner, upstream, query) = (inner.clone(), upstream.clone(), query.clone());
            let places = places.clone();
            async move { inner.fetch_document(&upstream, &request, &query, &places).await }
        };
        let (result, joined) =
            inner.once(|inner| &inner.document_flights, &upstream, (request, known.as_ref()), key, work).await;
        let result = match result {
            Ok(document) if joined => Ok(DocumentReply { outcome: Outcome::Joined, ..document }),
            Err(error) if is_outage(error.kind) && inner.access.through_outage(&upstream, request).await => {
                match stored {
                    Some(stored) if age_of(stored.0) < upstream.rules.stale => {
                        let warning = Some("the origin cannot be asked: this list may be out of date".into());
                        Ok(DocumentReply { warning, ..reply(stored, Outcome::Stale) })
                    }
                    _ => Err(error),
                }
            }
            result => result,
        };
        if let Ok(reply) = &result {
            inner.metrics.answered("list", reply.outcome);
        }
        result
    }
}

fn places(request: &Request, query: &DocumentQuery) -> Places {
    let key = Digest::sha256(format!("{query:?}").as_bytes());
    std::array::from_fn(|at| {
        let slot = key.as_bytes()[at] % KEPT;
        Record::new(&request.name, RecordKind::Document(Digest::sha256(&[slot])))
    })
}

impl Inner {
    async fn stored_document(&self, places: &Places, wanted: &DocumentQuery) -> Option<(u64, Document)> {
        let wanted = format!("{wanted:?}");
        for place in places {
            if let Some(stored) = self.stored(place).await.filter(|stored| stored.query == wanted) {
                let Stored { checked, media_type, next, filters_applied, text, .. } = stored;
                let media_type = MediaType::parse(&media_type)?;
                return Some((checked, Document { bytes: text.into(), media_type, next, filters_applied }));
            }
        }
        None
    }

    async fn stored(&self, place: &Record) -> Option<Stored> {
        serde_json::from_slice(&self.store.read(place).await.ok()??).ok()
    }

    /// Keeps a list where it was before, in a place that is free, or in that of the one that was fetched longest ago.
    async fn keep_document(&self, places: &Places, list: &Stored) {
        let (mut chosen, mut oldest) = (&places[0], u64::MAX);
        for place in places {
            let checked = match self.stored(place).await {
                Some(there) if there.query == list.query => {
                    chosen = place;
                    break;
                }
                Some(there) => there.checked.max(1),
                None => 0,
            };
            if checked < oldest {
                (chosen, oldest) = (place, checked);
            }
        }
        let value = serde_json::to_vec(list).expect("text and numbers serialize");
        if let Err(error) = self.store.write(chosen, Bytes::from(value), false).await {
            self.metrics.store_error(&error);
        }
    }

    async fn fetch_document(
        self: &Arc<Self>,
        upstream: &Upstream,
        request: &Request,
        query: &DocumentQuery,
        places: &Places,
    ) -> Result<DocumentReply, Error> {
        let fetched =
            self.authorized(upstream, request, |source, ask| async move { source.document(&ask, query).await }).await;
        let (mut document, granted) = match (fetched, query) {
            (Ok(document), _) => (document, true),
            // The registry does not know the referrers API; then referrers are listed under a tag (distribution
            // specification, "Referrers Tag Schema"), and without that tag there are none.
            (Err(error), DocumentQuery::Referrers { digest, page: None, .. })
                if error.kind == FailureKind::NotFound =>
            {
                self.referrers_by_tag(upstream, request, digest).await?
            }
            (Err(error), _) => return Err(error.into()),
        };
        if let DocumentQuery::Tags { n, last } = query {
            document = page(document, *n, last.as_deref());
        }
        if let DocumentQuery::Referrers { artifact_type: Some(wanted), .. } = query
            && document.filters_applied.is_none()
        {
            document = filtered(document, wanted);
        }
        // What is said to somebody without a right, such as that there are no referrers, is nothing to be kept for others.
        if (granted || self.access.known(upstream, request).await.is_some())
            && (document.bytes.len() <= LONGEST_PART || matches!(query, DocumentQuery::Tags { n: None, last: None }))
            && let Ok(text) = std::str::from_utf8(&document.bytes)
        {
            let checked =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
            let stored = Stored {
                query: format!("{query:?}"),
                checked,
                media_type: document.media_type.to_string(),
                next: document.next.clone(),
                filters_applied: document.filters_applied.clone(),
                text: text.to_owned(),
            };
            self.keep_document(places, &stored).await;
        }
        Ok(DocumentReply { document, warning: None, outcome: Outcome::Miss })
    }

    /// Also tells whether the origin has said yes to anything.
    async fn referrers_by_tag(
        self: &Arc<Self>,
        upstream: &Upstream,
        request: &Request,
        subject: &Digest,
    ) -> Result<(Document, bool), Error> {
        let tag = format!("{}-{}", subject.algorithm(), subject.hex());
        // The tag schema cuts what is longer than a tag may be.
        let tag = tag[..tag.len().min(128)].parse().expect("a digest with a dash is a tag");
        let reference = &Reference::Tag(tag);
        let found = self
            .authorized(upstream, request, |source, ask| async move { source.manifest(&ask, reference).await })
            .await;
        let (bytes, granted) = match found {
            Ok(body) if body.media_type.is_index() => (body.bytes, true),
            Ok(_) => (EMPTY.into(), true),
            Err(error) if error.kind == FailureKind::NotFound => (EMPTY.into(), false),
            Err(error) => return Err(error.into()),
        };
        Ok((Document { bytes, media_type: MediaType::OCI_INDEX, next: None, filters_applied: None }, granted))
    }
}

/// An index without manifests.
const EMPTY: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// Keeps the referrers of one artifact type, where the registry did not do it.
fn filtered(document: Document, wanted: &str) -> Document {
    let Ok(mut index) = serde_json::from_slice::<serde_json::Value>(&document.bytes) else { return document };
    let Some(manifests) = index.get_mut("manifests").and_then(|manifests| manifests.as_array_mut()) else {
        return document;
    };
    manifests.retain(|descriptor| descriptor.get("artifactType").and_then(|kind| kind.as_str()) == Some(wanted));
    Document { bytes: index.to_string().into(), filters_applied: Some("artifactType".into()), ..document }
}
