//! `GET /v1/devices`: the Devices in force, as documents, with how they stand in their `status`.

use http::StatusCode;
use lighter_config::build::DeviceInForce;
use lighter_config::manifest::Key;
use lighter_config::resource::{LIGHTER, Spec, device::DeviceSpec};
use lighter_config::sidecar::DeviceClass;
use serde_json::{Value, json};

use super::Api;
use super::answer::{self, Answer};
use super::conditions;
use super::message::{Item, List};
use super::query::Query;
use crate::registry::sidecars::{DeviceLoad, EnergySource};
use crate::registry::{OfInstance, Standing};

impl Api {
    pub(super) fn devices(&self, query: &Query) -> Answer {
        let view = self.state.store.view();
        let is_wanted = |device: &DeviceInForce| {
            query.namespace.as_deref().is_none_or(|namespace| namespace == &*device.name.namespace)
        };
        let devices = self.state.store.devices().into_iter().filter(is_wanted);
        let items = devices.map(|device| {
            let key = Key::new(DeviceSpec::KIND, &device.name.namespace, &device.name.name);
            let stored = view.resources.get(&key);
            let mut document = document(&device);
            document["status"] = self.status(&device);
            let Some(stored) = stored else {
                let written_by = if device.is_written { "a file" } else { "registration" };
                let written_by = written_by.to_owned();
                return Item { key, document, generation: 0, set: None, written_by, at: 0 };
            };
            document["status"]["conditions"] =
                conditions::status(stored, &view.snapshot.warnings)["conditions"].take();
            Item {
                key,
                document,
                generation: stored.generation,
                set: stored.set.clone(),
                written_by: stored.written_by.clone(),
                at: stored.at,
            }
        });
        answer::json(StatusCode::OK, &List { generation: view.generation, items: items.collect() })
    }

    /// How a Device stands: what its instances registered and reported last, and what callers' sidecars count of it.
    fn status(&self, device: &DeviceInForce) -> Value {
        let registry = &self.state.registry;
        let instances = device.service().map(|service| registry.devices(service)).unwrap_or_default();
        let load = |instance: &OfInstance| registry.sidecars.reported(&instance.id()?)?.device;
        let loads: Vec<Option<DeviceLoad>> = instances.iter().map(load).collect();
        let each = instances.iter().zip(&loads).map(|(instance, load)| {
            json!({
                "name": instance.name,
                "identity": instance.identity,
                "state": instance.standing.label(),
                "slots": instance.slots,
                "load": load,
            })
        });
        let state = instances.iter().map(|instance| instance.standing).min();
        let state = state.map_or(UNREGISTERED, Standing::label);
        let mut status = json!({
            "state": state,
            "registered": !device.is_written,
            "instances": each.collect::<Vec<_>>(),
            "offloaded": registry.sidecars.offloaded(&device.name.to_string()),
        });
        let planned = self.state.plan.of(&device.name.to_string());
        if !planned.is_empty() {
            let registered = device.service().and_then(|service| registry.device(service));
            let held = registered.map(|registered| registered.held).unwrap_or_default();
            let planned = planned.iter().map(|planned| {
                let held = held.iter().find(|held| *held.name == *planned.function);
                json!({
                    "name": planned.function,
                    "memoryBytes": held.map(|held| held.memory_bytes),
                    "active": device.is_active(&planned.function),
                    "planned": planned.because.is_active(),
                    "because": planned.because.label(),
                })
            });
            status["functions"] = planned.collect();
        }
        if loads.iter().any(Option::is_some) {
            let reporting = instances.iter().zip(&loads).filter(|(_, load)| load.is_some());
            let slots = reporting.fold(0u32, |slots, (instance, _)| slots.saturating_add(instance.slots));
            let load = sum(loads.iter().flatten());
            let used = f64::from(load.runs_in_flight) / f64::from(slots.max(1));
            status["load"] = json!(load);
            status["load"]["slots"] = slots.into();
            status["load"]["utilization"] = used.into();
        }
        status
    }
}

/// What nobody has registered an instance of.
const UNREGISTERED: &str = "unregistered";

/// All of them together. One that comes now waits as long as at the average one.
fn sum<'l>(loads: impl Iterator<Item = &'l DeviceLoad>) -> DeviceLoad {
    let (mut sum, mut count) = (DeviceLoad::default(), 0u32);
    for load in loads {
        count += 1;
        sum.runs_in_flight = sum.runs_in_flight.saturating_add(load.runs_in_flight);
        if let Some(allowed) = load.runs_allowed {
            sum.runs_allowed = Some(sum.runs_allowed.unwrap_or(0).saturating_add(allowed));
        }
        sum.queue_seconds += load.queue_seconds;
        sum.busy_seconds += load.busy_seconds;
        sum.joules += load.joules;
        sum.energy_source = EnergySource::and(sum.energy_source, load.energy_source);
        for (sum, more) in [
            (&mut sum.runs, load.runs),
            (&mut sum.refused, load.refused),
            (&mut sum.read_bytes, load.read_bytes),
            (&mut sum.skipped_bytes, load.skipped_bytes),
            (&mut sum.result_bytes, load.result_bytes),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
    sum.queue_seconds /= f64::from(count.max(1));
    sum
}

/// A Device as a document that can be applied, with all that holds of it.
fn document(device: &DeviceInForce) -> Value {
    let profile = &device.profile;
    let dataset = |(name, version): &(String, String)| json!({"name": name, "version": version});
    // Rates are whole numbers where they are written; one that somebody said fits.
    let rate = |rate: f64| Value::from(rate as u64);
    let mut spec = json!({
        "class": device.class,
        "functions": device.functions,
        "datasets": device.datasets.iter().map(dataset).collect::<Vec<_>>(),
        "computeFactor": profile.compute_factor,
        "slots": profile.slots,
        "linkBytesPerSecond": rate(profile.link_bytes_per_second),
        "dataBytesPerSecond": rate(profile.data_bytes_per_second),
        "busyWatts": profile.busy_watts,
        "joulesPerByte": profile.joules_per_byte,
        "dataIsMoved": profile.is_data_moved,
    });
    if device.class != DeviceClass::Host
        && let Some(target) = &device.target
    {
        spec["service"] = json!({"name": target.service.name, "port": target.port});
    }
    json!({
        "apiVersion": LIGHTER,
        "kind": DeviceSpec::KIND,
        "metadata": {"name": device.name.name, "namespace": device.name.namespace},
        "spec": spec,
    })
}
