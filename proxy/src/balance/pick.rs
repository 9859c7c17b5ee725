//! Which endpoint of a cluster takes a request.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use lighter_config::snapshot::Nearness;

use super::choice::Choice;
use super::circuit::Circuit;
use super::ewma::Load;
use super::group::warmth;
use super::outlier::State;
use super::picked::{Avoid, Held, Picked};
use super::tier::Tier;
use super::{Cluster, Endpoint};
use crate::error::Cause;

impl Cluster {
    /// Picks an endpoint, not `avoid` if there is another. `hash` is what [`Self::hash`] gave for the request.
    #[inline]
    pub fn pick(&self, avoid: Option<&Avoid>, hash: Option<u64>, now: Instant) -> Result<Picked, Cause> {
        // One random number seeds all draws of a pick; a linear congruential step makes each next one.
        let mut state = fastrand::u64(..);
        self.pick_with(avoid, hash, now, |below| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            ((u128::from(state) * u128::from(below)) >> 64) as u64
        })
    }

    /// Picks one for a request that is within the limits already.
    #[cold]
    pub(crate) fn pick_within(&self, now: Instant) -> Result<Picked, Cause> {
        let pick = Pick { cluster: self, avoid: None, hash: None, at: self.group.clock(now) };
        pick.find(false, &mut |below| fastrand::u64(..below))
    }

    /// The same as [`Self::pick`], with `draw` giving a random number below its argument.
    pub fn pick_with(
        &self,
        avoid: Option<&Avoid>,
        hash: Option<u64>,
        now: Instant,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Result<Picked, Cause> {
        let held = self.enter()?;
        let gone = avoid.is_some_and(|avoid| avoid.gone);
        let avoid = avoid.and_then(|avoid| self.endpoints.iter().position(|known| avoid.is(known)));
        let pick = Pick { cluster: self, avoid, hash, at: self.group.clock(now) };
        let mut picked = pick.find(gone, &mut draw)?;
        // It held nothing before.
        picked.held = ManuallyDrop::new(held);
        Ok(picked)
    }

    /// Takes this one of its endpoints, unless that takes no requests now.
    pub fn rejoin(&self, endpoint: &Arc<Endpoint>, now: Instant) -> Result<Option<Picked>, Cause> {
        let Some(mut picked) = endpoint.begin(self.group.clock(now)) else { return Ok(None) };
        picked.held = ManuallyDrop::new(self.enter()?);
        Ok(Some(picked))
    }

    #[inline]
    fn enter(&self) -> Result<Held, Cause> {
        let pass = self.circuit.as_ref().map(Circuit::enter).transpose()?;
        Ok(pass.map_or(Held::Nothing, Held::Pass))
    }
}

/// One pick, and what it goes by.
struct Pick<'c> {
    cluster: &'c Cluster,
    /// The place of the one to be avoided.
    avoid: Option<usize>,
    hash: Option<u64>,
    at: u64,
}

impl Pick<'_> {
    #[inline]
    fn find(&self, gone: bool, draw: &mut impl FnMut(u64) -> u64) -> Result<Picked, Cause> {
        let first = match &self.cluster.nearness {
            Some(nearness) => self.begin_with(nearness, draw),
            None => 0,
        };
        let tier = self.cluster.tiers.get(first).ok_or(Cause::NoEndpoint)?;
        match self.of_tier(tier, draw) {
            Some(picked) => Ok(picked),
            None => self.elsewhere(first, gone, draw),
        }
    }

    /// The same where the tier with which it began has nobody.
    #[cold]
    fn elsewhere(
        &self,
        first: usize,
        gone: bool,
        draw: &mut impl FnMut(u64) -> u64,
    ) -> Result<Picked, Cause> {
        let Cluster { tiers, endpoints, group, .. } = self.cluster;
        let mut others = tiers[first + 1..].iter().chain(&tiers[..first]);
        if let Some(picked) = others.find_map(|tier| self.of_tier(tier, draw)) {
            return Ok(picked);
        }
        // One that just failed, but is in service, is better than one that is ejected. Not so where nobody was there: the
        // ejected one may be back meanwhile.
        let avoid = self.avoid;
        if let Some(picked) = avoid.filter(|_| !gone).and_then(|avoid| endpoints[avoid].begin(self.at)) {
            return Ok(picked);
        }
        let other = |tier: &Tier| tier.draw(None, draw, |place| Some(place) != avoid);
        let place = tiers.iter().find_map(other).or(avoid).ok_or(Cause::NoEndpoint)?;
        group.metrics.panicked();
        Ok(endpoints[place].begin_regardless(self.at))
    }

    /// One of these endpoints.
    #[inline]
    fn of_tier(&self, tier: &Tier, draw: &mut impl FnMut(u64) -> u64) -> Option<Picked> {
        // Again only if another worker was faster with the one request of a half-open endpoint.
        for _ in 0..3 {
            let place = self.choose(tier, draw)?;
            if let Some(picked) = self.endpoint(place).begin(self.at) {
                if tier.start() != 0 {
                    self.count_detour(tier);
                }
                return Some(picked);
            }
        }
        None
    }

    /// The tier with which a pick begins where nearness counts: each takes as much as its part that is in service, times the
    /// overprovisioning, allows, and the next what is left, as in Envoy. Where that is not everything, they share what there
    /// is.
    fn begin_with(&self, nearness: &Nearness, draw: &mut impl FnMut(u64) -> u64) -> usize {
        let part = |tier: &Tier| {
            let there =
                tier.places().filter(|place| self.endpoint(*place).health.is_available(self.at)).count();
            there as f64 / tier.count() as f64 * f64::from(nearness.overprovisioning) / 100.0
        };
        let tiers = &self.cluster.tiers;
        let mut sum = 0.0;
        let mut ends = [1.0; MOST_GROUPS];
        for (end, tier) in ends.iter_mut().zip(&**tiers) {
            sum = f64::min(1.0, sum + part(tier));
            *end = sum;
            if sum >= 1.0 {
                break;
            }
        }
        if ends[0] >= 1.0 || sum == 0.0 {
            return 0;
        }
        let ticket = draw(1 << 32) as f64 / (1u64 << 32) as f64 * sum;
        ends.iter().take(tiers.len()).position(|end| ticket < *end).unwrap_or(0)
    }

    #[cold]
    fn count_detour(&self, tier: &Tier) {
        let Cluster { tiers, group, .. } = self.cluster;
        if tier.priority == tiers[0].priority {
            group.metrics.spilled();
        } else {
            group.metrics.failed_over();
        }
    }

    /// The place of one of a tier's endpoints that are available. Where shares rise slowly, one that came lately is passed
    /// over as often as its share is not there yet.
    #[inline]
    fn choose(&self, tier: &Tier, draw: &mut impl FnMut(u64) -> u64) -> Option<usize> {
        let Some(start) = &self.cluster.balancing.slow_start else { return self.choose_any(tier, draw) };
        for _ in 0..WARM_TRIES {
            let place = self.choose_any(tier, draw)?;
            let part = warmth(start, self.endpoint(place).entered.load(Relaxed), self.at);
            if part >= 1.0 || (draw(1000) as f64) < part * 1000.0 {
                return Some(place);
            }
        }
        self.choose_any(tier, draw)
    }

    #[inline]
    fn choose_any(&self, tier: &Tier, draw: &mut impl FnMut(u64) -> u64) -> Option<usize> {
        let in_tier = |place: usize| self.is_available(tier.start() + place);
        let found = match (&tier.choice, self.hash) {
            (Choice::Cost | Choice::Fewest, _) => {
                let first = tier.draw(None, draw, |place| self.is_available(place))?;
                let second = tier.draw(Some(first), draw, |place| self.is_available(place));
                return Some(second.map_or(first, |second| self.better(tier, first, second)));
            }
            (Choice::Turn(rotation), _) => rotation.next(in_tier),
            (Choice::Reported(turns), _) => {
                let rules = &self.cluster.balancing.reports;
                let weight = |place| self.endpoint(tier.start() + place).reported.weight(rules, self.at);
                turns.next(self.at, weight, in_tier)
            }
            (Choice::Hash(places), Some(hash)) => places.find(hash, in_tier),
            (Choice::Any | Choice::Hash(_), _) => None,
        };
        match found {
            Some(place) => Some(tier.start() + place),
            None => tier.draw(None, draw, |place| self.is_available(place)),
        }
    }

    /// Which of two that were drawn takes the request.
    #[inline]
    fn better(&self, tier: &Tier, first: usize, second: usize) -> usize {
        let (a, b) = (self.endpoint(first), self.endpoint(second));
        // Whoever may show that it is back does so at once: it is one request, and its cost is not known.
        if a.health.state(self.at) == State::HalfOpen {
            return first;
        }
        if b.health.state(self.at) == State::HalfOpen {
            return second;
        }
        let (in_a, in_b) = (f64::from(a.load.in_flight()), f64::from(b.load.in_flight()));
        let cost = |load: &Load, queue: f64| match tier.choice {
            Choice::Fewest => queue,
            _ => load.cost(self.at, queue),
        };
        let moves = if tier.is_equal() {
            cost(&a.load, in_a + 1.0) > cost(&b.load, in_b + 1.0)
        } else {
            // Queues as they would be at endpoints of average weight. The first is as it is and the second as it would
            // be, so that a few requests at a heavy endpoint do not push one to an idle light one.
            let queue = |requests: f64, place: usize| (requests * tier.share(place)).max(1.0);
            cost(&a.load, queue(in_a, first)) > 2.0 * cost(&b.load, queue(in_b + 1.0, second))
        };
        if moves { second } else { first }
    }

    #[inline]
    fn is_available(&self, place: usize) -> bool {
        Some(place) != self.avoid && self.endpoint(place).health.is_available(self.at)
    }

    fn endpoint(&self, place: usize) -> &Arc<Endpoint> {
        &self.cluster.endpoints[place]
    }
}

/// Priorities and distances in them that take a part at the same time; those after them take what is left.
const MOST_GROUPS: usize = 16;

/// How often an endpoint is passed over whose share is not there yet, before it takes a request all the same: where all are
/// new, somebody has to.
const WARM_TRIES: u32 = 8;
