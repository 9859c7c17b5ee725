//! What a peer may make grow, and how fast.

use std::time::{Duration, Instant};

/// Limits of one link. All but the windows are this side's own choice; the windows' beginnings are the protocol's.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams that this side opens at once. One that accepts refuses those above twice as many: what has ended over
    /// there may not have been read over here.
    pub open_streams: usize,
    /// The largest window of one stream, bytes.
    pub stream_window: u32,
    /// The largest window of all streams together, bytes: what the link can make this side hold.
    pub session_window: u32,
    /// Bytes of heads and trailers that wait to be read.
    pub heads: usize,
    /// Bytes of heads and answers of this side that the peer does not read, while it goes on sending.
    pub unsent: usize,
    /// Streams that whoever opened them resets in a second. This side itself stays at half of it.
    pub resets_per_second: u32,
    /// PINGs in a second.
    pub pings_per_second: u32,
    /// CONTROL and LEAVE frames in a second.
    pub controls_per_second: u32,
    /// Frames in a second that move nothing: empty ones, small ones for streams that have ended, informational heads.
    pub useless_per_second: u32,
    /// With streams open and nothing heard for so long, a PING is sent,
    pub ping_after: Duration,
    /// and with nothing heard for so long after it the link is given up.
    pub ping_wait: Duration,
}

impl Limits {
    /// The largest window of all streams together by default, bytes.
    pub const SESSION_WINDOW: u32 = 16 * 1024 * 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            open_streams: 1000,
            stream_window: 1024 * 1024,
            session_window: Limits::SESSION_WINDOW,
            heads: 4 * 1024 * 1024,
            unsent: 8 * 1024 * 1024,
            resets_per_second: 2000,
            pings_per_second: 10,
            controls_per_second: 100,
            useless_per_second: 10_000,
            ping_after: Duration::from_secs(10),
            ping_wait: Duration::from_secs(5),
        }
    }
}

/// Counts how often something happens in a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    since: Instant,
    count: u32,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Meter { since: now, count: 0 }
    }

    /// It happened. Whether it may, this second.
    pub(crate) fn count(&mut self, now: Instant, limit: u32) -> bool {
        if now.saturating_duration_since(self.since) >= SECOND {
            *self = Meter::new(now);
        }
        self.count = self.count.saturating_add(1);
        self.count <= limit
    }

    /// When the next second begins.
    pub(super) fn turn(&self) -> Instant {
        self.since + SECOND
    }
}

const SECOND: Duration = Duration::from_secs(1);
