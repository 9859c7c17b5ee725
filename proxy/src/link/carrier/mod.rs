//! The carrier: what lies beneath TLS on a link, and goes over from TCP to another [`Wire`](super::wire::Wire) and back
//! while the session above runs on. PROTOCOL.md in the folder above has its contract.
//!
//! [`Machine`] is all that it decides: no socket, no clock, no randomness. [`Beneath`] moves the bytes.

mod alarm;
pub(super) mod anchor;
mod beneath;
mod fatal;
mod generation;
mod inward;
mod keys;
mod machine;
mod outward;
mod record;
mod walk;

#[cfg(test)]
mod tests;

pub(crate) use self::anchor::look_after;
pub use self::beneath::Beneath;
pub use self::fatal::Fatal;
pub use self::generation::Cause;
pub use self::keys::Keys;
pub use self::machine::{Counts, Event, Finish, In, Machine, Out};
pub use self::record::{Kind, PROOF_BYTES, Prove, RECORD_BYTES};
pub(crate) use self::walk::Walk;
