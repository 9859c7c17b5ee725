//! What the whole-system suites share: real processes on loopback, raw peers that show every byte, and readings of the
//! sidecar's own metrics. Nothing here sleeps for a time and hopes; it waits for what it names.
//!
//! Each suite includes this folder by path and uses a part of it.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Trial};

pub mod echoed;
pub mod envoy;
pub mod example;
pub mod http2;
pub mod loss;
pub mod metrics;
pub mod namespace;
pub mod ports;
pub mod process;
pub mod quota;
pub mod raw;
pub mod root;
pub mod sidecar;
pub mod smuggling;

/// How long anything may take that is waited for. Reached only when it never comes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A test that passes when `test` returns.
pub fn test(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

/// A test that needs something of the machine: `test` gives the reason where it is missing.
pub fn test_where(name: &str, test: fn() -> Result<(), String>) -> Trial {
    Trial::ignorable_test(name, move || match test() {
        Ok(()) => Ok(Completion::Completed),
        Err(reason) => Ok(Completion::ignored_with(reason)),
    })
}

/// Runs a suite. Where `LIGHTER_CI` is set, a test that was left out for lack of something is a failure: the machine is
/// meant to have everything.
pub fn run(tests: Vec<Trial>) -> ! {
    process::raise_descriptor_limit();
    let mut arguments = Arguments::from_args();
    // Tests wait for processes more than they compute, but memory and load are measured: not too many at once.
    arguments.test_threads.get_or_insert(4);
    let conclusion = libtest_mimic::run(&arguments, tests);
    let strict = std::env::var_os("LIGHTER_CI").is_some() && arguments.filter.is_none();
    if strict && conclusion.num_ignored > 0 && !conclusion.has_failed() {
        eprintln!("LIGHTER_CI is set, and {} tests were left out", conclusion.num_ignored);
        std::process::exit(101);
    }
    conclusion.exit()
}

/// Whether the full counts are asked for (`LIGHTER_FULL=1`), not those that fit into every run.
pub fn full() -> bool {
    std::env::var_os("LIGHTER_FULL").is_some()
}

/// Waits until `holds`, and fails with `what` if it never does.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until `read` gives the same twice in a row, `pause` apart: until something has come to rest.
pub fn at_rest<T: PartialEq>(pause: Duration, mut read: impl FnMut() -> T) -> T {
    let start = Instant::now();
    let mut last = read();
    loop {
        std::thread::sleep(pause);
        let now = read();
        if now == last || start.elapsed() > PATIENCE {
            return now;
        }
        last = now;
    }
}
