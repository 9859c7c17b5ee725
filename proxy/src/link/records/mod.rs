//! The record layer of a link: its TLS session, from the end of the handshake on, between those who read and write and the
//! carrier. What goes over the connection is TLS 1.3 as rustls speaks it; there is a copy less on either side, and no memory
//! is asked for by the record.

pub(crate) mod keys;
pub(crate) mod pair;
mod session;
mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{CommonState, Connection, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use self::keys::Ways;
use self::session::Session;
use self::store::{Came, Sealed};
use crate::io::Carrier;

pub(crate) use self::store::let_go;

/// The TLS session of a link over its carrier.
pub struct Records {
    session: Session,
    carrier: Carrier,
    /// What came and was not opened.
    came: Came,
    /// What was sealed and has not gone out.
    sealed: Sealed,
    /// Nothing more can be opened.
    failed: Option<Error>,
    /// This side has said that it is at its end.
    closed: bool,
}

impl Records {
    /// Goes on where the handshake of `tls` ended, with the keys that came of it. It is given back if they cannot be had.
    pub(crate) fn new(tls: TlsStream<Carrier>, ways: Ways) -> Result<Self, Box<TlsStream<Carrier>>> {
        let lead = tls.get_ref().0.walk_in();
        let (Some(lead), Some(keys)) = (lead, ways.both()) else { return Err(Box::new(tls)) };
        let (carrier, connection) = match tls {
            TlsStream::Client(tls) => {
                let (carrier, connection) = tls.into_inner();
                (carrier, Connection::from(connection))
            }
            TlsStream::Server(tls) => {
                let (carrier, connection) = tls.into_inner();
                (carrier, Connection::from(connection))
            }
        };
        Ok(Records {
            session: Session::new(connection, keys, lead),
            carrier,
            came: Came::default(),
            sealed: Sealed::default(),
            failed: None,
            closed: false,
        })
    }

    /// What is beneath it.
    pub(crate) fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// The same, to be changed.
    pub(crate) fn carrier_mut(&mut self) -> &mut Carrier {
        &mut self.carrier
    }

    /// What is known of the other side.
    pub(crate) fn state(&self) -> &CommonState {
        self.session.state()
    }

    /// The session's exporter.
    pub(crate) fn export<T: AsMut<[u8]>>(&self, output: T, label: &[u8], context: &[u8]) -> Result<T, Error> {
        self.session.export(output, label, context)
    }

    /// Writes what was sealed, and what the session itself has to say. Ready: there is nothing left of it.
    fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.sealed.poll_write(&mut self.carrier, cx))?;
            if !self.session.has_unsaid() {
                return Poll::Ready(Ok(()));
            }
            self.session.say(self.sealed.room())?;
        }
    }

    /// Opens into `to` what came, as much as fits.
    fn open(&mut self, to: &mut ReadBuf<'_>) {
        let before = to.filled().len();
        while self.failed.is_none() {
            self.session.take(to);
            let is_enough = to.filled().len() > before;
            match self.session.open(self.came.bytes(), to, is_enough) {
                Ok(0) => return,
                Ok(done) => self.came.consume(done),
                Err(error) => self.failed = Some(error),
            }
        }
    }
}

impl AsyncRead for Records {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What is wrong with writing, the next write tells.
        let _ = this.poll_say(cx);
        let before = to.filled().len();
        loop {
            this.open(to);
            if to.filled().len() > before || to.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            // What came before was taken. The peer is told what is wrong, if it listens, and that a key is new.
            let _ = this.poll_say(cx);
            if let Some(error) = &this.failed {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error.clone())));
            }
            if this.session.is_ended() {
                return Poll::Ready(Ok(()));
            }
            if ready!(this.came.poll_read(&mut this.carrier, cx))? == 0 {
                // Whoever cuts a connection does not say that it is at its end.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl AsyncWrite for Records {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(from)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_say(cx))?;
        let taken = this.session.seal(slices, this.sealed.room())?;
        // What does not go out now goes out with the next write, flush or read.
        match this.sealed.poll_write(&mut this.carrier, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_say(cx))?;
        Pin::new(&mut this.carrier).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.closed, true) {
            this.session.close();
        }
        ready!(this.poll_say(cx))?;
        match ready!(Pin::new(&mut this.carrier).poll_shutdown(cx)) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}
