use std::io::{self, IoSlice};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::connection::Returned;
use crate::server::Error;
use crate::settings::{TlsChoice, TlsFiles};
use crate::watch::Watch;
use crate::zero_copy::unacknowledged;

/// Reads a certificate and its key for TLS 1.2 and 1.3, HTTP/1.1, with clients that need none.
pub(crate) fn shown(files: &TlsFiles) -> Result<TlsChoice, Error> {
    let unreadable = |path: &Path, reason: String| Error::Tls { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_file_iter(&files.cert_file)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| unreadable(&files.cert_file, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .map_err(|error| unreadable(&files.key_file, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unreadable(&files.cert_file, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| unreadable(&files.cert_file, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    Ok(Arc::new(move || config.clone()))
}

/// A TLS connection with deadlines.
pub(crate) struct TlsIo {
    /// There until the drop.
    stream: Option<TokioIo<TlsStream<TcpStream>>>,
    watch: Watch,
    returned: Returned,
}

impl TlsIo {
    pub(crate) fn new(stream: TlsStream<TcpStream>, watch: Watch, returned: Returned) -> TlsIo {
        TlsIo { stream: Some(TokioIo::new(stream)), watch, returned }
    }

    fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TokioIo<TlsStream<TcpStream>>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let stream = self.stream.as_mut().expect("taken by the drop only");
        match write(Pin::new(stream), cx) {
            Poll::Pending => {
                let socket = stream.inner().get_ref().0;
                self.watch.write_pending(cx, || unacknowledged(socket)).map(Err)
            }
            done => {
                self.watch.wrote();
                done
            }
        }
    }
}

impl Drop for TlsIo {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.returned.put(stream.into_inner().into_inner().0);
        }
    }
}

impl Read for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let stream = self.stream.as_mut().expect("taken by the drop only");
        match Pin::new(stream).poll_read(cx, buf) {
            Poll::Pending => self.watch.read_pending(cx).map(Err),
            read => {
                self.watch.read();
                read
            }
        }
    }
}

impl Write for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_with(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_with(cx, |stream, cx| stream.poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }
}
