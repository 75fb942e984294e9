use std::fs::File;
use std::sync::Arc;

use oci::{Digest, Hasher};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::FillReader;
use crate::metrics::Metrics;
use crate::reply::{Blob, Error};
use crate::source::{Ask, FailureKind, Upstream};

/// What a fill and its readers share.
pub(super) struct Shared {
    pub(super) upstream: Arc<Upstream>,
    pub(super) ask: Ask,
    pub(super) digest: Digest,
    pub(super) metrics: Metrics,
    /// Told when nothing more is done for it: what it brought is in the store and in its repository.
    pub(super) landed: CancellationToken,
}

/// How far a fill is.
pub(super) struct Progress {
    /// The blob's length, as soon as it is known.
    pub(super) size: Option<u64>,
    /// Bytes that may leave.
    pub(super) released: u64,
    /// Where they are.
    pub(super) file: Option<Arc<File>>,
    /// Bytes that left before a source was found wrong are right up to here.
    pub(super) right_until: Option<u64>,
    /// The number of the source that was found wrong last.
    pub(super) wrong: Option<usize>,
    /// Each of the sources was found wrong by itself.
    pub(super) all_wrong: bool,
    pub(super) state: State,
}

pub(super) enum State {
    /// No source has answered yet.
    Starting,
    /// Bytes are coming.
    Running,
    /// Verified.
    Whole(Blob),
    /// The disk takes no more: each reader goes on from here by itself.
    Passing(Box<Handoff>),
    /// There is nothing more to come.
    Failed(Error),
}

/// Where a reader takes over from a fill that lost its disk.
#[derive(Clone)]
pub(super) struct Handoff {
    pub(super) at: u64,
    pub(super) source: usize,
    pub(super) hasher: Hasher,
}

/// A blob on its way. Clones are cheap and show the same fill.
#[derive(Clone)]
pub struct Filling {
    pub(super) shared: Arc<Shared>,
    pub(super) progress: watch::Receiver<Progress>,
}

impl std::fmt::Debug for Filling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filling({})", self.shared.digest)
    }
}

/// How a fill began.
pub(crate) enum Start {
    /// It is over: everything is there.
    Whole(Blob),
    /// Bytes are coming.
    Running,
}

impl Filling {
    /// The length of the blob in bytes; `None` if the source did not say it.
    pub fn size(&self) -> Option<u64> {
        self.progress.borrow().size
    }

    /// Reads a range of the blob, as its bytes come in. The end is `u64::MAX` where the size is not known.
    pub fn reader(&self, range: std::ops::Range<u64>) -> FillReader {
        FillReader::new(self.clone(), range)
    }

    /// Waits until all of it is there, which does not mean that it is in the store already. Cancellation-safe.
    ///
    /// # Errors
    /// The fill fails, or the disk takes no more.
    pub(crate) async fn whole(&mut self) -> Result<Blob, Error> {
        let over = |progress: &Progress| !matches!(progress.state, State::Starting | State::Running);
        let Ok(progress) = self.progress.wait_for(over).await else { return Err(super::task::ended()) };
        match &progress.state {
            State::Whole(blob) => Ok(blob.clone()),
            State::Failed(error) => Err(error.clone()),
            _ => Err(Error::new(FailureKind::Unavailable, "no space left on device: the store takes no more")),
        }
    }

    /// Waits until nothing more is done for it, whatever came of it. Cancellation-safe.
    pub(crate) async fn landed(&self) {
        self.shared.landed.cancelled().await;
    }

    /// Nothing more is done for it.
    pub(crate) fn land(&self) {
        self.shared.landed.cancel();
    }

    /// Waits until a source has answered, or the fill failed. Cancellation-safe.
    pub(crate) async fn started(&mut self) -> Result<Start, Error> {
        let progress = self.progress.wait_for(|progress| !matches!(progress.state, State::Starting)).await;
        match progress.map(|progress| match &progress.state {
            State::Whole(blob) => Ok(Start::Whole(blob.clone())),
            State::Failed(error) => Err(error.clone()),
            _ => Ok(Start::Running),
        }) {
            Ok(start) => start,
            Err(_) => Err(super::task::ended()),
        }
    }

    /// Who asked first.
    pub(crate) fn ask(&self) -> &Ask {
        &self.shared.ask
    }
}

impl Filling {
    /// Whether nothing more will come of it.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.progress.borrow().state, State::Failed(_))
    }

    /// Whether it is the same fill.
    pub(crate) fn is(&self, other: &Filling) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The number of the source that was found wrong last.
    pub(crate) fn wrong(&self) -> Option<usize> {
        self.progress.borrow().wrong
    }

    /// Why another fill would fail likewise, if nothing changes: this one failed before any byte came, or all sources sent
    /// wrong bytes.
    pub(crate) fn failure_to_repeat(&self) -> Option<Error> {
        let progress = self.progress.borrow();
        match &progress.state {
            State::Failed(error) if progress.file.is_none() || progress.all_wrong => Some(error.clone()),
            _ => None,
        }
    }
}
