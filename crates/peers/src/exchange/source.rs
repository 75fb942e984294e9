use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cache::{
    Ask, Blob, BlobBody, BlobHead, Document, DocumentQuery, FailureKind, ManifestBody, ManifestHead, Source,
    SourceError, SourceKind,
};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use oci::{Digest, Reference};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::ahead::Ahead;
use super::client::Answer;
use super::clock::now;
use super::fetch::Errand;
use super::gathering::{Gathering, Piece, Trouble};
use super::ground::Disk;
use super::reading::read_behind;
use super::swarm::Swarm;
use super::wire::{Frame, Query};
use crate::health::Reason;
use crate::placement::{PIECE, piece_count, piece_of, piece_range};

/// How many bytes are read at a time.
const CHUNK: u64 = 256 * 1024;
/// Where those who give are slow, more pieces at a time are of use; so long after each is one more begun.
const GROWTH: Duration = Duration::from_millis(30);
/// How often a piece is tried that did not come: what another errand could not get may be had with one's own right.
const TRIES: usize = 3;
/// How many pieces of a node whose bytes may have been wrong are looked at.
const SAMPLES: usize = 4;

/// The other nodes, as a source of blobs. Asked before all others; of manifests, tags and lists it knows nothing.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Swarm>);

impl Peers {
    /// The nodes that a swarm exchanges pieces with.
    pub fn new(swarm: Arc<Swarm>) -> Peers {
        Peers(swarm)
    }

    fn error(&self, kind: FailureKind, reason: impl Into<String>) -> SourceError {
        SourceError::new(kind, self.label(), reason)
    }

    fn unknown<T>(&self) -> Result<T, SourceError> {
        Err(self.error(FailureKind::NotFound, "nodes are asked for blobs only"))
    }
}

#[async_trait]
impl Source for Peers {
    fn label(&self) -> &str {
        "peers"
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Peer
    }

    async fn head_manifest(&self, _: &Ask, _: &Reference) -> Result<ManifestHead, SourceError> {
        self.unknown()
    }

    async fn manifest(&self, _: &Ask, _: &Reference) -> Result<ManifestBody, SourceError> {
        self.unknown()
    }

    async fn head_blob(&self, _: &Ask, _: &Digest) -> Result<BlobHead, SourceError> {
        self.unknown()
    }

    async fn document(&self, _: &Ask, _: &DocumentQuery) -> Result<Document, SourceError> {
        self.unknown()
    }

    async fn blob(&self, ask: &Ask, digest: &Digest, from: u64, until: Option<u64>) -> Result<BlobBody, SourceError> {
        let swarm = &self.0;
        if until.is_some() || swarm.members.alone() {
            return Err(self.error(FailureKind::NotFound, "there are no other nodes"));
        }
        let gathering = swarm.gathering(digest);
        if !gathering.claim(&ask.name) {
            return Err(self.error(FailureKind::Unavailable, "another fill of the blob is under way"));
        }
        let errand = Errand { name: ask.name.clone(), own: Some(ask.authority.clone()), hops: 3, asker: None };
        swarm.pulls.fetch_add(1, Ordering::Relaxed);
        let mut own = Own {
            swarm: swarm.clone(),
            gathering: gathering.clone(),
            errand,
            at: from,
            reached: watch::Sender::new(piece_of(from)),
            ahead: None,
            done: false,
        };
        own.there().await.map_err(|trouble| self.explain(trouble))?;
        let (Some(size), Some(ingest)) = (gathering.size(), gathering.ingest().cloned()) else {
            return Err(self.error(FailureKind::Unavailable, "nobody told the blob's length"));
        };
        own.look_ahead();
        let peers = self.clone();
        let stream = futures_util::stream::unfold(Some(own), move |own| {
            let peers = peers.clone();
            async move {
                let mut own = own?;
                match own.next().await {
                    Ok(Some(bytes)) => Some((Ok(bytes), Some(own))),
                    Ok(None) => None,
                    Err(trouble) => Some((Err(peers.explain(trouble)), None)),
                }
            }
        });
        Ok(BlobBody { size: Some(size), offset: from, stream: Box::pin(stream), placed: Some(ingest) })
    }

    fn settled(&self, digest: &Digest, right: bool) {
        let Some(gathering) = self.0.gathered(digest) else { return };
        self.0.forget(&gathering);
        if right {
            return;
        }
        gathering.sever();
        let givers = gathering.givers();
        match (givers.len(), givers.keys().next()) {
            (1, Some(liar)) => {
                self.0.pass_over(liar, Reason::Lying, &format_args!("it gave wrong bytes of {digest}"));
            }
            _ => {
                let swarm = self.0.clone();
                self.0.tasks().spawn(async move {
                    let cancel = swarm.cancel().clone();
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => {}
                        () = find_liars(&swarm, &gathering) => {}
                    }
                });
            }
        }
    }
}

impl Peers {
    fn explain(&self, trouble: Trouble) -> SourceError {
        match trouble {
            // As another source said it, whose name it keeps.
            Trouble::Source(error) => error,
            Trouble::Absent => self.error(FailureKind::NotFound, "no node has it"),
            Trouble::Private => self.error(FailureKind::Unavailable, "no node may have it"),
            Trouble::Store(error) => self.error(FailureKind::Unavailable, error.to_string()),
            Trouble::Other(reason) => self.error(FailureKind::Unavailable, reason),
        }
    }
}

/// A blob on its way to this node's own fill, in order.
struct Own {
    swarm: Arc<Swarm>,
    gathering: Arc<Gathering>,
    errand: Errand,
    at: u64,
    /// The piece that is read, for who fetches ahead.
    reached: watch::Sender<u64>,
    ahead: Option<tokio::task::AbortHandle>,
    done: bool,
}

impl Own {
    /// Waits until bytes are there at the place to be read; gives up to where. That is the place itself at the blob's end.
    async fn there(&mut self) -> Result<u64, Trouble> {
        let piece = piece_of(self.at);
        let mut trouble = Trouble::Absent;
        for _ in 0..TRIES {
            if self.gathering.size().is_some_and(|size| self.at >= size) {
                return Ok(self.at);
            }
            let start = piece * PIECE;
            match self.swarm.ensure(&self.gathering, piece, &self.errand) {
                Piece::Present => match self.gathering.size().and_then(|size| piece_range(size, piece)) {
                    Some(range) => return Ok(range.end),
                    None => return Ok(self.at),
                },
                Piece::Coming(mut flow) => {
                    let at = self.at;
                    let flow = flow.wait_for(|flow| start + flow.got > at || flow.end.is_some()).await;
                    match flow {
                        Ok(flow) if start + flow.got > at => return Ok(start + flow.got),
                        Ok(flow) => {
                            if let Some(Err(why)) = &flow.end {
                                trouble = why.clone();
                            }
                        }
                        Err(_) => {}
                    }
                }
            }
        }
        Err(trouble)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        let there = self.there().await?;
        if there <= self.at {
            self.done = true;
            self.gathering.finish();
            return Ok(None);
        }
        let length = (there - self.at).min(CHUNK) as usize;
        let bytes = match &self.swarm.disk {
            Disk::Files => self.read(length).await?,
            Disk::Counted(bytes) => bytes.slice(..length),
        };
        self.at += length as u64;
        let piece = piece_of(self.at);
        self.reached.send_if_modified(|reached| std::mem::replace(reached, piece) != piece);
        Ok(Some(bytes))
    }

    async fn read(&self, length: usize) -> Result<Bytes, Trouble> {
        let Some(ingest) = self.gathering.ingest() else { return Err(Trouble::Other("there is no file")) };
        match read_behind(&[], ingest.file(), self.at, length).await {
            Ok(buffer) => Ok(buffer.into()),
            Err(_) => Err(Trouble::Other("the file of the fill cannot be read")),
        }
    }

    /// Has the pieces to come fetched.
    fn look_ahead(&mut self) {
        let Some(size) = self.gathering.size() else { return };
        let (swarm, gathering, errand) = (self.swarm.clone(), self.gathering.clone(), self.errand.clone());
        let mut reached = self.reached.subscribe();
        let mut ahead = Ahead::new(piece_of(self.at), piece_count(size));
        let far = swarm.settings.ahead.max(1);
        let task = async move {
            let mut coming = FuturesUnordered::new();
            let mut growth = tokio::time::interval(GROWTH);
            growth.set_missed_tick_behavior(MissedTickBehavior::Delay);
            growth.tick().await;
            let mut since = now();
            while !ahead.is_done() {
                let parallel = swarm.parallel();
                while let Some(piece) = ahead.begin(*reached.borrow_and_update(), parallel, far) {
                    let (swarm, gathering, errand) = (swarm.clone(), gathering.clone(), errand.clone());
                    coming.push(async move {
                        let begun = now();
                        if let Piece::Coming(mut flow) = swarm.ensure(&gathering, piece, &errand) {
                            let _ = flow.wait_for(|flow| flow.end.is_some()).await;
                        }
                        now() - begun
                    });
                }
                tokio::select! {
                    biased;
                    Some(took) = coming.next(), if !coming.is_empty() => {
                        since = now();
                        ahead.came(took);
                    }
                    _ = growth.tick(), if ahead.is_waiting() => ahead.waited(now() - since),
                    changed = reached.changed() => if changed.is_err() { return },
                }
            }
        };
        self.ahead = Some(self.swarm.tasks().spawn(task).abort_handle());
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.swarm.pulls.fetch_sub(1, Ordering::Relaxed);
        if let Some(ahead) = &self.ahead {
            ahead.abort();
        }
        if !self.done {
            // The fill goes on without the nodes, or not at all: nobody else may write into its file.
            self.swarm.forget(&self.gathering);
            self.gathering.sever();
        }
    }
}

/// Finds out who of several nodes gave wrong bytes, once the right ones are in the store: asks each for some of what it gave.
async fn find_liars(swarm: &Arc<Swarm>, gathering: &Arc<Gathering>) {
    let digest = gathering.digest;
    let mut right = None;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        right = swarm.stored(&digest).await;
        if right.is_some() {
            break;
        }
    }
    let Some(blob) = right else { return };
    let Some(name) = gathering.name() else { return };
    let placement = swarm.members.placement();
    for (id, pieces) in gathering.givers() {
        let Some(member) = placement.get(&id) else { continue };
        for &piece in pieces.iter().take(SAMPLES) {
            let query = Query { name: name.clone(), digest, piece, from: 0, hops: 0, below: 0, insist: true };
            let Ok(Answer::Frames(mut reading)) = swarm.client.ask(member, &query).await else { continue };
            let mut at = piece * PIECE;
            while let Ok(Some(frame)) = reading.next().await {
                let Frame::Bytes(bytes) = frame else { continue };
                if !is_part(&blob, at, &bytes) {
                    swarm.pass_over(&id, Reason::Lying, &format_args!("it gives wrong bytes of {digest}"));
                    break;
                }
                at += bytes.len() as u64;
            }
        }
    }
}

fn is_part(blob: &Blob, at: u64, bytes: &[u8]) -> bool {
    match blob {
        Blob::Memory(all) => all.get(at as usize..at as usize + bytes.len()) == Some(bytes),
        Blob::File { file, .. } => {
            let mut right = vec![0; bytes.len()];
            file.read_exact_at(&mut right, at).is_ok() && right == bytes
        }
    }
}
