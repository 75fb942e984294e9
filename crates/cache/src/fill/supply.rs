use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use oci::Digest;
use rand::Rng;

use crate::metrics::Metrics;
use crate::source::{Ask, ByteStream, FailureKind, SourceError, SourceKind, Upstream};
use crate::store::Ingest;

/// How often in a row a blob is resumed without [`PROGRESS`] in between.
const RESUMES: u32 = 4;

/// How many bytes count as progress, after which resuming starts to be counted anew.
const PROGRESS: u64 = 8 << 20;

/// The bytes of one blob from one offset on, in order, from whichever source gives them.
///
/// A source that stops in the middle is asked again from where it stopped, then the next one. Nothing is verified here.
pub(super) struct Supply {
    upstream: Arc<Upstream>,
    ask: Ask,
    digest: Digest,
    metrics: Metrics,
    /// The source in use.
    source: usize,
    /// How many sources, from that one on, may be the first to be asked.
    choice: usize,
    position: u64,
    size: Option<u64>,
    stream: Option<ByteStream>,
    /// Where the source of the stream puts the bytes itself.
    placed: Option<Arc<dyn Ingest>>,
    /// The fill's own file: a source that puts its bytes anywhere else is of no use.
    ingest: Option<Arc<dyn Ingest>>,
    /// Bytes still to be dropped, because the source sends what is there already.
    skip: u64,
    resumes: u32,
    resumed_at: u64,
}

impl Supply {
    /// The bytes from `position` on, from the source number `source` or one of the `choice - 1` that follow it, the first
    /// following the last.
    #[expect(clippy::too_many_arguments, reason = "it is made in two places")]
    pub(super) fn new(
        upstream: Arc<Upstream>,
        ask: Ask,
        digest: Digest,
        metrics: Metrics,
        source: usize,
        choice: usize,
        position: u64,
        size: Option<u64>,
    ) -> Supply {
        Supply {
            upstream,
            ask,
            digest,
            metrics,
            source,
            choice,
            position,
            size,
            stream: None,
            placed: None,
            ingest: None,
            skip: 0,
            resumes: 0,
            resumed_at: position,
        }
    }

    /// The number of the source in use.
    pub(super) fn source(&self) -> usize {
        self.source
    }

    /// What stands behind the source in use.
    pub(super) fn kind(&self) -> SourceKind {
        self.upstream.sources.get(self.source).map_or(SourceKind::Origin, |source| source.kind())
    }

    /// Where the source in use puts the bytes itself, if it does.
    pub(super) fn placed(&self) -> Option<&Arc<dyn Ingest>> {
        self.placed.as_ref()
    }

    /// Says which file the bytes are for.
    pub(super) fn put_into(&mut self, ingest: &Arc<dyn Ingest>) {
        self.ingest = Some(ingest.clone());
    }

    /// The length of the whole blob, if a source said it.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Connects to the first source that answers, unless that has been done.
    pub(super) async fn open(&mut self) -> Result<(), SourceError> {
        if self.stream.is_some() {
            return Ok(());
        }
        let mut failure = Failure::default();
        let (first, count) = (self.source, self.upstream.sources.len());
        for step in 0..self.choice {
            let index = (first + step) % count;
            match self.open_at(index).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_final(&*self.upstream.sources[index]) => return Err(error),
                Err(error) => failure.add(error),
            }
        }
        Err(failure.into_error(&self.upstream))
    }

    async fn open_at(&mut self, index: usize) -> Result<(), SourceError> {
        let source = &self.upstream.sources[index];
        let body = source.blob(&self.ask, &self.digest, self.position, None).await?;
        let invalid = |reason: &str| SourceError::new(FailureKind::Invalid, source.label(), reason);
        if body.offset > self.position {
            return Err(invalid("the answer begins behind the byte asked for"));
        }
        if let (Some(placed), Some(ingest)) = (&body.placed, &self.ingest)
            && !Arc::ptr_eq(placed, ingest)
        {
            return Err(SourceError::new(
                FailureKind::Unavailable,
                source.label(),
                "another fill of the blob is under way",
            ));
        }
        match (self.size, body.size) {
            (Some(known), Some(said)) if known != said => {
                return Err(invalid("the blob's length differs from an earlier answer"));
            }
            (None, said) => self.size = said,
            _ => {}
        }
        self.skip = self.position - body.offset;
        if self.skip > 0 {
            self.metrics.prefix_discarded();
        }
        self.source = index;
        self.stream = Some(body.stream);
        self.placed = body.placed;
        Ok(())
    }

    /// The next bytes; `None` after the last. Cancellation-safe except while a source is being resumed, when a dropped call
    /// only costs that attempt.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            self.open().await?;
            let stream = self.stream.as_mut().expect("open() leaves a stream");
            let label = || self.upstream.sources[self.source].label();
            match stream.next().await {
                Some(Ok(mut bytes)) => {
                    if self.skip > 0 {
                        let dropped = self.skip.min(bytes.len() as u64);
                        let _ = bytes.split_to(dropped as usize);
                        self.skip -= dropped;
                    }
                    if bytes.is_empty() {
                        continue;
                    }
                    self.position += bytes.len() as u64;
                    if self.size.is_some_and(|size| self.position > size) {
                        return Err(SourceError::new(
                            FailureKind::Invalid,
                            label(),
                            "more bytes came than the blob has",
                        ));
                    }
                    return Ok(Some(bytes));
                }
                None if self.skip == 0 && self.size.is_none_or(|size| size == self.position) => return Ok(None),
                None => {
                    let error = SourceError::new(FailureKind::Unavailable, label(), "the body ended too early");
                    self.resume(error).await?;
                }
                Some(Err(error)) => self.resume(error).await?,
            }
        }
    }

    /// Asks for the rest: the same source once, then the others.
    async fn resume(&mut self, error: SourceError) -> Result<(), SourceError> {
        self.stream = None;
        self.placed = None;
        if error.kind == FailureKind::Invalid {
            return Err(error);
        }
        if self.position - self.resumed_at >= PROGRESS {
            self.resumes = 0;
        }
        if self.resumes >= RESUMES {
            return Err(error);
        }
        self.resumes += 1;
        self.resumed_at = self.position;
        self.metrics.resumed();
        tracing::debug!(digest = %self.digest, at = self.position, %error, "resuming a fill");
        let pause = 50 * u64::from(self.resumes - 1);
        let pause = rand::rng().random_range(pause / 2..=pause);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let count = self.upstream.sources.len();
        let mut failure = Failure::default();
        // A source that stalled has had its time; the others go first then.
        let turn = usize::from(error.kind == FailureKind::Timeout);
        failure.add(error);
        for step in 0..count {
            match self.open_at((self.source + turn + step) % count).await {
                Ok(()) => return Ok(()),
                Err(error) => failure.add(error),
            }
        }
        Err(failure.into_error(&self.upstream))
    }
}

/// The errors of several sources, of which one is the answer.
///
/// What may be there but could not be asked weighs more than a definite no of another source: a failure is never turned
/// into "not found". Among definite answers the last counts, for the origin itself comes last. Of several sources that
/// could not be asked, each is named.
#[derive(Default)]
pub(crate) struct Failure {
    definite: Option<SourceError>,
    /// Of sources that could not be asked, the first of each.
    open: Vec<SourceError>,
}

impl Failure {
    pub(crate) fn add(&mut self, error: SourceError) {
        if error.is_definite() {
            self.definite = Some(error);
        } else if self.open.iter().all(|other| other.source_label != error.source_label) {
            self.open.push(error);
        }
    }

    pub(crate) fn into_error(self, upstream: &Upstream) -> SourceError {
        let open = self.open.into_iter().reduce(|mut first, other| {
            first.reason = format!("{}; {other}", first.reason);
            first
        });
        open.or(self.definite).unwrap_or_else(|| {
            SourceError::new(FailureKind::Unavailable, upstream.registry.as_str(), "no further source to ask")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_that_could_not_be_asked_is_named_once() {
        let mut failure = Failure::default();
        failure.add(SourceError::new(FailureKind::Timeout, "larder.test", "no connection in time"));
        failure.add(SourceError::new(FailureKind::Unavailable, "larder.test", "once more"));
        failure.add(SourceError::new(FailureKind::NotFound, "mirror.test", "it has no such thing"));
        failure.add(SourceError::new(FailureKind::Unavailable, "origin.test", "no connection"));
        let registry = "origin.test".parse().unwrap();
        let error = failure.into_error(&Upstream { registry, sources: Vec::new(), rules: crate::Rules::default() });
        assert_eq!(error.kind, FailureKind::Timeout);
        assert_eq!(error.to_string(), "larder.test: no connection in time; origin.test: no connection");
    }
}
