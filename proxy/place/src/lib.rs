//! Decides per request where it runs: on the host, or on one of the devices that hold what it needs.
//!
//! Primary evidence is measured: how long answers of a route take at a place, by [size class](SizeClass). What is not measured
//! yet is expected by a [prior](Profile), `queue + in/BW + scan/BW_data + (a + b·bytes)·κ + out/BW`, which answers correct as they
//! come. The route's [objective](Objective) says what of latency, energy and bytes moved counts.
//!
//! Guardrails outrank the model. A place that does not hold the function and the data at the version that the host would read
//! is never chosen, nor one that refused, failed, stalled or fell silent a moment ago. A route whose requests miss their objective on devices
//! goes back to the host, and comes back by 1, 5, 25 and 100 % of its requests.
//!
//! A device has so long until its answer begins that the host can answer in time where it does not; what a route says of
//! that goes before it.
//!
//! A [`Planner`] decides more slowly where functions are active at all, and a [`Mover`] whether the state of a Service is to move to where
//! it would be served better.
//!
//! No I/O, no clock, no chance of its own: time is a parameter and draws come from a seed, so that sidecar, planner and simulator
//! decide by the same code. Each decision has a [`Record`] from which it can be made again, [exactly](recompute).

mod choose;
mod explain;
mod explore;
mod guard;
mod health;
mod inherit;
mod learn;
mod load;
mod log;
mod moves;
mod objective;
mod patience;
mod placer;
mod plan;
mod profile;
mod record;
mod request;
mod route;
mod time;

pub use choose::recompute;
pub use explore::{BURST as EXPLORATION_BURST, Exploration};
pub use guard::{GuardRules, SHARES};
pub use health::{Failure, Refusal, Setback};
pub use log::Logged;
pub use moves::{Decided, Move, MoveRules, Mover, Seat, Seated, Stays};
pub use objective::{Objective, Weights};
pub use placer::{Answer, Outcome, Placed, Placer, Spent, Ticket};
pub use plan::{Because, Foreseen, PlanRules, Planned, Planner, Site, SiteFunction, Want, foresee};
pub use profile::{FunctionCost, Profile};
pub use record::{
    Candidate, Candidates, Decision, Estimate, Inputs, MAX_PLACES, Reason, Record, Side, Standing,
};
pub use request::{HOST, Offer, PlaceId, Request, SizeClass, Work};
pub use route::{RouteId, RouteRules};
pub use time::Time;
