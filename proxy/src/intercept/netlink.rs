//! Requests to the kernel over netlink, one at a time, each answered before the next.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

/// A netlink socket. It belongs to the network namespace in which it was opened, whichever process holds it.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// The kernel refused a request.
#[derive(Debug)]
pub struct Refused {
    /// Which of the messages was refused, if the kernel said.
    pub index: Option<usize>,
    /// Why.
    pub source: io::Error,
}

impl Netlink {
    /// Opens a socket of `protocol` (`netlink_sys::protocols`) in this thread's network namespace.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        Self::with(socket)
    }

    /// Takes over a socket that was opened elsewhere.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned and given away here, so nobody else closes it.
        Self::with(unsafe { Socket::from_raw_fd(fd.into_raw_fd()) })
    }

    /// Gives the socket away, to be passed to another process.
    pub fn into_fd(self) -> OwnedFd {
        // SAFETY: `into_raw_fd` gives up the descriptor, so this is its only owner.
        unsafe { OwnedFd::from_raw_fd(self.socket.into_raw_fd()) }
    }

    fn with(socket: Socket) -> io::Result<Self> {
        // The kernel answers within the system call that asks. A limit all the same, so that nothing hangs.
        SockRef::from(&socket).set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink { socket, sequence: fastrand::u32(..) })
    }

    /// Sends `messages` in one datagram and waits until the last one that asks for it (NLM_F_ACK) is acknowledged, or
    /// any is refused.
    pub fn transact<I>(&mut self, mut messages: Vec<NetlinkMessage<I>>) -> Result<(), Refused>
    where
        I: NetlinkSerializable + NetlinkDeserializable,
    {
        let failed = |source| Refused { index: None, source };
        let first = self.number(&mut messages);
        let awaited = messages.iter().rposition(|message| message.header.flags & NLM_F_ACK != 0);
        self.send(&messages).map_err(failed)?;
        let Some(awaited) = awaited else { return Ok(()) };
        loop {
            for answer in self.receive::<I>().map_err(failed)? {
                let index = answer.header.sequence_number.wrapping_sub(first) as usize;
                let NetlinkPayload::Error(error) = answer.payload else { continue };
                match error.code {
                    // An answer to an earlier request, whose reader gave up.
                    _ if index >= messages.len() => {}
                    Some(_) => return Err(Refused { index: Some(index), source: error.to_io() }),
                    None if index == awaited => return Ok(()),
                    None => {}
                }
            }
        }
    }

    /// Sends a request for a list and collects the answers.
    pub fn dump<I>(&mut self, message: NetlinkMessage<I>) -> io::Result<Vec<I>>
    where
        I: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut messages = vec![message];
        let sequence = self.number(&mut messages);
        self.send(&messages)?;
        let mut list = Vec::new();
        loop {
            for answer in self.receive::<I>()? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(list),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => list.push(inner),
                    _ => {}
                }
            }
        }
    }

    /// Gives each message a number of its own and returns the first.
    fn number<I: NetlinkSerializable>(&mut self, messages: &mut [NetlinkMessage<I>]) -> u32 {
        let first = self.sequence;
        for message in messages {
            message.header.sequence_number = self.sequence;
            message.finalize();
            self.sequence = self.sequence.wrapping_add(1);
        }
        first
    }

    fn send<I: NetlinkSerializable>(&self, messages: &[NetlinkMessage<I>]) -> io::Result<()> {
        // Messages begin at multiples of four bytes.
        let padded = |message: &NetlinkMessage<I>| message.buffer_len().next_multiple_of(4);
        let mut buffer = vec![0; messages.iter().map(padded).sum()];
        let mut at = 0;
        for message in messages {
            message.serialize(&mut buffer[at..at + message.buffer_len()]);
            at += padded(message);
        }
        self.socket.send(&buffer, 0)?;
        Ok(())
    }

    fn receive<I: NetlinkDeserializable>(&self) -> io::Result<Vec<NetlinkMessage<I>>> {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        let length = loop {
            match self.socket.recv(&mut buffer, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if length > buffer.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer longer than any known one"));
        }
        let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut messages = Vec::new();
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<I>::deserialize(rest).map_err(malformed)?;
            let length = (message.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
            messages.push(message);
            rest = &rest[length..];
        }
        Ok(messages)
    }
}

/// The kernel fills a page or two, never more than this.
const DATAGRAM: usize = 64 * 1024;
