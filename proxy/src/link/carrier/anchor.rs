//! The TCP connection of a link, as its carrier sees it.

use rustix::ioctl::{Getter, Opcode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The TCP connection of a link, or what stands for it in tests.
pub(crate) trait Anchor: AsyncRead + AsyncWrite + Unpin {
    /// How many bytes it has taken and not sent, as the peer has no room for them. What is only not confirmed does not
    /// count: a peer that has all may take its time to say so.
    fn unsent(&self) -> usize;
}

impl Anchor for TcpStream {
    fn unsent(&self) -> usize {
        // SAFETY: SIOCOUTQNSD gives an int, and no descriptor but a socket knows it.
        let asks = unsafe { Getter::<UNSENT, i32>::new() };
        // SAFETY: it only reads, whatever descriptor it is.
        let count = unsafe { rustix::ioctl::ioctl(self, asks) };
        // A connection that has failed holds nothing that anybody waits for.
        count.ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
    }
}

/// SIOCOUTQNSD, of Linux's `sockios.h`.
const UNSENT: Opcode = 0x894B;
