//! `lighter get devices`: where functions run near data, and how busy it is there.

use http::Method;
use miette::miette;
use serde_json::{Value, json};

use super::access::{Access, Answered};
use super::get::{Form, yaml};
use super::{explain, table};
use crate::api::message::{Files, Item, List};
use crate::exit::{self, Exit};
use crate::output;

/// Runs the command. `namespace`: of this one alone; `names`: these alone, if there are any.
pub fn execute(access: &Access, form: Form, namespace: Option<&str>, names: &[&str]) -> miette::Result<Exit> {
    let query = namespace.map(|namespace| format!("?namespace={namespace}")).unwrap_or_default();
    let list = match access.ask::<List>(Method::GET, &format!("/v1/devices{query}"), None::<&()>)? {
        Answered::Done(list) => list,
        Answered::Refused(_, refused) => {
            explain(&refused, &Files::default());
            return Ok(Exit::Fault);
        }
    };
    let is_wanted = |item: &Item| names.is_empty() || names.contains(&&*item.key.name);
    let items: Vec<Item> = list.items.into_iter().filter(is_wanted).collect();
    match form {
        Form::Yaml => {
            let documents =
                items.iter().map(|item| yaml(&item.document)).collect::<miette::Result<Vec<_>>>()?;
            if !documents.is_empty() {
                output::line(documents.join("---\n").trim_end())?;
            }
        }
        Form::Json => match items.as_slice() {
            [only] if names.len() == 1 => output::json(&only.document)?,
            _ => {
                let documents: Vec<&Value> = items.iter().map(|item| &item.document).collect();
                output::json(&json!({"apiVersion": "v1", "kind": "List", "items": documents}))?;
            }
        },
        Form::Table | Form::Wide if items.is_empty() => {
            if names.is_empty() {
                eprintln!("there are no devices");
            }
        }
        Form::Table | Form::Wide => {
            let (wide, spaces) = (form == Form::Wide, namespace.is_none());
            let rows: Vec<_> = items.iter().map(|item| row(item, wide, spaces)).collect();
            output::line(table::write(&titles(wide, spaces), &rows))?;
        }
    }
    let is_missing = |name: &&&str| !items.iter().any(|item| &*item.key.name == **name);
    let missing: Vec<_> = names.iter().filter(is_missing).collect();
    for name in &missing {
        let place =
            namespace.map_or("any namespace".to_owned(), |namespace| format!("namespace {namespace}"));
        exit::explain(&miette!("there is no Device {name} in {place}"));
    }
    Ok(if missing.is_empty() { Exit::Ok } else { Exit::Fault })
}

fn titles(wide: bool, spaces: bool) -> Vec<&'static str> {
    let mut titles = vec!["NAME", "CLASS", "SERVICE", "FUNCTIONS", "DATASETS", "STATE", "RUNS", "USED"];
    if spaces {
        titles.insert(0, "NAMESPACE");
    }
    if wide {
        titles.extend([
            "PLAN",
            "BY",
            "INSTANCES",
            "QUEUE",
            "DONE",
            "REFUSED",
            "CPU",
            "READ",
            "JOULES",
            "ANSWERED",
            "MOVED",
            "AVOIDED",
            "SPENT",
        ]);
    }
    titles
}

/// The functions of a Device that can be asked now: all of them, where none are planned.
fn active(item: &Item) -> Value {
    let (spec, status) = (&item.document["spec"], &item.document["status"]);
    let planned = status["functions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_active = |name: &&Value| {
        let of = planned.iter().find(|planned| planned["name"] == **name);
        of.is_none_or(|planned| planned["active"] == true)
    };
    spec["functions"].as_array().into_iter().flatten().filter(is_active).cloned().collect()
}

/// Each function of a Device that is planned, and why it is to be active or not.
fn plan(item: &Item) -> String {
    let planned = item.document["status"]["functions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |planned: &Value| {
        let text = |field: &str| planned[field].as_str().unwrap_or_default().escape_debug().to_string();
        format!("{}:{}", text("name"), text("because"))
    };
    let words: Vec<String> = planned.iter().map(of).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

fn row(item: &Item, wide: bool, spaces: bool) -> Vec<String> {
    let (spec, status) = (&item.document["spec"], &item.document["status"]);
    let text = |value: &Value| match value.as_str().unwrap_or_default() {
        "" => "-".to_owned(),
        text => text.escape_debug().to_string(),
    };
    let list = |value: &Value, of: &dyn Fn(&Value) -> String| {
        let words: Vec<String> = value.as_array().into_iter().flatten().map(of).collect();
        if words.is_empty() { "-".to_owned() } else { words.join(",") }
    };
    let service = match (spec["service"]["name"].as_str(), spec["service"]["port"].as_u64()) {
        (Some(name), Some(port)) => format!("{name}:{port}"),
        _ => "-".to_owned(),
    };
    let load = &status["load"];
    let of_load =
        |field: &str, show: &dyn Fn(f64) -> String| load[field].as_f64().map_or("-".to_owned(), show);
    let runs = match (load["runsInFlight"].as_u64(), load["slots"].as_u64()) {
        (Some(runs), Some(slots)) => format!("{runs}/{slots}"),
        _ => format!("-/{}", spec["slots"].as_u64().unwrap_or_default()),
    };
    let mut row = vec![
        item.key.name.to_string(),
        text(&spec["class"]),
        service,
        list(&active(item), &text),
        list(&spec["datasets"], &|held| format!("{}@{}", text(&held["name"]), text(&held["version"]))),
        text(&status["state"]),
        runs,
        of_load("utilization", &|used| format!("{:.0}%", used * 100.0)),
    ];
    if spaces {
        row.insert(0, item.key.namespace.to_string());
    }
    if wide {
        let whole = |number: f64| format!("{number:.0}");
        let counted = |field: &str, show: fn(f64) -> String| {
            status["offloaded"][field].as_f64().map_or("-".to_owned(), show)
        };
        row.push(plan(item));
        row.push(item.written_by.clone());
        row.push(status["instances"].as_array().map_or(0, Vec::len).to_string());
        row.push(of_load("queueSeconds", &table::time));
        row.push(of_load("runs", &whole));
        row.push(of_load("refused", &whole));
        row.push(of_load("busySeconds", &table::time));
        row.push(of_load("readBytes", &table::size));
        // Where nobody knows it, there is no source.
        row.push(match load["energySource"].as_str() {
            Some(source) => of_load("joules", &|joules| format!("{joules:.1} {}", source.escape_debug())),
            None => "-".to_owned(),
        });
        row.push(counted("answered", whole));
        row.push(counted("movedBytes", table::size));
        row.push(counted("avoidedBytes", table::size));
        row.push(counted("joules", |joules| format!("{joules:.1}J")));
    }
    row
}

#[cfg(test)]
mod tests {
    use lighter_config::manifest::Key;

    use super::*;
    use crate::readme::{Table, same};

    #[test]
    fn every_column_is_in_the_readme() {
        let plain = ["NAME", "CLASS", "SERVICE"];
        let titles = titles(true, false).into_iter().filter(|title| !plain.contains(title));
        same("columns", Table::of("Devices that register themselves", "column").names(), titles);
    }

    #[test]
    fn what_is_known_is_shown_and_nothing_else() {
        let mut item = Item {
            key: Key::new("Device", "shop", "csd"),
            document: json!({
                "spec": {
                    "class": "csd", "service": {"name": "near", "port": 80}, "functions": ["scan", "sum"],
                    "datasets": [{"name": "orders", "version": "7"}], "slots": 4,
                },
                "status": {"state": "unregistered", "instances": [], "offloaded": {"answered": 3, "movedBytes": 2048,
                    "avoidedBytes": 0, "joules": 1.25}},
            }),
            generation: 0,
            set: None,
            written_by: "registration".into(),
            at: 0,
        };
        let short = ["csd", "csd", "near:80", "scan,sum", "orders@7", "unregistered", "-/4", "-"];
        assert_eq!(row(&item, false, false), short);
        let rest = ["-", "registration", "0", "-", "-", "-", "-", "-", "-", "3", "2.0KiB", "0B", "1.2J"];
        assert_eq!(row(&item, true, false)[short.len()..], rest);
        assert_eq!(row(&item, false, true)[0], "shop");
        item.document["status"]["load"] = json!({
            "runsInFlight": 1, "slots": 2, "utilization": 0.5, "queueSeconds": 0.25, "runs": 9, "refused": 1,
            "busySeconds": 1.5, "readBytes": 1024, "joules": 12.34, "energySource": "modelled",
        });
        let wide = row(&item, true, true);
        assert_eq!(wide.len(), titles(true, true).len());
        assert_eq!(wide[7..9], ["1/2", "50%"]);
        assert_eq!(wide[12..18], ["250.0ms", "9", "1", "1.50s", "1.0KiB", "12.3 modelled"]);
        item.document["status"]["load"]["energySource"] = Value::Null;
        assert_eq!(row(&item, true, true)[17], "-");
        item.document["status"]["functions"] = json!([
            {"name": "sum", "active": true, "because": "wanted"}, {"name": "scan", "active": false, "because": "idle"},
        ]);
        let wide = row(&item, true, false);
        assert_eq!((&*wide[3], &*wide[8]), ("sum", "sum:wanted,scan:idle"));
    }
}
