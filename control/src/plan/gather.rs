//! What there is to plan: devices as they registered and report, and policies with what their requests want.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lighter_config::build::{HeldFunction, RegisteredDevice};
use lighter_config::name::ServiceName;
use lighter_config::snapshot::{Objective, Offload, PlaceProfile, Snapshot};
use lighter_place::{Foreseen, FunctionCost, Profile, Request, Site, SiteFunction, Want, Work, foresee};

use crate::registry::sidecars::{Id, OfPlanned};
use crate::registry::{OfInstance, Standing};
use crate::state::State;

/// What there is to plan now.
#[derive(Default)]
pub(super) struct Gathered {
    /// Services whose instances have their functions planned.
    pub(super) sites: Vec<Site>,
    /// The instances of each that are there to be told.
    pub(super) instances: Vec<Vec<Id>>,
    /// The Devices that each is: several, if that is written.
    pub(super) devices: Vec<Vec<Arc<str>>>,
    /// What policies want of them.
    pub(super) wants: Vec<Want>,
}

impl Gathered {
    /// Looks at all of the mesh.
    pub(super) fn of(state: &State) -> Self {
        let mut gathered = Gathered::default();
        let registry = &state.registry;
        let mut of_service: BTreeMap<ServiceName, Vec<Arc<str>>> = BTreeMap::new();
        for device in state.store.devices() {
            if let Some(service) = device.service() {
                of_service.entry(service.clone()).or_default().push(device.name.to_string().into());
            }
        }
        for (service, devices) in of_service {
            let Some(registered) = registry.device(&service).filter(|device| !device.held.is_empty()) else {
                continue;
            };
            let kind = (registered.class, registered.port);
            let instances = registry.devices(&service).into_iter().filter(|instance| instance.kind == kind);
            let reports = instances.filter_map(|instance| {
                let id = instance.id()?;
                let reported = registry.sidecars.planned(&id)?;
                Some((instance, id, reported))
            });
            let reports: Vec<_> = reports.collect();
            gathered.sites.push(site(&service, &registered, &reports));
            gathered.instances.push(reports.into_iter().map(|(_, id, _)| id).collect());
            gathered.devices.push(devices);
        }
        if !gathered.sites.is_empty() {
            gathered.wants = wants(&state.store.snapshot(), &registry.sidecars.demands(), &gathered.devices);
        }
        gathered
    }
}

/// A Service with all of its instances: callers see one place.
fn site(
    service: &ServiceName,
    registered: &RegisteredDevice,
    reports: &[(OfInstance, Id, OfPlanned)],
) -> Site {
    let ready = || reports.iter().filter(|(instance, ..)| instance.standing == Standing::Ready);
    let allowed = |(instance, _, reported): &(OfInstance, Id, OfPlanned)| {
        reported.runs_allowed.map_or(instance.slots, |allowed| allowed.min(instance.slots))
    };
    let function = |held: &HeldFunction| {
        let loads = || reports.iter().filter_map(|(_, _, reported)| reported.functions.get(&held.name));
        SiteFunction {
            name: held.name.as_str().into(),
            memory_bytes: held.memory_bytes,
            is_active: registered.functions.contains(&held.name),
            is_waited_for: reports.iter().any(|(_, _, reported)| reported.waited_for.contains(&held.name)),
            runs: loads().map(|load| load.lately).fold(0, u64::saturating_add),
            run_seconds: loads().map(|load| load.lately_seconds).sum(),
            in_flight: loads().map(|load| load.runs_in_flight).fold(0, u32::saturating_add),
        }
    };
    Site {
        name: service.to_string().into(),
        memory_bytes: registered.memory_bytes,
        slots: ready().map(|(instance, ..)| instance.slots).fold(0, u32::saturating_add),
        allowed: ready().map(allowed).fold(0, u32::saturating_add),
        functions: registered.held.iter().map(function).collect(),
    }
}

/// What each policy wants that is in force for a route, with how many requests a second.
fn wants(snapshot: &Snapshot, rates: &BTreeMap<String, f64>, devices: &[Vec<Arc<str>>]) -> Vec<Want> {
    let places = devices.iter().enumerate();
    let places = places.flat_map(|(at, names)| names.iter().map(move |name| (&**name, at)));
    let places: BTreeMap<&str, usize> = places.collect();
    let mut known = BTreeSet::new();
    let mut wants = Vec::new();
    let routes =
        snapshot.services.values().flat_map(|service| &service.ports).flat_map(|port| &port.routes.routes);
    for offload in routes.filter_map(|route| route.offload.as_ref()) {
        if !known.insert(&offload.policy) {
            continue;
        }
        wants.push(Want {
            policy: offload.policy.clone(),
            function: offload.function.name.clone(),
            rate: rates.get(&*offload.policy).copied().unwrap_or(0.0),
            at: foreseen(offload, &places),
        });
    }
    wants
}

/// The planned devices that hold what a policy's requests need, at the version that the host reads.
fn foreseen(offload: &Offload, places: &BTreeMap<&str, usize>) -> Vec<Foreseen> {
    let dataset = offload.dataset.as_ref();
    let request = Request {
        work: Work::Stateless,
        bytes_in: 0,
        scan_bytes: dataset.map_or(0, |dataset| dataset.bytes),
    };
    let function = &offload.function;
    let cost = FunctionCost { seconds: function.seconds, seconds_per_byte: function.seconds_per_byte };
    let weights = match offload.objective {
        Objective::Latency => lighter_place::Objective::Latency,
        Objective::Energy => lighter_place::Objective::Energy,
        Objective::Bytes => lighter_place::Objective::Bytes,
    }
    .weights();
    let wanted: Option<&Arc<str>> = dataset.map(|dataset| &dataset.version);
    let devices =
        offload.devices.iter().filter(|device| wanted.is_none() || device.dataset.as_ref() == wanted);
    let foreseen = devices.filter_map(|device| {
        let site = *places.get(&*device.name)?;
        let places = (&profile(&offload.host), &profile(&device.profile));
        let (seconds, worth) = foresee(places, &weights, &request, (&cost, function.out_share));
        Some(Foreseen { site, seconds, worth })
    });
    foreseen.collect()
}

/// What is said of a place, as the decision core has it.
pub(super) fn profile(said: &PlaceProfile) -> Profile {
    Profile {
        link_bytes_per_second: said.link_bytes_per_second,
        data_bytes_per_second: said.data_bytes_per_second,
        compute_factor: said.compute_factor,
        slots: said.slots,
        busy_watts: said.busy_watts,
        joules_per_byte: said.joules_per_byte,
        is_data_moved: said.is_data_moved,
    }
}
