//! The functions of a device, as the sidecar of `lighter proxy` has them: those that are built in, and components.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use lighter_config::sidecar::{DatasetFormat, DeviceClass, DeviceConfig};
use lighter_functions::{
    Builtins, Class, Dataset, Device, Format, Limits, Out, Request, Setup, Status, Stop, Watch,
};
use lighter_proxy::device::{Asked, Ended, FunctionHost, NotTaken, Results, Took};

/// Makes what a sidecar with this `device` runs: every function that its file names is active.
pub fn host(config: &DeviceConfig) -> Result<Arc<dyn FunctionHost>, String> {
    let device = Builtins::with(setup(config), crate::components::load(config)?);
    let built_in = config.functions.iter().map(|function| function.name());
    let components = config.components.iter().map(|component| component.name.as_str());
    for name in built_in.chain(components) {
        let active = device.load(name).and_then(|id| device.activate(id));
        active.map_err(|fault| format!("`{name}`: {fault}"))?;
    }
    Ok(Arc::new(Host(device)))
}

struct Host<D>(D);

impl<D: Device> FunctionHost for Host<D> {
    fn describe(&self) -> String {
        // Numbers and text can always be written.
        serde_json::to_string_pretty(&self.0.discover()).unwrap_or_default() + "\n"
    }

    fn log(&self) -> String {
        let entries = self.0.log();
        let lines = entries.iter().filter_map(|entry| serde_json::to_string(entry).ok());
        lines.map(|line| line + "\n").collect()
    }

    fn run(&self, asked: &Asked<'_>, result: &mut dyn Results) -> Ended {
        let Asked { function, dataset, parameters, body } = *asked;
        let outcome = self.0.run(&Request { function, dataset, parameters, body }, &mut Bridge(result));
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

    fn watch(&self) -> Watch {
        self.0.watch()
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
    }
}
