//! The functions that an instance runs near data, as it registers them, and what those of one Service come to together.

/// What an instance says of its functions, or those of a Service together. It has been checked; functions and datasets are in
/// order, and the port is 0 as long as it is not known.
pub use lighter_config::build::RegisteredDevice as Device;
use lighter_config::build::{HeldFunction, is_data_name};
use lighter_config::sidecar::DeviceClass;
use lighter_config::xds::wire::lighter::registry::v1 as wire;

use super::instance::Faulty;

/// Checks what is said. None: of a class that only something newer knows.
pub(super) fn read(said: &wire::Device) -> Result<Option<Device>, Faulty> {
    let fault = |text: String| Err(Faulty(text));
    if [said.functions.len(), said.held.len(), said.datasets.len()].into_iter().any(|held| held > MOST_HELD) {
        return fault(format!("more than {MOST_HELD} functions or datasets"));
    }
    let functions = said.functions.iter().chain(said.held.iter().map(|held| &held.name));
    let names = functions.chain(said.datasets.iter().flat_map(|held| [&held.name, &held.version]));
    for name in names {
        // Callers' sidecars are told of them, and take no others.
        if !is_data_name(name) {
            return fault(format!("`{}` names no function, dataset or version", name.escape_debug()));
        }
    }
    let Ok(port) = u16::try_from(said.port) else { return fault(format!("{} is not a port", said.port)) };
    let Some(class) = DeviceClass::ALL.into_iter().find(|class| class.name() == said.class) else {
        return Ok(None);
    };
    let mut functions = said.functions.clone();
    functions.sort();
    functions.dedup();
    let datasets = said.datasets.iter().map(|held| (held.name.clone(), held.version.clone()));
    let mut datasets: Vec<_> = datasets.collect();
    datasets.sort();
    datasets.dedup_by(|later, first| later.0 == first.0);
    let data_bytes_per_second = said.data_bytes_per_second.filter(|rate| *rate > 0);
    let held = said.held.iter();
    let held = held.map(|one| HeldFunction { name: one.name.clone(), memory_bytes: one.memory_bytes });
    let mut held: Vec<_> = held.collect();
    held.sort_by(|one, other| one.name.cmp(&other.name));
    held.dedup_by(|later, first| later.name == first.name);
    let (slots, memory_bytes) = (said.slots.max(1), said.memory_bytes);
    Ok(Some(Device { class, port, functions, held, memory_bytes, datasets, slots, data_bytes_per_second }))
}

/// As it is kept.
pub(super) fn keep(device: &Device) -> wire::Device {
    let dataset =
        |(name, version): &(String, String)| wire::Dataset { name: name.clone(), version: version.clone() };
    let held =
        |held: &HeldFunction| wire::HeldFunction { name: held.name.clone(), memory_bytes: held.memory_bytes };
    wire::Device {
        class: device.class.name().to_owned(),
        port: device.port.into(),
        functions: device.functions.clone(),
        datasets: device.datasets.iter().map(dataset).collect(),
        slots: device.slots,
        data_bytes_per_second: device.data_bytes_per_second,
        held: device.held.iter().map(held).collect(),
        memory_bytes: device.memory_bytes,
    }
}

/// What instances of one Service come to. Requests go to any of them, so only what all have counts; those of another class,
/// or behind another port, than the first are another thing, and do not count at all.
pub(super) fn together<'d>(devices: impl IntoIterator<Item = &'d Device>) -> Option<Device> {
    let mut devices = devices.into_iter().filter(|device| device.port > 0);
    let first = devices.next()?;
    let mut together = first.clone();
    for device in devices.filter(|device| (device.class, device.port) == (first.class, first.port)) {
        together.functions.retain(|function| device.functions.contains(function));
        together.held.retain_mut(|held| {
            let other = device.held.iter().find(|other| other.name == held.name);
            // It has to fit everywhere.
            held.memory_bytes = held.memory_bytes.max(other.map_or(0, |other| other.memory_bytes));
            other.is_some()
        });
        let budgets = [together.memory_bytes, device.memory_bytes];
        together.memory_bytes = budgets.into_iter().flatten().min();
        together.datasets.retain(|dataset| device.datasets.contains(dataset));
        together.slots = together.slots.saturating_add(device.slots);
        // The slowest: nobody is told of more than there may be.
        let rates = [together.data_bytes_per_second, device.data_bytes_per_second];
        together.data_bytes_per_second = rates.into_iter().flatten().min();
    }
    Some(together)
}

/// Most functions, and most datasets, of one instance.
const MOST_HELD: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> wire::Device {
        let dataset =
            |name: &str, version: &str| wire::Dataset { name: name.into(), version: version.into() };
        let held = |(name, memory_bytes): (&str, u64)| wire::HeldFunction { name: name.into(), memory_bytes };
        wire::Device {
            class: "csd".into(),
            port: 80,
            functions: vec!["scan".into(), "aggregate".into(), "scan".into()],
            datasets: vec![dataset("orders", "7"), dataset("items", "1")],
            slots: 2,
            data_bytes_per_second: Some(100),
            held: [("scan", 10), ("aggregate", 20)].map(held).into(),
            memory_bytes: Some(30),
        }
    }

    fn device(said: &wire::Device) -> Device {
        read(said).unwrap().unwrap()
    }

    #[test]
    fn what_is_kept_is_what_was_said() {
        let read = device(&said());
        assert_eq!(read.functions, ["aggregate", "scan"]);
        assert_eq!(device(&keep(&read)), read);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_what_is_newer_is_nothing() {
        assert_eq!(read(&wire::Device { class: "tape".into(), ..said() }), Ok(None));
        for faulty in [
            wire::Device { port: 70_000, ..said() },
            wire::Device { functions: vec![String::new()], ..said() },
            wire::Device { functions: vec!["a b".into()], ..said() },
            wire::Device { functions: vec!["a".into(); MOST_HELD + 1], ..said() },
            wire::Device { functions: vec!["a".repeat(129)], ..said() },
        ] {
            assert!(read(&faulty).is_err(), "{faulty:?}");
        }
    }

    #[test]
    fn together_they_have_what_all_have_and_the_room_of_all() {
        let first = device(&said());
        let mut other = Device { slots: 3, data_bytes_per_second: Some(50), ..first.clone() };
        other.functions = vec!["scan".into()];
        other.held = vec![HeldFunction { name: "scan".into(), memory_bytes: 15 }];
        other.memory_bytes = None;
        other.datasets = vec![("items".into(), "1".into()), ("orders".into(), "8".into())];
        let elsewhere = Device { port: 81, slots: 100, ..first.clone() };
        let unknown = Device { port: 0, ..first.clone() };
        assert_eq!(together([&unknown]), None);
        let all = together([&unknown, &first, &other, &elsewhere]).unwrap();
        let expected = Device {
            class: DeviceClass::Csd,
            port: 80,
            functions: vec!["scan".into()],
            held: vec![HeldFunction { name: "scan".into(), memory_bytes: 15 }],
            memory_bytes: Some(30),
            datasets: vec![("items".into(), "1".into())],
            slots: 5,
            data_bytes_per_second: Some(50),
        };
        assert_eq!(all, expected);
    }
}
