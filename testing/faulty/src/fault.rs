//! The ways to misbehave, and what each does to an answer.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::gzip;
use crate::pace::Bucket;
use crate::reply::{Abort, Framing, Reply, Stop};
use crate::request::{Incoming, Kind};
use crate::rules::Armed;
use crate::source::Source;

/// Where in a body something happens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// So many bytes of this answer's body leave before it.
    Byte(u64),
    /// This part of this answer's body (0 to 1) leaves before it. A resumed request gets the same part of what it asks for.
    Fraction(f64),
    /// All but so many bytes of this answer's body leave before it.
    FromEnd(u64),
    /// Counted in the whole blob, not in the answer: a request that resumes at or beyond it gets no byte.
    Offset(u64),
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Orderly at the TCP level (FIN); in TLS without `close_notify`.
    #[default]
    Fin,
    /// RST, after the peer's kernel has what was sent before.
    Reset,
}

/// One way to misbehave. In JSON the names are in snake case: `"hang"`, `{"flip_bit":1}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Flips a bit in the byte so far from the end of the content; 1 is the last byte.
    FlipBit(u64),
    /// Ends the connection in the body.
    Cut {
        /// Where.
        at: Place,
        /// How.
        #[serde(default)]
        how: Ending,
    },
    /// Stops in the body, for so many milliseconds or for ever.
    Stall {
        /// Where.
        at: Place,
        /// Milliseconds; without it, for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ms: Option<u64>,
    },
    /// Stops in the body until [`Upstream::open_gate`](crate::Upstream::open_gate) opens the gate of that name.
    Hold {
        /// Where.
        at: Place,
        /// Name of the gate.
        gate: String,
    },
    /// Holds back the whole answer until the gate of that name opens.
    HoldHeaders(String),
    /// Limits this answer to so many body bytes per second.
    Trickle(u64),
    /// Limits all answers under this rule together to so many body bytes per second.
    Cap(u64),
    /// Answers with this instead.
    Status {
        /// Status code.
        code: u16,
        /// Headers besides `Content-Length`.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// Body; empty: an OCI error body with the usual code for the status.
        #[serde(default)]
        body: String,
    },
    /// Redirects. `{path}`, `{repo}` and `{reference}` in the location are filled in from the request.
    Redirect {
        /// `Location` as sent.
        location: String,
        /// Status code.
        code: u16,
    },
    /// So many redirects (307) on this host before the true answer.
    RedirectChain(u32),
    /// Redirects (307) to itself.
    RedirectLoop,
    /// Answers 200 with everything although a range was asked for.
    IgnoreRange,
    /// Sends the bytes that begin so much later (or earlier) than `Content-Range` says.
    ShiftRange(i64),
    /// Chunked instead of `Content-Length`.
    NoContentLength,
    /// Neither `Content-Length` nor chunks: the body ends with the connection.
    UntilClose,
    /// `Content-Length` is off by so much; the body is what it should be. With a positive number the connection closes after it.
    WrongLength(i64),
    /// A second `Content-Length` that is off by so much.
    TwoLengths(i64),
    /// No `Docker-Content-Digest`, no `ETag`.
    NoDigestHeader,
    /// Another `Docker-Content-Digest`: this, or that of no content at all.
    WrongDigestHeader(Option<String>),
    /// Other bytes of the same length.
    OtherBytes,
    /// `Content-Encoding: gzip`, with the true body encoded (content of at most 64 MiB).
    Gzip,
    /// `Content-Encoding: gzip`, with a small body that inflates to this many bytes.
    GzipBomb(u64),
    /// A body of about this many bytes with a true `Content-Length`: a list of very many entries where a list was asked for
    /// (tags, catalog, referrers), otherwise a JSON object of exactly this size.
    Huge(u64),
    /// A chunked body that never ends.
    Endless,
    /// Each page of `tags/list` (or catalog, referrers) links to a further one.
    EndlessLinks,
    /// Milliseconds before the answer begins.
    DelayHeaders(u64),
    /// Milliseconds between each two bytes of the answer's head.
    SlowHeaders(u64),
    /// Closes after the whole answer without having said so, as an idle timeout of the server does.
    CloseAfter,
    /// Never answers; the connection stays open.
    Hang,
    /// Closes without an answer (FIN).
    Close,
    /// Resets without an answer (RST).
    Reset,
    /// One header of so many bytes.
    HugeHeader(u64),
    /// So many small headers.
    ManyHeaders(u64),
    /// Sets a header, in place of what was there.
    SetHeader(String, String),
    /// Adds a header beside what is there.
    AddHeader(String, String),
    /// Removes a header.
    RemoveHeader(String),
    /// Another `Content-Type`.
    ContentType(String),
    /// 200 with a web page, as captive portals and login walls answer.
    Html,
    /// The quota headers that Docker Hub sends (window of 6 h); counts nothing. See also
    /// [`Upstream::docker_hub_limit`](crate::Upstream::docker_hub_limit).
    RateLimitHeaders {
        /// Pulls allowed.
        limit: u64,
        /// Pulls left.
        remaining: u64,
    },
    /// Answers this status, and repeats the request's path, query and `Authorization` in the body and in a header.
    EchoRequest(u16),
    /// Sends exactly this and closes (FIN).
    Raw(String),
    /// On a new connection: a fatal TLS alert of this number (40: handshake failure, 80: internal error).
    TlsAlert(u8),
    /// On a new connection: a server hello that picks TLS 1.0.
    Tls10,
}

impl Fault {
    /// 429 with this `Retry-After` (none, seconds, a date from [`http_date`](crate::http_date), nonsense).
    pub fn too_many(retry_after: Option<&str>) -> Self {
        let headers = retry_after.map(|value| ("Retry-After".to_owned(), value.to_owned())).into_iter().collect();
        Fault::Status { code: 429, headers, body: String::new() }
    }

    /// A status with an OCI error body.
    pub fn status(code: u16) -> Self {
        Fault::Status { code, headers: Vec::new(), body: String::new() }
    }

    /// Ends the connection in the middle of the body.
    pub fn cut_half(how: Ending) -> Self {
        Fault::Cut { at: Place::Fraction(0.5), how }
    }

    /// A 307 to `location`; `{path}`, `{repo}` and `{reference}` are filled in.
    pub fn redirect(location: &str) -> Self {
        Fault::Redirect { location: location.to_owned(), code: 307 }
    }

    /// The name in snake case, as it stands in JSON and in the log.
    pub fn name(&self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            Ok(serde_json::Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
            _ => String::new(),
        }
    }
}

/// Changes `reply` as the rule says.
pub(crate) fn apply(rule: &Armed, incoming: &Incoming, reply: &mut Reply) {
    reply.paces.extend(rule.caps().iter().cloned());
    for fault in rule.faults() {
        change(fault, incoming, reply);
    }
}

fn change(fault: &Fault, incoming: &Incoming, reply: &mut Reply) {
    match fault {
        Fault::FlipBit(from_end) => reply.flips.push(*from_end),
        Fault::Cut { at, how } => reply.stops.push((*at, Stop::Cut(*how))),
        Fault::Stall { at, ms } => reply.stops.push((*at, Stop::Stall(ms.map(Duration::from_millis)))),
        Fault::Hold { at, gate } => reply.stops.push((*at, Stop::Gate(gate.clone()))),
        Fault::HoldHeaders(gate) => reply.head_gate = Some(gate.clone()),
        Fault::Trickle(rate) => reply.paces.push(Bucket::new(*rate)),
        Fault::Cap(_) => {}
        Fault::Status { code, headers, body } => {
            let mut answer = match body.is_empty() {
                true => Reply::error(*code, "by rule"),
                false => Reply::new(*code, Source::bytes(body.clone())),
            };
            for (name, value) in headers {
                answer.set(name, value.clone());
            }
            reply.replace(answer);
        }
        Fault::Redirect { location, code } => {
            let location = location
                .replace("{path}", &incoming.path)
                .replace("{repo}", &incoming.repo)
                .replace("{reference}", &incoming.reference);
            reply.replace(Reply::redirect(*code, &location));
        }
        Fault::RedirectChain(hops) => {
            let hop: u32 = incoming.param("hop").and_then(|hop| hop.parse().ok()).unwrap_or(0);
            if hop < *hops {
                reply.replace(Reply::redirect(307, &format!("{}?hop={}", incoming.path, hop + 1)));
            }
        }
        Fault::RedirectLoop => reply.replace(Reply::redirect(307, &incoming.path)),
        Fault::IgnoreRange => reply.rangeable = false,
        Fault::ShiftRange(by) => reply.shift = *by,
        Fault::NoContentLength => reply.framing = Framing::Chunked,
        Fault::UntilClose => reply.framing = Framing::UntilClose,
        Fault::WrongLength(by) => reply.lengths = vec![*by],
        Fault::TwoLengths(by) => reply.lengths = vec![0, *by],
        Fault::NoDigestHeader => {
            reply.remove("Docker-Content-Digest");
            reply.remove("ETag");
        }
        Fault::WrongDigestHeader(given) => {
            let digest = given.clone().unwrap_or_else(|| Source::bytes("").sha256());
            reply.set("Docker-Content-Digest", digest);
        }
        Fault::OtherBytes => reply.body = other(&reply.body, incoming.kind),
        Fault::Gzip => {
            reply.body = Source::bytes(gzip::wrap(&reply.body.to_bytes()));
            reply.set("Content-Encoding", "gzip");
        }
        Fault::GzipBomb(bytes) => {
            reply.body = gzip::bomb(*bytes);
            reply.set("Content-Encoding", "gzip");
        }
        Fault::Huge(bytes) => reply.body = huge(incoming.kind, *bytes),
        Fault::Endless => {
            reply.body = Source::endless("{\"pad\":\"", b'a');
            reply.framing = Framing::Chunked;
            reply.rangeable = false;
        }
        Fault::EndlessLinks => {
            let page: u64 = incoming.param("page").and_then(|page| page.parse().ok()).unwrap_or(0);
            reply.set("Link", format!("<{}?page={}>; rel=\"next\"", incoming.path, page + 1));
        }
        Fault::DelayHeaders(ms) => reply.head_delay = Duration::from_millis(*ms),
        Fault::SlowHeaders(ms) => reply.head_drip = Some(Duration::from_millis(*ms)),
        Fault::CloseAfter => reply.close_after = true,
        Fault::Hang => reply.abort = Some(Abort::Hang),
        Fault::Close => reply.abort = Some(Abort::End(Ending::Fin)),
        Fault::Reset => reply.abort = Some(Abort::End(Ending::Reset)),
        Fault::HugeHeader(bytes) => reply.add("X-Huge", "h".repeat(*bytes as usize)),
        Fault::ManyHeaders(count) => (0..*count).for_each(|n| reply.add(&format!("X-Many-{n}"), "m")),
        Fault::SetHeader(name, value) => reply.set(name, value.clone()),
        Fault::AddHeader(name, value) => reply.add(name, value.clone()),
        Fault::RemoveHeader(name) => reply.remove(name),
        Fault::ContentType(value) => reply.set("Content-Type", value.clone()),
        Fault::Html => {
            let mut page = Reply::new(200, Source::bytes("<!DOCTYPE html><html><body>Please log in.</body></html>"));
            page.set("Content-Type", "text/html; charset=utf-8");
            reply.replace(page);
        }
        Fault::RateLimitHeaders { limit, remaining } => reply.rate_limit(*limit, *remaining),
        Fault::EchoRequest(code) => {
            let authorization = incoming.header("authorization").unwrap_or("none");
            let echo =
                format!("{} {}?{} authorization: {authorization}", incoming.method, incoming.path, incoming.query);
            let mut answer = Reply::error(*code, &echo);
            answer.set("X-Echo", authorization);
            reply.replace(answer);
        }
        Fault::Raw(text) => reply.abort = Some(Abort::Raw(Bytes::from(text.clone()))),
        Fault::TlsAlert(_) | Fault::Tls10 => reply.abort = on_connection(fault),
    }
}

/// What a fault does to a new connection; `None` for those that are about answers.
pub(crate) fn on_connection(fault: &Fault) -> Option<Abort> {
    match fault {
        Fault::Hang => Some(Abort::Hang),
        Fault::Close => Some(Abort::End(Ending::Fin)),
        Fault::Reset => Some(Abort::End(Ending::Reset)),
        Fault::Raw(text) => Some(Abort::Raw(Bytes::from(text.clone()))),
        Fault::TlsAlert(number) => Some(Abort::Raw(Bytes::from(vec![21, 3, 3, 0, 2, 2, *number]))),
        Fault::Tls10 => {
            // Handshake record of version 3.1 with a ServerHello: version 3.1, 32 random bytes, no session, TLS_RSA_WITH_AES_128_CBC_SHA.
            let mut hello = vec![22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1];
            hello.extend([7; 32]);
            hello.extend([0, 0, 0x2f, 0]);
            Some(Abort::Raw(hello.into()))
        }
        _ => None,
    }
}

fn huge(kind: Kind, bytes: u64) -> Source {
    let (prefix, item, suffix) = match kind {
        Kind::Tags => ("{\"name\":\"huge\",\"tags\":[", "\"tag-tag-tag\"", "]}"),
        Kind::Catalog => ("{\"repositories\":[", "\"repo/repo/repo\"", "]}"),
        Kind::Referrers => ("{\"schemaVersion\":2,\"manifests\":[", REFERRER, "]}"),
        _ => return Source::padded("{\"pad\":\"", b'a', "\"}", bytes),
    };
    // One long pattern: a slice for each entry would make the body slow.
    let pattern = format!("{item},").repeat(64 * 1024 / item.len());
    let times = bytes / pattern.len() as u64;
    Source::repeated(prefix, pattern, times, format!("{item}{suffix}"))
}

const REFERRER: &str = concat!(
    "{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"size\":2,\"digest\":",
    "\"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\"}"
);

fn other(true_body: &Source, kind: Kind) -> Source {
    let len = true_body.len();
    match kind {
        // Still JSON, so that only the digest tells that it is not what was asked for.
        Kind::Manifest if len > 64 => Source::padded("{\"schemaVersion\":2,\"note\":\"", b'x', "\"}", len),
        _ => Source::generated(len, 0x0bad_0bad ^ len),
    }
}
