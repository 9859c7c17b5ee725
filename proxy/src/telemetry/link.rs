//! What is counted of links.

use super::exposition::{Exposition, Family, Kind, Unit};
use super::recorder::recorder;
use super::shards::Cells;
use crate::link::frame::{Code, Fault};
use crate::link::session::Side;

/// Counts of links.
pub struct LinkMetrics(std::sync::LazyLock<Cells>);

/// A link, counted as open until this is dropped.
#[derive(Debug)]
pub struct LinkOpen(Side);

/// Counts of links.
pub fn links() -> &'static LinkMetrics {
    &recorder().links
}

impl LinkMetrics {
    /// A link is open.
    pub fn open(&self, side: Side) -> LinkOpen {
        let shard = self.0.shard();
        shard.add(OPENED + side as usize, 1);
        shard.add(OPEN + side as usize, 1);
        LinkOpen(side)
    }

    /// A caller's handshake failed, or it does not speak the link's protocol.
    pub fn refused(&self) {
        self.0.add(REFUSED, 1);
    }

    /// A stream was opened, by this side or towards it.
    #[inline]
    pub fn stream_opened(&self, side: Side) {
        self.0.add(STREAMS + side as usize, 1);
    }

    /// A stream did not end by itself.
    pub fn stream_cut(&self, code: Code) {
        self.0.add(CUTS + code as usize, 1);
    }

    /// Bytes of frames came.
    #[inline]
    pub fn received(&self, bytes: u64) {
        self.0.add(RECEIVED, bytes);
    }

    /// Bytes of frames went out.
    #[inline]
    pub fn sent(&self, bytes: u64) {
        self.0.add(SENT, bytes);
    }

    /// A link of `side` is to be left: this end said so, or its peer did.
    pub fn left(&self, side: Side, by_peer: bool) {
        self.0.add(LEFT + 2 * side as usize + usize::from(by_peer), 1);
    }

    /// A link was lost.
    pub fn fault(&self, fault: Fault) {
        self.0.add(FAULTS + fault as usize, 1);
    }

    pub(super) fn collect(&self, out: &mut Exposition) {
        let cells = &*self.0;
        if cells.untouched() {
            return;
        }
        for side in [Side::Opener, Side::Acceptor] {
            let labels = format!("side=\"{}\",wire=\"tcp\"", label(side));
            out.sample(&OPENED_TOTAL, &labels, cells.sum(OPENED + side as usize));
            out.sample(&OPEN_NOW, &labels, cells.level(OPEN + side as usize));
            out.sample(&STREAMS_TOTAL, &labels, cells.sum(STREAMS + side as usize));
            for (at, by) in ["this", "peer"].into_iter().enumerate() {
                let labels = format!("side=\"{}\",by=\"{by}\"", label(side));
                out.sample(&LEFT_TOTAL, &labels, cells.sum(LEFT + 2 * side as usize + at));
            }
        }
        out.sample(&REFUSED_TOTAL, "", cells.sum(REFUSED));
        for (direction, cell) in [("received", RECEIVED), ("sent", SENT)] {
            let labels = format!("direction=\"{direction}\",wire=\"tcp\"");
            out.sample(&BYTES_TOTAL, &labels, cells.sum(cell));
        }
        for code in Code::ALL {
            let labels = format!("code=\"{}\"", code.label());
            out.sample(&RESETS_TOTAL, &labels, cells.sum(CUTS + code as usize));
        }
        for fault in Fault::ALL {
            let count = cells.sum(FAULTS + fault as usize);
            if count > 0 {
                out.sample(&FAULTS_TOTAL, format_args!("cause=\"{}\"", fault.label()), count);
            }
        }
    }
}

impl Default for LinkMetrics {
    /// Made when the first link is: by then it is known how many workers there are.
    fn default() -> Self {
        LinkMetrics(std::sync::LazyLock::new(|| Cells::new(CELLS)))
    }
}

impl Drop for LinkOpen {
    fn drop(&mut self) {
        links().0.shard().sub(OPEN + self.0 as usize, 1);
    }
}

const fn label(side: Side) -> &'static str {
    match side {
        Side::Opener => "opener",
        Side::Acceptor => "acceptor",
    }
}

const OPENED: usize = 0;
const OPEN: usize = 2;
const STREAMS: usize = 4;
const REFUSED: usize = 6;
const RECEIVED: usize = 7;
const SENT: usize = 8;
const LEFT: usize = 9;
const CUTS: usize = LEFT + 4;
const FAULTS: usize = CUTS + Code::ALL.len();
const CELLS: usize = FAULTS + Fault::ALL.len();

static OPENED_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_opened",
    "Links that came about, by the side that this sidecar is of, and by wire.",
);
static OPEN_NOW: Family = Family::new(Kind::Gauge, Unit::None, "lighter_link_open", "Links that are open.");
static STREAMS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_streams",
    "Streams that were opened on links: exchanges and tunnels.",
);
static LEFT_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_left",
    "Times that one end asked for a link to be left, by the side that this sidecar is of, and by which end.",
);
static REFUSED_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_refused",
    "Connections to the link port whose handshake failed.",
);
static BYTES_TOTAL: Family =
    Family::new(Kind::Counter, Unit::Bytes, "lighter_link_bytes", "Bytes of frames on links, before TLS.");
static RESETS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_resets",
    "Streams of links that were cut off by either side, by code.",
);
static FAULTS_TOTAL: Family =
    Family::new(Kind::Counter, Unit::None, "lighter_link_faults", "Links that were lost, by cause.");
