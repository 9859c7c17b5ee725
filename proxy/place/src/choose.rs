//! The decision itself: a function of its inputs and of nothing else.

use crate::patience;
use crate::record::{Candidate, Decision, Estimate, Inputs, Reason, Record, Side, Standing};
use crate::request::{HOST, Work};

/// Makes the decision of a record again. It is the same, to the last bit.
pub fn recompute(record: &Record) -> Decision {
    choose(&record.inputs)
}

/// Where a request goes, and how long it is waited for there.
pub(crate) fn choose(inputs: &Inputs) -> Decision {
    let decision = place(inputs);
    let expected = || {
        let host = inputs.candidates.host().estimate(&inputs.weights);
        patience::seconds(f64::from(inputs.slo_seconds), &host, &decision.estimate)
    };
    let on_device = decision.place != HOST;
    let timeout_seconds = on_device.then(|| inputs.try_timeout_seconds.unwrap_or_else(expected));
    Decision { timeout_seconds, ..decision }
}

/// Guardrails come first, then what is expected of the places.
fn place(inputs: &Inputs) -> Decision {
    let estimated = |candidate| Estimated { candidate, estimate: candidate.estimate(&inputs.weights) };
    let host = estimated(inputs.candidates.host());
    if let Some(setback) = inputs.after {
        return host.chosen(Reason::Setback(setback));
    }
    if inputs.request.work == Work::Stateful {
        return host.chosen(Reason::Stateful);
    }
    let slo_seconds = f64::from(inputs.slo_seconds);
    let devices = || inputs.candidates[1..].iter().filter(|one| one.standing == Standing::Admissible);
    let Some(device) =
        devices().map(estimated).reduce(|a, b| if b.is_better(&a, slo_seconds) { b } else { a })
    else {
        return host.chosen(Reason::NoDevice);
    };
    if inputs.share <= 0.0 {
        return host.chosen(Reason::GuardClosed);
    }
    if inputs.draw >= inputs.share {
        return host.chosen(Reason::GuardHeld);
    }
    if inputs.is_probing {
        return device.chosen(Reason::Probed);
    }
    let best = exploit(inputs, host, device, slo_seconds);
    if inputs.may_explore {
        let unknown = devices().chain([host.candidate]).filter(|one| one.place != best.place).map(estimated);
        let unknown = unknown.filter(|one| one.is_worth_a_try(slo_seconds));
        if let Some(one) = unknown.reduce(|a, b| if b.is_better(&a, slo_seconds) { b } else { a }) {
            return one.chosen(Reason::Explored);
        }
    }
    best
}

/// By what is known, the host or the best of the devices.
fn exploit(inputs: &Inputs, host: Estimated<'_>, device: Estimated<'_>, slo_seconds: f64) -> Decision {
    let (kept, other) = match inputs.kept {
        Side::Host => (host, device),
        Side::Device => (device, host),
    };
    if !other.is_better(&kept, slo_seconds) {
        return kept.chosen(Reason::Cheapest);
    }
    let is_better_by_enough = other.estimate.cost < kept.estimate.cost * (1.0 - f64::from(inputs.margin));
    if is_better_by_enough || kept.is_late(slo_seconds) && !other.is_late(slo_seconds) {
        return other.chosen(Reason::Cheapest);
    }
    kept.chosen(Reason::Kept)
}

#[derive(Clone, Copy)]
struct Estimated<'c> {
    candidate: &'c Candidate,
    estimate: Estimate,
}

impl Estimated<'_> {
    fn chosen(&self, reason: Reason) -> Decision {
        Decision { place: self.candidate.place, reason, estimate: self.estimate, timeout_seconds: None }
    }

    fn is_late(&self, slo_seconds: f64) -> bool {
        self.estimate.seconds > slo_seconds
    }

    /// Whether it is to be preferred: who is in time goes before who is late, whatever the objective.
    fn is_better(&self, other: &Self, slo_seconds: f64) -> bool {
        match (self.is_late(slo_seconds), other.is_late(slo_seconds)) {
            (false, true) => true,
            (true, false) => false,
            _ => self.estimate.cost < other.estimate.cost,
        }
    }

    /// Whether little is known of it, and nothing that speaks against it.
    fn is_worth_a_try(&self, slo_seconds: f64) -> bool {
        self.candidate.answers == 0 || self.candidate.answers < ENOUGH && !self.is_late(slo_seconds)
    }
}

/// So many answers say what to expect.
const ENOUGH: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Refusal, Setback};
    use crate::objective::Objective;
    use crate::record::Candidates;
    use crate::request::{HOST, PlaceId, Request};

    fn candidate(place: u32, scan_seconds: f32) -> Candidate {
        Candidate {
            place: PlaceId(place),
            answers: 100,
            scan_seconds,
            correction: 1.0,
            ..Candidate::default()
        }
    }

    fn inputs(host: f32, devices: &[f32]) -> Inputs {
        let mut candidates = Candidates::of_host(candidate(0, host));
        for (index, seconds) in devices.iter().enumerate() {
            candidates.push(candidate(index as u32 + 1, *seconds));
        }
        Inputs {
            request: Request { work: Work::Versioned(1), bytes_in: 0, scan_bytes: 0 },
            after: None,
            weights: Objective::Latency.weights(),
            slo_seconds: 1.0,
            try_timeout_seconds: None,
            share: 1.0,
            draw: 0.5,
            is_probing: false,
            kept: Side::Host,
            margin: 0.1,
            may_explore: false,
            candidates,
        }
    }

    fn said(inputs: &Inputs) -> (u32, Reason) {
        let decision = choose(inputs);
        (decision.place.number(), decision.reason)
    }

    #[test]
    fn the_cheapest_is_chosen_and_a_little_better_is_not_better() {
        assert_eq!(said(&inputs(0.1, &[0.08, 0.05])), (2, Reason::Cheapest));
        assert_eq!(said(&inputs(0.1, &[0.095])), (0, Reason::Kept));
        assert_eq!(said(&Inputs { kept: Side::Device, ..inputs(0.1, &[0.105]) }), (1, Reason::Kept));
        assert_eq!(said(&Inputs { kept: Side::Device, ..inputs(0.1, &[0.2]) }), (0, Reason::Cheapest));
    }

    #[test]
    fn guardrails_outrank_what_is_expected() {
        let good = inputs(0.1, &[0.01]);
        let refused = Setback::Refused(Refusal::PowerCap);
        assert_eq!(said(&Inputs { after: Some(refused), ..good }), (0, Reason::Setback(refused)));
        assert_eq!(said(&Inputs { share: 0.0, draw: 0.0, ..good }), (0, Reason::GuardClosed));
        assert_eq!(said(&Inputs { share: 0.05, ..good }), (0, Reason::GuardHeld));
        let stateful = Request { work: Work::Stateful, ..good.request };
        assert_eq!(said(&Inputs { request: stateful, ..good }), (0, Reason::Stateful));
        let mut candidates = Candidates::of_host(candidate(0, 0.1));
        candidates.push(Candidate { standing: Standing::Stalled, ..candidate(1, 0.01) });
        assert_eq!(said(&Inputs { candidates, ..good }), (0, Reason::NoDevice));
    }

    #[test]
    fn a_probe_goes_to_a_device_whatever_is_expected() {
        let bad = inputs(0.1, &[3.0, 2.0]);
        assert_eq!(said(&Inputs { share: 0.01, draw: 0.001, is_probing: true, ..bad }), (2, Reason::Probed));
    }

    #[test]
    fn who_is_late_is_not_chosen_for_its_energy() {
        let mut late = inputs(0.1, &[2.0]);
        late.weights = Objective::Energy.weights();
        let watts = |watts, candidate: Candidate| Candidate { busy_watts: watts, ..candidate };
        late.candidates = Candidates::of_host(watts(100.0, candidate(0, 0.1)));
        late.candidates.push(watts(1.0, candidate(1, 2.0)));
        assert_eq!(said(&late).0, HOST.number());
        late.slo_seconds = 3.0;
        assert_eq!(said(&late), (1, Reason::Cheapest));
    }

    #[test]
    fn a_device_has_the_time_that_the_host_can_spare_or_what_the_route_says() {
        let good = inputs(0.1, &[0.05]);
        let seconds = |inputs: &Inputs| choose(inputs).timeout_seconds.map(|seconds| (seconds * 1e3).round());
        assert_eq!(seconds(&good), Some(700.0));
        assert_eq!(seconds(&Inputs { slo_seconds: 2.0, ..good }), Some(1500.0));
        assert_eq!(seconds(&Inputs { try_timeout_seconds: Some(7.0), ..good }), Some(7000.0));
        // A queue is waited for as well, here and there.
        let mut queue = Candidates::of_host(Candidate { queue_seconds: 0.05, ..candidate(0, 0.1) });
        queue.push(candidate(1, 0.05));
        assert_eq!(seconds(&Inputs { candidates: queue, ..good }), Some(550.0));
        // The host is not left.
        for try_timeout_seconds in [None, Some(7.0)] {
            assert_eq!(seconds(&Inputs { share: 0.0, try_timeout_seconds, ..good }), None);
        }
    }

    #[test]
    fn what_nothing_is_known_of_is_explored_and_what_is_known_to_be_late_is_not() {
        let mut few = Inputs { may_explore: true, ..inputs(0.1, &[2.0]) };
        assert_eq!(said(&few), (0, Reason::Cheapest));
        let answers = |answers| {
            let mut candidates = Candidates::of_host(candidate(0, 0.1));
            candidates.push(Candidate { answers, ..candidate(1, 2.0) });
            candidates
        };
        few.candidates = answers(1);
        assert_eq!(said(&few), (0, Reason::Cheapest));
        few.candidates = answers(0);
        assert_eq!(said(&few), (1, Reason::Explored));
        // What would be better, but not by enough, is known no better for it.
        let mut near = Inputs { may_explore: true, ..inputs(0.1, &[]) };
        near.candidates.push(Candidate { answers: 0, ..candidate(1, 0.095) });
        assert_eq!(said(&near), (1, Reason::Explored));
    }
}
