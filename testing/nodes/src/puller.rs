use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::Machine;

use crate::agent::MIRROR;

/// Longer than a runtime waits for the head of an answer.
const HANGS: Duration = Duration::from_secs(40);

/// Takes a blob as a runtime does: from the mirror of its machine, and what does not come from there, from the origin.
pub struct Puller<'a> {
    machine: &'a Machine,
    origin: &'a str,
}

/// How a pull went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// All came from the mirror.
    Mirror,
    /// The mirror gave less than all, and the origin the rest.
    Fallen,
}

impl<'a> Puller<'a> {
    /// On a machine whose runtime would go on to the host `origin`.
    #[must_use]
    pub fn new(machine: &'a Machine, origin: &'a str) -> Puller<'a> {
        Puller { machine, origin }
    }

    /// The blob's bytes, and who gave them.
    ///
    /// # Errors
    /// Neither gives it whole.
    pub fn blob(&self, repository: &str, digest: &str, size: u64) -> Result<(Vec<u8>, Way)> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let mut bytes = self.machine.in_network(|| mirrored(&format!("{path}?ns=docker.io")))?;
        if bytes.len() as u64 == size {
            return Ok((bytes, Way::Mirror));
        }
        let range = format!("{}-", bytes.len());
        let url = format!("https://{}{path}", self.origin);
        let curl = self.machine.command("curl").args(["-sSf", "--max-time", "30", "--range", &range, &url]).output();
        let curl = curl.context("cannot run curl")?;
        ensure!(curl.status.success(), "{url}: {}", String::from_utf8_lossy(&curl.stderr));
        bytes.extend(curl.stdout);
        Ok((bytes, Way::Fallen))
    }
}

/// As much of the body as comes.
fn mirrored(path: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    // What is there when it breaks is what a runtime keeps.
    let _ = ask(path, &mut answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    match end {
        Some(end) if answer.starts_with(b"HTTP/1.1 200 ") => answer.split_off(end + 4),
        _ => Vec::new(),
    }
}

fn ask(path: &str, answer: &mut Vec<u8>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(MIRROR)?;
    stream.set_read_timeout(Some(HANGS))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {MIRROR}\r\nConnection: close\r\n\r\n")?;
    stream.read_to_end(answer).map(drop)
}
