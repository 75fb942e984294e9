use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use oci::{Digest, Hasher};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::HELD_BACK;
use super::progress::{Filling, Handoff, Progress, Shared, State};
use super::supply::Supply;
use crate::blocking::{blocking, outcome};
use crate::metrics::{FillResult, Metrics};
use crate::reply::{Blob, Error};
use crate::source::{Ask, FailureKind, SourceError, Upstream};
use crate::store::{Ingest, Store, StoreError};

/// Bytes that are collected while the disk takes the ones before, at the most.
const BATCH: usize = 1 << 20;

/// The error of those who wait for a fill that was ended from outside.
pub(super) fn ended() -> Error {
    Error::new(FailureKind::Unavailable, "larder is shutting down")
}

/// Makes a fill: the part to share, and the work to be spawned, which gives the blob when all of it is there and verified.
/// The source number `first` is asked first, and the one before it last. `ending` ends the work, but what is verified by then
/// is kept.
pub(crate) fn run(
    store: Arc<dyn Store>,
    upstream: Arc<Upstream>,
    ask: Ask,
    digest: Digest,
    first: usize,
    metrics: Metrics,
    ending: CancellationToken,
) -> (Filling, impl Future<Output = Option<Blob>> + Send) {
    let (sender, progress) = watch::channel(Progress {
        size: None,
        released: 0,
        file: None,
        right_until: None,
        wrong: None,
        all_wrong: false,
        state: State::Starting,
    });
    let shared = Arc::new(Shared { upstream, ask, digest, metrics, landed: CancellationToken::new() });
    let task = Task { shared: shared.clone(), store, first, progress: sender, ending };
    (Filling { shared, progress }, task.run())
}

struct Task {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    /// The number of the source to ask first.
    first: usize,
    progress: watch::Sender<Progress>,
    ending: CancellationToken,
}

/// What a fill comes to: bytes whose digest is right.
struct Verified {
    ingest: Arc<dyn Ingest>,
    size: u64,
    /// The number of the source that gave them.
    source: usize,
}

/// Why one attempt ended.
enum Stop {
    Source(SourceError),
    /// The disk failed after `Handoff::at` bytes.
    Disk(StoreError, Box<Handoff>),
    /// The bytes that came have another digest. They differ from what readers got before at `differs_at`.
    Mismatch {
        found: Digest,
        differs_at: Option<u64>,
    },
}

/// Why a batch could not be taken in, and where readers take over.
type DiskFailure = (StoreError, Box<Handoff>);

/// One attempt's account.
struct Attempt {
    hasher: Hasher,
    written: u64,
    /// The first byte in which any attempt up to this one differed from the one before it.
    differs_at: Option<u64>,
}

impl Task {
    /// The bytes from a source that none of the first `passed_over` ones is.
    fn supply(&self, passed_over: usize) -> Supply {
        let Shared { upstream, ask, digest, metrics, .. } = &*self.shared;
        let count = upstream.sources.len();
        let source = (self.first + passed_over) % count.max(1);
        Supply::new(upstream.clone(), ask.clone(), *digest, metrics.clone(), source, count - passed_over, 0, None)
    }

    async fn run(self) -> Option<Blob> {
        let started = Instant::now();
        let filled = tokio::select! {
            () = self.ending.cancelled() => return None,
            filled = self.fill() => filled,
        };
        let result = match filled {
            Ok(verified) => self.keep(verified).await,
            Err(end) => Err(end),
        };
        let Shared { digest, metrics, ask, .. } = &*self.shared;
        match &result {
            Ok(blob) => {
                metrics.filled(FillResult::Kept);
                let ms = started.elapsed().as_millis() as u64;
                tracing::debug!(name = %ask.name, %digest, size = blob.size(), ms, "filled");
            }
            Err(FillEnd::Passed) => metrics.filled(FillResult::Passed),
            Err(FillEnd::Failed(error)) => {
                metrics.filled(FillResult::Failed);
                tracing::warn!(name = %ask.name, %digest, %error, "a fill failed");
            }
        }
        self.progress.send_modify(|progress| match result {
            Ok(ref blob) => {
                progress.size = Some(blob.size());
                progress.released = blob.size();
                progress.state = State::Whole(blob.clone());
            }
            // The state was set when the readers took over.
            Err(FillEnd::Passed) => {}
            Err(FillEnd::Failed(ref error)) => progress.state = State::Failed(error.clone()),
        });
        result.ok()
    }

    async fn fill(&self) -> Result<Verified, FillEnd> {
        let mut supply = self.supply(0);
        supply.open().await.map_err(FillEnd::from)?;
        let digest = self.shared.digest;
        let ingest = match supply.placed() {
            Some(placed) => placed.clone(),
            None => match self.store.ingest(&digest, supply.size()).await {
                Ok(ingest) => ingest,
                Err(error) => return Err(self.hand_off(error, Handoff::start(&digest), supply.size())),
            },
        };
        supply.put_into(&ingest);
        self.progress.send_modify(|progress| {
            progress.size = supply.size();
            progress.file = Some(ingest.file().clone());
            progress.state = State::Running;
        });
        let count = self.shared.upstream.sources.len();
        let (mut compare, mut differs_at) = (false, None);
        let mut mismatches = 0;
        loop {
            let (size, source) = (supply.size(), supply.source());
            match self.attempt(supply, &ingest, compare, differs_at).await {
                Ok(size) => return Ok(Verified { ingest, size, source }),
                Err(Stop::Source(error)) => return Err(error.into()),
                Err(Stop::Disk(error, handoff)) => {
                    // A second attempt overwrote what the readers may have got, and nobody can tell any more.
                    if compare {
                        let reason = "a source sent wrong bytes, and the disk takes no others";
                        return Err(FillEnd::Failed(Error::new(FailureKind::Invalid, reason)));
                    }
                    return Err(self.hand_off(error, handoff, size));
                }
                Err(Stop::Mismatch { found, differs_at: differed }) => {
                    differs_at = differed;
                    mismatches += 1;
                    self.progress.send_modify(|progress| {
                        progress.wrong = Some(source);
                        progress.all_wrong = mismatches >= count;
                    });
                    self.shared.upstream.sources[source].settled(&digest, false);
                    let from = &self.shared.upstream.sources[source];
                    let label = from.label();
                    self.shared.metrics.mismatched(from.kind());
                    tracing::warn!(name = %self.shared.ask.name, %digest, %found, source = label, "a source sent wrong bytes");
                    // Where a later source went on, either may have been wrong: the later one is tried alone.
                    let passed_over = (source + count - self.first) % count + 1;
                    if passed_over >= count {
                        let reason = format!("{label}: the bytes that came have another digest ({found})");
                        return Err(FillEnd::Failed(Error::new(FailureKind::Invalid, reason)));
                    }
                    // The next source's bytes go into the same file and are compared with what was there: whoever got
                    // no more than what both have in common is served on. The size may have been a lie too.
                    supply = self.supply(passed_over);
                    supply.put_into(&ingest);
                    supply.open().await.map_err(FillEnd::from)?;
                    let (size, said) = (supply.size(), self.progress.borrow().size);
                    if size != said {
                        let reason = format!("{label}: the blob's length was wrong");
                        return Err(FillEnd::Failed(Error::new(FailureKind::Invalid, reason)));
                    }
                    compare = true;
                }
            }
        }
    }

    /// Takes all bytes from the supply into the file, hashes them, and lets readers have all but the end.
    async fn attempt(
        &self,
        supply: Supply,
        ingest: &Arc<dyn Ingest>,
        compare: bool,
        differs_at: Option<u64>,
    ) -> Result<u64, Stop> {
        let digest = self.shared.digest;
        let (mut source, mut size) = (supply.source(), supply.size());
        // A stream that owns the supply keeps a request in progress when the disk has something to tell meanwhile.
        let supply = futures_util::stream::unfold(supply, |mut supply| async move {
            let bytes = supply.next().await;
            let placed = supply.placed().is_some();
            Some(((bytes, placed, supply.source(), supply.size()), supply))
        });
        let mut supply = std::pin::pin!(supply);
        let mut attempt = Some(Attempt { hasher: Hasher::new(digest.algorithm()), written: 0, differs_at });
        let mut writing: Option<JoinHandle<Result<Attempt, DiskFailure>>> = None;
        let mut batch: Vec<(Bytes, bool)> = Vec::new();
        let mut batched = 0;
        let (mut ended, mut failure) = (false, None);
        loop {
            if batched > 0
                && let Some(taken) = attempt.take()
            {
                self.shared.metrics.fetched(self.shared.upstream.sources[source].kind(), batched as u64);
                let (batch, ingest) = (std::mem::take(&mut batch), ingest.clone());
                batched = 0;
                writing = Some(tokio::task::spawn_blocking(move || take_in(taken, &batch, &*ingest, compare, source)));
            }
            tokio::select! {
                biased;
                done = async { outcome(writing.as_mut().expect("guarded")).await }, if writing.is_some() => {
                    writing = None;
                    let done = done.map_err(|(error, handoff)| Stop::Disk(error, handoff))?;
                    if !compare {
                        self.release(done.written, size);
                    }
                    attempt = Some(done);
                }
                Some((bytes, placed, from, said)) = supply.next(), if !ended && batched < BATCH => {
                    (source, size) = (from, said);
                    match bytes {
                        Ok(Some(bytes)) => {
                            batched += bytes.len();
                            batch.push((bytes, placed));
                        }
                        Ok(None) => ended = true,
                        // What came before is right for all that is known, and readers may go on from its end.
                        Err(error) => (ended, failure) = (true, Some(error)),
                    }
                }
                else => break,
            }
        }
        if let Some(error) = failure {
            return Err(Stop::Source(error));
        }
        let Attempt { hasher, written, differs_at } = attempt.expect("nothing is being written");
        let found = hasher.finish();
        if found != digest {
            return Err(Stop::Mismatch { found, differs_at });
        }
        if compare {
            self.progress.send_modify(|progress| progress.right_until = Some(differs_at.unwrap_or(written)));
        }
        Ok(written)
    }

    fn release(&self, written: u64, size: Option<u64>) {
        let limit = size.unwrap_or(written).saturating_sub(HELD_BACK);
        let released = written.min(limit);
        self.progress.send_if_modified(|progress| {
            let more = released > progress.released;
            progress.released = progress.released.max(released);
            more
        });
    }

    /// Makes the verified file the blob. Readers get the held-back end before the disk has acknowledged anything: they
    /// wait for the digest, not for the disk.
    async fn keep(&self, Verified { ingest, size, source }: Verified) -> Result<Blob, FillEnd> {
        let digest = self.shared.digest;
        let verified = Blob::File { file: ingest.file().clone(), size };
        self.progress.send_modify(|progress| {
            progress.size = Some(size);
            progress.released = size;
            progress.state = State::Whole(verified);
        });
        tokio::select! {
            () = self.store.give_way(&digest) => {}
            () = self.ending.cancelled() => {}
        }
        let kept = blocking(move || ingest.commit(size)).await;
        self.shared.upstream.sources[source].settled(&digest, true);
        kept.map_err(|error| {
            self.shared.metrics.store_error(&error);
            tracing::warn!(%digest, %error, "a verified blob could not be kept");
            FillEnd::Passed
        })
    }

    fn hand_off(&self, error: StoreError, handoff: Box<Handoff>, size: Option<u64>) -> FillEnd {
        if !matches!(error, StoreError::TooLarge { .. }) {
            self.shared.metrics.store_error(&error);
        }
        tracing::warn!(name = %self.shared.ask.name, digest = %self.shared.digest, %error, at = handoff.at, "passing a blob through uncached");
        self.progress.send_modify(|progress| {
            progress.size = progress.size.or(size);
            progress.released = handoff.released();
            progress.state = State::Passing(handoff);
        });
        FillEnd::Passed
    }
}

impl Handoff {
    fn start(digest: &Digest) -> Box<Handoff> {
        Box::new(Handoff { at: 0, source: 0, hasher: Hasher::new(digest.algorithm()) })
    }

    /// Up to where the file may be read: its end is held back still, for nothing is verified.
    pub(super) fn released(&self) -> u64 {
        self.at.saturating_sub(HELD_BACK)
    }
}

/// How a fill ends without a blob in the store.
enum FillEnd {
    Passed,
    Failed(Error),
}

impl From<SourceError> for FillEnd {
    fn from(error: SourceError) -> FillEnd {
        FillEnd::Failed(error.into())
    }
}

/// Writes a batch, as far as its source has not done so, and hashes it. Blocks.
fn take_in(
    mut attempt: Attempt,
    batch: &[(Bytes, bool)],
    ingest: &dyn Ingest,
    compare: bool,
    source: usize,
) -> Result<Attempt, DiskFailure> {
    for (bytes, placed) in batch {
        if compare && attempt.differs_at.is_none_or(|known| attempt.written < known) {
            let differs = first_difference(ingest.file(), bytes, attempt.written);
            attempt.differs_at = attempt.differs_at.into_iter().chain(differs).min();
        }
        if !placed && let Err(error) = ingest.write_at(bytes, attempt.written) {
            return Err((error, Box::new(Handoff { at: attempt.written, source, hasher: attempt.hasher })));
        }
        attempt.hasher.update(bytes);
        attempt.written += bytes.len() as u64;
    }
    Ok(attempt)
}

/// The offset of the first byte of the file that differs from `bytes`, which belong at `offset`.
fn first_difference(file: &File, bytes: &[u8], offset: u64) -> Option<u64> {
    let mut old = vec![0; bytes.len()];
    if file.read_exact_at(&mut old, offset).is_err() {
        return Some(offset);
    }
    old.iter().zip(bytes).position(|(old, new)| old != new).map(|at| offset + at as u64)
}

impl Drop for Task {
    fn drop(&mut self) {
        // A task that is ended from outside leaves nobody waiting.
        self.progress.send_if_modified(|progress| {
            let open = matches!(progress.state, State::Starting | State::Running);
            if open {
                progress.state = State::Failed(ended());
            }
            open
        });
    }
}
