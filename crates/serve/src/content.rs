use std::fs::File;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cache::{Chunk, FillReader};
use rustix::io::ReadWriteFlags;
use tokio::task::JoinHandle;

use crate::zero_copy::Mappings;

/// How much of a file goes to a plain connection in one piece, in bytes.
const MAPPED_PIECE: u64 = 1 << 20;

/// How much of a file is read into memory for a TLS connection, in bytes.
const COPIED_PIECE: u64 = 256 << 10;

/// The bytes of a blob on their way into a connection, piece by piece. The disk is waited for in the blocking pool, so
/// that a worker never is.
pub(crate) struct Content {
    feed: Feed,
    /// The connection's mappings, where it knows any; otherwise bytes are copied.
    mappings: Option<Arc<Mappings>>,
    staging: Option<JoinHandle<io::Result<Staged>>>,
    /// Some piece was not in the page cache, so that the next ones are read ahead.
    cold: bool,
}

enum Feed {
    File { file: Arc<File>, range: Range<u64> },
    Fill(Fill),
}

enum Fill {
    Reader(Box<FillReader>),
    Reading(Reading),
    Ended,
}

/// A reader on its way to the next chunk; comes back with it.
type Reading = Pin<Box<dyn Future<Output = (Box<FillReader>, Result<Option<Chunk>, cache::Error>)> + Send>>;

/// What the blocking pool made ready.
enum Staged {
    InPageCache(Arc<File>, Range<u64>),
    InMemory(Bytes),
}

impl Content {
    /// A part of a file.
    pub(crate) fn file(file: Arc<File>, range: Range<u64>, mappings: Option<Arc<Mappings>>) -> Content {
        Content { feed: Feed::File { file, range }, mappings, staging: None, cold: false }
    }

    /// What a reader of a fill gives.
    pub(crate) fn fill(reader: FillReader, mappings: Option<Arc<Mappings>>) -> Content {
        Content { feed: Feed::Fill(Fill::Reader(Box::new(reader))), mappings, staging: None, cold: false }
    }

    /// The next piece, `None` after the last.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Some(staging) = &mut self.staging {
            let staged = ready!(Pin::new(staging).poll(cx));
            self.staging = None;
            return Poll::Ready(match staged.map_err(io::Error::other)?? {
                Staged::InMemory(bytes) => Ok(Some(bytes)),
                Staged::InPageCache(file, range) => self.map(&file, range).map(Some),
            });
        }
        let (file, range) = match ready!(self.poll_feed(cx))? {
            Some(Chunk::Memory(bytes)) => return Poll::Ready(Ok(Some(bytes))),
            Some(Chunk::File { file, range }) => (file, range),
            None => return Poll::Ready(Ok(None)),
        };
        match &self.mappings {
            Some(_) if in_page_cache(&file, range.end - 1) => {
                self.cold = false;
                Poll::Ready(self.map(&file, range).map(Some))
            }
            Some(_) => {
                let ahead = std::mem::replace(&mut self.cold, true);
                self.stage(cx, move || {
                    warm(&file, range.clone(), ahead).inspect_err(|_| cache::doubt(&file))?;
                    Ok(Staged::InPageCache(file, range))
                })
            }
            None => {
                if let Some(bytes) = read_at_once(&file, range.clone()) {
                    return Poll::Ready(Ok(Some(bytes)));
                }
                let ahead = std::mem::replace(&mut self.cold, true);
                self.stage(cx, move || {
                    read_ahead(&file, range.end, ahead);
                    let mut buffer = vec![0; (range.end - range.start) as usize];
                    file.read_exact_at(&mut buffer, range.start).inspect_err(|_| cache::doubt(&file))?;
                    Ok(Staged::InMemory(buffer.into()))
                })
            }
        }
    }

    fn stage(
        &mut self,
        cx: &mut Context<'_>,
        work: impl FnOnce() -> io::Result<Staged> + Send + 'static,
    ) -> Poll<io::Result<Option<Bytes>>> {
        self.staging = Some(tokio::task::spawn_blocking(work));
        self.poll_next(cx)
    }

    fn map(&self, file: &Arc<File>, range: Range<u64>) -> io::Result<Bytes> {
        self.mappings.as_ref().expect("only what is to be mapped is staged in the page cache").map(file, range)
    }

    /// What comes next, not yet looked at.
    fn poll_feed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        let most = if self.mappings.is_some() { MAPPED_PIECE } else { COPIED_PIECE };
        match &mut self.feed {
            Feed::File { range, .. } if range.is_empty() => Poll::Ready(Ok(None)),
            Feed::File { file, range } => {
                let piece = range.start..range.end.min(range.start + most);
                range.start = piece.end;
                Poll::Ready(Ok(Some(Chunk::File { file: file.clone(), range: piece })))
            }
            Feed::Fill(fill) => fill.poll_next(cx, most),
        }
    }
}

impl Fill {
    fn poll_next(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<io::Result<Option<Chunk>>> {
        loop {
            *self = match std::mem::replace(self, Fill::Ended) {
                Fill::Ended => return Poll::Ready(Ok(None)),
                Fill::Reader(mut reader) => Fill::Reading(Box::pin(async move {
                    let next = reader.next(most).await;
                    (reader, next)
                })),
                Fill::Reading(mut reading) => match reading.as_mut().poll(cx) {
                    Poll::Pending => {
                        *self = Fill::Reading(reading);
                        return Poll::Pending;
                    }
                    Poll::Ready((_, Ok(None))) => Fill::Ended,
                    Poll::Ready((_, Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                    Poll::Ready((reader, Ok(Some(chunk)))) => {
                        *self = Fill::Reader(reader);
                        if chunk.size() == 0 {
                            continue;
                        }
                        return Poll::Ready(Ok(Some(chunk)));
                    }
                },
            };
        }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if let Some(staging) = self.staging.take() {
            staging.abort();
        }
    }
}

/// Whether a byte is in the page cache, as far as the filesystem tells: where it does not, sendfile(2) is left to wait.
fn in_page_cache(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
    read != Err(rustix::io::Errno::AGAIN)
}

/// The whole of `range`, if it is in the page cache.
fn read_at_once(file: &File, range: Range<u64>) -> Option<Bytes> {
    let mut buffer = vec![0; (range.end - range.start) as usize];
    let read =
        rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut buffer)], range.start, ReadWriteFlags::NOWAIT).ok()?;
    (read == buffer.len()).then(|| buffer.into())
}

/// Reads a piece into the page cache, waiting for the disk.
fn warm(file: &File, range: Range<u64>, ahead: bool) -> io::Result<()> {
    read_ahead(file, range.end, ahead);
    let mut scratch = vec![0; 128 << 10];
    let mut at = range.start;
    while at < range.end {
        let most = scratch.len().min((range.end - at) as usize);
        match file.read_at(&mut scratch[..most], at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => at += read as u64,
        }
    }
    Ok(())
}

/// Has the kernel start to read what comes after `from`. Only where more than one piece was cold: of a file that is warm
/// this would walk the page cache for nothing. A refusal changes nothing that matters.
fn read_ahead(file: &File, from: u64, ahead: bool) {
    if ahead {
        let _ = rustix::fs::fadvise(file, from, std::num::NonZeroU64::new(4 << 20), rustix::fs::Advice::WillNeed);
    }
}
