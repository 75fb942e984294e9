use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cache::{Ingest, SourceError, Store, StoreError};
use oci::{Digest, Name};
use tokio::sync::{OnceCell, watch};

use crate::members::NodeId;
use crate::placement::{PIECE, piece_range};

/// How many of those who took a piece are remembered.
const TAKERS: usize = 16;

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
    takers: HashMap<u64, VecDeque<NodeId>>,
    givers: HashMap<NodeId, BTreeSet<u64>>,
    /// How many answers with a piece are in progress, where there are any.
    given: HashMap<u64, usize>,
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
                takers: HashMap::new(),
                givers: HashMap::new(),
                given: HashMap::new(),
                used: Instant::now(),
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
        state.used = Instant::now();
        state.pieces.entry(piece).or_insert_with(|| Piece::Coming(begin())).clone()
    }

    /// What there is of a piece.
    pub fn piece(&self, piece: u64) -> Option<Piece> {
        let mut state = self.state();
        state.used = Instant::now();
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

    /// Remembers that a node has a piece, or will have it soon.
    pub fn took(&self, piece: u64, taker: &NodeId) {
        let mut state = self.state();
        let takers = state.takers.entry(piece).or_default();
        if !takers.contains(taker) {
            remember(takers, taker);
        }
    }

    /// Makes a node the first who took a piece, unless somebody has taken it before.
    pub fn took_first(&self, piece: u64, taker: &NodeId) -> bool {
        let mut state = self.state();
        let takers = state.takers.entry(piece).or_default();
        let first = takers.iter().all(|other| other == taker);
        if takers.is_empty() {
            takers.push_back(taker.clone());
        }
        first
    }

    /// One or two who took a piece, other ones each time, and not the one who asks.
    pub fn takers(&self, piece: u64, but: &NodeId) -> Vec<NodeId> {
        let mut state = self.state();
        let Some(takers) = state.takers.get_mut(&piece) else { return Vec::new() };
        let found: Vec<NodeId> = takers.iter().filter(|taker| *taker != but).take(2).cloned().collect();
        let turn = found.len().min(takers.len());
        takers.rotate_left(turn);
        found
    }

    /// Sends a node to the end of one of the lines in which a piece goes from node to node: whom it is to ask, and whom
    /// else, last first. It becomes an end of the line itself, to which as many are sent as it may `give` the piece.
    pub fn line_up(&self, piece: u64, asker: &NodeId, give: usize) -> Vec<NodeId> {
        let mut state = self.state();
        let Some(takers) = state.takers.get_mut(&piece) else { return Vec::new() };
        takers.retain(|taker| taker != asker);
        let Some(end) = takers.pop_front() else { return Vec::new() };
        let mut named: Vec<NodeId> = takers.front().cloned().into_iter().collect();
        named.push(end);
        for _ in 0..give {
            remember(takers, asker);
        }
        named
    }

    /// Begins to give a piece.
    pub fn give(&self, piece: u64) {
        *self.state().given.entry(piece).or_default() += 1;
    }

    /// Has given a piece, or a part of it.
    pub fn given(&self, piece: u64) {
        let mut state = self.state();
        if let Some(count) = state.given.get_mut(&piece) {
            *count -= 1;
            if *count == 0 {
                state.given.remove(&piece);
            }
        }
    }

    /// How many answers with a piece are in progress.
    pub fn giving(&self, piece: u64) -> usize {
        self.state().given.get(&piece).copied().unwrap_or(0)
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
            && state.given.is_empty()
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

/// Puts a node behind those who took a piece, of whom the first is forgotten where there are too many.
fn remember(takers: &mut VecDeque<NodeId>, taker: &NodeId) {
    if takers.len() == TAKERS {
        takers.pop_front();
    }
    takers.push_back(taker.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_goes_from_node_to_node_in_lines_of_the_same_length() {
        let gathering = Gathering::new(Digest::sha256(b"blob"));
        let node = |number: usize| NodeId::from(format!("n{number}"));
        assert!(gathering.line_up(0, &node(0), 1).is_empty(), "nobody takes it yet");
        gathering.took(0, &node(1));
        gathering.took(0, &node(2));
        let mut depth = HashMap::from([(node(1), 1), (node(2), 1)]);
        for number in 3..=10 {
            let named = gathering.line_up(0, &node(number), 1);
            let to_ask = named.last().expect("somebody is named");
            let of_it = depth[to_ask];
            depth.insert(node(number), of_it + 1);
        }
        assert_eq!(depth.values().max(), Some(&5));
        let ends = [node(9), node(10)];
        let again = gathering.line_up(0, &node(9), 1);
        assert_eq!(again.last(), Some(&ends[1]), "nobody is sent to itself");
    }

    #[test]
    fn lines_that_branch_are_short() {
        let gathering = Gathering::new(Digest::sha256(b"blob"));
        let node = |number: usize| NodeId::from(format!("n{number}"));
        gathering.took(0, &node(0));
        let mut asked: HashMap<NodeId, usize> = HashMap::new();
        for number in 1..=1000 {
            let named = gathering.line_up(0, &node(number), 2);
            *asked.entry(named.last().expect("somebody is named").clone()).or_default() += 1;
        }
        assert!(asked.values().all(|count| *count <= 2), "{asked:?}");
    }
}
