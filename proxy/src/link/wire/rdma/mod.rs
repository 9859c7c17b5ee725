//! RDMA: a wire between two sidecars whose hosts have devices for it.
//!
//! Each side has two rings, one of which is its own copy of what it sends, and one into which the peer's device writes. The
//! two tell each other in CONTROL frames of the link where these lie ([`Card`]), connect a queue pair each ([`End`]), and
//! prove in a slot behind the rings that whoever is at the other end of it is who is at the other end of the link. What is
//! sent when is decided without any device ([`Core`], over a [`Provider`]). PROTOCOL.md beside this file says it byte by byte.
//!
//! Each wire has a protection domain of its own, so that no peer reaches what belongs to another, and a completion queue of
//! its own, which wakes the one task that needs it.

mod core;
mod devices;
mod end;
mod immediate;
mod provider;
mod verbs;

pub(crate) use self::core::{Core, QUEUE};
pub(crate) use self::devices::{Devices, Way};
pub(crate) use self::end::{Card, Connected, End};
pub(crate) use self::provider::{Ended, Message, Provider};

/// Bytes of memory that one side of a wire takes.
pub(crate) const fn memory_bytes(ring_bytes: u32) -> usize {
    2 * (ring_bytes as usize + end::SLOT_BYTES)
}
