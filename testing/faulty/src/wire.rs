//! HTTP/1.1 by hand: requests off a socket, answers onto it exactly as they were laid out, and the ways a connection ends.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::server::TlsStream;

use crate::fault::Ending;
use crate::log::Entry;
use crate::pace::Bucket;
use crate::reply::{Abort, Framing, Outgoing, Stop};
use crate::request::Incoming;

const MAX_HEAD: usize = 256 * 1024;
const MAX_BODY: usize = 4 << 20;
/// Large enough that a system call per write does not count, small enough to stay in the cache.
const WRITE: u64 = 1 << 20;
/// How long an orderly close waits for the peer's.
const LINGER: Duration = Duration::from_secs(2);
/// How long a reset waits until the peer's kernel has all that was sent.
const FLUSH: Duration = Duration::from_secs(5);

/// A connection, plain or TLS.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn tcp(&mut self) -> &mut TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_mut().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// What became of the connection after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The whole answer left and the connection may be used again.
    Open,
    /// The whole answer left; the connection is to be closed.
    Close,
    /// The answer was broken off on purpose.
    Broken(Ending),
}

/// Something to wait for that is not the wire: gates by name.
pub(crate) trait Gates {
    /// Resolves when the gate of that name is open.
    fn opened(&self, gate: &str) -> impl Future<Output = ()> + Send;
}

pub(crate) struct Conn {
    stream: Stream,
    unread: Vec<u8>,
}

impl Conn {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// The next request; `None` when the peer closed, or sent what is not HTTP.
    pub(crate) async fn request(&mut self) -> io::Result<Option<Incoming>> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if self.unread.len() > MAX_HEAD || self.stream.read_buf(&mut self.unread).await? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end + 4);
        let Some(mut incoming) = Incoming::parse(&head) else { return Ok(None) };
        let length = incoming.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0usize);
        if length > MAX_BODY || incoming.header("transfer-encoding").is_some() {
            incoming.keep_alive = false;
            return Ok(Some(incoming));
        }
        while self.unread.len() < length {
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Ok(None);
            }
        }
        incoming.body = self.unread.drain(..length).collect();
        Ok(Some(incoming))
    }

    /// Resolves when the peer has closed or reset; what it sends meanwhile is kept for the next request.
    async fn gone(&mut self) {
        while self.unread.len() < MAX_HEAD {
            if !matches!(self.stream.read_buf(&mut self.unread).await, Ok(1..)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// False if the peer went away first.
    async fn wait(&mut self, done: impl Future<Output = ()>) -> bool {
        tokio::select! {
            () = done => true,
            () = self.gone() => false,
        }
    }

    /// Sends an answer as laid out, faults and all.
    pub(crate) async fn answer(
        &mut self,
        incoming: &Incoming,
        outgoing: Outgoing,
        gates: &impl Gates,
        entry: &Entry,
    ) -> io::Result<After> {
        let reply = &outgoing.reply;
        if let Some(gate) = &reply.head_gate
            && !self.wait(gates.opened(gate)).await
        {
            return Ok(After::Broken(Ending::Fin));
        }
        if !reply.head_delay.is_zero() && !self.wait(sleep(reply.head_delay)).await {
            return Ok(After::Broken(Ending::Fin));
        }
        if let Some(abort) = &reply.abort {
            return self.abort(abort).await.map(After::Broken);
        }
        entry.update(|request| request.status = reply.status);
        match reply.head_drip {
            None => self.stream.write_all(&outgoing.head).await?,
            Some(gap) => {
                for byte in &outgoing.head {
                    self.stream.write_all(&[*byte]).await?;
                    self.stream.flush().await?;
                    if !self.wait(sleep(gap)).await {
                        return Ok(After::Broken(Ending::Fin));
                    }
                }
            }
        }
        if !incoming.head_only() {
            if let Some(ending) = self.body(&outgoing, gates, entry).await? {
                return Ok(After::Broken(ending));
            }
            // Without an end of the connection the client would wait for ever instead of seeing a short body.
            if reply.framing == Framing::Length && reply.lengths.iter().any(|off| *off > 0) {
                self.stream.flush().await?;
                return Ok(After::Broken(Ending::Fin));
            }
        }
        self.stream.flush().await?;
        Ok(if reply.keeps_alive(incoming) && !reply.close_after { After::Open } else { After::Close })
    }

    /// Does without an answer what `abort` says; for a new connection as well.
    pub(crate) async fn abort(&mut self, abort: &Abort) -> io::Result<Ending> {
        match abort {
            Abort::Hang => self.gone().await,
            Abort::End(ending) => return Ok(*ending),
            Abort::Raw(bytes) => {
                self.stream.write_all(bytes).await?;
                self.stream.flush().await?;
            }
        }
        Ok(Ending::Fin)
    }

    /// `Some` if it is broken off on the way.
    async fn body(&mut self, outgoing: &Outgoing, gates: &impl Gates, entry: &Entry) -> io::Result<Option<Ending>> {
        let reply = &outgoing.reply;
        let chunked = reply.framing == Framing::Chunked;
        let quantum = reply.paces.iter().map(|pace| pace.quantum()).min().unwrap_or(WRITE);
        let mut at = outgoing.span.start;
        let mut stops = outgoing.stops.iter().peekable();
        loop {
            while let Some((_, stop)) = stops.next_if(|(place, _)| *place <= at) {
                self.stream.flush().await?;
                let stays = match stop {
                    Stop::Cut(ending) => return Ok(Some(*ending)),
                    Stop::Stall(Some(time)) => self.wait(sleep(*time)).await,
                    Stop::Stall(None) => self.wait(std::future::pending()).await,
                    Stop::Gate(gate) => self.wait(gates.opened(gate)).await,
                };
                if !stays {
                    return Ok(Some(Ending::Fin));
                }
            }
            if at >= outgoing.span.end {
                break;
            }
            let until = stops.peek().map_or(outgoing.span.end, |(place, _)| *place);
            let mut slices = outgoing.body.slices(at, (until - at).min(quantum));
            let taken: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
            spoil(&mut slices, at, &outgoing.flips);
            if !self.pace(&reply.paces, taken).await {
                return Ok(Some(Ending::Fin));
            }
            if chunked {
                slices.insert(0, Bytes::from(format!("{taken:x}\r\n")));
                slices.push(Bytes::from_static(b"\r\n"));
                self.write_all_vectored(&slices, None).await?;
                entry.sent(taken);
            } else {
                self.write_all_vectored(&slices, Some(entry)).await?;
            }
            at += taken;
        }
        if chunked {
            self.stream.write_all(b"0\r\n\r\n").await?;
        }
        Ok(None)
    }

    async fn pace(&mut self, paces: &[Arc<Bucket>], bytes: u64) -> bool {
        for pace in paces {
            if !self.wait(pace.take(bytes)).await {
                return false;
            }
        }
        true
    }

    async fn write_all_vectored(&mut self, slices: &[Bytes], entry: Option<&Entry>) -> io::Result<()> {
        let mut buffers: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut buffers = buffers.as_mut_slice();
        while !buffers.is_empty() {
            let written = self.stream.write_vectored(buffers).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            if let Some(entry) = entry {
                entry.sent(written as u64);
            }
            IoSlice::advance_slices(&mut buffers, written);
        }
        Ok(())
    }

    /// Ends the connection after a whole answer, with `close_notify` in TLS.
    pub(crate) async fn close(mut self) {
        // The peer may have gone already; there is nobody to tell.
        let _ = self.stream.shutdown().await;
        self.drain().await;
    }

    /// Ends the connection as a fault says.
    pub(crate) async fn end(mut self, ending: Ending) {
        match ending {
            Ending::Fin => {
                let _ = self.stream.tcp().shutdown().await;
                self.drain().await;
            }
            Ending::Reset => {
                acknowledged(self.stream.tcp()).await;
                let _ = self.stream.tcp().set_zero_linger();
            }
        }
    }

    /// Reads to the peer's end: a socket dropped with unread bytes would send RST in place of the FIN.
    async fn drain(&mut self) {
        let mut sink = [0; 4096];
        let all = async { while matches!(self.stream.tcp().read(&mut sink).await, Ok(1..)) {} };
        let _ = timeout(LINGER, all).await;
    }
}

/// Turns over the lowest bit at each offset of `flips` that lies in the slices, the first of which begins at `at`.
fn spoil(slices: &mut [Bytes], at: u64, flips: &[u64]) {
    for flip in flips {
        let mut start = at;
        for slice in slices.iter_mut() {
            if (start..start + slice.len() as u64).contains(flip) {
                let mut copy = slice.to_vec();
                copy[(flip - start) as usize] ^= 1;
                *slice = copy.into();
                break;
            }
            start += slice.len() as u64;
        }
    }
}

/// Waits until the peer's kernel has acknowledged all that was written. RST throws away what is still queued, and a test
/// that cuts at a place wants the bytes before it to arrive. Linux shows the queue in `/proc/net/tcp`.
async fn acknowledged(tcp: &TcpStream) {
    let (Ok(local), Ok(remote)) = (tcp.local_addr(), tcp.peer_addr()) else { return };
    let table = if local.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    let (local, remote) = (format!(":{:04X}", local.port()), format!(":{:04X}", remote.port()));
    let deadline = Instant::now() + FLUSH;
    while Instant::now() < deadline {
        let Ok(table) = tokio::fs::read_to_string(table).await else { return };
        let line = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|fields| fields.len() > 4 && fields[1].ends_with(&local) && fields[2].ends_with(&remote));
        if line.is_none_or(|fields| fields[4].starts_with("00000000:")) {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}
