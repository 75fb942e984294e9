use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// The longest body of a refused request that is read, in bytes, so that its connection can go on.
const SMALL: u64 = 64 << 10;

/// How much of what a client goes on sending is thrown away before its connection is cut, in bytes.
const LINGER: usize = 1 << 20;

/// How long a client may take to send what is not wanted.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads and drops the body of a refused request if it is small; whether it was. One that waits for `100 Continue` is not
/// asked for it.
pub(crate) async fn small(request: &mut http::Request<Incoming>) -> bool {
    if request.body().is_end_stream() {
        return true;
    }
    let announced = request.body().size_hint().upper().is_some_and(|size| size > SMALL);
    if announced || request.headers().contains_key(http::header::EXPECT) {
        return false;
    }
    let read = async {
        let mut read = 0;
        while let Some(frame) = request.body_mut().frame().await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, |data| data.len() as u64);
            if read > SMALL {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or(false)
}

/// Closes a connection whose client may still be sending: a socket that is closed with unread bytes is reset, and the reset
/// may overtake the answer.
pub(crate) async fn linger(mut stream: TcpStream) {
    let read = async {
        use tokio::io::AsyncWriteExt as _;
        stream.shutdown().await.ok()?;
        let mut scratch = vec![0; 16 << 10];
        let mut read = 0;
        while read < LINGER {
            match stream.read(&mut scratch).await.ok()? {
                0 => break,
                more => read += more,
            }
        }
        Some(())
    };
    let _ = tokio::time::timeout(PATIENCE, read).await;
}
