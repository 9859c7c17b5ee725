//! The functions of this sidecar's device, as operators see and change them.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, argument, not_allowed, text};
use crate::device::Running;

/// How each function stands, and what all of them take.
pub(super) fn read(device: Option<&Running>) -> Answer {
    match device {
        Some(device) => super::json(&told(device)),
        None => none(),
    }
}

/// Has a function become active, or go.
pub(super) fn change(device: Option<&Running>, method: &Method, query: &str, is_to_be: bool) -> Answer {
    if *method != Method::POST {
        return not_allowed("POST");
    }
    let Some(device) = device else { return none() };
    let Some(name) = argument(query, "function") else {
        return text(StatusCode::BAD_REQUEST, "say which: ?function=NAME\n");
    };
    let Some(planned) = &device.planned else {
        let why = "every function is active from the start: `activation: planned` in the device's file lets them come and go\n";
        return text(StatusCode::CONFLICT, why);
    };
    let is_known = if is_to_be { planned.ask(&name) } else { planned.dismiss(&name) };
    match (is_known, is_to_be) {
        (false, _) => text(StatusCode::NOT_FOUND, "the device's file names no such function\n"),
        (true, true) => text(StatusCode::OK, "it becomes active, if it is not\n"),
        (true, false) => text(StatusCode::OK, "it goes, once its runs have ended\n"),
    }
}

fn told(device: &Running) -> Value {
    let Some(planned) = &device.planned else {
        let functions = device
            .held
            .iter()
            .map(|held| json!({"name": held.name, "state": "active", "memory_bytes": held.memory_bytes}));
        return json!({"activation": "always", "functions": functions.collect::<Vec<_>>()});
    };
    let standing = planned.standing();
    let functions = standing.iter().map(|function| {
        json!({
            "name": function.name,
            "state": function.state,
            "memory_bytes": function.memory_bytes,
            "in_use": function.in_use,
            "waiting": function.waiting,
            "runs": function.runs,
            "run_seconds": function.run_seconds,
        })
    });
    json!({
        "activation": "planned",
        "planner": planned.planner(),
        "memory_bytes": planned.budget(),
        "active_memory_bytes": planned.taken(),
        "waiting": standing.iter().map(|function| function.waiting).sum::<usize>(),
        "most_waiting": planned.most_waiting(),
        "functions": functions.collect::<Vec<_>>(),
    })
}

fn none() -> Answer {
    text(StatusCode::NOT_FOUND, "this sidecar is no device: its file has no `device`\n")
}
