//! How many descriptors and connections this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft descriptor limit to the hard one. Called before any thread is made.
pub(super) fn raise_descriptors() {
    let now = getrlimit(Resource::Nofile);
    if now.current == now.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now }) {
        tracing::warn!(?now, %error, "cannot raise the descriptor limit");
    }
}

/// How many descriptors this process may have.
pub(super) fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED)
}

/// Downstream connections that fit: each may need a second descriptor for its upstream, and a tenth is left for
/// everything else.
pub(super) fn connections() -> usize {
    (usize::try_from(descriptors()).unwrap_or(usize::MAX) / 10 * 9 / 2).max(1)
}

/// What "no limit" is taken for: the kernel's own ceiling (`fs.nr_open`) as it is by default.
const UNLIMITED: u64 = 1 << 20;
