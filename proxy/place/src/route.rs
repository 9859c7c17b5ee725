//! What is known of one route.

use serde::{Deserialize, Serialize};

use crate::explore::{Exploration, Purse};
use crate::guard::{Guard, GuardRules};
use crate::learn::Layer;
use crate::objective::Objective;
use crate::profile::FunctionCost;
use crate::record::Side;
use crate::request::{PlaceId, SizeClass};

/// A route. Numbers are given by a [`Placer`](crate::Placer) and mean something to it only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteId(pub(crate) u32);

impl RouteId {
    /// Its number, from 0 in the order in which routes were added.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// What is said of a route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteRules {
    /// What it wants least of.
    pub objective: Objective,
    /// When it goes back to the host.
    pub guard: GuardRules,
    /// How long a device has until its answer begins, in seconds. Default: what the host can spare of the objective, by what
    /// is expected of both.
    pub try_timeout_seconds: Option<f64>,
    /// What may be spent on finding out.
    pub exploration: Exploration,
    /// By what part the other side has to be better, so that requests go there. Default 0.1.
    pub margin: f32,
    /// How long its function is thought to take.
    pub cost: FunctionCost,
    /// Bytes of an answer for each byte worked on, as it is thought to be. Answers correct it. Default 0.01.
    pub out_share: f32,
}

impl Default for RouteRules {
    fn default() -> Self {
        RouteRules {
            objective: Objective::default(),
            guard: GuardRules::default(),
            try_timeout_seconds: None,
            exploration: Exploration::default(),
            margin: 0.1,
            cost: FunctionCost { seconds: 1e-3, seconds_per_byte: 0.0 },
            out_share: 0.01,
        }
    }
}

/// By size class.
pub(crate) type ByClass<T> = [T; SizeClass::COUNT];

#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) rules: RouteRules,
    /// The places that it may use, in order, the host first.
    places: Box<[PlaceId]>,
    /// What is left of the correction for each of them.
    cells: Box<[ByClass<Layer>]>,
    /// What its answers on all devices have in common.
    pub(crate) on_devices: ByClass<Layer>,
    /// Requests on devices that have not ended.
    pub(crate) outstanding: ByClass<u32>,
    /// Where requests went of late.
    pub(crate) kept: ByClass<Side>,
    pub(crate) guard: Guard,
    pub(crate) purse: Purse,
    /// Bytes of an answer for each byte worked on.
    out_share: f32,
    has_answers: bool,
}

impl Route {
    pub(crate) fn new(rules: RouteRules, mut places: Vec<PlaceId>) -> Self {
        places.push(crate::request::HOST);
        places.sort_unstable();
        places.dedup();
        Route {
            rules,
            cells: vec![ByClass::default(); places.len()].into(),
            places: places.into(),
            on_devices: ByClass::default(),
            outstanding: ByClass::default(),
            kept: ByClass::default(),
            guard: Guard::new(),
            purse: Purse::new(&rules.exploration),
            out_share: rules.out_share,
            has_answers: false,
        }
    }

    /// Takes over what another one knows: all that is of no place, and of these places, each by its own number and the other's.
    pub(crate) fn inherit(&mut self, other: &Route, places: impl Iterator<Item = (PlaceId, PlaceId)>) {
        for (own, others) in places {
            if let (Some(own), Some(others)) = (self.slot(own), other.slot(others)) {
                self.cells[own] = other.cells[others];
            }
        }
        (self.on_devices, self.kept) = (other.on_devices, other.kept);
        (self.guard, self.purse) = (other.guard, other.purse);
        (self.out_share, self.has_answers) = (other.out_share, other.has_answers);
    }

    /// Where the correction for a place stands. None: the route may not use it.
    pub(crate) fn slot(&self, place: PlaceId) -> Option<usize> {
        self.places.binary_search(&place).ok()
    }

    pub(crate) fn cell(&self, slot: usize, class: SizeClass) -> &Layer {
        &self.cells[slot][class.index()]
    }

    pub(crate) fn cell_mut(&mut self, slot: usize, class: SizeClass) -> &mut Layer {
        &mut self.cells[slot][class.index()]
    }

    /// How large an answer is expected to be, in bytes.
    pub(crate) fn bytes_out(&self, worked_bytes: u64) -> f64 {
        worked_bytes as f64 * f64::from(self.out_share)
    }

    /// One was so large.
    pub(crate) fn learn_bytes_out(&mut self, bytes_out: u64, worked_bytes: u64) {
        if worked_bytes > 0 {
            let seen = bytes_out as f32 / worked_bytes as f32;
            let gain = if self.has_answers { OUT_GAIN } else { 1.0 };
            self.out_share += (seen - self.out_share) * gain;
            self.has_answers = true;
        }
    }
}

/// How much of an answer's size is believed.
const OUT_GAIN: f32 = 0.05;
