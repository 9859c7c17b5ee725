//! What is done in the machine.

mod check;
mod faults;
mod peer;
mod side;
mod writes;

pub use peer::run as peer;

/// Set where this program runs in the machine.
pub const INSIDE: &str = "LIGHTER_VM_INSIDE";

/// Set where it is a peer of a test there: how that behaves.
pub const PEER: &str = "LIGHTER_VM_PEER";

/// The device there, over the loopback.
pub const DEVICE: &str = "rxe0";

/// Each test and its name.
pub fn tests() -> Vec<(&'static str, fn())> {
    [check::tests(), writes::tests(), faults::tests()].concat()
}
