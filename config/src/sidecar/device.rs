//! `device: {class: csd, listen: ADDR, datasets: […], …}`: the functions that this sidecar runs near data.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::activation::{Activation, ActivationFields, PlannedConfig};
use super::component::{ComponentConfig, ComponentFile, ComponentMemory};
use super::limits::{DeviceLimits, LimitsFile};
use super::native::{Beside, NativeConfig, NativeFile};
use super::reserve::{MainTaskConfig, MainTaskFile, PowerConfig, PowerFile, Priority};
use crate::build::check;
use crate::document::At;
use crate::error::ConfigError;
use crate::resource;

/// A device: a node that runs functions near data.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceConfig {
    /// What kind of machine it is.
    pub class: DeviceClass,
    /// Where its functions are asked. On loopback: callers come by way of `inbound`.
    pub listen: SocketAddr,
    /// The data that is here.
    pub datasets: Vec<DatasetConfig>,
    /// The functions that can be asked for. None twice, and never empty where there are no others.
    pub functions: Vec<BuiltIn>,
    /// Functions that somebody else wrote. None is called like another one or like one of `functions`.
    pub components: Vec<ComponentConfig>,
    /// Functions that are programs of their own, called like no other one. Only where functions are planned.
    pub natives: Vec<NativeConfig>,
    /// Where the machine code of components is kept. None: they are compiled at each start.
    pub component_cache: Option<PathBuf>,
    /// Functions that are active while they are wanted. None: all of them from the start.
    pub planned: Option<PlannedConfig>,
    /// What runs may take.
    pub limits: DeviceLimits,
    /// What all runs together read in a second, in bytes: a slow medium, emulated. None: as fast as the machine can.
    pub media_bytes_per_second: Option<u64>,
    /// What it is there for beside them, whose share functions leave to it. None: nothing.
    pub main_task: Option<MainTaskConfig>,
    /// The model of its power.
    pub power: PowerConfig,
    /// How the threads of functions stand to all others. Default: `Idle` beside a main task, otherwise `Normal`.
    pub priority: Priority,
}

impl DeviceConfig {
    /// The names of the functions that can be asked for, each once.
    pub fn function_names(&self) -> impl Iterator<Item = &str> {
        let built_in = self.functions.iter().map(|function| function.name());
        let components = self.components.iter().map(|component| component.name.as_str());
        built_in.chain(components).chain(self.natives.iter().map(|native| native.name.as_str()))
    }
}

/// `{name: NAME, version: V, path: FILE, format: csv|jsonl|parquet}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetConfig {
    /// What requests call it. No other one of this device has this name.
    pub name: String,
    /// The only version that is here.
    pub version: String,
    /// Its file.
    pub path: PathBuf,
    /// How it is written.
    pub format: DatasetFormat,
    /// Whose it is: components of other tenants do not see it. Default `default`.
    pub tenant: String,
}

/// What kind of machine a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceClass {
    /// An ordinary server.
    Host,
    /// Computational storage: a processor in a drive.
    Csd,
    /// Computational memory.
    Cpm,
    /// A network card with processors.
    Dpu,
    /// A graphics processor.
    Gpu,
}

impl DeviceClass {
    /// Every one.
    pub const ALL: [DeviceClass; 5] =
        [DeviceClass::Host, DeviceClass::Csd, DeviceClass::Cpm, DeviceClass::Dpu, DeviceClass::Gpu];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            DeviceClass::Host => "host",
            DeviceClass::Csd => "csd",
            DeviceClass::Cpm => "cpm",
            DeviceClass::Dpu => "dpu",
            DeviceClass::Gpu => "gpu",
        }
    }
}

/// How a dataset is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DatasetFormat {
    /// RFC 4180, with a header.
    Csv,
    /// A JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// A function that needs no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BuiltIn {
    /// Some rows and some columns.
    Scan,
    /// Some rows.
    Filter,
    /// Some columns.
    Project,
    /// Counts, sums, least, most and average, by groups.
    Aggregate,
    /// A sum over the bytes.
    Checksum,
    /// The bytes, in fewer.
    Compress,
    /// Numbers by name, which it remembers.
    Counters,
}

impl BuiltIn {
    /// Every one.
    pub const ALL: [BuiltIn; 7] = [
        BuiltIn::Scan,
        BuiltIn::Filter,
        BuiltIn::Project,
        BuiltIn::Aggregate,
        BuiltIn::Checksum,
        BuiltIn::Compress,
        BuiltIn::Counters,
    ];

    /// Those that a device has of which nobody says otherwise: all that remember nothing.
    pub fn usual() -> impl Iterator<Item = BuiltIn> {
        BuiltIn::ALL.into_iter().filter(|function| !function.remembers())
    }

    /// Whether what one run leaves is there at the next.
    pub const fn remembers(self) -> bool {
        matches!(self, BuiltIn::Counters)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            BuiltIn::Scan => "scan",
            BuiltIn::Filter => "filter",
            BuiltIn::Project => "project",
            BuiltIn::Aggregate => "aggregate",
            BuiltIn::Checksum => "checksum",
            BuiltIn::Compress => "compress",
            BuiltIn::Counters => "counters",
        }
    }
}

/// A device: functions that this sidecar runs near data.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DeviceFile {
    /// What kind of machine it is. It changes where functions run, and not what they give.
    class: DeviceClass,
    /// Where its functions are asked, `address:port` on loopback. An `inbound` listener leads callers to it.
    listen: String,
    /// The data that is here.
    datasets: Vec<DatasetFile>,
    /// The functions that can be asked for. Default: all of them that remember nothing.
    #[serde(default)]
    functions: Option<Vec<BuiltIn>>,
    /// WebAssembly components of `wasi:http/incoming-handler`, asked for like any function.
    #[serde(default)]
    components: Vec<ComponentFile>,
    /// Programs that answer HTTP on a port of 127.0.0.1, asked for like any function. With `activation: planned` only.
    #[serde(default)]
    natives: Vec<NativeFile>,
    /// A folder for machine code, relative to this file: a component is compiled once, and found there at the next start. It is
    /// made with mode 0700, and refused with another one, as what lies there is run. Default: nothing is kept.
    #[serde(default)]
    component_cache: Option<PathBuf>,
    /// When functions are active: `always`, all of them from the start; or `planned`, while they are wanted, by the control
    /// plane's plan or, without one, by requests. Default `always`.
    #[serde(default)]
    activation: Option<Activation>,
    /// With `planned`: how much memory those that are active may take together, in bytes, each its code and what one run may
    /// take (`limits.memoryBytes`). Default: no limit.
    #[serde(default)]
    memory_bytes: Option<u64>,
    /// With `planned`: how long a request waits for its function, from 1ms to 1h. Default 10s.
    #[serde(default)]
    activation_timeout: Option<resource::Duration>,
    /// What runs may take.
    #[serde(default)]
    limits: Option<LimitsFile>,
    /// What all runs together read in a second, in bytes: a slow medium, emulated. Default: as fast as the machine can.
    #[serde(default)]
    #[schemars(range(min = 1))]
    media_bytes_per_second: Option<u64>,
    /// What the device is there for beside its functions, whose share they leave to it. Default: nothing.
    #[serde(default)]
    main_task: Option<MainTaskFile>,
    /// The model by which its power is told, and held. Default: 5 W for a busy processor, and no limit.
    #[serde(default)]
    power: Option<PowerFile>,
    /// How the threads of functions stand to all others of the machine: `idle`, `low` (nice 19) or `normal`. Default:
    /// `idle` where there is a `mainTask`, otherwise `normal`.
    #[serde(default)]
    priority: Option<Priority>,
}

/// A file that functions read.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DatasetFile {
    /// What requests call it: letters, digits, `.`, `-` and `_`.
    name: String,
    /// The only version that is here, of the same letters. A request for another one is refused.
    version: String,
    /// The file, relative to this one.
    path: PathBuf,
    /// How it is written.
    format: DatasetFormat,
    /// Whose it is: components of other tenants do not see it. Of the same letters. Default `default`.
    #[serde(default = "usual_tenant")]
    tenant: String,
}

/// Whose data and functions are of which nobody says it.
pub(super) fn usual_tenant() -> String {
    "default".into()
}

impl DeviceFile {
    /// What is said, with paths relative to `folder`. None: it has no address.
    pub(super) fn read(
        self,
        folder: &Path,
        at: &At<'_>,
        mut refuse: impl FnMut(ConfigError),
    ) -> Option<DeviceConfig> {
        let at_listen = at.field("listen");
        let listen = check::socket_address(&at_listen, &self.listen).map_err(&mut refuse).ok();
        if listen.is_some_and(|listen| !listen.ip().is_loopback()) {
            let error = at_listen.error("callers would come past this sidecar");
            refuse(error.hint("listen on 127.0.0.1, and lead callers there by `inbound`"));
        }
        let mut names = HashSet::new();
        for (index, dataset) in self.datasets.iter().enumerate() {
            let at = at.field("datasets").index(index);
            for (field, text) in
                [("name", &dataset.name), ("version", &dataset.version), ("tenant", &dataset.tenant)]
            {
                if let Err(error) = check::data_name(&at.field(field), text) {
                    refuse(error);
                }
            }
            if !names.insert(&dataset.name) {
                let error = at.field("name").error(format!("there is a dataset `{}` already", dataset.name));
                refuse(error.hint("a device has one version of a dataset"));
            }
            if dataset.path.as_os_str().is_empty() {
                refuse(at.field("path").error("an empty path names no file"));
            }
        }
        let functions = self.functions.unwrap_or_else(|| BuiltIn::usual().collect());
        if functions.is_empty() && self.components.is_empty() && self.natives.is_empty() {
            let error = at.field("functions").error("a device without functions does nothing");
            refuse(error.hint("leave it out for all that remember nothing"));
        }
        for (index, function) in functions.iter().enumerate() {
            if functions[..index].contains(function) {
                let error = at.field("functions").index(index);
                refuse(error.error(format!("`{}` stands there already", function.name())));
            }
        }
        let limits = self.limits.unwrap_or_default().read(&at.field("limits"), &mut refuse);
        let is_planned = self.activation.unwrap_or_default() == Activation::Planned;
        for (index, component) in self.components.iter().enumerate() {
            let at = at.field("components").index(index);
            component.check(&at, &self.components[..index], &mut refuse);
            if is_planned && component.memory == ComponentMemory::Kept {
                let error = at.field("memory").error("it would go with the function, whenever that goes");
                refuse(error.hint("have functions active from the start (`activation: always`)"));
            }
        }
        if self.media_bytes_per_second == Some(0) {
            let error = at.field("mediaBytesPerSecond").error("nothing would ever be read");
            refuse(error.hint("leave the field out"));
        }
        let activation = ActivationFields {
            activation: self.activation,
            memory_bytes: self.memory_bytes,
            timeout: self.activation_timeout,
        };
        let of_components = self.components.iter().map(|component| component.memory_bytes(&limits));
        let built_in = (!functions.is_empty()).then_some(limits.memory_bytes);
        let of_natives = self.natives.iter().map(NativeFile::memory_bytes);
        let least = of_components.chain(of_natives).chain(built_in).min().unwrap_or(limits.memory_bytes);
        let planned = activation.read(least, at, &mut refuse);
        let components = self.components.iter().map(|component| &*component.name);
        let beside = Beside {
            names: functions.iter().map(|function| function.name()).chain(components).collect(),
            listen,
            is_planned,
            budget: self.memory_bytes,
        };
        let at_natives = at.field("natives");
        let natives = self.natives.iter().enumerate().map(|(index, native)| {
            let others = (&self.natives[..index], &beside);
            native.read(folder, others, &at_natives.index(index), &mut refuse)
        });
        let natives = natives.collect();
        let main_task = self.main_task.map(|main| main.read(&at.field("mainTask"), &mut refuse));
        let power = match self.power {
            Some(power) => power.read(&at.field("power"), &mut refuse),
            None => PowerConfig::default(),
        };
        let usual = if main_task.is_some() { Priority::Idle } else { Priority::Normal };
        let datasets = self.datasets.into_iter().map(|dataset| DatasetConfig {
            name: dataset.name,
            version: dataset.version,
            path: folder.join(dataset.path),
            format: dataset.format,
            tenant: dataset.tenant,
        });
        let at_components = at.field("components");
        let components = self.components.into_iter().enumerate().map(|(index, component)| {
            component.read(folder, &limits, &at_components.index(index), &mut refuse)
        });
        let components = components.collect();
        Some(DeviceConfig {
            class: self.class,
            listen: listen?,
            datasets: datasets.collect(),
            functions,
            components,
            natives,
            component_cache: self.component_cache.map(|cache| folder.join(cache)),
            planned,
            limits,
            media_bytes_per_second: self.media_bytes_per_second,
            main_task,
            power,
            priority: self.priority.unwrap_or(usual),
        })
    }
}
