//! The 32 bits that come with every message: how far the one that sent it has got with the other direction.
//!
//! ```text
//! 31       | 30 … 25                     | 24 … 0
//! urgent   | receives posted, modulo 64  | bytes consumed, modulo 2^25
//! ```
//!
//! Both counts only rise, and by less than their modulus from one message to the next: what a ring holds at most, and what
//! requests there are. So whoever reads them knows the whole count, and sees one that cannot be.

use super::super::WireFault;

/// What a message says beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Immediate {
    /// Bytes of the way in that this side has consumed, since the beginning.
    pub(super) consumed: u64,
    /// Requests to receive that it has posted since the beginning, beyond those of the beginning.
    pub(super) posted: u64,
    /// It waits for each step of what the other side consumes.
    pub(super) urgent: bool,
}

impl Immediate {
    pub(super) fn encode(self) -> u32 {
        let consumed = (self.consumed & (CONSUMED - 1)) as u32;
        let posted = (self.posted & (POSTED - 1)) as u32;
        consumed | posted << CONSUMED.ilog2() | u32::from(self.urgent) << 31
    }

    /// What `bits` says after this was said. No more than `written` bytes can be consumed, and no more than `most` requests
    /// can have been posted since.
    pub(super) fn follow(self, bits: u32, written: u64, most: u64) -> Result<Self, WireFault> {
        let consumed = u64::from(bits).wrapping_sub(self.consumed) & (CONSUMED - 1);
        let posted = u64::from(bits >> CONSUMED.ilog2()).wrapping_sub(self.posted) & (POSTED - 1);
        let urgent = bits >> 31 != 0;
        let next = Immediate { consumed: self.consumed + consumed, posted: self.posted + posted, urgent };
        let can_be = next.consumed <= written && posted <= most && urgent >= self.urgent;
        if can_be { Ok(next) } else { Err(WireFault::Hostile) }
    }
}

/// More than the bytes of any ring.
const CONSUMED: u64 = 1 << 25;

/// More than the requests of any queue.
const POSTED: u64 = 1 << 6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_rises_by_less_than_a_ring_is_known_whole(
            before in any::<(u32, u32)>(), step in 0..=1u64 << 24, posted in 0..64u64, urgent in any::<bool>()
        ) {
            let before = Immediate { consumed: before.0.into(), posted: before.1.into(), urgent: false };
            let next =
                Immediate { consumed: before.consumed + step, posted: before.posted + posted, urgent };
            let written = before.consumed + (1 << 24);
            prop_assert_eq!(before.follow(next.encode(), written, 63), Ok(next));
            if posted > 0 {
                prop_assert_eq!(before.follow(next.encode(), written, posted - 1), Err(WireFault::Hostile));
            }
            if step > 0 {
                prop_assert_eq!(before.follow(next.encode(), next.consumed - 1, 63), Err(WireFault::Hostile));
            }
        }

        #[test]
        fn what_falls_cannot_be(consumed in 1..u64::from(u32::MAX), step in 1..=1u64 << 24) {
            let before = Immediate { consumed: consumed + step, posted: 0, urgent: true };
            let fallen = Immediate { consumed, ..before };
            prop_assert_eq!(
                before.follow(fallen.encode(), before.consumed + (1 << 23), 63),
                Err(WireFault::Hostile)
            );
            let calm = Immediate { urgent: false, ..before };
            prop_assert_eq!(before.follow(calm.encode(), u64::MAX, 63), Err(WireFault::Hostile));
        }
    }
}
