//! A connection as the data path sees it: a stream, plain or within TLS, and the bytes that detection has already read
//! from it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::error::Cause;
use crate::identity::Hold;
use crate::link::carrier::{self, Beneath, Keys, Walk};
use crate::link::exchange::Exchange;
use crate::link::records::Records;
use crate::link::records::keys::Ways;
use crate::link::session::Side;

/// A downstream or upstream connection. What was read ahead of it comes out first.
#[derive(Debug)]
pub struct Io {
    /// The stream itself.
    pub stream: Stream,
    /// Bytes that were read already and belong before whatever the stream gives next.
    pub early: Bytes,
}

/// A stream of bytes both ways.
#[derive(Debug)]
pub enum Stream {
    /// As the socket gives and takes them.
    Plain(TcpStream),
    /// Within TLS. What the socket has not taken of it goes out with the next read as well as with the next write or
    /// flush, so that whoever waits for an answer need not flush before.
    Tls(Box<Tls>),
    /// The TLS of a link, of which the same is true.
    Records(Box<Records>),
    /// A stream of a link.
    Link(Box<Exchange>),
    /// Nobody is there, who listens without a word until nothing more is to come: what is written is gone.
    Nobody {
        /// Nothing more is to come.
        over: bool,
    },
}

/// TLS over a socket.
pub type Tls = TlsStream<Carrier>;

/// What lies beneath TLS: a socket, and what was read of it before it was known to speak TLS.
#[derive(Debug)]
pub struct Carrier {
    /// The socket.
    tcp: TcpStream,
    /// What was read of it.
    early: Bytes,
    /// What ends it, once something was proved on it.
    hold: Option<Arc<Hold>>,
    /// Of a link, whose bytes may go by other ways than the socket.
    link: Option<Box<Beneath>>,
}

impl Io {
    /// A connection of which nothing was read yet.
    pub fn new(tcp: TcpStream) -> Self {
        Io { stream: Stream::Plain(tcp), early: Bytes::new() }
    }

    /// A connection of which `early` was read already.
    pub fn with_early(tcp: TcpStream, early: Bytes) -> Self {
        Io { stream: Stream::Plain(tcp), early }
    }

    /// A connection whose handshake is done.
    pub fn secure(tls: impl Into<Tls>) -> Self {
        Io { stream: Stream::Tls(Box::new(tls.into())), early: Bytes::new() }
    }

    /// A link whose handshake is done, with the keys that came of it.
    pub(crate) fn linked(tls: impl Into<Tls>, ways: Ways) -> Self {
        let stream = match Records::new(tls.into(), ways) {
            Ok(records) => Stream::Records(Box::new(records)),
            Err(tls) => {
                // It carries the same, and takes longer.
                tracing::warn!("a link goes on without the keys of its TLS session");
                Stream::Tls(tls)
            }
        };
        Io { stream, early: Bytes::new() }
    }

    /// A connection whose handshake is done, which ends when what was proved in the handshake holds no more.
    pub(crate) fn held(tls: impl Into<Tls>, hold: Arc<Hold>) -> Self {
        let mut tls = tls.into();
        tls.get_mut().0.hold = Some(hold);
        Io::secure(tls)
    }

    /// What ends it, if something was proved on it.
    pub(crate) fn hold(&self) -> Option<&Arc<Hold>> {
        match &self.stream {
            Stream::Tls(tls) => tls.get_ref().0.hold.as_ref(),
            _ => None,
        }
    }

    /// What carries a link beneath its TLS.
    pub fn carrier(&mut self) -> Option<&mut Beneath> {
        match &mut self.stream {
            Stream::Tls(tls) => tls.get_mut().0.link.as_deref_mut(),
            Stream::Records(records) => records.carrier_mut().link.as_deref_mut(),
            Stream::Plain(_) | Stream::Link(_) | Stream::Nobody { .. } => None,
        }
    }

    /// A stream of a link.
    pub(crate) fn over_link(exchange: Exchange) -> Self {
        Io { stream: Stream::Link(Box::new(exchange)), early: Bytes::new() }
    }

    /// A client that has said all this, and hears nothing.
    pub(crate) fn of_nobody(said: Bytes) -> Self {
        Io { stream: Stream::Nobody { over: false }, early: said }
    }

    /// Whether bytes have arrived that were not read. The runtime may not know of them yet: it asks the system only
    /// between the turns of its tasks.
    pub(crate) fn has_arrived(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        !self.early.is_empty()
            || match (&self.stream, self.stream.socket()) {
                (Stream::Link(exchange), _) => exchange.has_arrived(),
                (_, Some(tcp)) => socket2::SockRef::from(tcp).peek(&mut byte).is_ok_and(|bytes| bytes > 0),
                (_, None) => false,
            }
    }

    /// Whether content of a known length comes next, and is better passed on than read.
    pub(crate) fn has_content(&self) -> bool {
        self.early.is_empty() && matches!(&self.stream, Stream::Link(exchange) if exchange.has_content())
    }

    /// Makes the close that follows a reset, so that the peer cannot take a cut for a clean end.
    pub fn reset_on_close(&self) {
        match &self.stream {
            Stream::Link(exchange) => exchange.reset(),
            // SO_LINGER with zero seconds never blocks; what is unsent is meant to be lost.
            stream => {
                let socket = stream.socket().map(socket2::SockRef::from);
                let _ = socket.map(|socket| socket.set_linger(Some(std::time::Duration::ZERO)));
            }
        }
    }

    /// Where it is an exchange on a link, cuts it off as not executed, for `cause`. Returns whether it is.
    pub(crate) fn refuse(&self, cause: Cause) -> bool {
        let Stream::Link(exchange) = &self.stream else { return false };
        exchange.refuse(cause);
        true
    }

    /// The other end's address, or an unspecified one when it is gone already.
    pub fn peer(&self) -> SocketAddr {
        let peer = self.stream.socket().and_then(|socket| socket.peer_addr().ok());
        peer.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }
}

impl Stream {
    /// The socket, where nothing lies between it and the bytes.
    #[inline]
    pub fn plain(&self) -> Option<&TcpStream> {
        match self {
            Stream::Plain(tcp) => Some(tcp),
            _ => None,
        }
    }

    /// Whether it is a stream of a link.
    pub(crate) fn is_link(&self) -> bool {
        matches!(self, Stream::Link(_))
    }

    /// What is known of the other side, if this is within TLS.
    pub(crate) fn tls(&self) -> Option<&rustls::CommonState> {
        match self {
            Stream::Tls(tls) => Some(tls.get_ref().1),
            Stream::Records(records) => Some(records.state()),
            Stream::Plain(_) | Stream::Link(_) | Stream::Nobody { .. } => None,
        }
    }

    /// A secret of the TLS session for `label` and `context`, which the other side has too. None: there is no such session.
    pub(crate) fn export<T: AsMut<[u8]>>(&self, output: T, label: &[u8], context: &[u8]) -> Option<T> {
        let exported = match self {
            Stream::Tls(tls) => match &**tls {
                TlsStream::Client(tls) => {
                    tls.get_ref().1.export_keying_material(output, label, Some(context))
                }
                TlsStream::Server(tls) => {
                    tls.get_ref().1.export_keying_material(output, label, Some(context))
                }
            },
            Stream::Records(records) => records.export(output, label, context),
            Stream::Plain(_) | Stream::Link(_) | Stream::Nobody { .. } => return None,
        };
        exported.ok()
    }

    /// Writes `slices`, as much as is taken. Where nothing lies between the bytes and the socket, there is nothing between
    /// this and the system call either: a head is written once for each request.
    #[inline]
    pub(crate) fn poll_send(
        &mut self,
        slices: &[io::IoSlice<'_>],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Stream::Plain(tcp) = self {
            let sent = tcp.try_io(Interest::WRITABLE, || match slices {
                [whole] => Ok(rustix::net::send(&*tcp, whole, SendFlags::NOSIGNAL)?),
                _ => Ok(rustix::io::writev(&*tcp, slices)?),
            });
            match sent {
                Err(full) if full.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
        // Waits as well: the task is woken when the socket takes more.
        match slices {
            [whole] => Pin::new(self).poll_write(cx, whole),
            _ => Pin::new(self).poll_write_vectored(cx, slices),
        }
    }

    /// The socket, whatever it carries: for its addresses and options, and never for bytes. A stream of a link has none
    /// of its own.
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Stream::Plain(tcp) => Some(tcp),
            Stream::Tls(tls) => Some(&tls.get_ref().0.tcp),
            Stream::Records(records) => Some(&records.carrier().tcp),
            Stream::Link(_) | Stream::Nobody { .. } => None,
        }
    }
}

impl Carrier {
    /// A socket of which `early` was read already.
    pub fn new(tcp: TcpStream, early: Bytes) -> Self {
        Carrier { tcp, early, hold: None, link: None }
    }

    /// The same, of a link of which this is `side`.
    pub(crate) fn of_link(tcp: TcpStream, early: Bytes, side: Side) -> Self {
        let link = Some(Box::new(Beneath::new(side, early)));
        Carrier { tcp, early: Bytes::new(), hold: None, link }
    }

    /// The handshake of a link is done: its bytes may go by other ways from now on.
    pub(crate) fn establish(&mut self, keys: Keys) {
        if let Some(link) = &mut self.link {
            link.establish(keys);
            if let Err(error) = carrier::look_after(&self.tcp) {
                // Requests on it are looked after by the session.
                tracing::debug!(%error, "nobody looks whether the TCP connection of a link that rests is lost");
            }
        }
    }

    /// Where TLS is in the records that came, if this is a link of which nothing was read ahead.
    pub(crate) fn walk_in(&self) -> Option<Walk> {
        self.link.as_ref()?.walk_in()
    }

    /// An error once what was proved on it holds no more.
    fn check(&self, waker: Option<&Waker>) -> io::Result<()> {
        self.hold.as_ref().map_or(Ok(()), |hold| hold.check(waker))
    }
}

/// Takes from `early` what fits into `buf`. False: there is nothing.
#[inline]
fn take(early: &mut Bytes, buf: &mut ReadBuf<'_>) -> bool {
    if early.is_empty() {
        return false;
    }
    let fitting = early.len().min(buf.remaining());
    buf.put_slice(&early[..fitting]);
    early.advance(fitting);
    true
}

impl AsyncRead for Io {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if take(&mut self.early, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Tls(tls) => {
                if tls.get_ref().1.wants_write() {
                    // What is wrong with writing, the next write tells.
                    let _ = Pin::new(&mut **tls).poll_flush(cx);
                }
                Pin::new(&mut **tls).poll_read(cx, buf)
            }
            Stream::Records(records) => Pin::new(&mut **records).poll_read(cx, buf),
            Stream::Link(exchange) => Pin::new(&mut **exchange).poll_read(cx, buf),
            Stream::Nobody { over: true } => Poll::Ready(Ok(())),
            Stream::Nobody { over: false } => Poll::Pending,
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Stream::Tls(tls) => Pin::new(&mut **tls).poll_write(cx, buf),
            Stream::Records(records) => Pin::new(&mut **records).poll_write(cx, buf),
            Stream::Link(exchange) => Pin::new(&mut **exchange).poll_write(cx, buf),
            Stream::Nobody { .. } => Poll::Ready(Ok(buf.len())),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(_) | Stream::Nobody { .. } => Poll::Ready(Ok(())),
            Stream::Tls(tls) => Pin::new(&mut **tls).poll_flush(cx),
            Stream::Records(records) => Pin::new(&mut **records).poll_flush(cx),
            Stream::Link(exchange) => Pin::new(&mut **exchange).poll_flush(cx),
        }
    }

    /// Ends the way out. A TLS stream says first that this is its end, so that nobody can cut it unseen.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
            Stream::Records(records) => Pin::new(&mut **records).poll_shutdown(cx),
            Stream::Link(exchange) => Pin::new(&mut **exchange).poll_shutdown(cx),
            Stream::Nobody { over } => {
                *over = true;
                Poll::Ready(Ok(()))
            }
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Stream::Tls(tls) => Pin::new(&mut **tls).poll_write_vectored(cx, bufs),
            Stream::Records(records) => Pin::new(&mut **records).poll_write_vectored(cx, bufs),
            Stream::Link(exchange) => Pin::new(&mut **exchange).poll_write_vectored(cx, bufs),
            Stream::Nobody { .. } => Poll::Ready(Ok(bufs.iter().map(|slice| slice.len()).sum())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl AsyncRead for Carrier {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Carrier { tcp, link: Some(link), .. } = &mut *self {
            return link.poll_read(tcp, cx, buf);
        }
        if take(&mut self.early, buf) {
            return Poll::Ready(Ok(()));
        }
        self.check(None)?;
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        if read.is_pending() {
            self.check(Some(cx.waker()))?;
        }
        read
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Carrier { tcp, link: Some(link), .. } = &mut *self {
            return link.poll_write(tcp, cx, &[io::IoSlice::new(buf)]);
        }
        self.check(None)?;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Carrier { tcp, link: Some(link), .. } => link.poll_flush(tcp, cx),
            Carrier { link: None, .. } => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Carrier { tcp, link: Some(link), .. } => link.poll_shutdown(tcp, cx),
            Carrier { tcp, link: None, .. } => Pin::new(tcp).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Carrier { tcp, link: Some(link), .. } = &mut *self {
            return link.poll_write(tcp, cx, bufs);
        }
        self.check(None)?;
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
