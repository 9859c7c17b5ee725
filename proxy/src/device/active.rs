//! What is counted of functions that become active and go, and of requests that wait for them.

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use super::Held;
use super::activation::{By, Number};

/// Handles are kept, so that what a device counted is shown as long as it lives.
pub(super) struct Active {
    functions: Vec<Function>,
    waiting: Gauge,
    memory: Gauge,
    seconds: Histogram,
}

struct Function {
    active: Gauge,
    activations: [Counter; 3],
    deactivations: Counter,
    lost: Counter,
    waits: [Counter; 5],
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It runs.
    Run,
    /// It has waited for as long as it may.
    Timeout,
    /// It did not even begin, as as many wait as may.
    Full,
    /// The caller has left.
    Left,
    /// The function could not be made active.
    Failed,
}

/// Those of a device that are all active from its start.
pub(super) struct Always {
    _functions: Vec<(Gauge, Counter)>,
    _memory: Gauge,
}

impl Active {
    pub(super) fn planned(held: &[Held]) -> Self {
        describe();
        describe_gauge!(
            "lighter_device_waiting",
            "Requests that wait for functions which are not active, or that did and wait for a place. Absent unless they are planned."
        );
        describe_counter!(
            "lighter_device_deactivations_total",
            "How often a function went, and gave its memory back."
        );
        describe_counter!(
            "lighter_device_exits_total",
            "How often a program of its own ended while its function was active, and nobody had asked it to."
        );
        describe_counter!(
            "lighter_device_waits_total",
            "Requests that came for a function which was not active."
        );
        describe_histogram!("lighter_device_wait_seconds", "How long they waited.");
        let function = |held: &Held| {
            let name = || held.name.clone();
            let waits = |outcome: Wait| counter!("lighter_device_waits_total", "function" => name(), "outcome" => outcome.label());
            Function {
                active: active(name(), 0.0),
                activations: By::ALL.map(|by| activations(name(), by.label())),
                deactivations: counter!("lighter_device_deactivations_total", "function" => name()),
                lost: counter!("lighter_device_exits_total", "function" => name()),
                waits: Wait::ALL.map(waits),
            }
        };
        Active {
            functions: held.iter().map(function).collect(),
            waiting: gauge!("lighter_device_waiting"),
            memory: gauge!("lighter_device_active_memory_bytes"),
            seconds: histogram!("lighter_device_wait_seconds"),
        }
    }

    pub(super) fn came(&self, number: Number, by: By) {
        self.functions[number].activations[by as usize].increment(1);
    }

    pub(super) fn went(&self, number: Number) {
        self.functions[number].deactivations.increment(1);
    }

    pub(super) fn lost(&self, number: Number) {
        self.functions[number].lost.increment(1);
    }

    pub(super) fn is_active(&self, number: Number, is_active: bool) {
        self.functions[number].active.set(f64::from(u8::from(is_active)));
    }

    /// A wait has ended after so long, if it began.
    pub(super) fn waited(&self, number: Number, wait: Wait, time: Option<Duration>) {
        self.functions[number].waits[wait as usize].increment(1);
        if let Some(time) = time {
            self.seconds.record(time);
        }
    }

    pub(super) fn show(&self, waiting: usize, memory: u64) {
        self.waiting.set(waiting as f64);
        self.memory.set(memory as f64);
    }
}

impl Always {
    pub(super) fn new(held: &[Held]) -> Self {
        describe();
        let function = |held: &Held| {
            let activations = activations(held.name.clone(), "start");
            activations.increment(1);
            (active(held.name.clone(), 1.0), activations)
        };
        let memory = gauge!("lighter_device_active_memory_bytes");
        memory.set(held.iter().map(|held| held.memory_bytes as f64).sum::<f64>());
        Always { _functions: held.iter().map(function).collect(), _memory: memory }
    }
}

impl By {
    /// All of them, in the order of their counters.
    const ALL: [By; 3] = [By::Plan, By::Own, By::Admin];

    const fn label(self) -> &'static str {
        match self {
            By::Plan => "plan",
            By::Own => "self",
            By::Admin => "admin",
        }
    }
}

impl Wait {
    /// All of them, in the order of their counters.
    const ALL: [Wait; 5] = [Wait::Run, Wait::Timeout, Wait::Full, Wait::Left, Wait::Failed];

    const fn label(self) -> &'static str {
        match self {
            Wait::Run => "run",
            Wait::Timeout => "timeout",
            Wait::Full => "full",
            Wait::Left => "left",
            Wait::Failed => "failed",
        }
    }
}

fn active(function: String, is: f64) -> Gauge {
    let active = gauge!("lighter_device_function_active", "function" => function);
    active.set(is);
    active
}

fn activations(function: String, by: &'static str) -> Counter {
    counter!("lighter_device_activations_total", "function" => function, "by" => by)
}

fn describe() {
    describe_gauge!("lighter_device_function_active", "Whether a function can be run at once: 1, or 0.");
    describe_counter!(
        "lighter_device_activations_total",
        "How often a function became active, on whose word."
    );
    describe_gauge!(
        "lighter_device_active_memory_bytes",
        "What functions take that are active, on their way to it, or on their way out: their code, and one run of each."
    );
}
