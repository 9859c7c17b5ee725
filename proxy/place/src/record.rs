//! What a decision was made from, and what it was: enough to make it again.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::health::Setback;
use crate::objective::Weights;
use crate::request::{PlaceId, Request, SizeClass};
use crate::route::RouteId;
use crate::time::Time;

/// The most places that one decision compares, the host among them. Of more devices, some are drawn.
pub const MAX_PLACES: usize = 8;

/// One decision. Of a fixed size, and made without allocating.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it was made.
    pub at: Time,
    /// For which route.
    pub route: RouteId,
    /// For a request of which size.
    pub class: SizeClass,
    /// What it was made from.
    pub inputs: Inputs,
    /// What was decided.
    pub decision: Decision,
}

/// Everything that a decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// What was asked.
    pub request: Request,
    /// Why the request has to be sent again, if it was sent to a device before.
    pub after: Option<Setback>,
    /// What counts.
    pub weights: Weights,
    /// An answer that takes longer misses the route's objective, in seconds.
    pub slo_seconds: f32,
    /// How long a device has until its answer begins, as the route says, in seconds. None: by what is expected.
    pub try_timeout_seconds: Option<f64>,
    /// What part of the route's requests may go to devices.
    pub share: f32,
    /// From 0 to 1 by chance: below `share`, this one is among them.
    pub draw: f32,
    /// Whether it is being found out if all is well again on devices.
    pub is_probing: bool,
    /// Where requests of the route and size went of late.
    pub kept: Side,
    /// By what part the other side has to be better, so that they go there.
    pub margin: f32,
    /// Whether a place may be tried that is not expected to be the best.
    pub may_explore: bool,
    /// The places, the host first.
    pub candidates: Candidates,
}

/// One of two sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The host.
    #[default]
    Host,
    /// Any device.
    Device,
}

/// A few places, in place. Written as a list.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Vec<Candidate>", try_from = "Vec<Candidate>")]
pub struct Candidates {
    all: [Candidate; MAX_PLACES],
    count: u8,
}

/// A place, and what is expected of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which.
    pub place: PlaceId,
    /// Whether the request may go there.
    pub standing: Standing,
    /// How many answers of late say what to expect.
    pub answers: u32,
    /// How long the request would wait, in seconds.
    pub queue_seconds: f32,
    /// How long it takes to get there, by the prior, in seconds.
    pub input_seconds: f32,
    /// To read its data.
    pub scan_seconds: f32,
    /// To compute.
    pub compute_seconds: f32,
    /// To get back.
    pub output_seconds: f32,
    /// By what answers have shown the prior to be wrong, as a factor.
    pub correction: f32,
    /// What the place draws while it works, in watts.
    pub busy_watts: f32,
    /// What it costs to move a byte, in joules.
    pub joules_per_byte: f32,
    /// Bytes that would cross the network.
    pub moved_bytes: f32,
}

/// Whether a request may go to a place, and why not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It may.
    #[default]
    Admissible,
    /// The place is not among those of the route.
    NotOfRoute,
    /// It does not hold the function.
    NoFunction,
    /// It does not hold the data.
    NoData,
    /// It holds the data at another version than the host would read.
    OtherVersion,
    /// The request is for the host alone.
    Stateful,
    /// It refused a moment ago.
    Refused,
    /// It failed a moment ago.
    Failed,
    /// It has answered nothing for too long.
    Stalled,
    /// It has not reported for too long.
    Silent,
    /// Nothing is known of it, and a request is there that will say something.
    Unproven,
}

/// What is expected of a place for a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Until the answer, in seconds.
    pub seconds: f64,
    /// Of them, those without waiting.
    pub service_seconds: f64,
    /// Modelled.
    pub joules: f64,
    /// By the weights of the route.
    pub cost: f64,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// There.
    pub place: PlaceId,
    /// Why.
    pub reason: Reason,
    /// What is expected of it.
    pub estimate: Estimate,
    /// How long it has until its answer begins, in seconds: then the host is asked. None: it is the host.
    pub timeout_seconds: Option<f64>,
}

/// Why a request goes where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The request is for the host alone.
    Stateful,
    /// It was sent to a device before, in vain.
    Setback(Setback),
    /// No device may run it.
    NoDevice,
    /// Too many requests of the route missed their objective on devices.
    GuardClosed,
    /// Few of them may go to devices yet, and this one is not among them.
    GuardHeld,
    /// Few of them may go to devices yet, and this one is among them.
    Probed,
    /// Little is known of the place.
    Explored,
    /// The other side is better, but not by enough.
    Kept,
    /// It costs least.
    Cheapest,
}

impl Reason {
    /// In a word, for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Reason::Stateful => "stateful",
            Reason::Setback(Setback::Refused(_)) => "refused",
            Reason::Setback(Setback::Failed(_)) => "failed",
            Reason::NoDevice => "no_device",
            Reason::GuardClosed => "guard_closed",
            Reason::GuardHeld => "guard_held",
            Reason::Probed => "probed",
            Reason::Explored => "explored",
            Reason::Kept => "kept",
            Reason::Cheapest => "cheapest",
        }
    }

    /// Every label.
    pub const LABELS: [&'static str; 10] = [
        "stateful",
        "refused",
        "failed",
        "no_device",
        "guard_closed",
        "guard_held",
        "probed",
        "explored",
        "kept",
        "cheapest",
    ];
}

impl Candidate {
    /// What is expected of it, by these weights.
    pub fn estimate(&self, weights: &Weights) -> Estimate {
        let correction = f64::from(self.correction);
        let busy = f64::from(self.scan_seconds) + f64::from(self.compute_seconds);
        let moving = f64::from(self.input_seconds) + f64::from(self.output_seconds);
        let service_seconds = (busy + moving) * correction;
        let seconds = f64::from(self.queue_seconds) + service_seconds;
        let bytes = f64::from(self.moved_bytes);
        let joules = f64::from(self.busy_watts) * busy * correction + f64::from(self.joules_per_byte) * bytes;
        Estimate { seconds, service_seconds, joules, cost: weights.cost(seconds, joules, bytes) }
    }

    /// The service time by the prior alone, in seconds.
    pub(crate) fn prior_seconds(&self) -> f32 {
        self.input_seconds + self.scan_seconds + self.compute_seconds + self.output_seconds
    }
}

impl Candidates {
    /// The host alone.
    pub fn of_host(host: Candidate) -> Self {
        let mut all = [Candidate::default(); MAX_PLACES];
        all[0] = host;
        Candidates { all, count: 1 }
    }

    /// One more, as far as there is room.
    pub fn push(&mut self, candidate: Candidate) {
        if let Some(free) = self.all.get_mut(usize::from(self.count)) {
            *free = candidate;
            self.count += 1;
        }
    }

    /// Whether there is no room for another.
    pub fn is_full(&self) -> bool {
        usize::from(self.count) == MAX_PLACES
    }

    /// The host.
    pub fn host(&self) -> &Candidate {
        &self.all[0]
    }
}

impl From<Candidates> for Vec<Candidate> {
    fn from(candidates: Candidates) -> Self {
        candidates.to_vec()
    }
}

impl TryFrom<Vec<Candidate>> for Candidates {
    type Error = String;

    fn try_from(all: Vec<Candidate>) -> Result<Self, String> {
        let (Some(host), true) = (all.first(), all.len() <= MAX_PLACES) else {
            return Err(format!("{} places: from 1, which is the host, to {MAX_PLACES}", all.len()));
        };
        let mut candidates = Candidates::of_host(*host);
        all[1..].iter().for_each(|device| candidates.push(*device));
        Ok(candidates)
    }
}

impl Deref for Candidates {
    type Target = [Candidate];

    fn deref(&self) -> &[Candidate] {
        &self.all[..usize::from(self.count)]
    }
}
