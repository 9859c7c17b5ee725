//! Whatever a request says, a device answers it or says what is wrong, and gives the same twice.

#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use lighter_functions::{
    Builtins, Class, Dataset, Device, FUNCTIONS, Format, Limits, Out, Request, Setup, Status, Stop, Watch,
};

const CSV: &str = "id,country,amount\n1,DE,10\n2,FR,2.5\n3,\"a\n\"\"b\",\n4,,-7e3\n";
const LINES: &str =
    "{\"id\":1,\"country\":\"D\\u00e9\",\"amount\":null}\n{\"id\":2,\"amount\":[1],\"x\":true}\n";

static DEVICE: LazyLock<Builtins> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("lighter-fuzz-query-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str, text: &str, format| -> Dataset {
        let path: PathBuf = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        Dataset { name: name.into(), version: "1".into(), path, format, tenant: "default".into() }
    };
    let device = Builtins::new(Setup {
        class: Class::Csd,
        datasets: vec![file("csv", CSV, Format::Csv), file("lines", LINES, Format::Jsonl)],
        limits: Limits {
            memory_bytes: 1 << 20,
            rows_out: 100,
            bytes_out: 1 << 16,
            deadline: Duration::from_secs(60),
        },
        media_bytes_per_second: None,
        key_bytes: 1 << 20,
    });
    for function in FUNCTIONS {
        let id = device.load(function).expect("it is there");
        device.activate(id).expect("it is loaded");
    }
    device
});

#[derive(Default)]
struct Taken(Vec<u8>);

impl Out for Taken {
    fn answer(&mut self, _: u16, _: String) {}

    fn begin(&mut self, _: &'static str) {}

    fn write(&mut self, bytes: Vec<u8>, _: Instant) -> Result<(), Stop> {
        self.0.extend(bytes);
        Ok(())
    }

    fn watch(&self) -> Watch {
        Arc::new(|| false)
    }
}

fuzz_target!(|asked: (u8, bool, &str)| {
    let (function, lines, parameters) = asked;
    let function = FUNCTIONS[usize::from(function) % FUNCTIONS.len()];
    let dataset = if lines { "lines@1" } else { "csv" };
    let run = || {
        let mut taken = Taken::default();
        let outcome = DEVICE.run(&Request { function, dataset, parameters, body: None }, &mut taken);
        assert_eq!(outcome.usage.bytes_out, taken.0.len() as u64);
        (outcome.status(), taken.0)
    };
    let first = run();
    assert_ne!(first.0, Status::FatalError);
    assert_eq!(first, run());
});
