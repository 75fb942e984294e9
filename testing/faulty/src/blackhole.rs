//! An address on which connections neither open nor fail.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// An address that drops every SYN, as a firewall or a dead route does: its queue of connections that wait to be accepted
/// is full. Needs no privileges; works on Linux.
pub struct BlackHole {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    /// On a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be had, or the queue does not fill.
    pub async fn start() -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(0)?;
        let addr = listener.local_addr()?;
        let mut queued = Vec::new();
        for _ in 0..8 {
            match timeout(Duration::from_millis(200), TcpStream::connect(addr)).await {
                Ok(connected) => queued.push(connected?),
                Err(_) => return Ok(Self { listener, _queued: queued }),
            }
        }
        anyhow::bail!("the queue of {addr} takes more connections than it should")
    }

    /// The address.
    ///
    /// # Panics
    /// Never: the socket is bound.
    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound in start")
    }
}
