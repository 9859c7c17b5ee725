//! How an endpoint of a tier is chosen, and what that needs to remember.

use lighter_config::snapshot::{Balancer, Balancing, EndpointSpec};

use super::hash::Places;
use super::report::Turns;
use super::rotation::Rotation;

/// How an endpoint of a tier is chosen.
pub(super) enum Choice {
    /// Of two, the one that would cost less.
    Cost,
    /// Of two, the one with fewer requests.
    Fewest,
    /// In turn.
    Turn(Rotation),
    /// In turn, by the load that endpoints report.
    Reported(Turns),
    /// Any.
    Any,
    /// By hash.
    Hash(Places),
}

impl Choice {
    /// For these endpoints.
    pub(super) fn new(balancing: &Balancing, specs: &[&EndpointSpec]) -> Self {
        let endpoints = || specs.iter().map(|spec| (spec.address, spec.weight)).collect::<Vec<_>>();
        match balancing.balancer {
            Balancer::PeakEwma => Choice::Cost,
            Balancer::LeastRequest => Choice::Fewest,
            Balancer::RoundRobin => Choice::Turn(Rotation::new(specs.iter().map(|spec| spec.weight))),
            Balancer::WeightedRoundRobin => {
                Choice::Reported(Turns::new(specs.iter().map(|spec| spec.weight), &balancing.reports))
            }
            Balancer::Random => Choice::Any,
            Balancer::RingHash => Choice::Hash(Places::ring(&endpoints(), balancing.ring_size)),
            Balancer::Maglev => Choice::Hash(Places::table(&endpoints(), balancing.table_size)),
        }
    }
}
