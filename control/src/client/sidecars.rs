//! `lighter get sidecars`: how each client of ADS stands.

use std::time::SystemTime;

use http::Method;
use miette::miette;
use serde_json::Value;

use super::access::{Access, Answered};
use super::get::{Form, yaml};
use super::{explain, table};
use crate::api::message::Files;
use crate::exit::Exit;
use crate::output;
use crate::store::seconds;

/// Runs the command.
pub fn execute(access: &Access, form: Form) -> miette::Result<Exit> {
    let Some(answer) = ask(access)? else { return Ok(Exit::Fault) };
    let sidecars = listed(&answer)?;
    match form {
        Form::Json => output::json(&answer)?,
        Form::Yaml => output::line(yaml(&answer)?.trim_end())?,
        Form::Table | Form::Wide if sidecars.is_empty() => eprintln!("no sidecar is connected"),
        Form::Table | Form::Wide => {
            let now = seconds(SystemTime::now());
            let rows: Vec<_> =
                sidecars.iter().flat_map(|sidecar| rows(sidecar, form == Form::Wide, now)).collect();
            output::line(table::write(
                &["SIDECAR", "PEER", "CONNECTED", "KIND", "NAMES", "TOLD", "LOAD", "STATE"],
                &rows,
            ))?;
        }
    }
    Ok(Exit::Ok)
}

/// What the control plane says of the sidecars that are connected to it. None: it refused, and it was said why.
pub(super) fn ask(access: &Access) -> miette::Result<Option<Value>> {
    match access.ask::<Value>(Method::GET, "/v1/sidecars", None::<&()>)? {
        Answered::Done(answer) => Ok(Some(answer)),
        Answered::Refused(_, refused) => {
            explain(&refused, &Files::default());
            Ok(None)
        }
    }
}

/// The sidecars in that answer.
pub(super) fn listed(answer: &Value) -> miette::Result<&[Value]> {
    let sidecars =
        answer["sidecars"].as_array().ok_or_else(|| miette!("the answer has no sidecars in it"))?;
    Ok(sidecars)
}

/// One line a sidecar; with `wide`, one for each kind of resource that it asked for.
fn rows(sidecar: &Value, wide: bool, now: u64) -> Vec<Vec<String>> {
    let kinds = sidecar["kinds"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Clients choose their words: they stay on their line.
    let text = |value: &Value| match value.as_str().unwrap_or_default() {
        "" => "-".to_string(),
        text => text.escape_debug().to_string(),
    };
    let since = sidecar["since"].as_u64().unwrap_or(now);
    // A client that proved nothing is known by its own word only.
    let name = if sidecar["id"].is_string() { &sidecar["id"] } else { &sidecar["node"] };
    let load = load(&sidecar["load"]);
    let first = [text(name), text(&sidecar["peer"]), table::age(now.saturating_sub(since))];
    let row = |kind: &str, of: &[Value]| {
        let sum = |field: &str| of.iter().filter_map(|kind| kind[field].as_u64()).sum::<u64>().to_string();
        let names = if of.iter().any(|kind| kind["all"] == true) { "all".into() } else { sum("names") };
        first.iter().cloned().chain([kind.to_string(), names, sum("told"), load.clone(), state(of)]).collect()
    };
    match wide {
        true => kinds.iter().map(|kind| row(&text(&kind["kind"]), std::slice::from_ref(kind))).collect(),
        false => vec![row("*", kinds)],
    }
}

/// What there is to do, if that is reported.
fn load(load: &Value) -> String {
    let number = |field: &str| load[field].as_f64();
    let all = (load["requestsInFlight"].as_u64(), number("requestsPerSecond"), number("cpus"));
    match all {
        (Some(open), Some(rate), Some(cpus)) => format!("{open} open, {rate:.1}/s, {cpus:.2} cpus"),
        _ => "-".to_string(),
    }
}

/// The worst of these kinds: a rejection with its reason, an answer that waits, what is accepted and not in force, or
/// nothing of the sort.
fn state(kinds: &[Value]) -> String {
    let rejected = kinds.iter().find_map(|kind| Some((kind["kind"].as_str()?, kind["rejected"].as_str()?)));
    if let Some((kind, reason)) = rejected {
        // It is a client's text: it stays on its line.
        return format!("rejected {kind}: {}", reason.escape_debug());
    }
    let waiting = kinds
        .iter()
        .filter_map(|kind| kind["waiting"].as_f64())
        .fold(None, |worst: Option<f64>, seconds| Some(worst.map_or(seconds, |worst| worst.max(seconds))));
    if let Some(seconds) = waiting {
        return format!("waiting {seconds:.1}s");
    }
    let is_behind = |kind: &&Value| kind["inForce"].is_string() && kind["inForce"] != kind["accepted"];
    match kinds.iter().find(is_behind).and_then(|kind| kind["kind"].as_str()) {
        Some(kind) => format!("{kind} accepted, not in force"),
        None => "current".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sidecar_that_rejects_or_keeps_others_waiting_is_seen() {
        let mut sidecar = json!({
            "node": "web\u{1b}[2J", "peer": "192.0.2.1:4", "since": 100,
            "kinds": [
                {"kind": "listener", "all": false, "names": 2, "told": 2, "rejected": null, "waiting": null},
                {"kind": "endpoint", "all": false, "names": 3, "told": 3, "rejected": null, "waiting": 1.25},
            ],
        });
        let expected = ["web\\u{1b}[2J", "192.0.2.1:4", "20s", "*", "5", "5", "-", "waiting 1.2s"];
        assert_eq!(rows(&sidecar, false, 120), [expected.map(str::to_string)]);
        sidecar["kinds"][0]["rejected"] = "no\nroute".into();
        assert_eq!(rows(&sidecar, false, 120)[0][7], "rejected listener: no\\nroute");
        let wide = rows(&sidecar, true, 120);
        assert_eq!((wide.len(), &*wide[1][3], &*wide[1][7]), (2, "endpoint", "waiting 1.2s"));
    }

    #[test]
    fn what_is_accepted_and_not_in_force_is_seen_with_the_load() {
        let sidecar = json!({
            "id": "shop/web/host-1", "node": "anything", "peer": null, "since": 0,
            "kinds": [
                {"kind": "cluster", "accepted": "1", "inForce": "1"},
                {"kind": "route", "accepted": "2", "inForce": "1"},
            ],
            "load": {"requestsInFlight": 3, "requestsPerSecond": 12.34, "cpus": 0.5},
        });
        let row = &rows(&sidecar, false, 0)[0];
        assert_eq!((&*row[0], &*row[6]), ("shop/web/host-1", "3 open, 12.3/s, 0.50 cpus"));
        assert_eq!(row[7], "route accepted, not in force");
    }
}
