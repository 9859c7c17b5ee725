//! What a link does not survive.

use std::fmt;
use std::io;

/// Why a link is given up by its carrier. There is no way back from any of these, to no wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fatal {
    /// A record of the carrier before the handshake was done.
    Early,
    /// A record of the carrier that says nothing that is known.
    Malformed,
    /// A record that the other end of the TLS session did not make.
    Proof,
    /// A record for a generation that is over, or that nobody has agreed on.
    Generation,
    /// A record that does not follow what was said before.
    Order,
    /// A record whose offset cannot be.
    Offset,
    /// Bytes on TCP while their direction is on another wire, or behind its end.
    Stray,
    /// The other side has less of this direction than it had consumed.
    Replay,
    /// The wire's cursors say what cannot be.
    Hostile,
    /// The connection ended before the direction did.
    Truncated,
    /// The other side did not say up to where it has this direction.
    Unanswered,
    /// The TCP connection was lost, and a wire cannot be left without it.
    Lost,
}

impl Fatal {
    /// Every cause, in order.
    pub const ALL: [Fatal; 12] = [
        Fatal::Early,
        Fatal::Malformed,
        Fatal::Proof,
        Fatal::Generation,
        Fatal::Order,
        Fatal::Offset,
        Fatal::Stray,
        Fatal::Replay,
        Fatal::Hostile,
        Fatal::Truncated,
        Fatal::Unanswered,
        Fatal::Lost,
    ];

    /// Whether the connection just ended, and nobody did what must not be.
    pub const fn is_loss(self) -> bool {
        matches!(self, Fatal::Truncated | Fatal::Lost)
    }

    /// The label, in logs, and behind `carrier_` in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Fatal::Early => "early",
            Fatal::Malformed => "malformed",
            Fatal::Proof => "proof",
            Fatal::Generation => "generation",
            Fatal::Order => "order",
            Fatal::Offset => "offset",
            Fatal::Stray => "stray",
            Fatal::Replay => "replay",
            Fatal::Hostile => "hostile",
            Fatal::Truncated => "truncated",
            Fatal::Unanswered => "unanswered",
            Fatal::Lost => "lost",
        }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for Fatal {}

impl From<Fatal> for io::Error {
    fn from(fatal: Fatal) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, fatal)
    }
}
