//! `device: {class: csd, listen: ADDR, datasets: […], …}`: the functions that this sidecar runs near data.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::activation::{Activation, ActivationFields, PlannedConfig};
use super::native::{Beside, NativeConfig, NativeFile};
use super::reserve::{MainTaskConfig, MainTaskFile, PowerConfig, PowerFile, Priority};
use crate::build::check;
use crate::document::At;
use crate::error::ConfigError;
use crate::resource;

/// Fewer bytes than these hold no buffer, no page and no record.
pub(super) const LEAST_MEMORY: u64 = 1 << 20;
const MOST_RUNS: u32 = 1024;
/// Of the connections that a device has open, half: the others are for what need not wait.
const MOST_WAITING: u32 = 2048;

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

/// `{name: NAME, path: FILE, tenant: TENANT, memory: fresh|kept}`: a WebAssembly component of `wasi:http/incoming-handler`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentConfig {
    /// What requests call it.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Whose it is: it sees datasets and keys of this tenant alone. Default `default`.
    pub tenant: String,
    /// What its runs may take. None: what those of any function may.
    pub limits: Option<ComponentLimits>,
    /// What of its memory lasts. Default [`ComponentMemory::Fresh`].
    pub memory: ComponentMemory,
}

/// What of a component's memory lasts from one run to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComponentMemory {
    /// Nothing: each run has an instance of its own.
    #[default]
    Fresh,
    /// All of it: runs are one after the other in one instance.
    Kept,
}

/// What runs of one component may take: nowhere more than those of any function of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComponentLimits {
    /// Most memory of one run, in bytes.
    pub memory_bytes: u64,
    /// Longest time of one run, the time in which its result is read among it.
    pub deadline: Duration,
    /// Most bytes of one result. None: no limit.
    pub result_bytes: Option<u64>,
}

/// What runs of functions may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Most memory of one run, in bytes. Default 64 MiB.
    pub memory_bytes: u64,
    /// Most runs at once; more are refused before they begin. Default 4.
    pub runs: usize,
    /// Longest time of one run, the time in which its result is read among it. Default 5 min.
    pub deadline: Duration,
    /// What the keys and values of the components of one tenant may take, and those of `counters`, in bytes. Default 16 MiB.
    pub key_bytes: u64,
    /// Most rows of one result. None: no limit. Components have no rows.
    pub result_rows: Option<u64>,
    /// Most bytes of one result. None: no limit.
    pub result_bytes: Option<u64>,
    /// Most requests that wait at once for functions which are not active. Default 1024.
    pub waiting: usize,
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
    pub const USUAL: [BuiltIn; 6] = [
        BuiltIn::Scan,
        BuiltIn::Filter,
        BuiltIn::Project,
        BuiltIn::Aggregate,
        BuiltIn::Checksum,
        BuiltIn::Compress,
    ];

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

impl Default for DeviceLimits {
    fn default() -> Self {
        DeviceLimits {
            memory_bytes: 64 << 20,
            runs: 4,
            deadline: Duration::from_secs(300),
            key_bytes: 16 << 20,
            result_rows: None,
            result_bytes: None,
            waiting: 1024,
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

/// A WebAssembly component.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ComponentFile {
    /// What requests call it: letters, digits, `.`, `-` and `_`.
    name: String,
    /// Its file, relative to this one.
    path: PathBuf,
    /// Whose it is: it sees datasets and keys of this tenant alone. Of the same letters. Default `default`.
    #[serde(default = "usual_tenant")]
    tenant: String,
    /// What its runs may take, each at most what the device's `limits` say. Default: that.
    #[serde(default)]
    limits: Option<ComponentLimitsFile>,
    /// What of its memory lasts: `fresh`, nothing, as each run has an instance of its own; or `kept`, all of it, as runs are one
    /// after the other in one instance. Not with `activation: planned`. Default `fresh`.
    #[serde(default)]
    memory: ComponentMemory,
}

/// What runs of one component may take.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ComponentLimitsFile {
    /// Most memory of one run, in bytes. Default: the device's.
    #[schemars(range(min = 1_048_576))]
    memory_bytes: Option<u64>,
    /// Longest time of one run, the time in which its result is read among it. Default: the device's.
    deadline: Option<resource::Duration>,
    /// Most bytes of one result. Default: the device's.
    #[schemars(range(min = 1))]
    result_bytes: Option<u64>,
}

fn usual_tenant() -> String {
    "default".into()
}

/// What runs of functions may take.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct LimitsFile {
    /// Most memory of one run, in bytes. Default 67108864.
    #[schemars(range(min = 1_048_576))]
    memory_bytes: Option<u64>,
    /// Most runs at once; more are refused before they begin. Default 4.
    #[schemars(range(min = 1, max = 1024))]
    runs: Option<u32>,
    /// Longest time of one run, the time in which its result is read among it. Default 5m.
    deadline: Option<resource::Duration>,
    /// What the keys and values of the components of one tenant may take, and those of `counters`, in bytes. 0: they remember
    /// nothing. Default 16777216.
    key_bytes: Option<u64>,
    /// Most rows of one result. Default: no limit.
    #[schemars(range(min = 1))]
    result_rows: Option<u64>,
    /// Most bytes of one result. Default: no limit.
    #[schemars(range(min = 1))]
    result_bytes: Option<u64>,
    /// Most requests that wait at once for functions which are not active. Default 1024.
    #[schemars(range(min = 1, max = 2048))]
    waiting: Option<u32>,
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
        let functions = self.functions.unwrap_or_else(|| BuiltIn::USUAL.to_vec());
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
        let own = |component: &ComponentFile| component.limits.as_ref().and_then(|own| own.memory_bytes);
        let of_components =
            self.components.iter().map(|component| own(component).unwrap_or(limits.memory_bytes));
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
        let components = self.components.into_iter().enumerate().map(|(index, component)| ComponentConfig {
            name: component.name,
            path: folder.join(component.path),
            tenant: component.tenant,
            memory: component.memory,
            limits: component
                .limits
                .map(|own| own.read(&limits, &at_components.index(index).field("limits"), &mut refuse)),
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

impl ComponentFile {
    /// Refuses what is no component beside those `before` it.
    fn check(&self, at: &At<'_>, before: &[ComponentFile], refuse: &mut impl FnMut(ConfigError)) {
        for (field, text) in [("name", &self.name), ("tenant", &self.tenant)] {
            if let Err(error) = check::data_name(&at.field(field), text) {
                refuse(error);
            }
        }
        if BuiltIn::ALL.iter().any(|function| function.name() == self.name) {
            let error = at.field("name").error(format!("`{}` is built in", self.name));
            refuse(error.hint("give the component a name of its own"));
        }
        if before.iter().any(|other| other.name == self.name) {
            refuse(at.field("name").error(format!("there is a component `{}` already", self.name)));
        }
        if self.path.as_os_str().is_empty() {
            refuse(at.field("path").error("an empty path names no file"));
        }
    }
}

impl LimitsFile {
    fn read(self, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) -> DeviceLimits {
        let usual = DeviceLimits::default();
        let memory_bytes = self.memory_bytes.unwrap_or(usual.memory_bytes);
        check_memory(memory_bytes, at, refuse);
        let runs = self.runs.unwrap_or(usual.runs as u32);
        if !(1..=MOST_RUNS).contains(&runs) {
            refuse(at.field("runs").error(format!("{runs} runs")).hint(format!("from 1 to {MOST_RUNS}")));
        }
        let deadline = self.deadline.map_or(usual.deadline, |deadline| deadline.0);
        check_deadline(deadline, at, refuse);
        for (field, said) in [("resultRows", self.result_rows), ("resultBytes", self.result_bytes)] {
            check_result(field, said, at, refuse);
        }
        let waiting = self.waiting.unwrap_or(usual.waiting as u32);
        if !(1..=MOST_WAITING).contains(&waiting) {
            let error = at.field("waiting").error(format!("{waiting} requests that wait"));
            refuse(error.hint(format!("from 1 to {MOST_WAITING}")));
        }
        DeviceLimits {
            memory_bytes,
            runs: runs as usize,
            deadline,
            key_bytes: self.key_bytes.unwrap_or(usual.key_bytes),
            result_rows: self.result_rows,
            result_bytes: self.result_bytes,
            waiting: waiting as usize,
        }
    }
}

impl ComponentLimitsFile {
    /// What holds for a component of a device with these limits.
    fn read(
        self,
        device: &DeviceLimits,
        at: &At<'_>,
        refuse: &mut impl FnMut(ConfigError),
    ) -> ComponentLimits {
        if let Some(bytes) = self.memory_bytes {
            check_memory(bytes, at, refuse);
        }
        if let Some(deadline) = self.deadline {
            check_deadline(deadline.0, at, refuse);
        }
        check_result("resultBytes", self.result_bytes, at, refuse);
        let memory_bytes = self.memory_bytes.unwrap_or(device.memory_bytes);
        let deadline = self.deadline.map_or(device.deadline, |deadline| deadline.0);
        let result_bytes = self.result_bytes.or(device.result_bytes);
        let mut above = |field: &str, said: String, most: String| {
            let error = at.field(field).error(format!("{said} is above what any run of the device may take"));
            refuse(error.hint(format!("at most {most}, or raise `device.limits.{field}`")));
        };
        if memory_bytes > device.memory_bytes {
            above("memoryBytes", memory_bytes.to_string(), device.memory_bytes.to_string());
        }
        if deadline > device.deadline {
            above("deadline", format!("{deadline:?}"), format!("{:?}", device.deadline));
        }
        if let (Some(own), Some(most)) = (result_bytes, device.result_bytes)
            && own > most
        {
            above("resultBytes", own.to_string(), most.to_string());
        }
        ComponentLimits { memory_bytes, deadline, result_bytes }
    }
}

fn check_memory(bytes: u64, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) {
    if bytes < LEAST_MEMORY {
        let error = at.field("memoryBytes").error(format!("no run is done in {bytes} bytes"));
        refuse(error.hint(format!("at least {LEAST_MEMORY}")));
    }
}

fn check_deadline(deadline: Duration, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) {
    if deadline.is_zero() {
        refuse(at.field("deadline").error("no run is that fast").hint("leave the field out"));
    }
}

fn check_result(field: &str, most: Option<u64>, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) {
    if most == Some(0) {
        let error = at.field(field).error("every result would be too large");
        refuse(error.hint("leave the field out for no limit"));
    }
}
