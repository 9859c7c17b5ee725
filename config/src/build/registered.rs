//! Devices that register themselves, beside those that are written as resources.
//!
//! What instances of a Service register is a Device of the Service's name. A Device that is written by hand goes before it: of
//! one that has its name, or is reached by its Service, what is written holds, and what is left out there is as registered.
//! Instances come and go by themselves, so that nothing about them is ever a fault: what is not there is a warning of the
//! policies that would use it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Drafts;
use super::device::has_dataset;
use super::kind::{FullName, Kinds};
use super::offload::part;
use super::reference::Carries;
use crate::name::{ServiceName, ServicePort};
use crate::resource::device::DeviceSpec;
use crate::sidecar::DeviceClass;
use crate::snapshot::PlaceProfile;

/// What an instance, or all of a Service together, register of the functions that they run near data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredDevice {
    /// What kind of machine they are.
    pub class: DeviceClass,
    /// The port of their Service at which functions are asked.
    pub port: u16,
    /// The functions that all of them have and that can be asked now.
    pub functions: Vec<String>,
    /// The functions that all of them can make active, where that is planned. Empty: it is not.
    pub held: Vec<HeldFunction>,
    /// What those that are active may take together, in bytes, where that is planned. None: all fit.
    pub memory_bytes: Option<u64>,
    /// The data that all of them hold, by name, with its version.
    pub datasets: Vec<(String, String)>,
    /// How many requests they work on at once, all together.
    pub slots: u32,
    /// How fast each of them reads its data, in bytes a second, where that is said.
    pub data_bytes_per_second: Option<u64>,
}

/// A function that a device can make active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFunction {
    /// Its name.
    pub name: String,
    /// What it takes while it is active, in bytes: its code, and one run.
    pub memory_bytes: u64,
}

/// A Device as it is in force, whoever said so.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInForce {
    /// Its namespace and name.
    pub name: ServiceName,
    /// What kind of machine it is.
    pub class: DeviceClass,
    /// Whether a resource says of it; else it is registered alone.
    pub is_written: bool,
    /// The port by which it is reached. None: by none, as a host, or by one that is not there.
    pub target: Option<ServicePort>,
    /// The functions that it holds.
    pub functions: Vec<String>,
    /// Those of them that cannot be asked now, as they are not active.
    pub inactive: Vec<String>,
    /// The data that it holds, by name, with its version.
    pub datasets: Vec<(String, String)>,
    /// What it is like.
    pub profile: PlaceProfile,
}

/// What is registered of a Service, with what that comes to beside all else.
#[derive(Clone)]
pub(super) struct Registered {
    device: RegisteredDevice,
    /// The port by which it is reached. None: the Service has no such port, or one that carries no HTTP.
    target: Option<ServicePort>,
}

impl Registered {
    pub(super) fn new(device: RegisteredDevice) -> Self {
        Registered { device, target: None }
    }

    pub(super) fn says(&self, device: &RegisteredDevice) -> bool {
        self.device == *device
    }

    /// The same where there are these Services.
    pub(super) fn resolved(&self, service: &ServiceName, drafts: &Drafts) -> Self {
        let ports = drafts.get(service).map(|draft| draft.ports.as_slice()).unwrap_or_default();
        let port = ports.iter().find(|port| port.key.port == self.device.port);
        let fits = |port: &&super::PortDraft| Carries::Http.fits(port.protocol);
        let is_place = self.device.class != DeviceClass::Host;
        let target = port.filter(fits).filter(|_| is_place).map(|port| port.key.clone());
        Registered { device: self.device.clone(), target }
    }

    /// The functions that it holds, in order, and those of them that are not active.
    fn functions(&self) -> (Vec<String>, Vec<String>) {
        let RegisteredDevice { functions, held, .. } = &self.device;
        let names = held.iter().map(|held| &held.name);
        let inactive: Vec<String> = names.filter(|name| !functions.contains(name)).cloned().collect();
        let mut all: Vec<String> = functions.iter().chain(&inactive).cloned().collect();
        all.sort();
        (all, inactive)
    }

    fn profile(&self, mut profile: PlaceProfile, said: Option<&DeviceSpec>) -> PlaceProfile {
        if said.is_none_or(|said| said.slots.is_none()) {
            profile.slots = self.device.slots.max(1);
        }
        if said.is_none_or(|said| said.data_bytes_per_second.is_none()) {
            let rate = self.device.data_bytes_per_second.filter(|rate| *rate > 0);
            profile.data_bytes_per_second = rate.map_or(profile.data_bytes_per_second, |rate| rate as f64);
        }
        profile
    }
}

impl Kinds {
    /// The Device of this name, as it is in force.
    pub(super) fn device(&self, name: &FullName) -> Option<DeviceInForce> {
        if let Some((written, said)) = self.devices.get(name) {
            let spec = &written.resource.spec;
            let service = said.target.as_ref().map(|target| &target.service);
            let registered = service.and_then(|service| self.registered.get(service));
            let datasets = spec.datasets.iter().map(|held| (held.name.clone(), held.version.clone()));
            let mut device = DeviceInForce {
                name: name.clone(),
                class: spec.class,
                is_written: true,
                target: said.target.clone(),
                functions: spec.functions.clone(),
                inactive: Vec::new(),
                datasets: datasets.collect(),
                profile: said.profile.clone(),
            };
            if let Some(registered) = registered {
                device.profile = registered.profile(device.profile, Some(spec));
                let (functions, inactive) = registered.functions();
                device.inactive = inactive;
                if spec.functions.is_empty() {
                    device.functions = functions;
                }
                if spec.datasets.is_empty() {
                    device.datasets.clone_from(&registered.device.datasets);
                }
            }
            return Some(device);
        }
        let registered = self.registered.get(name)?;
        let RegisteredDevice { class, datasets, .. } = &registered.device;
        let (functions, inactive) = registered.functions();
        let usual = if *class == DeviceClass::Host { PlaceProfile::HOST } else { PlaceProfile::DEVICE };
        Some(DeviceInForce {
            name: name.clone(),
            class: *class,
            is_written: false,
            target: registered.target.clone(),
            functions,
            inactive,
            datasets: datasets.clone(),
            profile: registered.profile(usual, None),
        })
    }

    /// The names of the Devices of a namespace, each once, in order: of one that is written and registered, that which is
    /// written.
    pub(super) fn devices_in(&self, namespace: &str) -> BTreeSet<FullName> {
        let mut names: BTreeSet<FullName> =
            self.devices.names_in(namespace).map(|name| FullName::new(namespace, name)).collect();
        let of_namespace = self.registered.from(&ServiceName::new(namespace, ""));
        let of_namespace = of_namespace.take_while(|(name, _)| *name.namespace == *namespace);
        // One that is reached by the same Service is the same.
        let alone = of_namespace.filter(|(name, _)| self.devices.referring(name).next().is_none());
        names.extend(alone.map(|(name, _)| name.clone()));
        names
    }

    /// Every Device in force, in order.
    pub(super) fn all_devices(&self) -> Vec<DeviceInForce> {
        let written = self.devices.names();
        let registered = self.registered.keys();
        let namespaces: BTreeSet<&Arc<str>> = written.chain(registered).map(|name| &name.namespace).collect();
        let names = namespaces.into_iter().flat_map(|namespace| self.devices_in(namespace));
        names.filter_map(|name| self.device(&name)).collect()
    }

    /// What stands for all that another registration of this Service concerns.
    pub(super) fn parts_of(&self, service: &ServiceName) -> Vec<ServiceName> {
        let written = self.devices.referring(service);
        let written = written.map(|device| part::<DeviceSpec>(device.namespace(), device.name()));
        let own = part::<DeviceSpec>(&service.namespace, &service.name);
        written.chain([own, part::<DeviceSpec>(&service.namespace, "")]).collect()
    }
}

impl DeviceInForce {
    /// The Service whose instances it is, if it is known.
    pub fn service(&self) -> Option<&ServiceName> {
        match &self.target {
            Some(target) => Some(&target.service),
            None => (!self.is_written).then_some(&self.name),
        }
    }

    /// Whether requests can run this function there now.
    pub fn is_active(&self, function: &str) -> bool {
        let is_of = |names: &[String]| names.iter().any(|name| name == function);
        is_of(&self.functions) && !is_of(&self.inactive)
    }

    /// Whether requests that run this function, and read this of a dataset, can be placed there while it is active.
    pub(super) fn can_run(&self, function: &str, dataset: Option<(&str, &str)>) -> bool {
        let has_function = self.functions.iter().any(|held| held == function);
        let has_data =
            dataset.is_none_or(|(name, version)| has_dataset(&self.datasets, name) == Some(version));
        self.class != DeviceClass::Host && self.target.is_some() && has_function && has_data
    }
}
