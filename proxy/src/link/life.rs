//! How long a link is used: no longer than both certificates on it live, and than its peer is trusted.

use std::time::{Duration, Instant, SystemTime};

use lighter_config::identity::{Peer, Usage};

use super::session::Side;
use crate::identity::{self, Identity, Svid};
use crate::io::Io;

/// What was proved on a link, and how long that holds.
pub(crate) struct Life {
    /// `None`: nobody has to prove anything on it.
    peer: Option<Peer>,
    /// From then on it is left.
    pub(super) leaves: Instant,
    /// Then it is closed.
    pub(super) ends: Instant,
}

impl Life {
    /// The life of the link within `io`, on which this side has proved to be who `identity` says.
    pub(crate) fn of(io: &Io, identity: &Identity) -> Option<Self> {
        Some(Life::of_peer(identity::peer(io.stream.tls()?).ok()?, identity))
    }

    /// The same of a connection whose other end proved to be `peer`.
    pub(crate) fn of_peer(peer: Peer, identity: &Identity) -> Self {
        let until = peer.not_after.min(identity.current().not_after());
        let left = until.duration_since(SystemTime::now()).unwrap_or_default();
        Life::within(Some(peer), left, Instant::now())
    }

    /// The same, left when it is as old as links become. Jittered, so that links made together do not all end together.
    pub(crate) fn aging_as_all(self) -> Self {
        self.aging(MAX_AGE.mul_f64(0.75 + fastrand::f64() / 4.0))
    }

    /// The same, left when it is so old.
    fn aging(mut self, age: Duration) -> Self {
        self.leaves = self.leaves.min(Instant::now() + age);
        self
    }

    /// Whether `svid` still trusts whoever is at the other end of a link of which this is `side`.
    pub(super) fn is_trusted(&self, svid: &Svid, side: Side) -> bool {
        let usage = match side {
            Side::Opener => Usage::Server,
            Side::Acceptor => Usage::Client,
        };
        let trusts = |peer| svid.trusts(peer, usage, SystemTime::now()).is_ok();
        self.peer.as_ref().is_none_or(trusts)
    }

    fn within(peer: Option<Peer>, left: Duration, now: Instant) -> Self {
        // A clock that is set meanwhile does not make a link live longer.
        let left = left.min(LONGEST);
        Life { peer, leaves: now + (left - LEAVE.min(left / 5)), ends: now + left }
    }
}

/// How long the other side has to leave a link.
pub(super) const LEAVE: Duration = Duration::from_secs(30);

/// How old a link becomes, before jitter: what is proved is proved again, and load moves on to new instances.
const MAX_AGE: Duration = Duration::from_secs(20 * 60);

/// No certificate lives longer.
const LONGEST: Duration = Duration::from_secs(400 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_left_before_its_certificates_end() {
        let now = Instant::now();
        for (left, leaves) in [(24 * 3600, 24 * 3600 - 30), (100, 80), (10, 8), (0, 0)] {
            let life = Life::within(None, Duration::from_secs(left), now);
            assert_eq!(life.leaves, now + Duration::from_secs(leaves));
            assert_eq!(life.ends, now + Duration::from_secs(left));
        }
        let life = Life::within(None, Duration::MAX, now).aging(Duration::from_secs(60));
        assert!(life.leaves <= Instant::now() + Duration::from_secs(60) && life.ends > now + LEAVE);
    }
}
