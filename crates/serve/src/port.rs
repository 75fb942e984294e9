use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use crate::server::Error;

/// How many connections the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// An address that is listened on; connections wait until somebody serves them.
///
/// Taken before anything else of a start, since it is what most often fails.
pub struct Port {
    pub(crate) listener: TcpListener,
    pub(crate) addr: SocketAddr,
}

impl Port {
    /// Takes an address, which an earlier process may have used a moment ago; port 0 is a free one. Needs a runtime.
    ///
    /// # Errors
    /// When it is taken, is none of this machine's, or may not be used.
    pub fn take(addr: SocketAddr) -> Result<Port, Error> {
        listen(addr).map_err(|error| Error::Listen { addr, error })
    }

    /// For a server that speaks something else.
    pub fn into_listener(self) -> TcpListener {
        self.listener
    }
}

fn listen(addr: SocketAddr) -> io::Result<Port> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    let listener = socket.listen(BACKLOG)?;
    let addr = listener.local_addr()?;
    Ok(Port { listener, addr })
}
