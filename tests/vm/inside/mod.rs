//! What is done in the machine.

mod broken;
mod cable;
mod check;
mod costs;
mod faults;
mod hosts;
mod many;
mod mesh;
mod peer;
mod several;
mod side;
mod wires;
mod writes;

use crate::support::full;

pub use costs::print as print_costs;
pub use peer::run as peer;

/// Set where this program runs in the machine: what it is to do there, [`TESTS`] or [`COSTS`].
pub const INSIDE: &str = "LIGHTER_VM_INSIDE";

/// All tests.
pub const TESTS: &str = "tests";

/// See [`print_costs`].
pub const COSTS: &str = "costs";

/// Set where it is a peer of a test there: how that behaves.
pub const PEER: &str = "LIGHTER_VM_PEER";

/// The device there, over the loopback.
pub const DEVICE: &str = "rxe0";

/// Names the program that is `lighter` in the machine. Otherwise it is the one of this build.
pub const SIDECAR: &str = "LIGHTER_VM_SIDECAR";

/// Each test and its name. A sidecar takes long where the processor is software: those with whole ones are of a run with another
/// build of it, which has no others, or of the full counts, and the longest of these alone.
pub fn tests() -> Vec<(&'static str, fn())> {
    let mut tests = Vec::new();
    if !is_given() {
        tests.extend([check::tests(), writes::tests(), faults::tests()]);
    }
    if is_given() || full() {
        tests.extend([wires::tests(), broken::tests(), several::tests()]);
    }
    if full() {
        tests.push(many::tests());
    }
    tests.into_iter().flatten().collect()
}

/// Whether there is another build of the sidecar.
pub fn is_given() -> bool {
    std::env::var_os(SIDECAR).is_some()
}
