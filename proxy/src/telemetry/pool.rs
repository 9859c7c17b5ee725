//! What is counted of the connections to endpoints that HTTP exchanges share.

use std::cell::Cell;
use std::fmt;
use std::sync::LazyLock;

use super::Spoken;
use super::exposition::{Exposition, Family, Kind, Unit};
use super::recorder::recorder;
use super::shards::Cells;

/// Why a connection to an endpoint was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolClosed {
    /// It rested, or lived, for as long as it may.
    Expired,
    /// There were as many resting connections as the policy keeps.
    Full,
    /// The upstream closed it while it rested, said something unasked, or asked for its end.
    Upstream,
    /// Its exchange did not leave it fit for another: one side wanted it closed, or it broke.
    Ended,
    /// This sidecar is draining.
    Draining,
    /// What was proved on it is about to hold no more.
    Unproven,
    /// Memory or descriptors run short.
    Pressed,
}

/// A connection to an endpoint, counted from its opening until this is dropped.
pub struct Pooled {
    cells: &'static Cells,
    used: Cell<bool>,
    resting: Cell<bool>,
    why: Cell<Option<PoolClosed>>,
}

/// The counts of HTTP/1 and of HTTP/2 connections.
pub(super) struct Pools(LazyLock<[Cells; 2]>);

impl Pooled {
    /// A connection that was just opened, for `Spoken::Http1` or HTTP/2.
    pub fn open(spoken: Spoken) -> Self {
        let cells = &recorder().pools.0[usize::from(spoken != Spoken::Http1)];
        cells.add(OPENED, 1);
        Pooled { cells, used: Cell::new(false), resting: Cell::new(false), why: Cell::new(None) }
    }

    /// An exchange begins on it: its first, or one that reuses it.
    #[inline]
    pub fn begin(&self) {
        let shard = self.cells.shard();
        if self.used.replace(true) {
            shard.add(REUSED, 1);
        }
        if self.resting.replace(false) {
            shard.sub(RESTING, 1);
        }
    }

    /// No exchange is on it any more, and it is kept for the next.
    #[inline]
    pub fn rest(&self) {
        if !self.resting.replace(true) {
            self.cells.add(RESTING, 1);
        }
    }

    /// Says why it is about to be closed. The first reason counts; without one it is [`PoolClosed::Ended`].
    pub fn closes(&self, why: PoolClosed) {
        self.why.set(self.why.get().or(Some(why)));
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let shard = self.cells.shard();
        shard.add(CLOSED + self.why.get().unwrap_or(PoolClosed::Ended) as usize, 1);
        if self.resting.get() {
            shard.sub(RESTING, 1);
        }
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled").field("resting", &self.resting).finish_non_exhaustive()
    }
}

impl Default for Pools {
    /// Made when the first connection is opened: by then it is known how many workers there are.
    fn default() -> Self {
        Pools(LazyLock::new(|| [Cells::new(CELLS), Cells::new(CELLS)]))
    }
}

impl Pools {
    pub(super) fn collect(&self, out: &mut Exposition) {
        for (protocol, cells) in ["http1", "http2"].iter().zip(&*self.0) {
            if cells.untouched() {
                continue;
            }
            let labels = format!("protocol=\"{protocol}\"");
            out.sample(&OPENED_TOTAL, &labels, cells.sum(OPENED));
            out.sample(&REUSED_TOTAL, &labels, cells.sum(REUSED));
            out.sample(&IDLE, &labels, cells.level(RESTING));
            for reason in PoolClosed::ALL {
                let count = cells.sum(CLOSED + reason as usize);
                out.sample(&CLOSED_TOTAL, format_args!("{labels},reason=\"{}\"", reason.label()), count);
            }
        }
    }
}

impl PoolClosed {
    const ALL: [PoolClosed; 7] = [
        PoolClosed::Expired,
        PoolClosed::Full,
        PoolClosed::Upstream,
        PoolClosed::Ended,
        PoolClosed::Draining,
        PoolClosed::Unproven,
        PoolClosed::Pressed,
    ];

    const fn label(self) -> &'static str {
        match self {
            PoolClosed::Expired => "expired",
            PoolClosed::Full => "full",
            PoolClosed::Upstream => "upstream",
            PoolClosed::Ended => "ended",
            PoolClosed::Draining => "draining",
            PoolClosed::Unproven => "unproven",
            PoolClosed::Pressed => "pressed",
        }
    }
}

const OPENED: usize = 0;
const REUSED: usize = 1;
const RESTING: usize = 2;
const CLOSED: usize = 3;
const CELLS: usize = CLOSED + PoolClosed::ALL.len();

static OPENED_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_pool_connections_opened",
    "Connections to endpoints that were opened for HTTP exchanges.",
);
static REUSED_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_pool_connections_reused",
    "Exchanges that used a connection to an endpoint which had carried one before.",
);
static IDLE: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_pool_connections_idle",
    "Open connections to endpoints without an exchange.",
);
static CLOSED_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_pool_connections_closed",
    "Connections to endpoints that were closed, by reason.",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_counted_from_its_opening_to_its_end() {
        let cells: &'static Cells = Box::leak(Box::new(Cells::new(CELLS)));
        let open =
            || Pooled { cells, used: Cell::new(false), resting: Cell::new(false), why: Cell::new(None) };
        let (one, other) = (open(), open());
        one.begin();
        one.rest();
        one.rest();
        other.begin();
        assert_eq!((cells.sum(REUSED), cells.level(RESTING)), (0, 1));
        one.begin();
        assert_eq!((cells.sum(REUSED), cells.level(RESTING)), (1, 0));
        one.rest();
        one.closes(PoolClosed::Expired);
        one.closes(PoolClosed::Upstream);
        drop((one, other));
        assert_eq!(cells.level(RESTING), 0);
        assert_eq!(cells.sum(CLOSED + PoolClosed::Expired as usize), 1);
        assert_eq!(cells.sum(CLOSED + PoolClosed::Ended as usize), 1);
        assert_eq!(cells.sum(CLOSED + PoolClosed::Upstream as usize), 0);
    }
}
