//! A connection as the data path sees it: a stream, and the bytes that detection has already read from it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A downstream or upstream connection. What was read ahead of it comes out first.
#[derive(Debug)]
pub struct Io {
    /// The stream itself.
    pub tcp: TcpStream,
    /// Bytes that were read already and belong before whatever the stream gives next.
    pub early: Bytes,
}

impl Io {
    /// A connection of which nothing was read yet.
    pub fn new(tcp: TcpStream) -> Self {
        Io { tcp, early: Bytes::new() }
    }

    /// A connection of which `early` was read already.
    pub fn with_early(tcp: TcpStream, early: Bytes) -> Self {
        Io { tcp, early }
    }

    /// Whether bytes have arrived that were not read. The runtime may not know of them yet: it asks the system only
    /// between the turns of its tasks.
    pub(crate) fn has_arrived(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        !self.early.is_empty()
            || socket2::SockRef::from(&self.tcp).peek(&mut byte).is_ok_and(|bytes| bytes > 0)
    }

    /// Makes the close that follows a reset, so that the peer cannot take a cut for a clean end.
    pub fn reset_on_close(&self) {
        // SO_LINGER with zero seconds never blocks; what is unsent is meant to be lost.
        let _ = socket2::SockRef::from(&self.tcp).set_linger(Some(std::time::Duration::ZERO));
    }

    /// The other end's address, or an unspecified one when it is gone already.
    pub fn peer(&self) -> SocketAddr {
        self.tcp.peer_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let fitting = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..fitting]);
            self.early.advance(fitting);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}
