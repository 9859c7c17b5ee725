//! `lighter proxy`: the sidecar alone, in the network namespace in which it is started. All of it is `lighter-proxy`'s.

use crate::exit::Exit;

pub use lighter_proxy::command::Args;

/// Runs the command until the sidecar has drained.
pub fn execute(args: &Args) -> Exit {
    Exit::Status(lighter_proxy::command::execute(args))
}
