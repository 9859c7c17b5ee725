//! A device without functions, and with some that are at fault.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::Bytes;
use common::{PATIENCE, dial, free_address};
use lighter_config::sidecar::SidecarConfig;
use lighter_proxy::device::{Asked, Ended, FunctionHost, Held, MakeHost, Results, Took};
use lighter_proxy::dial::Here;
use lighter_proxy::worker::{self, Sockets, Start, StartError};

fn start(config: SidecarConfig, functions: Option<MakeHost>, ready: impl FnOnce() + Send + 'static) -> Start {
    Start {
        config,
        sockets: Sockets::default(),
        outside: Arc::new(Here::default()),
        inside: Arc::new(Here::default()),
        ready: Box::new(ready),
        stop: None,
        callers_gone: None,
        successor: None,
        functions,
    }
}

fn config() -> SidecarConfig {
    let (admin, at, app) = (free_address(), free_address(), free_address());
    let file = format!(
        "service: a\nworkers: 1\nadmin: '{admin}'\ninbound: [{{listen: '{at}', app: '{app}', protocol: http}}]\n\
         device: {{class: host, listen: '{app}', datasets: [{{name: d, version: '1', path: none, format: csv}}]}}\n"
    );
    SidecarConfig::parse("sidecar.yaml", &file).unwrap()
}

#[test]
fn a_program_without_functions_has_no_device() {
    let ended = worker::run(start(config(), None, || ()));
    assert!(matches!(&ended, Err(StartError::Device(why)) if why.contains("no functions")), "{ended:?}");
    let ended = worker::run(start(config(), Some(|_| Err("out of order".into())), || ()));
    assert!(matches!(&ended, Err(StartError::Device(why)) if why == "out of order"), "{ended:?}");
}

/// Gives the parameters back; `panic` is a fault.
struct Odd;

impl FunctionHost for Odd {
    fn describe(&self) -> String {
        "{}".into()
    }

    fn log(&self) -> String {
        String::new()
    }

    fn functions(&self) -> Vec<Held> {
        vec![Held { name: "scan".into(), memory_bytes: 1 << 20 }]
    }

    fn activate(&self, _: &str) -> Result<(), String> {
        Err("it is from the start".into())
    }

    fn deactivate(&self, _: &str) -> Result<(), String> {
        Err("it stays".into())
    }

    fn run(&self, asked: &Asked<'_>, result: &mut dyn Results) -> Ended {
        assert_ne!(asked.parameters, "panic");
        result.begin("text/plain");
        let bytes = Bytes::copy_from_slice(asked.parameters.as_bytes());
        let written = result.write(bytes, Instant::now() + PATIENCE);
        if asked.parameters == "panic-late" {
            // More than lies anywhere on the way: of what came first the caller has something then.
            for _ in 0..256 {
                let _ = result.write(Bytes::from_static(&[b'x'; 64 * 1024]), Instant::now() + PATIENCE);
            }
            panic!("late");
        }
        let http = if written.is_ok() { 200 } else { 499 };
        Ended { status: "CS_SUCCESS", http, message: String::new(), took: Took::default() }
    }
}

#[test]
fn a_function_that_panics_ends_its_own_run_and_no_other_one() {
    let (ready, is_ready) = mpsc::channel();
    let config = config();
    let at = config.inbound[0].listen;
    let start = start(config, Some(|_| Ok(Arc::new(Odd))), move || ready.send(()).unwrap());
    // It goes on until the test's process ends.
    std::thread::spawn(move || worker::run(start));
    is_ready.recv_timeout(PATIENCE).unwrap();
    let ask = |parameters: &str| {
        let mut stream = dial(at);
        let request = format!("GET /scan/d?{parameters} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(ask("well").contains("well"));
    let answer = ask("panic");
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("CS_FATAL_ERROR"), "{answer}");
    // Its first bytes are gone already: the answer has no end.
    let answer = ask("panic-late");
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    assert!(ask("well again").starts_with("HTTP/1.1 400 "));
    assert!(ask("again").ends_with("\r\n0\r\n\r\n"));
}
