//! Whether a scenario makes sense.

use std::ops::RangeInclusive;

use super::{Event, Functions, LogNormal, Scenario, What};
use crate::build::check;
use crate::document::At;
use crate::error::ConfigError;

/// Whatever is wrong goes to `errors`.
pub(super) fn check(scenario: &Scenario, at: &At<'_>, errors: &mut Vec<ConfigError>) {
    let mut checker = Checker { errors };
    checker.top(scenario, at);
    checker.hosts(scenario, &at.field("hosts"));
    checker.classes(scenario, &at.field("deviceClasses"));
    checker.workload(scenario, &at.field("workload"));
    if let Some(functions) = &scenario.functions {
        checker.functions(functions, &at.field("functions"));
    }
    let believed = at.field("believed");
    for (field, factor) in [
        ("linkFactor", scenario.believed.link_factor),
        ("mediaFactor", scenario.believed.media_factor),
        ("computeFactor", scenario.believed.compute_factor),
        ("functionFactor", scenario.believed.function_factor),
    ] {
        checker.number(&believed.field(field), factor, FACTORS);
    }
    let events = at.field("events");
    checker.note(check::at_most(&events, scenario.events.len(), MAX_EVENTS));
    for (index, event) in scenario.events.iter().enumerate() {
        checker.event(event, &events.index(index));
    }
    if let Some((event, device)) = missing_device(scenario).filter(|_| scenario.devices > 0) {
        let error = events.index(event).field("devices").error(format!("there is no device {device}"));
        checker
            .errors
            .push(error.hint(format!("they are numbered from 0 to {}", scenario.devices.saturating_sub(1))));
    }
}

/// The first device that an event names and that is not there, and the event.
pub(super) fn missing_device(scenario: &Scenario) -> Option<(usize, u32)> {
    scenario.events.iter().enumerate().find_map(|(index, event)| {
        event.devices.iter().find(|device| **device >= scenario.devices).map(|device| (index, *device))
    })
}

struct Checker<'e> {
    errors: &'e mut Vec<ConfigError>,
}

impl Checker<'_> {
    fn top(&mut self, scenario: &Scenario, at: &At<'_>) {
        self.count(&at.field("devices"), scenario.devices, 1..=100_000);
        self.count(&at.field("requests"), scenario.requests, 1..=10_000_000);
        self.number(&at.field("requestsPerSecond"), scenario.requests_per_second, 0.001..=1e9);
        self.number(&at.field("sloMissPercent"), scenario.slo_miss_percent, PERCENT);
        self.number(&at.field("staticRuleKibibytes"), scenario.static_rule_kibibytes, 0.0..=1e12);
        for (field, length) in [
            ("slo", Some(scenario.slo)),
            ("guardWindow", Some(scenario.guard_window)),
            ("tryTimeout", scenario.try_timeout),
            ("reportInterval", Some(scenario.report_interval)),
        ] {
            if length.is_some_and(|length| length.0.is_zero()) {
                self.errors.push(at.field(field).error("must be longer than nothing"));
            }
        }
    }

    fn hosts(&mut self, scenario: &Scenario, at: &At<'_>) {
        let hosts = &scenario.hosts;
        self.count(&at.field("count"), hosts.count, 1..=10_000);
        self.count(&at.field("slots"), hosts.slots, SLOTS);
        self.number(&at.field("linkMegabytesPerSecond"), hosts.link_megabytes_per_second, SPEEDS);
        self.number(&at.field("busyWatts"), hosts.busy_watts, COSTS);
        self.number(&at.field("joulesPerGigabyte"), hosts.joules_per_gigabyte, COSTS);
    }

    fn classes(&mut self, scenario: &Scenario, at: &At<'_>) {
        let classes = &scenario.device_classes;
        if classes.is_empty() {
            self.errors.push(at.error("there is no kind of device"));
        }
        self.note(check::at_most(at, classes.len(), MAX_CLASSES));
        for (index, class) in classes.iter().enumerate() {
            let at = at.index(index);
            self.note(check::dns_label(&at.field("name"), &class.name));
            if classes[..index].iter().any(|other| other.name == class.name) {
                self.errors.push(at.field("name").error(format!("there is a `{}` already", class.name)));
            }
            self.count(&at.field("share"), class.share, 1..=1_000_000);
            self.count(&at.field("slots"), class.slots, SLOTS);
            self.number(&at.field("computeFactor"), class.compute_factor, FACTORS);
            self.number(&at.field("linkMegabytesPerSecond"), class.link_megabytes_per_second, SPEEDS);
            self.number(&at.field("mediaMegabytesPerSecond"), class.media_megabytes_per_second, SPEEDS);
            self.number(&at.field("busyWatts"), class.busy_watts, COSTS);
            self.number(&at.field("joulesPerGigabyte"), class.joules_per_gigabyte, COSTS);
            self.number(&at.field("spreadSigma"), class.spread_sigma, SIGMAS);
            self.number(&at.field("memoryMegabytes"), class.memory_megabytes, MEMORY);
            if let Some(allowed) = class.allowed_slots.filter(|allowed| *allowed > class.slots) {
                let error = at.field("allowedSlots").error(format!("{allowed} of {} slots", class.slots));
                self.errors.push(error.hint("as many as there are, or fewer"));
            }
        }
    }

    fn workload(&mut self, scenario: &Scenario, at: &At<'_>) {
        let workload = &scenario.workload;
        self.count(&at.field("routes"), workload.routes, 1..=10_000);
        self.number(&at.field("popularityExponent"), workload.popularity_exponent, SIGMAS);
        if workload.popularity_shift.is_some_and(|shift| shift.0.is_zero()) {
            self.errors.push(at.field("popularityShift").error("must be longer than nothing"));
        }
        self.count(&at.field("replicas"), workload.replicas, 1..=7);
        if workload.replicas > scenario.devices {
            self.errors.push(at.field("replicas").error("there are fewer devices"));
        }
        self.count(&at.field("shardsPerDevice"), workload.shards_per_device, 1..=64);
        self.number(&at.field("stalePercent"), workload.stale_percent, PERCENT);
        self.number(&at.field("statefulPercent"), workload.stateful_percent, PERCENT);
        self.number(&at.field("noiseSigma"), workload.noise_sigma, SIGMAS);
        self.drawn(&at.field("scanKibibytes"), workload.scan_kibibytes);
        self.drawn(&at.field("selectivityPercent"), workload.selectivity_percent);
        self.drawn(&at.field("computeMicroseconds"), workload.compute_microseconds);
        self.drawn(&at.field("computeNanosecondsPerKibibyte"), workload.compute_nanoseconds_per_kibibyte);
        let at = at.field("fanOut");
        self.number(&at.field("shape"), workload.fan_out.shape, 0.1..=100.0);
        self.count(&at.field("most"), workload.fan_out.most, 1..=1000);
    }

    fn functions(&mut self, functions: &Functions, at: &At<'_>) {
        self.drawn(&at.field("megabytes"), functions.megabytes);
        self.number(&at.field("directPercent"), functions.direct_percent, PERCENT);
        for (field, length) in [
            ("activationTimeout", functions.activation_timeout),
            ("interval", functions.interval),
            ("idle", functions.idle),
        ] {
            if length.0.is_zero() {
                self.errors.push(at.field(field).error("must be longer than nothing"));
            }
        }
    }

    fn event(&mut self, event: &Event, at: &At<'_>) {
        match (event.percent, event.devices.is_empty()) {
            (None, true) => {
                let error = at.error("it befalls no device");
                self.errors.push(error.hint("write `percent: 10` or `devices: [0, 1]`"));
            }
            (Some(_), false) => self.errors.push(at.field("percent").error("`devices` says already which")),
            (Some(percent), true) => self.number(&at.field("percent"), percent, PERCENT),
            (None, false) => {}
        }
        if let Some(factor) = event.factor {
            self.number(&at.field("factor"), factor, FACTORS);
            if event.what != What::Slow {
                self.errors.push(at.field("factor").error("only what is `slow` has a factor"));
            }
        }
    }

    fn drawn(&mut self, at: &At<'_>, said: LogNormal) {
        self.number(&at.field("median"), said.median, 1e-9..=1e12);
        self.number(&at.field("sigma"), said.sigma, SIGMAS);
    }

    fn number(&mut self, at: &At<'_>, number: f64, range: RangeInclusive<f64>) {
        if !range.contains(&number) {
            let error = at.error(format!("{number} is out of range"));
            self.errors.push(error.hint(format!("from {} to {}", range.start(), range.end())));
        }
    }

    fn count(&mut self, at: &At<'_>, number: u32, range: RangeInclusive<u32>) {
        if !range.contains(&number) {
            let error = at.error(format!("{number} is out of range"));
            self.errors.push(error.hint(format!("from {} to {}", range.start(), range.end())));
        }
    }

    fn note(&mut self, result: Result<(), ConfigError>) {
        self.errors.extend(result.err());
    }
}

const PERCENT: RangeInclusive<f64> = 0.0..=100.0;
const FACTORS: RangeInclusive<f64> = 0.001..=1000.0;
/// In MB a second.
const SPEEDS: RangeInclusive<f64> = 0.001..=1e9;
/// In watts, and in joules for a gigabyte.
const COSTS: RangeInclusive<f64> = 0.0..=1e6;
/// In MB.
const MEMORY: RangeInclusive<f64> = 1.0..=1e9;
const SIGMAS: RangeInclusive<f64> = 0.0..=5.0;
const SLOTS: RangeInclusive<u32> = 1..=4096;
const MAX_CLASSES: usize = 32;
const MAX_EVENTS: usize = 1000;
