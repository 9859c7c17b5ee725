//! Endpoints' weights, and draws by them.

/// The weights of one port's endpoints.
pub(super) struct Weights {
    count: usize,
    /// What each weighs where all weigh the same.
    each: u64,
    /// Sums up to and with each; empty where all weigh the same.
    sums: Box<[u64]>,
}

impl Weights {
    pub(super) fn new(weights: impl Iterator<Item = u32>) -> Self {
        // The least weight is 1, so each can be drawn.
        let weights: Vec<u64> = weights.map(|weight| u64::from(weight.max(1))).collect();
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let each = weights.first().copied().unwrap_or(1);
        let mut sum = 0;
        let sums = weights.iter().map(|weight| {
            sum += weight;
            sum
        });
        Weights { count: weights.len(), each, sums: if equal { Box::default() } else { sums.collect() } }
    }

    /// Whether all weigh the same.
    #[inline]
    pub(super) fn equal(&self) -> bool {
        self.sums.is_empty()
    }

    /// The weight at `index`.
    pub(super) fn of(&self, index: usize) -> u64 {
        match self.sums.get(index) {
            Some(sum) => sum - index.checked_sub(1).map_or(0, |before| self.sums[before]),
            None => self.each,
        }
    }

    /// How much one request is to this endpoint, where it is 1 to one of average weight.
    #[inline]
    pub(super) fn share(&self, index: usize) -> f64 {
        match self.sums.last() {
            None => 1.0,
            Some(total) => *total as f64 / self.count as f64 / self.of(index) as f64,
        }
    }

    /// Draws an index by weight, other than `except`. There must be one.
    #[inline]
    pub(super) fn draw(&self, except: Option<usize>, draw: &mut impl FnMut(u64) -> u64) -> usize {
        let Some(total) = self.sums.last() else {
            let index = draw((self.count - usize::from(except.is_some())) as u64) as usize;
            return index + usize::from(except.is_some_and(|except| index >= except));
        };
        let ticket = match except {
            None => draw(*total),
            // Its span is left out of the line.
            Some(except) => {
                let span = self.of(except);
                let ticket = draw(total - span);
                if ticket >= self.sums[except] - span { ticket + span } else { ticket }
            }
        };
        self.sums.partition_point(|sum| *sum <= ticket)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_ticket_belongs_to_one_and_each_has_as_many_as_it_weighs(
            weights in prop::collection::vec(1u32..20, 1..10),
            except: prop::sample::Index,
            with_except: bool,
        ) {
            let table = Weights::new(weights.iter().copied());
            let except = (with_except && weights.len() > 1).then(|| except.index(weights.len()));
            let mut counts = vec![0u64; weights.len()];
            let mut tickets = 1;
            let mut next = 0;
            while next < tickets {
                let index = table.draw(except, &mut |below| {
                    tickets = below;
                    next
                });
                counts[index] += 1;
                next += 1;
            }
            for (index, count) in counts.iter().enumerate() {
                let weight = u64::from(weights[index]);
                prop_assert_eq!(table.of(index), weight);
                // Where all weigh the same, one ticket each is enough.
                let tickets = if table.equal() { 1 } else { weight };
                prop_assert_eq!(*count, if Some(index) == except { 0 } else { tickets });
            }
        }
    }

    #[test]
    fn shares_are_relative_to_the_average() {
        let table = Weights::new([1, 3].into_iter());
        assert_eq!((table.share(0), table.share(1)), (2.0, 2.0 / 3.0));
        assert_eq!(Weights::new([7, 7].into_iter()).share(1), 1.0);
    }
}
