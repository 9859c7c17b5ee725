//! HTTP/1.x: our own codec and relay.
//!
//! The codec does no I/O: [`head`] reads heads, [`body`] finds where bodies end, [`edit`] makes a head for the next
//! hop. Whoever carries HTTP/1 on one side only (the bridge to HTTP/2) uses the same three.

pub mod body;
pub mod edit;
pub mod head;
pub mod pool;

use super::Context;
use crate::io::Io;

pub use pool::Pool;

#[cfg(test)]
mod tests;

/// Serves one HTTP/1 connection until it ends.
pub async fn serve(_io: Io, _context: Context) {
    unimplemented!()
}
