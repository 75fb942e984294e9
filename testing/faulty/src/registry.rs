//! What a correct registry answers, before any rule.

use serde_json::json;

use crate::content::{Content, OCI_INDEX};
use crate::reply::Reply;
use crate::request::{Incoming, Kind};
use crate::source::Source;

/// Answers a read of the distribution API from the content.
pub(crate) fn answer(content: &Content, incoming: &Incoming) -> Reply {
    if !matches!(incoming.method.as_str(), "GET" | "HEAD") {
        return Reply::error(405, "read only");
    }
    match incoming.kind {
        Kind::Ping => Reply::json(200, &json!({})),
        Kind::Catalog => {
            let (page, link) = page(incoming, &content.repos());
            listing(&json!({ "repositories": page }), link)
        }
        Kind::Manifest | Kind::Blob | Kind::Tags | Kind::Referrers if !content.has_repo(&incoming.repo) => {
            Reply::coded(404, "NAME_UNKNOWN", "repository name not known to registry")
        }
        Kind::Tags => {
            let (page, link) = page(incoming, &content.tags(&incoming.repo));
            listing(&json!({ "name": incoming.repo, "tags": page }), link)
        }
        Kind::Referrers => referrers(content, incoming),
        Kind::Manifest => match content.manifest(&incoming.repo, &incoming.reference) {
            Some(manifest) => identified(Source::bytes(manifest.bytes), &manifest.digest, &manifest.media_type),
            None => Reply::coded(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        },
        Kind::Blob => match content.blob(&incoming.repo, &incoming.reference) {
            Some(source) => {
                let mut reply = identified(source, &incoming.reference, "application/octet-stream");
                reply.set("Accept-Ranges", "bytes");
                reply
            }
            None => Reply::coded(404, "BLOB_UNKNOWN", "blob unknown to registry"),
        },
        Kind::Token | Kind::Other | Kind::Connection => Reply::error(404, "no such page"),
    }
}

fn identified(body: Source, digest: &str, media_type: &str) -> Reply {
    let mut reply = Reply::new(200, body);
    reply.set("Content-Type", media_type);
    reply.set("Docker-Content-Digest", digest);
    reply.set("ETag", format!("\"{digest}\""));
    reply.rangeable = true;
    reply
}

fn referrers(content: &Content, incoming: &Incoming) -> Reply {
    let mut found = content.referrers(&incoming.repo, &incoming.reference);
    let filter = incoming.param("artifactType");
    if let Some(wanted) = &filter {
        found.retain(|descriptor| descriptor["artifactType"] == *wanted);
    }
    let mut reply = Reply::json(200, &json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found }));
    reply.set("Content-Type", OCI_INDEX);
    if filter.is_some() {
        reply.set("OCI-Filters-Applied", "artifactType");
    }
    reply
}

fn listing(value: &serde_json::Value, link: Option<String>) -> Reply {
    let mut reply = Reply::json(200, value);
    if let Some(link) = link {
        reply.set("Link", link);
    }
    reply
}

/// One page of sorted names as `n` and `last` ask, and the `Link` to the next.
fn page<'a>(incoming: &Incoming, names: &[&'a str]) -> (Vec<&'a str>, Option<String>) {
    let last = incoming.param("last").unwrap_or_default();
    let mut rest: Vec<&str> = names.iter().copied().filter(|name| *name > last.as_str()).collect();
    let Some(n) = incoming.param("n").and_then(|n| n.parse::<usize>().ok()) else { return (rest, None) };
    let more = rest.len() > n && n > 0;
    rest.truncate(n);
    let link = more.then(|| {
        let last = rest.last().expect("n is not zero, so a truncated page has a last name");
        format!("<{}?n={n}&last={last}>; rel=\"next\"", incoming.path)
    });
    (rest, link)
}
