//! What nodes say to each other: `GET /larder/v1/<registry>/<repository>/blobs/<digest>?piece=<n>&from=<bytes>` over mutual
//! TLS. The answer's body is a series of [`Frame`]s, so that a node that waits for the origin is told from one that is dead.
//! To `GET /larder/v1/node` the answer is [`NODE`], and the date.

use std::fmt::Write;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use oci::{Digest, Endpoint, Name, Route};

use crate::members::NodeId;

/// Who asks, or answers.
pub(super) const NODE: &str = "larder-node";
/// How many further nodes the one that is asked may ask in turn, and whether it may ask the origin: see [`Query::hops`].
pub(super) const HOPS: &str = "larder-hops";
/// See [`Query::below`].
pub(super) const BELOW: &str = "larder-below";
/// That the asker has been sent to others already, and found nothing there.
pub(super) const INSIST: &str = "larder-insist";
/// Those to be asked instead, separated by commas.
pub(super) const HOLDERS: &str = "larder-holders";
/// The media type of a body of frames.
pub(super) const FRAMES: HeaderValue = HeaderValue::from_static("application/vnd.larder.frames");

/// The longest chain of nodes through which a piece flows while it comes in.
pub(super) const DEEPEST: u8 = 64;
/// The most bytes in one frame.
pub const FRAME: usize = 256 * 1024;
/// The length of a frame's head: its kind, and the length of what follows.
pub(super) const HEAD: usize = 5;

const PATH: &str = "/larder/v1/";
/// Who is there: the answer names the node, and tells its time.
pub(super) const WHO: &str = "/larder/v1/node";

/// What one node asks another for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The repository.
    pub name: Name,
    /// The blob.
    pub digest: Digest,
    /// The piece of it.
    pub piece: u64,
    /// Where in the piece to begin.
    pub from: u64,
    /// 2: as the home in the asker's zone, which asks the cluster's home; 1: as the cluster's home, which asks the registry
    /// or the origin; 0: what is there or coming, and nothing else.
    pub hops: u8,
    /// What is coming is of use only if its bytes make fewer steps than this from where they are stored: so nobody ever waits
    /// for somebody who waits for it.
    pub below: u8,
    /// The asker has been sent to others already, and found nothing there.
    pub insist: bool,
}

impl Query {
    /// The path and query of the request.
    pub fn target(&self) -> String {
        let Query { name, digest, piece, from, .. } = self;
        let mut text = String::with_capacity(160);
        let registry = name.registry.to_element();
        // Writing into a String does not fail.
        let _ = write!(text, "{PATH}{registry}/{}/blobs/{digest}?piece={piece}", name.repository);
        if *from > 0 {
            let _ = write!(text, "&from={from}");
        }
        text
    }

    /// Puts in what goes into headers.
    pub fn write_headers(&self, me: &NodeId, headers: &mut HeaderMap) {
        if let Ok(me) = HeaderValue::try_from(me.as_str()) {
            headers.insert(NODE, me);
        }
        headers.insert(HOPS, u16::from(self.hops).into());
        headers.insert(BELOW, u16::from(self.below).into());
        if self.insist {
            headers.insert(INSIST, HeaderValue::from_static("1"));
        }
    }

    /// Reads a request; says in words what is wrong with it.
    pub fn read(path: &str, query: Option<&str>, headers: &HeaderMap) -> Result<Query, &'static str> {
        let rest = path.strip_prefix(PATH).ok_or("paths begin with /larder/v1/")?;
        let route = Route::parse(&format!("/v2/{rest}"), None, None).map_err(|_| "no such path")?;
        let Route::Repository { name, endpoint: Endpoint::Blob(digest) } = route else {
            return Err("only blobs are shared");
        };
        let (mut piece, mut from) = (None, 0);
        for part in query.unwrap_or_default().split('&') {
            match part.split_once('=') {
                Some(("piece", value)) => piece = Some(value.parse().map_err(|_| "piece is not a number")?),
                Some(("from", value)) => from = value.parse().map_err(|_| "from is not a number")?,
                _ => {}
            }
        }
        let number = |header: &str, most: u8| match headers.get(header) {
            None => Ok(0),
            Some(value) => value.to_str().ok().and_then(|text| text.parse().ok()).filter(|&n| n <= most).ok_or(()),
        };
        Ok(Query {
            name,
            digest,
            piece: piece.ok_or("piece is missing")?,
            from,
            hops: number(HOPS, 2).map_err(|()| "larder-hops is 0 to 2")?,
            below: number(BELOW, DEEPEST).map_err(|()| "larder-below is out of range")?,
            insist: headers.contains_key(INSIST),
        })
    }
}

/// Those named in an answer.
pub(super) fn read_holders(headers: &HeaderMap) -> Vec<NodeId> {
    split(headers.get(HOLDERS).and_then(|value| value.to_str().ok()).unwrap_or_default())
}

fn split(text: &str) -> Vec<NodeId> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(NodeId::from).collect()
}

/// The names as one text, of as many as there is room for.
pub(super) fn join(holders: &[NodeId]) -> String {
    let mut text = String::new();
    for holder in holders {
        if text.len() + 1 + holder.as_str().len() <= NAMES {
            text.push_str(if text.is_empty() { "" } else { "," });
            text.push_str(holder.as_str());
        }
    }
    text
}

/// Why a node does not give a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    /// It is not there, and could not be had.
    Absent,
    /// The origin does not give it to everybody: who asks must fetch it with a right of its own.
    Private,
}

/// A part of an answer's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// There is nothing yet, but the node is alive.
    Beat,
    /// What is to come: the blob's length, and how many steps its bytes make to the sender, 0 where it has all of the piece.
    Start {
        /// The blob's length in bytes.
        size: u64,
        /// How many steps.
        depth: u8,
    },
    /// The next bytes of the piece.
    Bytes(Bytes),
    /// Nothing (more) will come.
    No(No),
    /// Nothing will come, but these have the piece, or will have it soon.
    Elsewhere(Vec<NodeId>),
}

const BEAT: u8 = 0;
const START: u8 = 1;
const BYTES: u8 = 2;
const NO: u8 = 3;
const ELSEWHERE: u8 = 4;
/// The most bytes of names in one frame.
const NAMES: usize = 1024;

impl Frame {
    /// The frame on the wire. For bytes, `bytes_head` avoids the copy.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD + 16);
        match self {
            Frame::Beat => head(&mut out, BEAT, 0),
            Frame::Start { size, depth } => {
                head(&mut out, START, 9);
                out.put_u64(*size);
                out.put_u8(*depth);
            }
            Frame::Bytes(bytes) => {
                head(&mut out, BYTES, bytes.len());
                out.extend_from_slice(bytes);
            }
            Frame::No(no) => {
                head(&mut out, NO, 1);
                out.put_u8(u8::from(*no == No::Private));
            }
            Frame::Elsewhere(holders) => {
                let names = join(holders);
                head(&mut out, ELSEWHERE, names.len());
                out.extend_from_slice(names.as_bytes());
            }
        }
        out.freeze()
    }
}

fn head(out: &mut BytesMut, kind: u8, length: usize) {
    out.put_u8(kind);
    out.put_u32(length as u32);
}

/// The head of a frame of so many bytes, at most [`FRAME`].
pub(super) fn bytes_head(length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [BYTES, a, b, c, d]
}

/// Takes a body apart, whatever the sizes it comes in. Bytes are passed on as they come, without being copied.
#[derive(Default)]
pub(super) struct Frames {
    /// What has come of a frame that is not `Bytes`, or of a head.
    pending: BytesMut,
    input: Bytes,
    /// How many bytes are left of a `Bytes` frame.
    left: usize,
}

/// A body that is not one of frames.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Frames {
    /// Gives the next bytes of the body; all frames of the ones before must have been taken.
    pub fn feed(&mut self, bytes: Bytes) {
        self.input = bytes;
    }

    /// The next frame, if all of it has come. A frame of bytes may be given in several parts.
    pub fn next(&mut self) -> Result<Option<Frame>, Malformed> {
        loop {
            if self.left > 0 {
                if self.input.is_empty() {
                    return Ok(None);
                }
                let part = self.input.split_to(self.left.min(self.input.len()));
                self.left -= part.len();
                return Ok(Some(Frame::Bytes(part)));
            }
            if !self.fill(HEAD) {
                return Ok(None);
            }
            let (kind, length) = (self.pending[0], (&self.pending[1..HEAD]).get_u32() as usize);
            let whole = match (kind, length) {
                (BEAT, 0) | (START, 9) | (NO, 1) | (ELSEWHERE, 0..=NAMES) => HEAD + length,
                (BYTES, 1..=FRAME) => {
                    self.pending.clear();
                    self.left = length;
                    continue;
                }
                _ => return Err(Malformed),
            };
            if !self.fill(whole) {
                return Ok(None);
            }
            let mut body = &self.pending[HEAD..];
            let frame = match kind {
                BEAT => Frame::Beat,
                START => Frame::Start { size: body.get_u64(), depth: body.get_u8() },
                ELSEWHERE => Frame::Elsewhere(split(&String::from_utf8_lossy(body))),
                _ => Frame::No(if body.get_u8() == 1 { No::Private } else { No::Absent }),
            };
            self.pending.clear();
            return Ok(Some(frame));
        }
    }

    /// Collects so many bytes.
    fn fill(&mut self, length: usize) -> bool {
        let more = length.saturating_sub(self.pending.len()).min(self.input.len());
        self.pending.extend_from_slice(&self.input.split_to(more));
        self.pending.len() >= length
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let one = prop_oneof![
            Just(Frame::Beat),
            (any::<u64>(), any::<u8>()).prop_map(|(size, depth)| Frame::Start { size, depth }),
            prop::collection::vec(any::<u8>(), 1..300).prop_map(|bytes| Frame::Bytes(bytes.into())),
            prop_oneof![Just(No::Absent), Just(No::Private)].prop_map(Frame::No),
            prop::collection::vec("[a-z][a-z0-9.-]{0,30}".prop_map(NodeId::from), 0..4).prop_map(Frame::Elsewhere),
        ];
        prop::collection::vec(one, 0..20)
    }

    /// Joins the parts of frames of bytes that were next to each other.
    fn joined(frames: impl IntoIterator<Item = Frame>) -> Vec<Frame> {
        let mut out: Vec<Frame> = Vec::new();
        for frame in frames {
            match (out.last_mut(), frame) {
                (Some(Frame::Bytes(before)), Frame::Bytes(more)) => *before = [&before[..], &more[..]].concat().into(),
                (_, frame) => out.push(frame),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(sent in frames(), cut in 1_usize..50) {
            let wire: Vec<u8> = sent.iter().flat_map(|frame| frame.encode()).collect();
            let (mut reader, mut got) = (Frames::default(), Vec::new());
            for part in wire.chunks(cut) {
                reader.feed(Bytes::copy_from_slice(part));
                while let Some(frame) = reader.next().expect("they are frames") {
                    got.push(frame);
                }
            }
            prop_assert_eq!(joined(got), joined(sent));
        }

        #[test]
        fn whatever_comes_is_taken_or_refused(wire in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Frames::default();
            reader.feed(wire.into());
            while let Ok(Some(_)) = reader.next() {}
        }

        #[test]
        fn queries_are_read_as_they_were_written(piece: u64, from: u64, hops in 0..3_u8, below in 0..=DEEPEST, insist: bool) {
            let query = Query {
                name: "registry.example:5000/a/blobs/b".parse_name(),
                digest: Digest::sha256(b"x"),
                piece, from, hops, below, insist,
            };
            let mut headers = HeaderMap::new();
            query.write_headers(&"me".into(), &mut headers);
            let target = query.target();
            let (path, rest) = target.split_once('?').expect("there is a query");
            prop_assert_eq!(Query::read(path, Some(rest), &headers), Ok(query));
        }
    }

    trait ParseName {
        fn parse_name(&self) -> Name;
    }

    impl ParseName for str {
        fn parse_name(&self) -> Name {
            Name::parse(self).expect("a name")
        }
    }

    #[test]
    fn what_is_no_query_is_refused() {
        let digest = Digest::sha256(b"x");
        for (path, query) in [
            ("/v2/docker.io/a/b/blobs/x".to_owned(), "piece=0"),
            (format!("/larder/v1/docker.io/a/b/manifests/{digest}"), "piece=0"),
            (format!("/larder/v1/docker.io/a/b/blobs/{digest}"), ""),
            (format!("/larder/v1/docker.io/a/b/blobs/{digest}"), "piece=-1"),
            (format!("/larder/v1/docker.io/../b/blobs/{digest}"), "piece=1"),
        ] {
            assert!(Query::read(&path, Some(query), &HeaderMap::new()).is_err(), "{path}?{query}");
        }
    }
}
