use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;

/// A client that sees what goes over the wire: short bodies, resets, exact headers. One connection, kept alive.
pub struct Client<S = TcpStream> {
    stream: BufReader<S>,
}

/// The value of an `Authorization` header with a user name and password (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With its last byte.
    Complete,
    /// Before that, with an orderly close.
    Short,
    /// Before that, with a reset.
    Reset,
}

/// An answer, with as much of its body as came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in their order.
    pub headers: Vec<(String, String)>,
    /// What came of the body.
    pub body: Vec<u8>,
    /// How the body ended.
    pub ending: Ending,
}

impl Client {
    /// Connects. Reads give up after 60 s without a byte.
    pub fn connect(address: SocketAddr) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        Ok(Client::over(stream))
    }

    /// The socket, for what this client does not do by itself.
    pub fn socket(&mut self) -> &mut TcpStream {
        self.stream.get_mut()
    }
}

impl<S: Read + Write> Client<S> {
    /// Speaks over a connection that is there already.
    pub fn over(stream: S) -> Client<S> {
        Client { stream: BufReader::with_capacity(256 << 10, stream) }
    }

    /// Sends a request without a body.
    pub fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: larder.test\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        Ok(self.stream.get_mut().write_all(text.as_bytes())?)
    }

    /// Sends a body by `PUT` and reads the whole answer.
    pub fn put(&mut self, target: &str, body: &str) -> anyhow::Result<Answer> {
        self.send("PUT", target, &[("content-length", &body.len().to_string())])?;
        self.stream.get_mut().write_all(body.as_bytes())?;
        self.answer("PUT")
    }

    /// Reads the head of an answer: its status and headers.
    pub fn head(&mut self) -> anyhow::Result<(u16, Vec<(String, String)>)> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the connection was closed before an answer came");
        }
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("no status line: {line:?}"))?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the connection was closed within the headers");
            }
            match line.trim_end().split_once(':') {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None => return Ok((status, headers)),
            }
        }
    }

    /// Reads up to `most` bytes of the body and adds them to `body`; 0 at the end of the connection.
    pub fn read(&mut self, body: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let before = body.len();
        (&mut self.stream).take(most as u64).read_to_end(body)?;
        Ok(body.len() - before)
    }

    /// Sends a request and reads the whole answer.
    pub fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.send(method, target, headers)?;
        self.answer(method)
    }

    /// Reads the whole answer to a request of that method.
    pub fn answer(&mut self, method: &str) -> anyhow::Result<Answer> {
        let head = self.head()?;
        self.rest(method, head)
    }

    /// Reads the body that follows a head.
    pub fn rest(&mut self, method: &str, (status, headers): (u16, Vec<(String, String)>)) -> anyhow::Result<Answer> {
        let mut answer = Answer { status, headers, body: Vec::new(), ending: Ending::Complete };
        if method == "HEAD" || status == 204 || status == 304 {
            return Ok(answer);
        }
        let result = match answer.header("content-length").map(str::to_owned) {
            Some(length) => {
                let length = length.parse::<usize>().context("Content-Length is no number")?;
                self.read(&mut answer.body, length).map(|_| answer.body.len() == length)
            }
            None if answer.header("transfer-encoding") == Some("chunked") => self.chunks(&mut answer.body),
            None => self.read(&mut answer.body, usize::MAX).map(|_| true),
        };
        answer.ending = match result {
            Ok(true) => Ending::Complete,
            Ok(false) => Ending::Short,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ending::Reset,
            Err(error) => return Err(error).context("reading a body"),
        };
        Ok(answer)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            let Ok(size) = usize::from_str_radix(line.trim(), 16) else { return Ok(false) };
            let whole = self.read(body, size)? == size;
            let mut end = String::new();
            if !whole || self.stream.read_line(&mut end)? == 0 {
                return Ok(false);
            }
            if size == 0 {
                return Ok(true);
            }
        }
    }
}

impl Answer {
    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The SHA-256 digest of what came of the body.
    pub fn digest(&self) -> String {
        oci::Digest::sha256(&self.body).to_string()
    }

    /// Whether the body came whole.
    pub fn is_complete(&self) -> bool {
        self.ending == Ending::Complete
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The error code of an OCI error body.
    pub fn error_code(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(body["errors"][0]["code"].as_str()?.to_owned())
    }
}
