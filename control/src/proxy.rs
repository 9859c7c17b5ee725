//! `lighter proxy`: the sidecar alone, in the network namespace in which it is started. All of it is `lighter-proxy`'s, but for the
//! functions of a device.

use crate::exit::Exit;
use crate::functions;

pub use lighter_proxy::command::Args;

/// Runs the command until the sidecar has drained.
pub fn execute(args: &Args) -> Exit {
    Exit::Status(lighter_proxy::command::execute(args, Some(functions::host)))
}
