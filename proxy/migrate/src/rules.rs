//! How long is waited for what, and how much is kept meanwhile.

use std::time::Duration;

/// What a migration's coordinator goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// How long the new place may take to reserve what it needs, and to become healthy, each.
    pub prepare: Duration,
    /// How many rounds are copied while the old place serves, at most.
    pub rounds: u32,
    /// A round of no more bytes is the last one.
    pub small: u64,
    /// How long one round may take while the old place serves.
    pub round: Duration,
    /// How long the last one may take.
    pub copy: Duration,
    /// How long clients' sidecars hold, at most.
    pub holds: Duration,
    /// How long the old place lets running requests end.
    pub quiesce: Duration,
    /// How much longer is waited for it to say so.
    pub answer: Duration,
    /// How long the store may take to decide, and the new place to say that it has everything.
    pub fence: Duration,
    /// What becomes of streams that run longer.
    pub streams: Streams,
    /// How long callers may take to be told where the service is, and the old place that it has moved, each.
    pub switch: Duration,
    /// How long the old place may take to drain.
    pub drain: Duration,
    /// After how long what was not answered is said again.
    pub again: Duration,
}

/// What becomes of streams that do not end while the old place quiesces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Streams {
    /// The migration is aborted.
    Wait,
    /// They are cut, and their callers hear that the outcome is unknown.
    Cut,
}

/// How much may be kept waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Requests.
    pub count: usize,
    /// Bytes of them that are in memory.
    pub bytes: usize,
    /// How long one waits, whatever its own deadline.
    pub time: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            prepare: Duration::from_secs(10),
            rounds: 4,
            small: 256 << 10,
            round: Duration::from_secs(60),
            copy: Duration::from_secs(60),
            holds: Duration::from_secs(5),
            quiesce: Duration::from_secs(2),
            answer: Duration::from_secs(1),
            fence: Duration::from_secs(5),
            streams: Streams::Wait,
            switch: Duration::from_secs(5),
            drain: Duration::from_secs(30),
            again: Duration::from_millis(200),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { count: 1024, bytes: 16 << 20, time: Duration::from_secs(5) }
    }
}
