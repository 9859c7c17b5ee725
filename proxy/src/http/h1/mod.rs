//! HTTP/1.x: our own codec and relay.

use super::Context;
use crate::io::Io;

/// Kept connections of one worker, by endpoint.
#[derive(Default)]
pub struct Pool {}

/// Serves one HTTP/1 connection until it ends.
pub async fn serve(_io: Io, _context: Context) {
    unimplemented!()
}
