//! What is counted of links over QUIC, beside what is counted of every link.

use std::sync::LazyLock;

use super::exposition::{Exposition, Family, Kind, Unit};
use super::recorder::recorder;
use super::shards::Cells;
use crate::link::session::Side;

/// Counts of links over QUIC.
pub struct QuicMetrics(LazyLock<Cells>);

/// How a handshake went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuicHandshake {
    /// Both sides proved who they are.
    Done,
    /// One did not, or does not speak the protocol.
    Failed,
    /// There was no end to it in time.
    Late,
    /// This side did not let it begin, or the other did not.
    Refused,
}

/// Why new requests go by another kind of link than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuicSwitch {
    /// To QUIC: the policy says so.
    Policy,
    /// To QUIC: TCP lost much of what it sent.
    Loss,
    /// Back to TCP: nothing was lost for a while.
    Calm,
    /// Back to TCP: the policy forbids QUIC by now.
    Forbidden,
    /// Back to TCP: nothing came back over UDP.
    Stalled,
    /// Back to TCP: the connection ended.
    Lost,
}

/// Counts of links over QUIC.
pub fn quic() -> &'static QuicMetrics {
    &recorder().quic
}

impl QuicMetrics {
    /// A handshake of `side` ended.
    pub(crate) fn handshake(&self, side: Side, how: QuicHandshake) {
        self.0.add(HANDSHAKES + QuicHandshake::ALL.len() * side as usize + how as usize, 1);
    }

    /// Whoever began a handshake was asked to prove its address first.
    pub(crate) fn retried(&self) {
        self.0.add(RETRIES, 1);
    }

    /// An endpoint of which links have `side` ended, and is made anew.
    pub(crate) fn endpoint_ended(&self, side: Side) {
        self.0.add(ENDPOINTS + side as usize, 1);
    }

    /// Datagrams went out, came in, and packets were lost.
    pub(crate) fn carried(&self, sent: u64, received: u64, lost: u64) {
        self.0.add(DATAGRAMS, sent);
        self.0.add(DATAGRAMS + 1, received);
        self.0.add(LOST, lost);
    }

    /// A datagram came to another worker than its own.
    pub(crate) fn stray(&self, handed_on: bool) {
        self.0.add(STRAYS + usize::from(!handed_on), 1);
    }

    /// The other side of a link was found at another address than before.
    pub(crate) fn moved(&self) {
        self.0.add(MOVES, 1);
    }

    /// A stream was opened by `side`, or towards it.
    #[inline]
    pub(crate) fn stream(&self, side: Side) {
        self.0.add(STREAMS + side as usize, 1);
    }

    /// New requests go by another kind of link.
    pub(crate) fn switched(&self, why: QuicSwitch) {
        self.0.add(SWITCHES + why as usize, 1);
    }

    pub(super) fn collect(&self, out: &mut Exposition) {
        let cells = &*self.0;
        if cells.untouched() {
            return;
        }
        for side in [Side::Opener, Side::Acceptor] {
            let name = if side == Side::Opener { "opener" } else { "acceptor" };
            for how in QuicHandshake::ALL {
                let labels = format_args!("side=\"{name}\",outcome=\"{}\"", how.label());
                let cell = HANDSHAKES + QuicHandshake::ALL.len() * side as usize + how as usize;
                out.sample(&HANDSHAKES_TOTAL, labels, cells.sum(cell));
            }
            let ended = cells.sum(ENDPOINTS + side as usize);
            out.sample(&ENDPOINTS_TOTAL, format_args!("side=\"{name}\""), ended);
            out.sample(&STREAMS_TOTAL, format_args!("side=\"{name}\""), cells.sum(STREAMS + side as usize));
        }
        out.sample(&RETRIES_TOTAL, "", cells.sum(RETRIES));
        for (at, direction) in ["sent", "received"].into_iter().enumerate() {
            let labels = format_args!("direction=\"{direction}\"");
            out.sample(&DATAGRAMS_TOTAL, labels, cells.sum(DATAGRAMS + at));
        }
        out.sample(&LOST_TOTAL, "", cells.sum(LOST));
        for (at, outcome) in ["handed_on", "dropped"].into_iter().enumerate() {
            out.sample(&STRAYS_TOTAL, format_args!("outcome=\"{outcome}\""), cells.sum(STRAYS + at));
        }
        out.sample(&MOVES_TOTAL, "", cells.sum(MOVES));
        for why in QuicSwitch::ALL {
            let labels = format_args!("to=\"{}\",cause=\"{}\"", why.to(), why.label());
            out.sample(&SWITCHES_TOTAL, labels, cells.sum(SWITCHES + why as usize));
        }
    }
}

impl QuicHandshake {
    const ALL: [QuicHandshake; 4] =
        [QuicHandshake::Done, QuicHandshake::Failed, QuicHandshake::Late, QuicHandshake::Refused];

    const fn label(self) -> &'static str {
        match self {
            QuicHandshake::Done => "done",
            QuicHandshake::Failed => "failed",
            QuicHandshake::Late => "late",
            QuicHandshake::Refused => "refused",
        }
    }
}

impl QuicSwitch {
    const ALL: [QuicSwitch; 6] = [
        QuicSwitch::Policy,
        QuicSwitch::Loss,
        QuicSwitch::Calm,
        QuicSwitch::Forbidden,
        QuicSwitch::Stalled,
        QuicSwitch::Lost,
    ];

    const fn to(self) -> &'static str {
        match self {
            QuicSwitch::Policy | QuicSwitch::Loss => "quic",
            QuicSwitch::Calm | QuicSwitch::Forbidden | QuicSwitch::Stalled | QuicSwitch::Lost => "tcp",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            QuicSwitch::Policy => "policy",
            QuicSwitch::Loss => "loss",
            QuicSwitch::Calm => "calm",
            QuicSwitch::Forbidden => "forbidden",
            QuicSwitch::Stalled => "stalled",
            QuicSwitch::Lost => "lost",
        }
    }
}

impl Default for QuicMetrics {
    /// Its cells are made when something is counted: by then it is known how many workers there are.
    fn default() -> Self {
        QuicMetrics(LazyLock::new(|| Cells::new(CELLS)))
    }
}

const HANDSHAKES: usize = 0;
const RETRIES: usize = HANDSHAKES + 2 * QuicHandshake::ALL.len();
const DATAGRAMS: usize = RETRIES + 1;
const LOST: usize = DATAGRAMS + 2;
const STRAYS: usize = LOST + 1;
const STREAMS: usize = STRAYS + 2;
const SWITCHES: usize = STREAMS + 2;
const ENDPOINTS: usize = SWITCHES + QuicSwitch::ALL.len();
const MOVES: usize = ENDPOINTS + 2;
const CELLS: usize = MOVES + 1;

static HANDSHAKES_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_quic_handshakes",
    "Handshakes of links over QUIC, by the side that this sidecar is of and by how they went.",
);
static STREAMS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_quic_streams",
    "Streams that were opened on links over QUIC: requests and tunnels. They are among lighter_link_streams_total too.",
);
static ENDPOINTS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_quic_endpoints_ended",
    "Endpoints of links over QUIC that ended and were made anew, by the side of which their links are.",
);
static RETRIES_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_quic_retries",
    "Handshakes whose beginner was asked to prove its address first, as many were open.",
);
static DATAGRAMS_TOTAL: Family =
    Family::new(Kind::Counter, Unit::None, "lighter_quic_datagrams", "Datagrams of links over QUIC.");
static LOST_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_quic_lost_packets",
    "Packets of links over QUIC that this sidecar sent and that did not arrive.",
);
static STRAYS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_quic_strays",
    "Datagrams that came to another worker than the one whose connection they are of.",
);
static MOVES_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_quic_moves",
    "Times that whoever opened a link over QUIC was found at another address than before.",
);
static SWITCHES_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_quic_switches",
    "Times that new requests of a worker to a sidecar went over to another kind of link, by kind and cause.",
);
