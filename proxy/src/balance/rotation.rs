//! One endpoint after the other, by weight.
//!
//! All workers count in one number, without a lock. A round has a step for each endpoint; the heaviest takes a request in
//! every round, and one of a third of its weight in every third. Where an endpoint stands among the others says in which
//! of three, so that the light ones do not all come in the same round.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Turns of a tier's endpoints.
pub(super) struct Rotation {
    next: AtomicU64,
    weights: Box<[u64]>,
    heaviest: u64,
}

impl Rotation {
    /// Begins anywhere, or all sidecars that start together would call the same endpoint first.
    pub(super) fn new(weights: impl Iterator<Item = u32>) -> Self {
        let weights: Box<[u64]> = weights.map(|weight| u64::from(weight.max(1))).collect();
        let heaviest = weights.iter().copied().max().unwrap_or(1);
        Rotation { next: AtomicU64::new(u64::from(fastrand::u32(..))), weights, heaviest }
    }

    /// Whether its turns are by these weights.
    pub(super) fn is_by(&self, weights: &[u32]) -> bool {
        self.weights.iter().copied().eq(weights.iter().map(|weight| u64::from((*weight).max(1))))
    }

    /// The next one that is `available`; `None` only if there is hardly one.
    pub(super) fn next(&self, available: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.weights.len() as u64;
        // A round without the heaviest may have nobody. Then a draw by weight does as well.
        for _ in 0..2 * count {
            let step = self.next.fetch_add(1, Relaxed);
            let (round, place) = (step / count, (step % count) as usize);
            if self.takes(place, round) && available(place) {
                return Some(place);
            }
        }
        None
    }

    /// Whether the endpoint at `place` has a turn in this round.
    fn takes(&self, place: usize, round: u64) -> bool {
        let weight = self.weights[place];
        // The same whole number of turns is taken in any `heaviest` rounds in a row.
        let from = (round % self.heaviest + place as u64 * 7) % self.heaviest;
        (from * weight) % self.heaviest + weight >= self.heaviest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rotation: &Rotation, picks: u32) -> Vec<u32> {
        let mut counts = vec![0; rotation.weights.len()];
        for _ in 0..picks {
            counts[rotation.next(|_| true).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn equals_take_turns() {
        let rotation = Rotation::new([1, 1, 1].into_iter());
        let first = rotation.next(|_| true).unwrap();
        for step in 1..30 {
            assert_eq!(rotation.next(|_| true), Some((first + step) % 3));
        }
    }

    #[test]
    fn shares_are_exact() {
        assert_eq!(counts(&Rotation::new([5, 3, 2].into_iter()), 1000), [500, 300, 200]);
        let counts = counts(&Rotation::new([1000, 1].into_iter()), 10_010);
        assert!((9..=11).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn who_is_not_available_is_passed_over() {
        let rotation = Rotation::new([5, 1, 1].into_iter());
        let some = (0..100).filter_map(|_| rotation.next(|place| place != 0));
        assert!(some.inspect(|place| assert_ne!(*place, 0)).count() > 0);
        assert_eq!(rotation.next(|_| false), None);
    }
}
