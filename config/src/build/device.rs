//! Devices.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use super::kind::Refers;
use super::offload::{check_bytes_per_second, check_number, part};
use super::reference::Carries;
use super::{Drafts, Report, check, reference};
use crate::document::At;
use crate::error::ConfigError;
use crate::load::Loaded;
use crate::name::{ServiceName, ServicePort};
use crate::resource::device::{DeviceService, DeviceSpec};
use crate::sidecar::DeviceClass;
use crate::snapshot::PlaceProfile;

/// What a Device says.
#[derive(Clone)]
pub(super) struct Said {
    /// The port by which it is reached. None: it is a host, or faulty.
    pub(super) target: Option<ServicePort>,
    pub(super) profile: PlaceProfile,
}

impl Refers for DeviceSpec {
    type Said = Said;

    fn about(device: &Loaded<Self>) -> Vec<ServiceName> {
        // Policies that name none use any of the namespace.
        [device.name(), ""].map(|name| part::<Self>(device.namespace(), name)).to_vec()
    }

    fn names(device: &Loaded<Self>) -> Vec<ServiceName> {
        let service = device.resource.spec.service.iter();
        service.map(|service| ServiceName::new(device.namespace(), &service.name)).collect()
    }

    fn follow(device: &Loaded<Self>, drafts: &Drafts, report: &mut Report) -> Said {
        let (spec, at) = (&device.resource.spec, device.spec());
        let at_service = at.field("service");
        let target = match (&spec.service, spec.class) {
            (Some(_), DeviceClass::Host) => {
                let error = at_service.error("a host is reached by the backends of routes");
                report.error(error.hint("leave it out, or say another class"));
                None
            }
            (None, DeviceClass::Host) => None,
            (Some(service), _) => report.ok(target(service, &at_service, device.namespace(), drafts)),
            (None, _) => {
                let error = at.error("missing field `service`");
                report.error(error.hint("name the Service by which the device is reached"));
                None
            }
        };
        check_held(spec, &at, report);
        Said { target, profile: profile(spec, &at, report) }
    }
}

fn target(
    service: &DeviceService,
    at: &At<'_>,
    namespace: &str,
    drafts: &Drafts,
) -> Result<ServicePort, ConfigError> {
    let name = ServiceName::new(namespace, &service.name);
    let draft = reference::existing(&name, &at.field("name"), drafts)?;
    let (port, at) = match (service.port, draft.ports.as_slice()) {
        (None, [only]) => (only, at.field("name")),
        (None, ports) => {
            let error = at.error(format!("missing field `port`: {name} has several ports"));
            return Err(error.hint(reference::ports_hint(ports)));
        }
        (Some(number), ports) => {
            let at = at.field("port");
            let Some(known) = ports.iter().find(|known| known.key.port == number) else {
                let error = at.error(format!("{name} has no port {number}"));
                return Err(error.hint(reference::ports_hint(ports)));
            };
            (known, at)
        }
    };
    if !Carries::Http.fits(port.protocol) {
        let error = at.error(format!("{} does not carry HTTP, which requests are", port.key));
        return Err(error.hint("see `appProtocol` of its ports"));
    }
    Ok(port.key.clone())
}

/// The version of a dataset among those that are held.
pub(super) fn has_dataset<'d>(datasets: &'d [(String, String)], name: &str) -> Option<&'d str> {
    datasets.iter().find(|(held, _)| held == name).map(|(_, version)| version.as_str())
}

/// What it says that it holds.
fn check_held(spec: &DeviceSpec, at: &At<'_>, report: &mut Report) {
    let (at_functions, at_datasets) = (at.field("functions"), at.field("datasets"));
    report.ok(check::at_most(&at_functions, spec.functions.len(), MAX_HELD));
    let mut seen = HashSet::new();
    for (index, function) in spec.functions.iter().enumerate().take(MAX_HELD) {
        let at = at_functions.index(index);
        report.ok(check::dns_name(&at, function));
        if !seen.insert(function) {
            report.error(at.error(format!("`{function}` stands there already")));
        }
    }
    report.ok(check::at_most(&at_datasets, spec.datasets.len(), MAX_HELD));
    let mut seen = HashSet::new();
    for (index, dataset) in spec.datasets.iter().enumerate().take(MAX_HELD) {
        let at = at_datasets.index(index);
        report.ok(check::data_name(&at.field("name"), &dataset.name));
        report.ok(check::data_name(&at.field("version"), &dataset.version));
        if !seen.insert(&dataset.name) {
            let error = at.field("name").error(format!("there is a dataset `{}` already", dataset.name));
            report.error(error.hint("a device has one version of a dataset"));
        }
    }
}

fn profile(spec: &DeviceSpec, at: &At<'_>, report: &mut Report) -> PlaceProfile {
    let mut profile = if spec.class == DeviceClass::Host { PlaceProfile::HOST } else { PlaceProfile::DEVICE };
    for (field, said, range, place) in [
        ("computeFactor", spec.compute_factor, COMPUTE_FACTOR, &mut profile.compute_factor),
        ("busyWatts", spec.busy_watts, WATTS, &mut profile.busy_watts),
        ("joulesPerByte", spec.joules_per_byte, JOULES_PER_BYTE, &mut profile.joules_per_byte),
    ] {
        if let Some(said) = said {
            report.ok(check_number(&at.field(field), said, &range));
            *place = said;
        }
    }
    for (field, said, place) in [
        ("linkBytesPerSecond", spec.link_bytes_per_second, &mut profile.link_bytes_per_second),
        ("dataBytesPerSecond", spec.data_bytes_per_second, &mut profile.data_bytes_per_second),
    ] {
        report.ok(check_bytes_per_second(&at.field(field), said));
        // Of a number so large that this is not exact, no one knows the last digits.
        *place = said.map_or(*place, |said| said as f64);
    }
    if spec.slots == Some(0) {
        let error = at.field("slots").error("a device without slots works on nothing");
        report.error(error.hint("to use it no more, take it out of the policies"));
    }
    profile.slots = spec.slots.unwrap_or(profile.slots);
    profile.is_data_moved = spec.data_is_moved.unwrap_or(profile.is_data_moved);
    profile
}

/// Most Functions, and most datasets, of one Device.
const MAX_HELD: usize = 256;

/// How many times as long as on the reference host a function can take.
pub(crate) const COMPUTE_FACTOR: RangeInclusive<f64> = 0.000_001..=1_000_000.0;
/// What a place can draw.
pub(crate) const WATTS: RangeInclusive<f64> = 0.0..=1_000_000.0;
/// What it can cost to move a byte.
pub(crate) const JOULES_PER_BYTE: RangeInclusive<f64> = 0.0..=1.0;
