//! What is counted of decisions, and of what came of them.

use std::sync::OnceLock;

use lighter_config::name::ServicePort;
use lighter_config::snapshot::{Offload, PlaceProfile};
use lighter_place::{Decision, Failure, Outcome, PlaceId, Reason, Request, Setback, Spent};
use metrics::{Counter, counter, describe_counter};

use crate::balance::Reported;
use crate::telemetry::{EnergySource, PER_UNIT};

/// Of one rule. Handles are made when they are first needed: most reasons never are.
pub(super) struct Counts {
    labels: [(&'static str, String); 3],
    /// The host first.
    places: Box<[OfPlace]>,
    /// Whether the data that the host reads comes over the network.
    is_host_data_moved: bool,
}

struct OfPlace {
    name: String,
    is_data_moved: bool,
    reasons: [OnceLock<Counter>; Reason::LABELS.len()],
    outcomes: [OnceLock<Counter>; OUTCOMES.len()],
    reports: [OnceLock<Counter>; Reported::ALL.len()],
    moved: OnceLock<Counter>,
    avoided: OnceLock<Counter>,
    seconds: OnceLock<Counter>,
    processor_seconds: [OnceLock<Counter>; SOURCES.len()],
    joules: OnceLock<Counter>,
    /// By the model of its power: while it works, and for each byte that is moved.
    busy_watts: f64,
    joules_per_byte: f64,
    /// No more than so many of its processors are at work for one request.
    slots: f64,
}

/// Where it is known from how long a processor was at work.
const SOURCES: [&str; 2] = ["reported", "modelled"];

/// What became of a request at a place.
const OUTCOMES: [&str; 6] = ["answered", "refused", "lost", "timed_out", "error", "abandoned"];

impl Counts {
    pub(super) fn new(key: &ServicePort, route: &str, said: &Offload) -> Self {
        describe();
        let place = |name: &str, profile: &PlaceProfile| OfPlace {
            name: name.to_owned(),
            is_data_moved: profile.is_data_moved,
            reasons: Default::default(),
            outcomes: Default::default(),
            reports: Default::default(),
            moved: OnceLock::new(),
            avoided: OnceLock::new(),
            seconds: OnceLock::new(),
            processor_seconds: Default::default(),
            joules: OnceLock::new(),
            busy_watts: profile.busy_watts,
            joules_per_byte: profile.joules_per_byte,
            slots: f64::from(profile.slots.max(1)),
        };
        let devices = said.devices.iter().map(|device| place(&device.name, &device.profile));
        Counts {
            labels: [
                ("service", key.service.to_string()),
                ("port", key.port.to_string()),
                ("route", route.to_owned()),
            ],
            places: std::iter::once(place("host", &said.host)).chain(devices).collect(),
            is_host_data_moved: said.host.is_data_moved,
        }
    }

    /// A request goes there.
    pub(super) fn decided(&self, decision: &Decision) {
        let Some(place) = self.places.get(decision.place.number() as usize) else { return };
        let label = decision.reason.label();
        let Some(at) = Reason::LABELS.iter().position(|known| *known == label) else { return };
        let handle = &place.reasons[at];
        handle.get_or_init(|| self.counter(place, DECISIONS, Some(("reason", label)))).increment(1);
    }

    /// It has ended there.
    pub(super) fn ended(&self, at: PlaceId, outcome: &Outcome) {
        let Some(place) = self.places.get(at.number() as usize) else { return };
        let number = match outcome {
            Outcome::Answered(_) => 0,
            Outcome::SetBack(Setback::Refused(_)) => 1,
            Outcome::SetBack(Setback::Failed(Failure::Lost)) => 2,
            Outcome::SetBack(Setback::Failed(Failure::TimedOut)) => 3,
            Outcome::SetBack(Setback::Failed(Failure::Error)) => 4,
            Outcome::Abandoned => 5,
        };
        let label = ("outcome", OUTCOMES[number]);
        place.outcomes[number].get_or_init(|| self.counter(place, REQUESTS, Some(label))).increment(1);
    }

    /// It was answered there. `bytes`: of the request's body, and of the answer's. `processor_seconds`: as the place says.
    pub(super) fn answered(
        &self,
        at: PlaceId,
        asked: &Request,
        bytes: (u64, u64),
        spent: &Spent,
        processor_seconds: Option<f64>,
    ) {
        let Some(place) = self.places.get(at.number() as usize) else { return };
        let scanned = if place.is_data_moved { asked.scan_bytes } else { 0 };
        let moved = bytes.0.saturating_add(bytes.1).saturating_add(scanned);
        place.moved.get_or_init(|| self.counter(place, MOVED, None)).increment(moved);
        if self.is_host_data_moved && !place.is_data_moved && asked.scan_bytes > 0 {
            place.avoided.get_or_init(|| self.counter(place, AVOIDED, None)).increment(asked.scan_bytes);
        }
        // A conversion to an integer saturates.
        let parts = |amount: f64| (amount * PER_UNIT).round() as u64;
        place.seconds.get_or_init(|| self.counter(place, SECONDS, None)).increment(parts(spent.seconds));
        // What is more than the time that there was is no report.
        let processor_seconds = processor_seconds.filter(|said| *said <= spent.seconds * place.slots);
        let source = usize::from(processor_seconds.is_none());
        let label = ("source", SOURCES[source]);
        place.processor_seconds[source]
            .get_or_init(|| self.counter(place, PROCESSOR_SECONDS, Some(label)))
            .increment(parts(processor_seconds.unwrap_or(spent.processor_seconds)));
        let joules = place.busy_watts * spent.busy_seconds + place.joules_per_byte * moved as f64;
        let label = ("energy_source", EnergySource::Modelled.label());
        place.joules.get_or_init(|| self.counter(place, JOULES, Some(label))).increment(parts(joules));
    }

    /// A device said how busy it is.
    pub(super) fn reported(&self, at: PlaceId, outcome: Reported) {
        let Some(place) = self.places.get(at.number() as usize) else { return };
        let label = ("outcome", outcome.label());
        place.reports[outcome as usize]
            .get_or_init(|| self.counter(place, REPORTS, Some(label)))
            .increment(1);
    }

    fn counter(
        &self,
        place: &OfPlace,
        name: &'static str,
        more: Option<(&'static str, &'static str)>,
    ) -> Counter {
        let mut labels = self.labels.to_vec();
        labels.push(("place", place.name.clone()));
        labels.extend(more.map(|(label, value)| (label, value.to_owned())));
        counter!(name, &labels)
    }
}

const DECISIONS: &str = "lighter_offload_decisions_total";
const REQUESTS: &str = "lighter_offload_requests_total";
const REPORTS: &str = "lighter_offload_reports_total";
const MOVED: &str = "lighter_offload_moved_bytes_total";
const AVOIDED: &str = "lighter_offload_avoided_bytes_total";
const SECONDS: &str = "lighter_offload_answer_seconds_total";
const PROCESSOR_SECONDS: &str = "lighter_offload_processor_seconds_total";
const JOULES: &str = "lighter_offload_joules_total";

fn describe() {
    describe_counter!(DECISIONS, "Where requests of a rule with an OffloadPolicy went, and why.");
    describe_counter!(REQUESTS, "What became of them there.");
    describe_counter!(REPORTS, "Answers in which a place said how long a request would wait there.");
    describe_counter!(
        MOVED,
        "Bytes of requests and answers that were answered there, and of the data that was moved to the place for them, as the \
         policy says."
    );
    describe_counter!(
        SECONDS,
        "How long requests that were answered there took, until the end of the answer."
    );
    describe_counter!(
        PROCESSOR_SECONDS,
        "Processor time of the place for them: reported beside the answer, or modelled as the part of the answer's time that the \
         policy's numbers give to a processor."
    );
    describe_counter!(
        JOULES,
        "Energy for them by the policy's model of the place: watts while it worked, and joules for each byte moved."
    );
    describe_counter!(
        AVOIDED,
        "Bytes of data that would have been moved to the host for them, as the policy says."
    );
}
