//! One wire of a link, from its offer until both sides are done with it.

/// A generation: the wire that was agreed on, and how far each direction has got with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Generation<W> {
    pub(super) number: u32,
    /// Once it was proved from this side.
    pub(super) wire: Option<W>,
    /// The way out is to go over at the next boundary.
    pub(super) wanted: bool,
    /// From where on the way out is on the wire.
    pub(super) out_from: Option<u64>,
    /// From where on the way in is.
    pub(super) in_from: Option<u64>,
    /// What the peer has consumed of the way out, as it has published it. Counted as the wire counts.
    pub(super) consumed: u64,
    /// It is over on this side, and why.
    pub(super) frozen: Option<Cause>,
    /// The peer was told so.
    pub(super) told: bool,
    /// Up to where the peer has the way out: it is over there.
    pub(super) peer_has: Option<u64>,
}

/// Why a generation ends. In records only a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// It is not wanted any more.
    Policy = 1,
    /// The wire failed.
    Fault = 2,
    /// The other side made no room on the wire.
    Stall = 3,
    /// It was not in use in time.
    Deadline = 4,
    /// The other side has ended it.
    Peer = 5,
    /// It rested, and its memory was needed for another link, on this side or the other.
    Room = 6,
}

impl Cause {
    /// The label, in logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::Policy => "policy",
            Cause::Fault => "fault",
            Cause::Stall => "stall",
            Cause::Deadline => "deadline",
            Cause::Peer => "peer",
            Cause::Room => "room",
        }
    }
}

impl<W> Generation<W> {
    pub(super) fn new(number: u32) -> Self {
        Generation {
            number,
            wire: None,
            wanted: false,
            out_from: None,
            in_from: None,
            consumed: 0,
            frozen: None,
            told: false,
            peer_has: None,
        }
    }

    /// Whether nothing of it was ever said beneath TLS.
    pub(super) fn is_unsaid(&self) -> bool {
        self.out_from.is_none() && self.in_from.is_none() && self.frozen.is_none()
    }
}
