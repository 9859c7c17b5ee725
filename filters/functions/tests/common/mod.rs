//! A device with one dataset, asked from a test.

#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "of each test a part")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_functions::{
    Builtins, Class, Dataset, Device, FUNCTIONS, Format, Limits, Out, Outcome, Request, Setup, Stop, Watch,
};

pub mod parquet;

pub const LIMITS: Limits = Limits {
    memory_bytes: 8 << 20,
    rows_out: u64::MAX,
    bytes_out: u64::MAX,
    deadline: Duration::from_secs(60),
};

/// A result in memory.
#[derive(Default)]
pub struct Taken {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

impl Out for Taken {
    fn answer(&mut self, _: u16, _: String) {}

    fn begin(&mut self, media_type: &'static str) {
        self.media_type = media_type;
    }

    fn write(&mut self, bytes: Vec<u8>, _: Instant) -> Result<(), Stop> {
        self.bytes.extend(bytes);
        Ok(())
    }

    fn watch(&self) -> Watch {
        Arc::new(|| false)
    }
}

/// A device that holds `d`, with every function active.
pub fn device(path: &Path, format: Format, limits: Limits) -> Builtins {
    let dataset = Dataset {
        name: "d".into(),
        version: "1".into(),
        path: path.into(),
        format,
        tenant: "default".into(),
    };
    let device = Builtins::new(Setup {
        class: Class::Csd,
        datasets: vec![dataset],
        limits,
        media_bytes_per_second: None,
        key_bytes: 1 << 20,
    });
    for function in FUNCTIONS {
        device.activate(device.load(function).unwrap()).unwrap();
    }
    device
}

/// Asks it; `parameters` are encoded here.
pub fn ask(device: &dyn Device, function: &str, parameters: &[(&str, &str)]) -> (Outcome, String) {
    let encoded = parameters.iter().map(|(name, value)| {
        let value: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        format!("{name}={value}")
    });
    let parameters = encoded.collect::<Vec<_>>().join("&");
    let mut taken = Taken::default();
    let outcome =
        device.run(&Request { function, dataset: "d", parameters: &parameters, body: None }, &mut taken);
    (outcome, String::from_utf8(taken.bytes).unwrap())
}
