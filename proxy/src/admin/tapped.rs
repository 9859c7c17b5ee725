//! The page that has no end: what a tap shows.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use crate::telemetry::tap::Tap;

/// Each line as it comes.
pub(super) struct Tapped(Tap);

impl Tapped {
    pub(super) fn new(tap: Tap) -> Self {
        Tapped(tap)
    }
}

impl Body for Tapped {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_line(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
