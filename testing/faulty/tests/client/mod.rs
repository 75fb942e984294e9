//! A client that sees what is truly on the wire.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No step of these tests takes long; this only tells a hang from progress.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// How the server ended the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
    /// Nothing more came within the time allowed.
    Silence,
}

/// All that came back, undigested.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    pub end: End,
}

impl Answer {
    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers(name).first().copied().unwrap_or_default()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Body of a chunked answer; `None` if it does not end as it should.
    pub fn unchunked(&self) -> Option<Vec<u8>> {
        let (mut rest, mut body) = (self.body.as_slice(), Vec::new());
        loop {
            let line = rest.windows(2).position(|window| window == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
            rest = &rest[line + 2..];
            if size == 0 {
                return (rest == b"\r\n").then_some(body);
            }
            body.extend_from_slice(rest.get(..size)?);
            rest = rest.get(size + 2..)?;
        }
    }
}

/// Sends one request and reads to the end of the connection.
pub fn request(addr: SocketAddr, method: &str, path: &str, headers: &[&str]) -> Answer {
    let mut stream = connect(addr);
    send(&mut stream, method, path, headers);
    read(&mut stream, usize::MAX, DEADLINE)
}

/// `GET` with `Connection: close`.
pub fn get(addr: SocketAddr, path: &str) -> Answer {
    request(addr, "GET", path, &[])
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the upstream listens");
    stream.set_nodelay(true).expect("an open socket");
    stream
}

pub fn send(stream: &mut TcpStream, method: &str, path: &str, headers: &[&str]) {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{lines}\r\n");
    stream.write_all(head.as_bytes()).expect("the upstream reads");
}

/// Reads up to `max` bytes, head included.
pub fn read(stream: &mut impl Wire, max: usize, patience: Duration) -> Answer {
    stream.patience(patience);
    let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    let end = loop {
        if all.len() >= max {
            break End::Silence;
        }
        match stream.read(&mut buffer) {
            Ok(0) => break End::Fin,
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break End::Reset,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break End::Fin,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break End::Silence,
            Err(error) => panic!("{error}"),
        }
    };
    let split = all.windows(4).position(|window| window == b"\r\n\r\n").map_or(all.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&all[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { status, head, body: all[split..].to_vec(), end }
}

/// A readable connection whose reads can time out.
pub trait Wire: Read {
    fn patience(&mut self, patience: Duration);
}

impl Wire for TcpStream {
    fn patience(&mut self, patience: Duration) {
        self.set_read_timeout(Some(patience)).expect("not zero");
    }
}
