//! The functions of a device, as the sidecar of `lighter proxy` has them: those that are built in, components, and programs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lighter_config::sidecar::{DatasetFormat, DeviceClass, DeviceConfig};
use lighter_functions::{
    At, Builtins, Class, Dataset, Device, Fault, Format, Limits, Meter, NotMovable, NotReplaced, Out,
    Relayed, Request, Setup, Status, Stop, Watch,
};
use lighter_proxy::device::{
    self, Asked, Contents, Ended, FunctionHost, Held, NotRelayed, NotTaken, Results, Took,
};

use crate::native::Natives;

/// Makes what a sidecar with this `device` runs. Every function that its file names is active, unless they are planned.
pub fn host(config: &DeviceConfig) -> Result<Arc<dyn FunctionHost>, String> {
    let natives = Natives::new(config);
    let mut programs = crate::components::load(config)?;
    programs.extend(natives.programs());
    let device = Builtins::with(setup(config), programs);
    let host = Host { names: config.function_names().map(str::to_owned).collect(), device, natives };
    let Some(planned) = config.planned else {
        for name in config.function_names() {
            host.activate(name).map_err(|why| format!("`{name}`: {why}"))?;
        }
        return Ok(Arc::new(host));
    };
    if let Some(budget) = planned.memory_bytes
        && let Some(held) = host.functions().iter().find(|held| held.memory_bytes > budget)
    {
        return Err(format!(
            "`{}` takes {} bytes while it is active, its code and one run, and `memoryBytes` is {budget}: give more, or have \
             one run take less (`limits.memoryBytes`)",
            held.name, held.memory_bytes
        ));
    }
    Ok(Arc::new(host))
}

struct Host<D> {
    device: D,
    /// The functions that the file names.
    names: Vec<String>,
    /// Those that are programs of their own.
    natives: Natives,
}

impl<D: Device> FunctionHost for Host<D> {
    fn describe(&self) -> String {
        // Numbers and text can always be written.
        serde_json::to_string_pretty(&self.device.discover()).unwrap_or_default() + "\n"
    }

    fn log(&self) -> String {
        let entries = self.device.log();
        let lines = entries.iter().filter_map(|entry| serde_json::to_string(entry).ok());
        lines.map(|line| line + "\n").collect()
    }

    fn functions(&self) -> Vec<Held> {
        let found = self.device.discover().functions;
        let held = self.names.iter().filter_map(|name| found.iter().find(|function| function.name == *name));
        held.map(|function| Held { name: function.name.clone(), memory_bytes: function.memory_bytes })
            .collect()
    }

    fn activate(&self, function: &str) -> Result<(), String> {
        let active = self.device.load(function).and_then(|id| self.device.activate(id));
        active.map_err(|fault| fault.to_string())
    }

    fn deactivate(&self, function: &str) -> Result<(), String> {
        let found = self.device.discover().functions.into_iter().find(|found| found.name == function);
        let loaded = found.and_then(|found| found.id).ok_or("it is not loaded")?;
        self.device.unload(loaded).map_err(|fault| fault.to_string())
    }

    fn contents(&self, function: &str) -> Result<Arc<dyn Contents>, String> {
        // What is built in is there on every device, and asked for only where its file names it.
        if !self.names.iter().any(|name| name == function) {
            return Err(NotMovable::Unknown(function.to_owned()).to_string());
        }
        let contents = self.device.contents(function).map_err(|why| why.to_string())?;
        Ok(Arc::new(Remembered(contents)))
    }

    fn when_lost(&self, lost: Box<dyn Fn(&str) + Send + Sync>) {
        self.natives.when_lost(lost);
    }

    fn processor_time(&self) -> Duration {
        self.natives.took()
    }

    fn end(&self) {
        self.natives.end();
    }

    fn run(&self, asked: &Asked<'_>, result: &mut dyn Results) -> Ended {
        let Asked { function, dataset, parameters, body } = *asked;
        let outcome = self.device.run(&Request { function, dataset, parameters, body }, &mut Bridge(result));
        let status = outcome.status();
        let usage = outcome.usage;
        Ended {
            status: status.name(),
            http: http_status(status),
            message: outcome.fault.map(|fault| fault.message).unwrap_or_default(),
            took: Took {
                bytes_read: usage.bytes_read,
                bytes_skipped: usage.bytes_skipped,
                bytes_out: usage.bytes_out,
                denied: usage.denied,
                memories_lost: usage.memories_lost,
                rows_in: usage.rows_in,
                rows_out: usage.rows_out,
                ..Took::default()
            },
        }
    }
}

/// Where a result goes, as functions know it.
struct Bridge<'r>(&'r mut dyn Results);

impl Out for Bridge<'_> {
    fn begin(&mut self, media_type: &'static str) {
        self.0.begin(media_type);
    }

    fn answer(&mut self, status: u16, media_type: String) {
        self.0.answer(status, media_type);
    }

    fn ends(&mut self) {
        self.0.ends();
    }

    fn write(&mut self, bytes: Vec<u8>, until: Instant) -> Result<(), Stop> {
        self.0.write(Bytes::from(bytes), until).map_err(|not_taken| match not_taken {
            NotTaken::Gone => Stop::Gone,
            NotTaken::Late => Stop::Late,
        })
    }

    fn relay(&mut self, to: SocketAddr, meter: &Meter) -> Result<Relayed, Fault> {
        let mut above = None;
        let mut takes = |bytes| meter.bytes_out(bytes).map_err(|fault| above = Some(fault)).is_ok();
        let relayed = self.0.relay(to, meter.until(), &mut takes).map(|relayed| match relayed {
            device::Relayed::Whole => Relayed::Whole,
            device::Relayed::UntilClosed => Relayed::UntilClosed,
        });
        relayed.map_err(|why| match why {
            NotRelayed::Gone => Fault::new(Status::NotDone, "whoever asked has left"),
            NotRelayed::Late => meter.late(),
            NotRelayed::Refused => {
                above.unwrap_or_else(|| Fault::new(Status::OutOfResources, "the result is too long"))
            }
            NotRelayed::Lost(why) => Fault::new(Status::ErrorInExecution, why),
        })
    }

    fn watch(&self) -> Watch {
        self.0.watch()
    }
}

/// What a function remembers, as a sidecar knows it.
struct Remembered(Arc<dyn lighter_functions::Contents>);

impl Contents for Remembered {
    fn digest(&self) -> &str {
        self.0.digest()
    }

    fn most_bytes(&self) -> u64 {
        self.0.most_bytes()
    }

    fn read(&self) -> Result<(u64, Bytes), String> {
        let At { version, bytes } = self.0.read().map_err(|why| why.to_string())?;
        Ok((version, bytes.into()))
    }

    fn changes(&self, since: u64) -> Result<Option<(u64, Bytes)>, String> {
        let changes = self.0.changes(since).map_err(|why| why.to_string())?;
        Ok(changes.map(|At { version, bytes }| (version, bytes.into())))
    }

    fn replace(&self, with: &[u8], gone: &dyn Fn() -> bool) -> Result<(), device::NotReplaced> {
        self.0.replace(with, gone).map_err(|why| device::NotReplaced {
            http: match &why {
                NotReplaced::Malformed(_) => 400,
                NotReplaced::OtherProgram { .. } => 409,
                NotReplaced::LongKey(_) | NotReplaced::NoRoom(_) | NotReplaced::Memory(..) => 507,
                NotReplaced::Failed(_) => 500,
            },
            message: why.to_string(),
        })
    }

    fn freeze(&self, is_frozen: bool, gone: &dyn Fn() -> bool) {
        self.0.freeze(is_frozen, gone);
    }

    fn lost(&self) -> u64 {
        self.0.lost()
    }
}

/// What a client of HTTP understands of a status. Only 503 and 504 may end otherwise for one who asks again.
const fn http_status(status: Status) -> u16 {
    match status {
        Status::Success => 200,
        Status::InvalidArg | Status::InvalidId => 400,
        Status::InvalidFunction | Status::InvalidFunctionName | Status::NoSuchEntityExists => 404,
        Status::EntityNotOnDevice | Status::HandleInUse => 409,
        Status::OutOfResources => 422,
        Status::NotDone => 499,
        Status::ErrorInExecution | Status::FatalError | Status::LoadError => 500,
        Status::Unsupported => 501,
        Status::DeviceNotAvailable => 503,
        Status::IoTimeout => 504,
        Status::NotEnoughMemory => 507,
    }
}

fn setup(config: &DeviceConfig) -> Setup {
    let datasets = config.datasets.iter().map(|dataset| Dataset {
        name: dataset.name.clone(),
        version: dataset.version.clone(),
        path: dataset.path.clone(),
        tenant: dataset.tenant.clone(),
        format: match dataset.format {
            DatasetFormat::Csv => Format::Csv,
            DatasetFormat::Jsonl => Format::Jsonl,
            DatasetFormat::Parquet => Format::Parquet,
        },
    });
    Setup {
        class: match config.class {
            DeviceClass::Host => Class::Host,
            DeviceClass::Csd => Class::Csd,
            DeviceClass::Cpm => Class::Cpm,
            DeviceClass::Dpu => Class::Dpu,
            DeviceClass::Gpu => Class::Gpu,
        },
        datasets: datasets.collect(),
        limits: Limits {
            memory_bytes: config.limits.memory_bytes,
            rows_out: config.limits.result_rows.unwrap_or(u64::MAX),
            bytes_out: config.limits.result_bytes.unwrap_or(u64::MAX),
            deadline: config.limits.deadline,
        },
        media_bytes_per_second: config.media_bytes_per_second,
        key_bytes: config.limits.key_bytes,
    }
}
