use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cache::{Ingest, SourceError, Store, StoreError};
use oci::{Digest, Name};
use tokio::sync::{OnceCell, watch};

use super::clock::now;
use super::lines::{Lines, Turn};
use crate::members::NodeId;
use crate::placement::{PIECE, piece_range};

/// Why a piece did not come.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// The origin does not give it to everybody.
    Private,
    /// Nobody has it.
    Absent,
    /// A source that is no node, and the last to be asked, failed.
    Source(SourceError),
    /// The disk.
    Store(StoreError),
    /// Anything else, in words.
    Other(&'static str),
}

/// How far a piece is that is coming in.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// Bytes from the piece's beginning that are in the file.
    pub got: u64,
    /// How many steps the bytes make until they are here, 0 where all are; `None` until that is known.
    pub depth: Option<u8>,
    /// Whom this node is waiting for, as [`Query::hops`](super::wire::Query::hops) of its question: 0 once nobody but sources beyond the nodes. It only
    /// goes down.
    pub level: u8,
    pub end: Option<Result<(), Trouble>>,
}

/// What there is of a piece.
#[derive(Clone)]
pub(super) enum Piece {
    Coming(watch::Receiver<Flow>),
    Present,
}

/// A blob of which some pieces are here: because this node wants it, or because it is the home of these pieces.
pub(super) struct Gathering {
    pub digest: Digest,
    place: OnceCell<Place>,
    state: Mutex<State>,
    /// Held for writing by who makes sure that nothing is written any more.
    severed: RwLock<bool>,
    /// The repository of the one fill that uses the file, if there is one.
    claimed: OnceLock<Name>,
    /// The fill has all of it.
    finished: AtomicBool,
}

/// Where the bytes are.
struct Place {
    size: u64,
    ingest: Arc<dyn Ingest>,
    /// Who said the size.
    said_by: Option<NodeId>,
}

struct State {
    pieces: HashMap<u64, Piece>,
    lines: Lines,
    /// Who was sent to fetch a piece with a right of its own.
    sent: HashMap<u64, NodeId>,
    givers: HashMap<NodeId, BTreeSet<u64>>,
    used: Instant,
    bytes: u64,
}

impl Gathering {
    pub fn new(digest: Digest) -> Gathering {
        Gathering {
            digest,
            place: OnceCell::new(),
            state: Mutex::new(State {
                pieces: HashMap::new(),
                lines: Lines::default(),
                sent: HashMap::new(),
                givers: HashMap::new(),
                used: now(),
                bytes: 0,
            }),
            severed: RwLock::new(false),
            claimed: OnceLock::new(),
            finished: AtomicBool::new(false),
        }
    }

    /// The blob's length, once somebody said it.
    pub fn size(&self) -> Option<u64> {
        self.place.get().map(|place| place.size)
    }

    /// The file with the pieces.
    pub fn ingest(&self) -> Option<&Arc<dyn Ingest>> {
        self.place.get().map(|place| &place.ingest)
    }

    /// The length of a piece in bytes, once the blob's is known; `None` also where there is no such piece.
    pub fn length(&self, piece: u64) -> Option<u64> {
        piece_range(self.size()?, piece).map(|range| range.end - range.start)
    }

    /// Takes a length that `by` said, or a source that is no node: makes the file, or compares with what was said before.
    /// If it differs, gives who said the other one.
    pub async fn place(
        &self,
        store: &dyn Store,
        size: u64,
        by: Option<&NodeId>,
    ) -> Result<Result<(), Option<NodeId>>, StoreError> {
        let make =
            || async { Ok(Place { size, ingest: store.scatter(&self.digest, size).await?, said_by: by.cloned() }) };
        let place = self.place.get_or_try_init(make).await?;
        Ok(if place.size == size { Ok(()) } else { Err(place.said_by.clone()) })
    }

    /// What there is of a piece; where there is nothing, `begin` says how it comes from now on.
    pub fn piece_or(&self, piece: u64, begin: impl FnOnce() -> watch::Receiver<Flow>) -> Piece {
        let mut state = self.state();
        state.used = now();
        state.pieces.entry(piece).or_insert_with(|| Piece::Coming(begin())).clone()
    }

    /// What there is of a piece.
    pub fn piece(&self, piece: u64) -> Option<Piece> {
        let mut state = self.state();
        state.used = now();
        state.pieces.get(&piece).cloned()
    }

    /// A piece is there whole, or nothing of it.
    pub fn settle(&self, piece: u64, whole: bool) {
        let mut state = self.state();
        if whole {
            state.pieces.insert(piece, Piece::Present);
            state.bytes += self.length(piece).unwrap_or(0);
        } else {
            state.pieces.remove(&piece);
        }
    }

    /// Bytes of whole pieces.
    pub fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// What is to be done with a node that asks for a piece: see [`Lines::turn`].
    pub fn turn(&self, piece: u64, asker: &NodeId, zone: &Arc<str>, most: usize, give: usize) -> Turn {
        self.state().lines.turn(piece, asker, zone, most, give)
    }

    /// Begins to give a piece, whoever takes it already.
    pub fn give(&self, piece: u64, asker: &NodeId, zone: &Arc<str>) {
        self.state().lines.give(piece, asker, zone);
    }

    /// Has given a piece, or a part of it.
    pub fn given(&self, piece: u64, zone: &Arc<str>) {
        self.state().lines.given(piece, zone);
    }

    /// Sends the first node that asks for a piece, which may be this one, or one that insists, to fetch it with a right of its
    /// own; for all others, gives who was sent.
    pub fn send(&self, piece: u64, asker: &NodeId, insists: bool) -> Option<NodeId> {
        let mut state = self.state();
        let sent = state.sent.entry(piece).or_insert_with(|| asker.clone());
        if insists {
            *sent = asker.clone();
        }
        Some(sent.clone()).filter(|sent| sent != asker)
    }

    /// One or two who have a piece, or will have it soon: see [`Lines::takers`].
    pub fn takers(&self, piece: u64, but: &NodeId, zone: &Arc<str>) -> Vec<NodeId> {
        self.state().lines.takers(piece, but, zone)
    }

    /// Remembers who gave a piece, or a part of it.
    pub fn gave(&self, piece: u64, giver: &NodeId) {
        self.state().givers.entry(giver.clone()).or_default().insert(piece);
    }

    /// Who gave which pieces.
    pub fn givers(&self) -> HashMap<NodeId, BTreeSet<u64>> {
        self.state().givers.clone()
    }

    /// Writes bytes of a piece, unless nothing may be written any more. Blocks.
    pub fn write(&self, piece: u64, offset: u64, bytes: &[Bytes]) -> Result<(), Trouble> {
        let severed = self.severed.read().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = self.place.get().filter(|_| !*severed) else { return Err(Trouble::Other("given up")) };
        let mut at = piece * PIECE + offset;
        for bytes in bytes {
            place.ingest.write_at(bytes, at).map_err(Trouble::Store)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Makes sure that nothing more is written: somebody else writes to the file from now on. Waits for a write in progress.
    pub fn sever(&self) {
        *self.severed.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Takes it for the one fill that may use the file, of a blob of this repository.
    pub fn claim(&self, name: &Name) -> bool {
        self.claimed.set(name.clone()).is_ok()
    }

    /// The fill that uses it has read all of it.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::Relaxed);
    }

    /// The repository of the fill that uses it.
    pub fn name(&self) -> Option<&Name> {
        self.claimed.get()
    }

    /// Whether nobody has used it for so long.
    pub fn is_idle(&self, now: Instant, time: Duration) -> bool {
        let state = self.state();
        let claimed = self.claimed.get().is_some() && !self.finished.load(Ordering::Relaxed);
        !claimed
            && !state.lines.is_giving()
            && now.saturating_duration_since(state.used) >= time
            && !state.pieces.values().any(|piece| matches!(piece, Piece::Coming(_)))
    }

    /// When it was used last.
    pub fn used(&self) -> Instant {
        self.state().used
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
