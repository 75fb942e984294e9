//! Files into sockets without a copy, and hyper none the wiser.
//!
//! A piece of a file is mapped and handed to hyper as [`Bytes`]. The connection knows its mappings: where hyper writes bytes that lie
//! within one, [`PlainIo`] calls sendfile(2) with the file and the offset instead. So the mapping is an address and nothing more:
//! no page of it is ever touched.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use memmap2::{Mmap, MmapOptions};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::connection::Returned;
use crate::watch::Watch;

/// The most that one call of sendfile(2) sends, in bytes, so that no connection holds a worker for long.
const SEND_AT_ONCE: usize = 1 << 20;

/// The most that is read into memory where a filesystem knows no sendfile(2), in bytes.
const COPY_AT_ONCE: usize = 64 << 10;

/// The pieces of files that one connection has mapped.
#[derive(Default)]
pub(crate) struct Mappings(Mutex<Vec<Mapped>>);

struct Mapped {
    start: usize,
    length: usize,
    file: Arc<File>,
    offset: u64,
}

/// A mapping, known to its connection as long as it exists.
struct Mapping {
    map: Mmap,
    mappings: Arc<Mappings>,
}

impl Mappings {
    /// Maps a piece of a file, to be written by the connection that these mappings belong to and by no other. The bytes must not
    /// be looked at.
    pub(crate) fn map(self: &Arc<Self>, file: &Arc<File>, range: Range<u64>) -> io::Result<Bytes> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        // SAFETY: a mapping of a file is unsound where its bytes are read while the file changes, or beyond its end. Nobody
        // reads these: hyper passes slices on without looking into them, and `PlainIo`, the only writer that they reach
        // (`Content` hands them to a connection with mappings only), looks at their address. Besides, the cache promises
        // that the bytes of a chunk's range do not change.
        let map = unsafe { MmapOptions::new().offset(range.start).len(length).map(&**file)? };
        self.lock().push(Mapped { start: map.as_ptr().addr(), length, file: file.clone(), offset: range.start });
        Ok(Bytes::from_owner(Mapping { map, mappings: self.clone() }))
    }

    /// The file and offset that a slice stands for. A registered mapping exists, so nothing else can be within it.
    fn find(&self, slice: &[u8]) -> Option<(Arc<File>, u64)> {
        let start = slice.as_ptr().addr();
        let mappings = self.lock();
        let mapped = mappings.iter().find(|m| m.start <= start && start - m.start + slice.len() <= m.length)?;
        Some((mapped.file.clone(), mapped.offset + (start - mapped.start) as u64))
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Mapped>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapping {
    // Before the memory is unmapped and the address may be something else's.
    fn drop(&mut self) {
        let start = self.map.as_ptr().addr();
        let mut mappings = self.mappings.lock();
        if let Some(at) = mappings.iter().position(|m| m.start == start) {
            mappings.swap_remove(at);
        }
    }
}

/// A TCP connection that sends mapped pieces of files by sendfile(2), with deadlines.
pub(crate) struct PlainIo {
    /// There until the drop.
    stream: Option<TokioIo<TcpStream>>,
    mappings: Arc<Mappings>,
    watch: Watch,
    returned: Returned,
}

impl PlainIo {
    pub(crate) fn new(stream: TcpStream, mappings: Arc<Mappings>, watch: Watch, returned: Returned) -> PlainIo {
        PlainIo { stream: Some(TokioIo::new(stream)), mappings, watch, returned }
    }

    fn stream(&mut self) -> &mut TokioIo<TcpStream> {
        self.stream.as_mut().expect("taken by the drop only")
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let stream = self.stream.as_ref().expect("taken by the drop only").inner();
        loop {
            match stream.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    return self.watch.write_pending(cx, || unacknowledged(stream)).map(Err);
                }
            }
            match stream.try_io(Interest::WRITABLE, || send(stream, &self.mappings, slices)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => {
                    self.watch.wrote();
                    return Poll::Ready(sent);
                }
            }
        }
    }
}

impl Drop for PlainIo {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.returned.put(stream.into_inner());
        }
    }
}

/// Sends the first of `slices` that can go in one call: a piece of a file, or all bytes before one.
fn send(stream: &TcpStream, mappings: &Mappings, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let slices = match slices.iter().position(|slice| !slice.is_empty()) {
        Some(first) => &slices[first..],
        None => return Ok(0),
    };
    if mappings.is_empty() {
        return send_memory(stream, slices, SendFlags::NOSIGNAL);
    }
    if let Some((file, offset)) = mappings.find(&slices[0]) {
        return send_file(stream, &file, offset, slices[0].len());
    }
    match slices.iter().position(|slice| !slice.is_empty() && mappings.find(slice).is_some()) {
        // The head waits for its file, so that both share packets.
        Some(file) => send_memory(stream, &slices[..file], SendFlags::NOSIGNAL | SendFlags::MORE),
        None => send_memory(stream, slices, SendFlags::NOSIGNAL),
    }
}

fn send_memory(stream: &TcpStream, slices: &[IoSlice<'_>], flags: SendFlags) -> io::Result<usize> {
    Ok(rustix::net::sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), flags)?)
}

fn send_file(stream: &TcpStream, file: &File, mut offset: u64, length: usize) -> io::Result<usize> {
    let from = offset;
    match rustix::fs::sendfile(stream, file, Some(&mut offset), length.min(SEND_AT_ONCE)) {
        Ok(0) => {
            cache::doubt(file);
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a stored file became shorter while it was sent"))
        }
        Ok(sent) => Ok(sent),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => send_copy(stream, file, from, length),
        Err(rustix::io::Errno::IO) => {
            cache::doubt(file);
            Err(rustix::io::Errno::IO.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// For filesystems that know no sendfile(2).
fn send_copy(stream: &TcpStream, file: &File, offset: u64, length: usize) -> io::Result<usize> {
    let mut buffer = vec![0; length.min(COPY_AT_ONCE)];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut buffer, offset)?;
    Ok(rustix::net::send(stream, &buffer, SendFlags::NOSIGNAL)?)
}

/// How many bytes the peer has yet to acknowledge.
pub(crate) fn unacknowledged(socket: impl AsFd) -> u64 {
    /// tcp(7): SIOCOUTQ, the same number as TIOCOUTQ.
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: SIOCOUTQ writes one int and reads nothing (tcp(7)).
    let queued = unsafe { rustix::ioctl::ioctl(socket, rustix::ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new()) };
    queued.map_or(0, |bytes| u64::try_from(bytes).unwrap_or(0))
}

impl hyper::rt::Read for PlainIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(self.stream()).poll_read(cx, buf) {
            Poll::Pending => self.watch.read_pending(cx).map(Err),
            read => {
                self.watch.read();
                read
            }
        }
    }
}

impl hyper::rt::Write for PlainIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream()).poll_shutdown(cx)
    }

    // With this hyper queues the body's pieces and copies none of them behind the head.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, slices)
    }
}
