use std::io;
use std::net::SocketAddr;

use node::{Finding, Severity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{PATIENCE, Told};

/// Whether somebody is at the mirror's address, and it is larder.
pub async fn examine(address: SocketAddr) -> Told {
    let remedy = "Start `larder node`, or look at its log; until then runtimes pull from the origins themselves.";
    let down = |what: String| vec![Finding::new(Severity::Error, "agent-down", what, remedy)].into();
    let answer = tokio::time::timeout(PATIENCE, ping(address)).await;
    match answer.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it is silent"))) {
        Ok(head) if head.starts_with("HTTP/1.1 200 ") => Told::default(),
        Ok(head) => {
            let status = head.lines().next().unwrap_or_default();
            down(format!("Whoever listens on {address} answers {status:?}, as larder does not."))
        }
        Err(error) => down(format!("larder does not answer on {address}: {error}.")),
    }
}

async fn ping(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /v2/ HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 512];
    let read = stream.read(&mut head).await?;
    Ok(String::from_utf8_lossy(&head[..read]).into_owned())
}
