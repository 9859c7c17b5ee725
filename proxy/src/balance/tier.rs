//! The endpoints of one priority, and draws among them.

use std::ops::Range;

use lighter_config::snapshot::EndpointSpec;

use super::weights::Weights;

/// The endpoints of one priority, by their places among all of a cluster.
pub(super) struct Tier {
    /// Its number, as it was said.
    pub(super) priority: u32,
    places: Range<usize>,
    weights: Weights,
}

impl Tier {
    /// A tier for each priority of `specs`, which are sorted by it.
    pub(super) fn split(specs: &[&EndpointSpec]) -> Box<[Self]> {
        let mut end = 0;
        let tiers = specs.chunk_by(|one, next| one.priority == next.priority).map(|alike| {
            let start = end;
            end += alike.len();
            let weights = Weights::new(alike.iter().map(|spec| spec.weight));
            Tier { priority: alike[0].priority, places: start..end, weights }
        });
        tiers.collect()
    }

    /// A single endpoint's.
    pub(super) fn of_one() -> Self {
        Tier { priority: 0, places: 0..1, weights: Weights::new([1].into_iter()) }
    }

    /// Whether there is none before it.
    pub(super) fn is_first(&self) -> bool {
        self.places.start == 0
    }

    /// Whether the endpoint at `place` is of this priority.
    pub(super) fn has(&self, place: usize) -> bool {
        self.places.contains(&place)
    }

    /// The weight of the endpoint at `place`.
    pub(super) fn weight(&self, place: usize) -> u32 {
        self.weights.of(place - self.places.start) as u32
    }

    /// Whether all weigh the same.
    #[inline]
    pub(super) fn is_equal(&self) -> bool {
        self.weights.equal()
    }

    /// How much one request is to the endpoint at `place`, where it is 1 to one of average weight.
    #[inline]
    pub(super) fn share(&self, place: usize) -> f64 {
        self.weights.share(place - self.places.start)
    }

    /// Draws an endpoint by weight among those that are `eligible`, other than `except`, which is one of them.
    #[inline]
    pub(super) fn draw(
        &self,
        except: Option<usize>,
        draw: &mut impl FnMut(u64) -> u64,
        eligible: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if self.places.len() <= usize::from(except.is_some()) {
            return None;
        }
        let start = self.places.start;
        // Mostly nothing is ejected, and the first try is good. Drawing again keeps the shares of the others.
        for _ in 0..4 {
            let place = start + self.weights.draw(except.map(|except| except - start), draw);
            if eligible(place) {
                return Some(place);
            }
        }
        self.draw_slowly(except, draw, eligible)
    }

    /// The same by looking at each, in one pass: the n-th eligible one replaces the choice with its share of the
    /// weight so far.
    #[cold]
    fn draw_slowly(
        &self,
        except: Option<usize>,
        draw: &mut impl FnMut(u64) -> u64,
        eligible: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut chosen = None;
        let mut total = 0;
        for place in self.places.clone().filter(|place| Some(*place) != except && eligible(*place)) {
            let weight = self.weights.of(place - self.places.start);
            total += weight;
            if draw(total) < weight {
                chosen = Some(place);
            }
        }
        chosen
    }
}
