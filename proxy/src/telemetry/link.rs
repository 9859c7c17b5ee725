//! What is counted of links.

use std::cell::Cell;

use super::exposition::{Exposition, Family, Kind, Unit};
use super::recorder::recorder;
use super::shards::Cells;
use crate::link::carrier::{Cause, Fatal};
use crate::link::frame::{Code, Fault};
use crate::link::negotiate::message::Refusal;
use crate::link::session::Side;
use crate::link::wire::shm::{AttachFault, Stranger};

/// Counts of links.
pub struct LinkMetrics(std::sync::LazyLock<Cells>);

/// A link, counted as open until this is dropped.
#[derive(Debug)]
pub struct LinkOpen {
    side: Side,
    wire: Cell<LinkWire>,
}

/// What carries what a side of a link sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkWire {
    /// A TCP connection.
    Tcp,
    /// Memory that both sides share.
    Shm,
    /// Memory of each side that the other's RDMA device writes to.
    Rdma,
    /// A QUIC connection: not beneath the session of a TCP connection, but in its place.
    Quic,
}

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
        shard.add(WIRES + KINDS * side as usize + LinkWire::Tcp as usize, 1);
        LinkOpen { side, wire: Cell::new(LinkWire::Tcp) }
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

    /// Bytes came.
    #[inline]
    pub fn received(&self, wire: LinkWire, bytes: u64) {
        self.0.add(RECEIVED + wire as usize, bytes);
    }

    /// Bytes went out.
    #[inline]
    pub fn sent(&self, wire: LinkWire, bytes: u64) {
        self.0.add(SENT + wire as usize, bytes);
    }

    /// Bytes went out once more, over TCP.
    pub fn replayed(&self, bytes: u64) {
        self.0.add(REPLAYED, bytes);
    }

    /// A direction of a link went over to another wire.
    pub fn switched(&self) {
        self.0.add(SWITCHES, 1);
    }

    /// A wire was given up.
    pub fn fell_back(&self, cause: Cause) {
        self.0.add(FALLBACKS + cause as usize, 1);
    }

    /// A link lost its TCP connection, and goes on over its wire until it is done.
    pub fn lame(&self) {
        self.0.add(LAME, 1);
    }

    /// A wire was asked for, by this end or its peer.
    pub fn offered(&self, by_peer: bool) {
        self.0.add(OFFERS + usize::from(by_peer), 1);
    }

    /// A wire was refused, by this end or its peer.
    pub fn declined(&self, by_peer: bool, cause: Refusal) {
        self.0.add(DECLINES + 2 * cause as usize + usize::from(by_peer), 1);
    }

    /// The two ends of a link did not meet for a wire.
    pub(crate) fn missed(&self, fault: &AttachFault) {
        self.0.add(MISSES + fault.index(), 1);
    }

    /// Whoever came to the door of shared memory was turned away.
    pub(crate) fn turned_away(&self, stranger: Stranger) {
        self.0.add(STRANGERS + stranger as usize, 1);
    }

    /// So much more memory of rings is held, or less.
    pub fn ring_memory(&self, bytes: i64) {
        self.0.add(MEMORY, bytes as u64);
    }

    /// A ring was asked to make room for another.
    pub fn evicted(&self) {
        self.0.add(EVICTIONS, 1);
    }

    /// A link of `side` is to be left: this end said so, or its peer did.
    pub fn left(&self, side: Side, by_peer: bool) {
        self.0.add(LEFT + 2 * side as usize + usize::from(by_peer), 1);
    }

    /// A link was lost.
    pub fn fault(&self, fault: Fault) {
        self.0.add(FAULTS + fault as usize, 1);
    }

    /// A link was given up by what carries it.
    pub fn given_up(&self, fatal: Fatal) {
        self.0.add(FATALS + fatal as usize, 1);
    }

    pub(super) fn collect(&self, out: &mut Exposition) {
        let cells = &*self.0;
        if cells.untouched() {
            return;
        }
        for side in [Side::Opener, Side::Acceptor] {
            let labels = format!("side=\"{}\"", label(side));
            out.sample(&OPENED_TOTAL, &labels, cells.sum(OPENED + side as usize));
            out.sample(&OPEN_NOW, &labels, cells.level(OPEN + side as usize));
            for wire in LinkWire::ALL {
                let labels = format!("side=\"{}\",wire=\"{}\"", label(side), wire.label());
                out.sample(&WIRE_NOW, &labels, cells.level(WIRES + KINDS * side as usize + wire as usize));
            }
            out.sample(&STREAMS_TOTAL, &labels, cells.sum(STREAMS + side as usize));
            for (at, by) in ["this", "peer"].into_iter().enumerate() {
                let labels = format!("side=\"{}\",by=\"{by}\"", label(side));
                out.sample(&LEFT_TOTAL, &labels, cells.sum(LEFT + 2 * side as usize + at));
            }
        }
        out.sample(&REFUSED_TOTAL, "", cells.sum(REFUSED));
        for (direction, cell) in [("received", RECEIVED), ("sent", SENT)] {
            for wire in LinkWire::ALL {
                let labels = format!("direction=\"{direction}\",wire=\"{}\"", wire.label());
                out.sample(&BYTES_TOTAL, &labels, cells.sum(cell + wire as usize));
            }
        }
        self.collect_wires(out);
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
        for fatal in Fatal::ALL {
            let count = cells.sum(FATALS + fatal as usize);
            if count > 0 {
                out.sample(&FAULTS_TOTAL, format_args!("cause=\"carrier_{}\"", fatal.label()), count);
            }
        }
    }
}

impl LinkMetrics {
    /// What is counted of wires beside TCP.
    fn collect_wires(&self, out: &mut Exposition) {
        let cells = &*self.0;
        out.sample(&REPLAYED_TOTAL, "", cells.sum(REPLAYED));
        out.sample(&SWITCHES_TOTAL, "", cells.sum(SWITCHES));
        out.sample(&LAME_TOTAL, "", cells.sum(LAME));
        out.sample(&MEMORY_NOW, "", cells.level(MEMORY));
        out.sample(&EVICTIONS_TOTAL, "", cells.sum(EVICTIONS));
        for cause in CAUSES {
            let labels = format_args!("cause=\"{}\"", cause.label());
            out.sample(&FALLBACKS_TOTAL, labels, cells.sum(FALLBACKS + cause as usize));
        }
        for (at, by) in ["this", "peer"].into_iter().enumerate() {
            out.sample(&OFFERS_TOTAL, format_args!("by=\"{by}\""), cells.sum(OFFERS + at));
            for cause in Refusal::ALL {
                let count = cells.sum(DECLINES + 2 * cause as usize + at);
                if count > 0 {
                    let labels = format_args!("by=\"{by}\",cause=\"{}\"", cause.label());
                    out.sample(&DECLINES_TOTAL, labels, count);
                }
            }
        }
        for (at, cause) in AttachFault::LABELS.into_iter().enumerate() {
            let count = cells.sum(MISSES + at);
            if count > 0 {
                out.sample(&MISSES_TOTAL, format_args!("cause=\"{cause}\""), count);
            }
        }
        for stranger in Stranger::ALL {
            let labels = format_args!("cause=\"{}\"", stranger.label());
            out.sample(&STRANGERS_TOTAL, labels, cells.sum(STRANGERS + stranger as usize));
        }
    }
}

impl LinkOpen {
    /// What is sent goes over `wire` from now on.
    pub fn goes_over(&self, wire: LinkWire) {
        let before = self.wire.replace(wire);
        if before != wire {
            let shard = links().0.shard();
            shard.sub(self.cell(before), 1);
            shard.add(self.cell(wire), 1);
        }
    }

    fn cell(&self, wire: LinkWire) -> usize {
        WIRES + KINDS * self.side as usize + wire as usize
    }
}

impl LinkWire {
    /// All of them.
    pub const ALL: [LinkWire; 4] = [LinkWire::Tcp, LinkWire::Shm, LinkWire::Rdma, LinkWire::Quic];

    /// The label, in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            LinkWire::Tcp => "tcp",
            LinkWire::Shm => "shm",
            LinkWire::Rdma => "rdma",
            LinkWire::Quic => "quic",
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
        let shard = links().0.shard();
        shard.sub(OPEN + self.side as usize, 1);
        shard.sub(self.cell(self.wire.get()), 1);
    }
}

const fn label(side: Side) -> &'static str {
    match side {
        Side::Opener => "opener",
        Side::Acceptor => "acceptor",
    }
}

/// Kinds of wires.
const KINDS: usize = LinkWire::ALL.len();

const OPENED: usize = 0;
const OPEN: usize = 2;
const STREAMS: usize = 4;
const REFUSED: usize = 6;
const RECEIVED: usize = 7;
const SENT: usize = RECEIVED + KINDS;
const LEFT: usize = SENT + KINDS;
const WIRES: usize = LEFT + 4;
const REPLAYED: usize = WIRES + 2 * KINDS;
const SWITCHES: usize = REPLAYED + 1;
const MEMORY: usize = SWITCHES + 1;
const EVICTIONS: usize = MEMORY + 1;
const LAME: usize = EVICTIONS + 1;
const OFFERS: usize = LAME + 1;
/// Causes begin with 1.
const FALLBACKS: usize = OFFERS + 2;
const DECLINES: usize = FALLBACKS + CAUSES.len() + 1;
const MISSES: usize = DECLINES + 2 * Refusal::ALL.len();
const STRANGERS: usize = MISSES + AttachFault::LABELS.len();
const CUTS: usize = STRANGERS + Stranger::ALL.len();
const FAULTS: usize = CUTS + Code::ALL.len();
const FATALS: usize = FAULTS + Fault::ALL.len();
const CELLS: usize = FATALS + Fatal::ALL.len();

/// Why a wire was given up.
const CAUSES: [Cause; 6] =
    [Cause::Policy, Cause::Fault, Cause::Stall, Cause::Deadline, Cause::Peer, Cause::Room];

static OPENED_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_opened",
    "Links that came about, by the side that this sidecar is of.",
);
static WIRE_NOW: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_link_wire",
    "Links that are open, by the wire over which this sidecar sends on them.",
);
static REPLAYED_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::Bytes,
    "lighter_link_replayed_bytes",
    "Bytes that had gone out over another wire, and went out again over TCP as that was given up.",
);
static SWITCHES_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_switches",
    "Times that one direction of a link went over to another wire than TCP.",
);
static LAME_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_lame",
    "Links that lost their TCP connection while another wire carried them: what runs goes on over that for a time, and nothing new.",
);
static FALLBACKS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_fallbacks",
    "Wires of links that were given up, by cause.",
);
static OFFERS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_offers",
    "Times that one end of a link asked for a wire beside TCP, by which end.",
);
static DECLINES_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_declines",
    "Times that one end of a link refused a wire, by which end and by cause.",
);
static MISSES_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_attach_failures",
    "Times that the two ends of a link agreed on a wire and did not meet for it, by cause.",
);
static STRANGERS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_strangers",
    "Times that whoever came to the door of shared memory was turned away, by cause.",
);
static MEMORY_NOW: Family =
    Family::new(Kind::Gauge, Unit::Bytes, "lighter_link_ring_bytes", "Memory of rings beneath links.");
static EVICTIONS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_evictions",
    "Rings that rested and were asked to make room for others.",
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
static BYTES_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::Bytes,
    "lighter_link_bytes",
    "Bytes of TLS that links carried, by wire; of QUIC, bytes of UDP.",
);
static RESETS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_link_resets",
    "Streams of links that were cut off by either side, by code.",
);
static FAULTS_TOTAL: Family =
    Family::new(Kind::Counter, Unit::None, "lighter_link_faults", "Links that were lost, by cause.");
