//! Metrics: their names and kinds, and of the control plane their labels.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use lighter_config::control::ControlConfig;

use super::{Table, codes, same, tables};
use crate::api::counters::Counters;

#[test]
fn every_metric_of_a_sidecar_is_in_the_readme() {
    let [of_sidecars, _] = said();
    let said: Vec<String> = of_sidecars.iter().map(|[name, kind, _]| format!("{name} {kind}")).collect();
    let mut sources = Vec::new();
    for folder in ["proxy", "filters"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder), &mut sources);
    }
    let (mut all, mut described) = (BTreeMap::new(), BTreeSet::new());
    let mut named = BTreeSet::new();
    for source in &sources {
        let text = std::fs::read_to_string(source).unwrap();
        all.extend(counted(&text));
        described.extend(explained(&text));
        named.extend(literals(&text).filter(|name| name.starts_with("lighter_")).map(str::to_owned));
    }
    let found: Vec<String> = all.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    same("metrics of a sidecar", said.iter().map(String::as_str), found.iter().map(String::as_str));
    let unexplained: Vec<_> = all.keys().filter(|name| !described.contains(*name)).collect();
    assert!(unexplained.is_empty(), "no help text: {unexplained:?}");
    for name in named {
        let is_found = ["", "_total", "_info"].iter().any(|end| all.contains_key(&format!("{name}{end}")));
        assert!(is_found, "{name} is counted in a way that is not looked for here");
    }
}

#[tokio::test]
async fn every_metric_of_the_control_plane_is_in_the_readme() {
    let [_, of_control] = said();
    let said: Vec<String> = of_control.iter().map(|row| row.join(" ")).collect();
    let folder = tempfile::tempdir().unwrap();
    let webhook = "state: state\nwebhook: {listen: '127.0.0.1:15017', names: [a.b.svc]}\n";
    let config = ControlConfig::parse(folder.path().join("control.yaml").to_str().unwrap(), webhook).unwrap();
    let (state, _) = crate::serve::open(config).unwrap();
    let mut text = crate::metrics::render(&state, Instant::now());
    Counters::default().write(&mut text, 0, 0);
    let mut shown = Vec::new();
    for line in text.lines() {
        if let Some(of) = line.strip_prefix("# TYPE lighter_control_") {
            let (name, kind) = of.split_once(' ').unwrap();
            let sample = text.lines().find(|line| {
                let rest = line.strip_prefix("lighter_control_").and_then(|line| line.strip_prefix(name));
                rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            let label = sample.and_then(|line| line.split_once('{')?.1.split_once('='));
            shown.push(format!("{name} {kind} {}", label.map_or("", |(label, _)| label)));
        }
    }
    same("metrics of the control plane", said.iter().map(String::as_str), shown.iter().map(String::as_str));
}

#[test]
fn every_metric_that_the_readme_speaks_of_has_a_row() {
    let names: Vec<&str> = said().concat().into_iter().map(|[name, ..]| name).collect();
    let mut seen = 0;
    for word in super::README.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        let Some(own) = word.strip_prefix("lighter_") else { continue };
        let of_control = own.strip_prefix("control_");
        // One that ends so stands for all that begin so.
        let is = |name: &&str, of: &str| {
            if of.ends_with('_') || of.is_empty() { name.starts_with(of) } else { **name == *of }
        };
        let is_known = names.iter().any(|name| is(name, word) || of_control.is_some_and(|of| is(name, of)));
        assert!(is_known, "there is no row for {word}");
        seen += 1;
    }
    assert!(seen > 200, "{seen} names were found");
}

/// Name, kind and label of each metric that has a row: those of a sidecar, and those of the control plane.
fn said() -> [Vec<[&'static str; 3]>; 2] {
    // One for all of a row, or one for each.
    let nth = |cell: &'static str, at: usize| match cell.split(',').nth(at) {
        Some(one) if cell.contains(',') => one.trim(),
        _ => cell,
    };
    let of = |table: Table| {
        let all = table.rows.iter().flat_map(|row| {
            codes(row[0]).enumerate().map(move |(at, name)| [name, nth(row[1], at), nth(row[2], at)])
        });
        all.collect()
    };
    let found = tables().into_iter().filter(|table| table.heading == "Metrics").map(of);
    found.collect::<Vec<_>>().try_into().expect("README.md has two tables of metrics")
}

/// The names and kinds of what a source counts.
fn counted(text: &str) -> impl Iterator<Item = (String, &'static str)> {
    // `counter!(` and `describe_counter!(` alike.
    let calls = [("counter", "counter!("), ("gauge", "gauge!("), ("histogram", "histogram!(")];
    let calls = calls.into_iter().flat_map(move |(kind, call)| {
        let names = text
            .split(call)
            .skip(1)
            .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
        names.filter(|name| name.starts_with("lighter_")).map(move |name| (name.to_owned(), kind))
    });
    let kinds = [
        ("Counter", "counter", "_total"),
        ("Gauge", "gauge", ""),
        ("Histogram", "histogram", ""),
        ("Info", "info", "_info"),
    ];
    let families = text.split("Family::new(").skip(1).filter_map(move |rest| {
        let said = rest.trim_start().strip_prefix("Kind::")?;
        let (_, kind, end) = kinds.into_iter().find(|(name, ..)| said.starts_with(name))?;
        Some((format!("{}{end}", literals(rest).next()?), kind))
    });
    let constants = text.split(": &str = \"").skip(1).filter_map(|rest| rest.split('"').next());
    let constants = constants.filter(|name| name.starts_with("lighter_") && name.ends_with("_total"));
    calls.chain(families).chain(constants.map(|name| (name.to_owned(), "counter")))
}

/// The names of what a source has a help text for, which a scrape shows: a family of its own is not made without one.
fn explained(text: &str) -> Vec<String> {
    let calls = ["describe_counter!(", "describe_gauge!(", "describe_histogram!("];
    let said = |rest: &str| Some(rest.trim_start().strip_prefix('"')?.split('"').next()?.to_owned());
    let described = calls.iter().flat_map(|call| text.split(call).skip(1)).filter_map(said);
    let bare = text
        .replace("describe_counter!(", "")
        .replace("describe_gauge!(", "")
        .replace("describe_histogram!(", "");
    let bare: BTreeSet<_> = ["counter!(", "gauge!(", "histogram!("]
        .iter()
        .flat_map(|call| bare.split(call).skip(1))
        .filter_map(said)
        .collect();
    // What is named by a constant is described by it.
    let constants = text.split("const ").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once(": &str = \"")?;
        let is_described =
            calls.iter().any(|call| text.split(call).skip(1).any(|rest| rest.trim_start().starts_with(name)));
        Some((rest.split('"').next()?.to_owned(), is_described))
    });
    let undescribed: BTreeSet<_> =
        constants.filter(|(_, is_described)| !is_described).map(|(name, _)| name).collect();
    // A family's name is in no macro that counts.
    let families = counted(text).map(|(name, _)| name);
    let families = families.filter(|name| !bare.contains(name) && !undescribed.contains(name));
    described.chain(families).collect()
}

/// The texts in a source, as long as no quote is in one.
fn literals(text: &str) -> impl Iterator<Item = &str> {
    let is_name =
        |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    text.split('"').filter(is_name)
}

/// Every source below a folder that is no test's.
fn collect(folder: &Path, to: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        match path.is_dir() {
            _ if matches!(name, "tests" | "target") => {}
            true => collect(&path, to),
            false if path.extension().is_some_and(|end| end == "rs") => to.push(path),
            false => {}
        }
    }
}
