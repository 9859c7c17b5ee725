//! The TCP connection of a link, as its carrier sees it.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::ioctl::{Getter, Opcode};
use socket2::{SockRef, TcpKeepalive};
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

/// Has the kernel look after the connection of a link. While nothing goes over it, and that is so for as long as the link is on
/// another wire or has no stream, the other end is asked whether it is there. What is not confirmed, or finds no room at the other
/// end, for as long as one that does not answer has is the connection's end too: nothing is asked while bytes are under way.
pub(crate) fn look_after(connection: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(connection);
    let asks = TcpKeepalive::new().with_time(QUIET).with_interval(ASKS_EVERY).with_retries(ASKS);
    socket.set_tcp_keepalive(&asks)?;
    // Where this is set, it says when those who are asked have had enough time, too.
    socket.set_tcp_user_timeout(Some(QUIET + ASKS_EVERY * ASKS))
}

/// How many packets with data a connection has sent, and how many of these again because they were lost. None where the
/// kernel does not say.
pub(in crate::link) fn sent(connection: &TcpStream) -> Option<(u64, u64)> {
    let mut info = [0u32; INFO_WORDS];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes there, all of them plain numbers.
    let said = unsafe {
        let to = (&raw mut info).cast();
        libc::getsockopt(connection.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut length)
    };
    // What an older kernel does not know stays zero.
    let is_said = said == 0 && length as usize >= size_of_val(&info[..=SENT]);
    is_said.then(|| (info[SENT].into(), info[SENT_AGAIN].saturating_sub(info[CAME_TWICE]).into()))
}

/// With nothing heard for so long, the other end is asked whether it is there,
const QUIET: Duration = Duration::from_secs(15);

/// again after so long,
const ASKS_EVERY: Duration = Duration::from_secs(5);

/// and so often in all.
const ASKS: u32 = 3;

/// Where the numbers of `tcp_info` stand, of Linux's `tcp.h`: `tcpi_total_retrans`,
const SENT_AGAIN: usize = 100 / 4;

/// `tcpi_data_segs_out`,
const SENT: usize = 156 / 4;

/// and `tcpi_dsack_dups`, the last that is asked for: what was sent again and had come all the same (RFC 2883, RFC 3708).
/// A machine whose processors are busy confirms late, and is sent much again over a path that loses nothing.
const CAME_TWICE: usize = 216 / 4;

const INFO_WORDS: usize = CAME_TWICE + 1;

/// SIOCOUTQNSD, of Linux's `sockios.h`.
const UNSENT: Opcode = 0x894B;
