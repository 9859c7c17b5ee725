//! What is always so. For tests and fuzzers: nothing on the data path asks.

use super::Session;
use super::stream::Stream;

impl Session {
    /// Panics where the accounts do not agree with what is there.
    #[doc(hidden)]
    pub fn assert_sound(&self) {
        let (mut held, mut windows, mut heads) = (0u64, 0u64, 0usize);
        for stream in self.streams.values() {
            self.assert_stream(stream);
            held += u64::from(stream.inward.held);
            windows += u64::from(stream.inward.window.size());
            heads += stream.inward.heads_held();
        }
        if self.fault.is_none() {
            assert_eq!(self.window.held(), held, "what the link holds is what its streams hold");
        }
        assert_eq!(self.windows, windows);
        assert_eq!(self.heads, heads);
        let grants = self.lanes.is_none();
        assert!(!grants || self.window.size() <= self.limits.session_window.max(super::SESSION_CREDIT));
        assert!(self.heads <= self.limits.heads);
        assert!(self.streams.len() <= 2 * self.limits.open_streams);
    }

    /// Bytes of bodies that wait here: to be read or released, and to be sent.
    #[doc(hidden)]
    pub fn holds(&self) -> (usize, usize) {
        let queued = self.streams.values().map(|stream| stream.out.queued as usize).sum();
        assert_eq!(self.queued, queued);
        (self.window.held() as usize, queued)
    }

    /// What this side may still send on all streams, and what the peer may.
    #[doc(hidden)]
    pub fn credits(&self) -> (u32, u32) {
        (self.credit, self.window.left())
    }

    fn assert_stream(&self, stream: &Stream) {
        let (out, inward) = (&stream.out, &stream.inward);
        assert_eq!(out.bodies.iter().map(bytes::Bytes::len).sum::<usize>(), out.queued as usize);
        assert!(out.ready || out.queued == 0, "who has something to send waits for its turn");
        assert!(inward.body.len() <= inward.held as usize, "nothing is kept that was not granted");
        if stream.cut.is_none() && self.fault.is_none() {
            assert_eq!(inward.window.held(), u64::from(inward.held));
        }
        let grants = self.lanes.is_none();
        assert!(!grants || inward.window.size() <= self.limits.stream_window.max(super::STREAM_CREDIT));
        assert!(!stream.is_over(), "what is over is forgotten");
    }
}
