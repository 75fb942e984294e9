//! An answer before it is put on the wire: what a correct registry would send, and what rules made of it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use crate::fault::{Ending, Place};
use crate::pace::Bucket;
use crate::request::Incoming;
use crate::source::Source;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Chunked,
    UntilClose,
}

/// What happens at a place in the body.
#[derive(Clone, Debug)]
pub(crate) enum Stop {
    Cut(Ending),
    Stall(Option<Duration>),
    Gate(String),
}

/// Instead of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Abort {
    Hang,
    End(Ending),
    Raw(Bytes),
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Source,
    pub(crate) framing: Framing,
    /// One `Content-Length` for each, off by that much.
    pub(crate) lengths: Vec<i64>,
    /// Whether a `Range` of the request is honoured.
    pub(crate) rangeable: bool,
    pub(crate) shift: i64,
    /// Distances from the end of the whole content, 1 being the last byte.
    pub(crate) flips: Vec<u64>,
    pub(crate) stops: Vec<(Place, Stop)>,
    pub(crate) paces: Vec<Arc<Bucket>>,
    pub(crate) head_delay: Duration,
    pub(crate) head_drip: Option<Duration>,
    pub(crate) head_gate: Option<String>,
    pub(crate) abort: Option<Abort>,
    pub(crate) close_after: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: Source) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            framing: Framing::Length,
            lengths: vec![0],
            rangeable: false,
            shift: 0,
            flips: Vec::new(),
            stops: Vec::new(),
            paces: Vec::new(),
            head_delay: Duration::ZERO,
            head_drip: None,
            head_gate: None,
            abort: None,
            close_after: false,
        }
    }

    pub(crate) fn json(status: u16, value: &serde_json::Value) -> Self {
        let mut reply = Self::new(status, Source::bytes(value.to_string()));
        reply.set("Content-Type", "application/json");
        reply
    }

    /// An OCI error body with the usual code for the status.
    pub(crate) fn error(status: u16, message: &str) -> Self {
        let code = match status {
            401 => "UNAUTHORIZED",
            403 => "DENIED",
            404 => "NAME_UNKNOWN",
            405 => "UNSUPPORTED",
            416 => "RANGE_INVALID",
            429 => "TOOMANYREQUESTS",
            400..500 => "UNSUPPORTED",
            _ => "UNKNOWN",
        };
        Self::coded(status, code, message)
    }

    pub(crate) fn coded(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &json!({ "errors": [{ "code": code, "message": message }] }))
    }

    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        let mut reply = Self::new(status, Source::bytes(""));
        reply.set("Location", location);
        reply
    }

    /// Takes over what another answer says, and keeps how it is to be sent.
    pub(crate) fn replace(&mut self, other: Reply) {
        self.status = other.status;
        self.headers = other.headers;
        self.body = other.body;
        self.rangeable = other.rangeable;
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    pub(crate) fn add(&mut self, name: &str, value: impl Into<String>) {
        self.headers.push((name.to_owned(), value.into()));
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.add(name, value);
    }

    pub(crate) fn rate_limit(&mut self, limit: u64, remaining: u64) {
        self.set("ratelimit-limit", format!("{limit};w=21600"));
        self.set("ratelimit-remaining", format!("{remaining};w=21600"));
    }

    /// Honours the request's conditions and range (RFC 9110), and lays out the body.
    pub(crate) fn finish(mut self, incoming: &Incoming) -> Outgoing {
        let whole = self.body.len();
        let mut span = 0..whole;
        if self.rangeable {
            let etag = self.headers.iter().find(|(name, _)| name == "ETag").map(|(_, value)| value.clone());
            let same = |given: &str| etag.as_deref() == Some(given);
            if incoming.header("if-none-match").is_some_and(same) {
                self.status = 304;
                self.body = Source::bytes("");
                span = 0..0;
            } else if incoming.header("if-range").is_none_or(same) {
                match incoming.range(whole) {
                    Some(Ok(range)) => {
                        self.status = 206;
                        self.set("Content-Range", format!("bytes {}-{}/{whole}", range.start, range.end - 1));
                        span = range;
                    }
                    Some(Err(())) => {
                        self.replace(Reply::error(416, "range not satisfiable"));
                        self.set("Content-Range", format!("bytes */{whole}"));
                        span = 0..self.body.len();
                    }
                    None => {}
                }
            }
        }
        let len = span.end - span.start;
        if self.shift != 0 {
            let start = span.start.saturating_add_signed(self.shift).min(self.body.len() - len);
            span = start..start + len;
        }
        let mut stops: Vec<(u64, Stop)> =
            self.stops.iter().map(|(place, stop)| (resolve(*place, &span), stop.clone())).collect();
        stops.sort_by_key(|(at, _)| *at);
        let flips = self.flips.iter().filter_map(|from_end| self.body.len().checked_sub(*from_end)).collect();
        Outgoing { head: self.head(incoming, len), body: self.body.clone(), span, stops, flips, reply: self }
    }

    fn head(&self, incoming: &Incoming, len: u64) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).into_bytes();
        let mut line = |name: &str, value: &str| {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        };
        for (name, value) in &self.headers {
            line(name, value);
        }
        match self.framing {
            Framing::Length if self.status == 304 => {}
            Framing::Length => {
                for off in &self.lengths {
                    line("Content-Length", &len.saturating_add_signed(*off).to_string());
                }
            }
            Framing::Chunked => line("Transfer-Encoding", "chunked"),
            Framing::UntilClose => {}
        }
        if !self.keeps_alive(incoming) {
            line("Connection", "close");
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// Whether the head lets the connection be used again.
    pub(crate) fn keeps_alive(&self, incoming: &Incoming) -> bool {
        incoming.keep_alive && self.framing != Framing::UntilClose
    }
}

/// A laid out answer: `span` of `body` follows `head`, with things that happen on the way.
pub(crate) struct Outgoing {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Source,
    pub(crate) span: Range<u64>,
    /// Sorted offsets in `body`.
    pub(crate) stops: Vec<(u64, Stop)>,
    /// Offsets in `body` of bytes to spoil.
    pub(crate) flips: Vec<u64>,
    pub(crate) reply: Reply,
}

fn resolve(place: Place, span: &Range<u64>) -> u64 {
    let len = span.end - span.start;
    let at = match place {
        Place::Byte(byte) => span.start.saturating_add(byte),
        Place::Fraction(part) => span.start + (len as f64 * part) as u64,
        Place::FromEnd(bytes) => span.end.saturating_sub(bytes),
        Place::Offset(offset) => offset,
    };
    at.clamp(span.start, span.end)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
