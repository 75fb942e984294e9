//! A client that takes bodies and forgets them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How much is read at once, in bytes.
const BUFFER: usize = 256 << 10;

/// What manifests are asked for as.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json";

/// One connection, kept alive.
pub(crate) struct Client<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
}

/// One answer, taken to its end.
pub(crate) struct Taken {
    pub(crate) status: u16,
    pub(crate) first_byte: Instant,
    pub(crate) end: Instant,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Client::over(stream))
    }

    /// The same connection, to shut it down from elsewhere.
    pub(crate) fn handle(&self) -> Result<TcpStream> {
        Ok(self.stream.try_clone()?)
    }
}

impl<S: Read + Write> Client<S> {
    /// A connection that is there.
    pub(crate) fn over(stream: S) -> Client<S> {
        Client { stream, buffer: vec![0; BUFFER] }
    }

    /// Takes a whole answer, and forgets it; anything but 200 is an error.
    pub(crate) fn take(&mut self, path: &str) -> Result<Taken> {
        let taken = self.get(path, |_| true)?;
        if taken.status != 200 {
            bail!("{path} gives {}", taken.status);
        }
        Ok(taken)
    }

    /// Takes a whole answer. `each` gets each stretch of the body and says whether to go on.
    pub(crate) fn get(&mut self, path: &str, mut each: impl FnMut(&[u8]) -> bool) -> Result<Taken> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench.test\r\nAccept: {ACCEPT}\r\n\r\n");
        self.stream.write_all(request.as_bytes())?;
        self.stream.flush()?;
        let (head, mut filled) = self.head()?;
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<u64>().ok());
        let size = length.with_context(|| format!("no length of {path}: {text}"))?;
        let mut first_byte = Instant::now();
        let mut taken = (filled - head) as u64;
        let mut from = head;
        loop {
            if filled > from && !each(&self.buffer[from..filled]) {
                bail!("stopped");
            }
            if taken >= size {
                return Ok(Taken { status, first_byte, end: Instant::now() });
            }
            let most = self.buffer.len().min((size - taken) as usize);
            filled = self.stream.read(&mut self.buffer[..most])?;
            from = 0;
            if filled == 0 {
                bail!("{path} ended after {taken} of {size} bytes");
            }
            if taken == 0 {
                first_byte = Instant::now();
            }
            taken += filled as u64;
        }
    }

    /// Reads until the head is there; its length, and how much of the buffer is filled.
    fn head(&mut self) -> Result<(usize, usize)> {
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            if read == 0 {
                bail!("the connection was closed before an answer came");
            }
            filled += read;
            if let Some(at) = self.buffer[..filled].windows(4).position(|end| end == b"\r\n\r\n") {
                return Ok((at + 4, filled));
            }
        }
    }
}

/// Takes one answer on a new connection; anything but 200 is an error.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<Taken> {
    Client::connect(address)?.take(path).with_context(|| address.to_string())
}
