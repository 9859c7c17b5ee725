//! Shared memory: a wire between two sidecars on one host.
//!
//! One of the two, whichever the offer says, makes the memory and waits at its [`Door`], a Unix socket in a directory where
//! nobody else can put one. The other comes with a token; if it is the one that is awaited it gets another token and the
//! memory's descriptor. Both tokens come from the TLS session of the link, for one wire and one generation of it, so that
//! each side knows that whoever is at the other end of the memory is who is at the other end of the link. The socket stays:
//! a byte on it is the doorbell that wakes a sleeper, and its end is the peer's end. PROTOCOL.md beside
//! this file says it byte by byte.

mod directory;
mod door;
mod memory;
mod probe;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::io;
use std::time::Duration;

use subtle::ConstantTimeEq;

pub(crate) use self::directory::Directory;
pub(crate) use self::door::{Door, Stranger};
pub(crate) use self::wire::ShmWire;
use super::ring::Memory;

/// What the two sides of one wire show each other: secrets of the link's TLS session, for this wire and this generation
/// only, and another for each role.
#[derive(Clone)]
pub(crate) struct Tokens {
    /// What this side shows.
    pub(crate) ours: Token,
    /// What the other has to show.
    pub(crate) theirs: Token,
}

/// A secret that is shown once.
pub(crate) type Token = [u8; 32];

/// Why a wire was not attached.
#[derive(Debug)]
pub(crate) enum AttachFault {
    /// The peer did not come, or did not go on, in time.
    TimedOut,
    /// The ring's size is not a power of two, or outside what this side allows.
    Size,
    /// The door's name is none.
    Name,
    /// What answers at the door does not hold the token.
    Token,
    /// The descriptor that came is not memory of the agreed size that can neither shrink nor grow.
    Memory,
    /// The probe did not come back as it was sent.
    Probe,
    /// The system, or the peer's end, failed.
    Io(io::Error),
}

/// The smallest ring, bytes: a page.
pub(crate) const LEAST_RING_BYTES: u32 = 4096;

/// The largest ring, bytes.
pub(crate) const MOST_RING_BYTES: u32 = 16 * 1024 * 1024;

/// How long a side waits for the other until the wire is proved.
pub(crate) const ATTACH_LIMIT: Duration = Duration::from_secs(2);

/// Bytes of memory that one wire takes, of both sides together.
pub(crate) const fn memory_bytes(ring_bytes: u32) -> usize {
    memory::HEADER_BYTES + 2 * ring_bytes as usize
}

/// The memory of a wire as its maker and its taker have it mapped. For tests and fuzzers: nothing on the data path uses it.
pub(crate) fn mapped_twice(ring_bytes: u32) -> Result<[impl Memory; 2], AttachFault> {
    let (made, descriptor) = memory::Shared::make(ring_bytes)?;
    Ok([made, memory::Shared::take(&descriptor, ring_bytes)?])
}

/// Compares two secrets in constant time.
pub(crate) fn same(one: &Token, other: &Token) -> bool {
    one.ct_eq(other).into()
}

impl AttachFault {
    /// The labels of all of them.
    pub(crate) const LABELS: [&str; 7] = ["timed_out", "size", "name", "token", "memory", "probe", "io"];

    /// Where its label stands among [`LABELS`](Self::LABELS).
    pub(crate) const fn index(&self) -> usize {
        match self {
            AttachFault::TimedOut => 0,
            AttachFault::Size => 1,
            AttachFault::Name => 2,
            AttachFault::Token => 3,
            AttachFault::Memory => 4,
            AttachFault::Probe => 5,
            AttachFault::Io(_) => 6,
        }
    }

    /// The label, in logs and metrics.
    pub(crate) const fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
    }
}

impl fmt::Display for AttachFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachFault::Io(error) => error.fmt(f),
            _ => f.write_str(self.label()),
        }
    }
}

impl std::error::Error for AttachFault {}

impl From<io::Error> for AttachFault {
    fn from(error: io::Error) -> Self {
        AttachFault::Io(error)
    }
}

impl From<rustix::io::Errno> for AttachFault {
    fn from(errno: rustix::io::Errno) -> Self {
        AttachFault::Io(errno.into())
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}
