use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use oci::{Digest, Hasher};

use super::HELD_BACK;
use super::progress::{Handoff, Shared};
use super::supply::Supply;
use crate::metrics::Metrics;
use crate::reply::Error;
use crate::source::FailureKind;

/// One reader's own stream past a disk that takes no more: verified like a fill, and its end held back likewise.
pub(super) struct Pass {
    supply: Supply,
    digest: Digest,
    metrics: Metrics,
    /// `None` once the digest was found right.
    hasher: Option<Hasher>,
    /// Where the first byte in `held` belongs.
    start: u64,
    held: VecDeque<Bytes>,
    held_bytes: u64,
}

impl Pass {
    /// Goes on where `handoff` says, with what `file` has and may not leave yet.
    pub(super) fn new(
        shared: &Arc<Shared>,
        handoff: &Handoff,
        size: Option<u64>,
        file: Option<&File>,
    ) -> io::Result<Pass> {
        let Shared { upstream, ask, digest, metrics, .. } = &**shared;
        let start = handoff.released();
        let mut held = vec![0; (handoff.at - start) as usize];
        if let Some(file) = file {
            file.read_exact_at(&mut held, start)?;
        }
        Ok(Pass {
            supply: Supply::new(
                upstream.clone(),
                ask.clone(),
                *digest,
                metrics.clone(),
                handoff.source,
                upstream.sources.len(),
                handoff.at,
                size,
            ),
            digest: *digest,
            metrics: metrics.clone(),
            hasher: Some(handoff.hasher.clone()),
            start,
            held_bytes: held.len() as u64,
            held: VecDeque::from([Bytes::from(held)]),
        })
    }

    /// The bytes at `position`, not beyond `end`; `None` if the blob ends there.
    pub(super) async fn next(&mut self, position: u64, end: u64) -> Result<Option<Bytes>, Error> {
        loop {
            while let Some(mut bytes) = self.releasable() {
                let before = position.saturating_sub(self.start).min(bytes.len() as u64);
                self.start += bytes.len() as u64;
                bytes = bytes.split_off(before as usize);
                bytes.truncate(usize::try_from(end - position).unwrap_or(usize::MAX));
                if !bytes.is_empty() {
                    return Ok(Some(bytes));
                }
            }
            let Some(hasher) = &mut self.hasher else { return Ok(None) };
            match self.supply.next().await? {
                Some(bytes) => {
                    self.metrics.fetched(self.supply.kind(), bytes.len() as u64);
                    hasher.update(&bytes);
                    self.held_bytes += bytes.len() as u64;
                    self.held.push_back(bytes);
                }
                None => {
                    let found = self.hasher.take().expect("checked above").finish();
                    if found != self.digest {
                        self.metrics.mismatched(self.supply.kind());
                        self.held.clear();
                        return Err(Error::new(
                            FailureKind::Invalid,
                            format!("the bytes that came have another digest ({found})"),
                        ));
                    }
                }
            }
        }
    }

    /// Takes the oldest bytes that may leave.
    fn releasable(&mut self) -> Option<Bytes> {
        let free = if self.hasher.is_none() { self.held_bytes } else { self.held_bytes.saturating_sub(HELD_BACK) };
        let mut first = self.held.pop_front()?;
        if first.len() as u64 > free {
            let rest = first.split_off(free as usize);
            self.held.push_front(rest);
        }
        self.held_bytes -= first.len() as u64;
        (!first.is_empty()).then_some(first)
    }
}
