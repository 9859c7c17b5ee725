//! Quantiles of a histogram that is read as text, as Prometheus' `histogram_quantile` tells them.

/// Counts by upper bound, each with all that is below.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram(Vec<(f64, u64)>);

impl Histogram {
    /// Takes a bucket by the value of its label `le`. One whose bound is none is left out.
    pub fn take(&mut self, bound: &str, count: u64) {
        let Some(bound) = bound.parse().ok().filter(|bound| *bound > f64::NEG_INFINITY) else { return };
        // They come in order.
        let at = self.0.partition_point(|(is, _)| *is < bound);
        match self.0.get_mut(at) {
            Some((is, sum)) if *is == bound => *sum = sum.saturating_add(count),
            _ => self.0.insert(at, (bound, count)),
        }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        match self.0.last() {
            Some((f64::INFINITY, count)) => *count,
            _ => 0,
        }
    }

    /// What came since `before`. None where a bucket has less than it had.
    pub fn since(&self, before: &Histogram) -> Option<Histogram> {
        let less = |&(bound, count): &(f64, u64)| {
            let at = before.0.partition_point(|(is, _)| *is < bound);
            let had = before.0.get(at).filter(|(is, _)| *is == bound).map_or(0, |(_, count)| *count);
            Some((bound, count.checked_sub(had)?))
        };
        self.0.iter().map(less).collect::<Option<_>>().map(Histogram)
    }

    /// The value below which a share `q` of all values lies, interpolated within its bucket; the highest bound where it
    /// lies above that.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = q * count as f64;
        let (mut low, mut below) = (0.0, 0);
        for &(bound, upto) in &self.0 {
            if upto as f64 >= rank && upto > below {
                if bound == f64::INFINITY {
                    break;
                }
                // All of the first bucket may be below zero; then nothing is known of its lower bound.
                let share = (rank - below as f64) / (upto - below) as f64;
                return Some(if bound > low { low * (1.0 - share) + bound * share } else { bound });
            }
            // A count that falls, which no sidecar writes, is none.
            below = below.max(upto);
            low = bound;
        }
        self.0.iter().rev().map(|(bound, _)| *bound).find(|bound| bound.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram(buckets: &[(&str, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        buckets.iter().for_each(|(bound, count)| histogram.take(bound, *count));
        histogram
    }

    #[test]
    fn a_quantile_is_as_prometheus_tells_it() {
        let some = histogram(&[("0.1", 10), ("0.2", 30), ("0.5", 30), ("1", 40), ("+Inf", 40)]);
        for (q, expected) in [(0.125, 0.05), (0.25, 0.1), (0.5, 0.15), (0.75, 0.2), (0.875, 0.75)] {
            let found = some.quantile(q).unwrap();
            assert!((found - expected).abs() < 1e-9, "{q}: {found}");
        }
        assert_eq!(some.quantile(1.0), Some(1.0));
        let above = histogram(&[("0.1", 1), ("+Inf", 100)]);
        assert_eq!(above.quantile(0.99), Some(0.1), "no more is known than that it is above");
        assert_eq!(histogram(&[("+Inf", 5)]).quantile(0.5), None);
        assert_eq!(histogram(&[("-1", 5), ("+Inf", 5)]).quantile(0.5), Some(-1.0));
    }

    #[test]
    fn nothing_has_no_quantile() {
        for none in [&[][..], &[("0.1", 0), ("+Inf", 0)], &[("0.1", 7)], &[("x", 1), ("NaN", 1), ("-Inf", 1)]]
        {
            assert_eq!(histogram(none).quantile(0.5), None, "{none:?}");
        }
    }

    #[test]
    fn only_what_came_since_counts() {
        let before = histogram(&[("0.1", 100), ("0.2", 100), ("+Inf", 100)]);
        let after = histogram(&[("0.1", 100), ("0.2", 104), ("+Inf", 104)]);
        let since = after.since(&before).unwrap();
        assert_eq!((since.count(), since.quantile(1.0)), (4, Some(0.2)));
        assert_eq!(before.since(&after), None);
        assert_eq!(after.since(&Histogram::default()), Some(after));
    }

    proptest! {
        #[test]
        fn whatever_the_buckets_are_a_quantile_is_a_number(
            buckets in prop::collection::vec((any::<f64>(), any::<u64>()), 0..20),
            last: u64,
            q in 0.01f64..1.0,
        ) {
            let mut histogram = Histogram::default();
            buckets.iter().for_each(|(bound, count)| histogram.take(&bound.to_string(), *count));
            histogram.take("+Inf", last);
            if let Some(found) = histogram.quantile(q) {
                prop_assert!(!found.is_nan());
            }
            let _ = histogram.since(&histogram.clone());
        }

        #[test]
        fn a_quantile_of_a_sidecars_histogram_lies_between_its_bounds(
            counts in prop::collection::vec(0u64..1000, 5),
            q in 0.01f64..1.0,
        ) {
            let mut histogram = Histogram::default();
            let mut sum = 0;
            for (bound, count) in ["0.001", "0.01", "0.1", "1", "+Inf"].iter().zip(&counts) {
                sum += count;
                histogram.take(bound, sum);
            }
            match histogram.quantile(q) {
                Some(found) => prop_assert!((0.0..=1.0).contains(&found)),
                None => prop_assert_eq!(sum, 0),
            }
        }
    }
}
