//! How much there is to do for this sidecar.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::snapshot::{MoveWhen, Port, Stateful};
use lighter_config::xds::wire::lighter::registry::v1::{
    Demand, DeviceLoad, FunctionLoad, Load, Offloaded, Served,
};

use crate::device::{self, Standing};
use crate::mesh::Mesh;
use crate::offload;
use crate::telemetry::{self, Direction, EnergySource, RouteMetrics};

/// Reads what was counted, every few seconds.
#[derive(Debug)]
pub(super) struct Meter {
    at: Instant,
    before: Counted,
}

/// What is counted of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counted {
    /// Requests and opaque connections that it carries.
    open: u64,
    /// Those that ended.
    ended: u64,
    /// Its processor time, in seconds.
    cpu_seconds: f64,
}

impl Meter {
    /// Counts from now on.
    pub(super) fn new(now: Instant) -> Self {
        Meter { at: now, before: Counted::now() }
    }

    /// What there was to do since the last time, if that is long enough ago. `moves`: somebody decides by it where a state is served
    /// best, and is told sooner.
    pub(super) fn read(&mut self, now: Instant, moves: bool) -> Option<Load> {
        let since = now.saturating_duration_since(self.at);
        let every = if moves { SOON } else { EVERY };
        if since < every {
            return None;
        }
        let counted = Counted::now();
        self.at = now;
        Some(counted.since(&std::mem::replace(&mut self.before, counted), since))
    }
}

impl Counted {
    fn now() -> Self {
        let mut counted = Counted { cpu_seconds: telemetry::cpu_seconds(), ..Counted::default() };
        for route in telemetry::routes() {
            let reading = route.read();
            counted.open += reading.open;
            counted.ended += reading.ended;
        }
        counted
    }

    /// Routes that nobody uses are forgotten with what they counted: nothing goes below zero.
    fn since(&self, before: &Counted, time: Duration) -> Load {
        let seconds = time.as_secs_f64();
        Load {
            requests_in_flight: self.open,
            requests_per_second: self.ended.saturating_sub(before.ended) as f64 / seconds,
            cpus: (self.cpu_seconds - before.cpu_seconds).max(0.0) / seconds,
            ..Load::default()
        }
    }
}

/// How many requests and opaque connections of callers to this workload are under way.
pub(super) fn of_callers() -> u64 {
    let inbound = telemetry::routes().into_iter().filter(|route| route.direction == Direction::Inbound);
    inbound.map(|route| route.read().open).sum()
}

/// Whether the state of a Service moves to where it is served better.
pub(super) fn moves(keeps: &Stateful) -> bool {
    keeps.moves.when == MoveWhen::Gain
}

/// What callers asked of the Service with these ports here, and how long that took. Behind other listeners of this workload there may
/// be anything, which does not move with the Service's state.
pub(super) fn served(ports: &[Arc<Port>]) -> Served {
    let is_its = |route: &Arc<RouteMetrics>| {
        route.direction == Direction::Inbound && ports.iter().any(|port| port.key == route.key)
    };
    let routes = telemetry::routes().into_iter().filter(is_its);
    routes.fold(Served::default(), |sum, route| {
        let latency = route.read().latency;
        Served {
            requests: sum.requests.saturating_add(latency.counts.iter().sum()),
            seconds: sum.seconds + Duration::from_nanos(latency.sum).as_secs_f64(),
            requests_in_flight: sum.requests_in_flight.saturating_add(route.in_flight()),
        }
    })
}

/// What there is to do for the functions of this sidecar, and what was counted of them.
pub(super) fn of_device(device: &device::Running) -> DeviceLoad {
    let sum = |name| telemetry::counted(name, None, "function").into_values().sum();
    let of_function = |function: Standing| FunctionLoad {
        name: function.name,
        runs: function.runs,
        runs_in_flight: u32::try_from(function.in_use).unwrap_or(u32::MAX),
        run_seconds: function.run_seconds,
    };
    let functions = device.planned.as_ref().map_or_else(Vec::new, |planned| planned.standing());
    let (joules, energy_source) = telemetry::device_joules().unzip();
    DeviceLoad {
        runs_in_flight: device.busy.running(),
        queue_seconds: device.busy.queue_seconds(),
        runs: sum("lighter_device_runs_total"),
        refused: sum("lighter_device_refusals_total"),
        busy_seconds: telemetry::device_busy_seconds(),
        read_bytes: sum("lighter_device_read_bytes_total"),
        skipped_bytes: sum("lighter_device_skipped_bytes_total"),
        result_bytes: sum("lighter_device_result_bytes_total"),
        functions: functions.into_iter().map(of_function).collect(),
        runs_allowed: Some(u32::try_from(device.most_runs()).unwrap_or(u32::MAX)),
        joules: joules.unwrap_or_default(),
        energy_source: energy_source.map_or("", EnergySource::label).to_owned(),
    }
}

/// What was counted of the requests that this sidecar placed on devices.
pub(super) fn offloaded() -> Vec<Offloaded> {
    let mut devices: BTreeMap<String, Offloaded> = BTreeMap::new();
    let mut add = |name, only, to: fn(&mut Offloaded) -> &mut u64| {
        for (device, count) in telemetry::counted(name, only, "place") {
            *to(devices.entry(device).or_default()) += count;
        }
    };
    let answered = Some(("outcome", "answered"));
    add("lighter_offload_requests_total", answered, |device| &mut device.answered);
    add("lighter_offload_moved_bytes_total", None, |device| &mut device.moved_bytes);
    add("lighter_offload_avoided_bytes_total", None, |device| &mut device.avoided_bytes);
    for (device, billionths) in telemetry::counted("lighter_offload_joules_total", None, "place") {
        devices.entry(device).or_default().joules += billionths as f64 / telemetry::PER_UNIT;
    }
    devices.remove("host");
    let named = devices.into_iter().map(|(device, counted)| Offloaded { device, ..counted });
    named.take(MOST_DEVICES).collect()
}

/// What its OffloadPolicies' requests wanted.
pub(super) fn demands(mesh: &Mesh) -> Vec<Demand> {
    let wanted = offload::demands(mesh).into_iter().take(MOST_POLICIES);
    wanted.map(|(policy, requests)| Demand { policy: policy.to_string(), requests }).collect()
}

/// So many policies are told of.
const MOST_POLICIES: usize = 256;

/// So many devices are told of.
const MOST_DEVICES: usize = 256;

/// How often it is told.
const EVERY: Duration = Duration::from_secs(5);
/// And where it says how a state is served that may move for gain. Little less than it is looked at.
const SOON: Duration = Duration::from_millis(900);

#[cfg(test)]
mod tests {
    use lighter_config::load::Resources;
    use lighter_config::name::{ServiceName, ServicePort};
    use lighter_config::snapshot::Snapshot;

    use super::*;
    use crate::telemetry::Spoken;

    #[test]
    fn what_is_asked_of_a_service_is_what_comes_to_its_ports() {
        let text = "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {name: metered}\n\
                    spec: {ports: [{name: a, port: 80}, {name: b, port: 81}]}\n";
        let snapshot = Snapshot::build(&Resources::parse("test.yaml", text).unwrap()).unwrap();
        let name = ServiceName::new("default", "metered");
        let begins = |direction, port| {
            let key = ServicePort { service: name.clone(), port };
            let route = RouteMetrics::of(direction, &key, "default");
            route.begin(Spoken::Http1);
            route
        };
        let _routes = [
            begins(Direction::Inbound, 80),
            begins(Direction::Inbound, 81),
            begins(Direction::Inbound, 9000),
            begins(Direction::Outbound, 80),
        ];
        assert_eq!(served(&snapshot.services[&name].ports).requests_in_flight, 2);
    }

    #[test]
    fn what_is_told_is_a_rate() {
        let before = Counted { open: 9, ended: 100, cpu_seconds: 1.0 };
        let now = Counted { open: 2, ended: 140, cpu_seconds: 2.0 };
        let load = now.since(&before, Duration::from_secs(4));
        assert_eq!(
            load,
            Load { requests_in_flight: 2, requests_per_second: 10.0, cpus: 0.25, ..Load::default() }
        );
        let load = before.since(&now, Duration::from_secs(4));
        assert_eq!((load.requests_per_second, load.cpus), (0.0, 0.0));
    }
}
