//! Messages between the sidecar and the process inside the application's namespace: JSON and descriptors over a
//! socket pair that keeps messages apart.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

/// What the sidecar asks of the process inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Start the application.
    Start,
    /// Pass this signal on to the application.
    Signal(i32),
}

/// What the process inside reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// Everything stands. With it come the listeners for outbound connections, then the pairs for DNS, then the
    /// netlink socket by which the rules' counters are read.
    Ready {
        /// Inode of the network namespace.
        netns: u64,
        /// Whether it is owned by a user namespace made for it.
        user_namespace: bool,
        /// How many of the descriptors are outbound listeners.
        outbound: usize,
    },
    /// It cannot be done, and why.
    Failed(String),
    /// The application runs.
    Started(u32),
    /// The application could not be started: why, and the status that a shell would end with.
    NotStarted(String, u8),
    /// The application ended with this status, as a shell gives it (128 and the signal's number).
    Ended(u8),
}

/// Asks for unconnected TCP sockets made inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) ipv6: bool,
    pub(super) count: usize,
}

/// The answer to [`Wanted`]: the sockets come with it, or the system's reason why there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) errno: Option<i32>,
}

/// One end.
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Channel(one), Channel(other)))
    }

    /// Sends a message. It takes `descriptors` along; the receiver gets copies.
    pub(super) fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                other => return other.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Waits for a message. `None`: the other end is gone.
    pub(super) fn receive<T: for<'de> Deserialize<'de>>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut text = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let into = &mut [IoSliceMut::new(&mut text)];
            match recvmsg(&self.0, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                // Whoever holds the other end was killed with something of ours unread.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            // This process has no room for them.
            return Err(rustix::io::Errno::MFILE.into());
        }
        Ok(Some((serde_json::from_slice(&text[..received.bytes])?, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The kernel's limit for one message (`SCM_MAX_FD`).
const MOST_DESCRIPTORS: usize = 253;

/// Reports are a line of text.
const LONGEST: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_message_takes_descriptors_along() {
        let (one, other) = Channel::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        one.send(&Order::Signal(15), &[writer.as_fd()]).unwrap();
        drop(writer);
        let (order, descriptors) = other.receive::<Order>().unwrap().unwrap();
        assert_eq!(order, Order::Signal(15));
        let [writer] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        std::fs::File::from(writer).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn an_end_that_is_gone_is_seen() {
        let (one, other) = Channel::pair().unwrap();
        drop(one);
        assert!(other.receive::<Order>().unwrap().is_none());
        assert!(other.send(&Order::Start, &[]).is_err());
    }
}
