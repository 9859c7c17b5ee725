//! The endpoints of one priority, and where nearness counts of one distance, and draws among them.

use std::ops::Range;
use std::sync::Arc;

use lighter_config::snapshot::{Balancing, EndpointSpec};

use super::choice::Choice;
use super::weights::Weights;

/// The endpoints of one priority and distance, by their places among all of a cluster.
pub(super) struct Tier {
    /// Its number, as it was said.
    pub(super) priority: u32,
    /// How far off its endpoints are, where that counts: 0 is near.
    pub(super) distance: u8,
    places: Range<usize>,
    weights: Weights,
    /// How one is chosen.
    pub(super) choice: Choice,
}

impl Tier {
    /// A tier for each priority of `specs` and each distance in it. They are sorted by both.
    pub(super) fn split(
        specs: &[&EndpointSpec],
        balancing: &Balancing,
        distance: impl Fn(&EndpointSpec) -> u8,
    ) -> Arc<[Self]> {
        let mut end = 0;
        let rank = |spec: &EndpointSpec| (spec.priority, distance(spec));
        let tiers = specs.chunk_by(|one, next| rank(one) == rank(next)).map(|alike| {
            let start = end;
            end += alike.len();
            let weights = Weights::new(alike.iter().map(|spec| spec.weight));
            let choice = Choice::new(balancing, alike);
            let (priority, distance) = rank(alike[0]);
            Tier { priority, distance, places: start..end, weights, choice }
        });
        tiers.collect()
    }

    /// A single endpoint's.
    pub(super) fn of_one() -> Self {
        Tier {
            priority: 0,
            distance: 0,
            places: 0..1,
            weights: Weights::new([1].into_iter()),
            choice: Choice::Any,
        }
    }

    /// How many endpoints there are.
    pub(super) fn count(&self) -> usize {
        self.places.len()
    }

    /// Their places.
    pub(super) fn places(&self) -> Range<usize> {
        self.places.clone()
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

    /// The place of the first one.
    pub(super) fn start(&self) -> usize {
        self.places.start
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
