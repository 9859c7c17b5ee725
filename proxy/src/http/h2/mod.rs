//! HTTP/2: relay between `h2` connections with real backpressure.

use super::Context;
use crate::io::Io;

/// Open HTTP/2 connections of one worker, by endpoint.
#[derive(Default)]
pub struct Pool {}

/// Serves one HTTP/2 connection (prior knowledge) until it ends.
pub async fn serve(_io: Io, _context: Context) {
    unimplemented!()
}
