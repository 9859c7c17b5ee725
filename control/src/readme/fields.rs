//! Fields of resources, and of the files of sidecar and control plane.

use std::collections::BTreeSet;

use lighter_config::schema;
use serde_json::Value;

use super::{README, Table, codes, tables};

/// Of which object the fields in the tables below a heading are.
const OBJECTS: [(&str, &str, &str); 12] = [
    ("Timeouts and retries", "TrafficPolicy", "spec"),
    ("Who may call", "AuthorizationPolicy", "spec"),
    ("Policies of requests", "TrafficPolicy", "spec"),
    ("Sessions", "HTTPRoute", "spec.rules.sessionPersistence"),
    ("Overload", "TrafficPolicy", "spec.overload"),
    ("Slow clients, memory and descriptors", "SidecarConfig", "guard"),
    ("Choosing endpoints", "TrafficPolicy", "spec"),
    ("Load that endpoints report", "TrafficPolicy", "spec.balancing.loadReports"),
    ("Requests that run near the data", "OffloadPolicy", "spec"),
    ("Functions on a device", "SidecarConfig", "device"),
    ("Functions that come and go", "SidecarConfig", "device"),
    ("Programs: servers that run while they are wanted", "SidecarConfig", "device.natives"),
];

#[test]
fn every_field_in_a_table_of_the_readme_is_there() {
    let mut seen = 0;
    for Table { heading, titles, rows } in tables() {
        if !titles[0].starts_with("field") {
            continue;
        }
        let object = OBJECTS.into_iter().find(|(of, ..)| *of == heading);
        let (_, kind, path) = object.unwrap_or_else(|| panic!("of what are the fields below `{heading}`?"));
        for row in rows {
            // Another kind is said before the fields.
            let (kind, path) = match row[0].split_once(": `") {
                Some((kind, _)) => (kind, "spec"),
                None => (kind, path),
            };
            let (mut before, mut folder) = (String::new(), "");
            for field in codes(row[0]) {
                before = format!("{path}.{field}");
                let beside = format!("{path}.{folder}.{field}");
                if !is_there(kind, &before) && is_there(kind, &beside) {
                    before = beside;
                } else {
                    folder = field.rsplit_once('.').map_or("", |(folder, _)| folder);
                }
                assert!(is_there(kind, &before), "`{heading}`: {kind} has no {before}");
                seen += 1;
            }
            assert!(!before.is_empty(), "`{heading}`: no field in {row:?}");
        }
    }
    assert!(seen > 90, "{seen} fields were found");
}

/// Of what others have defined, and of scenarios, their schemas are enough.
#[test]
fn every_field_of_lighters_own_is_in_the_readme() {
    let words = |code: &'static str| code.split(|c: char| !c.is_ascii_alphanumeric());
    let said: BTreeSet<&str> = codes(README).flat_map(words).collect();
    let mut all = BTreeSet::new();
    for kind in schema::kinds().filter(|kind| !kind.ends_with("Route") && *kind != "Scenario") {
        let root = schema::of(kind).unwrap();
        let from = property(&root, &root, "spec").unwrap_or(&root);
        let mut fields = BTreeSet::new();
        fields_of(&root, from, &mut BTreeSet::new(), &mut fields);
        all.extend(fields.into_iter().map(|field| format!("{kind}: {field}")));
    }
    let untold = all.iter().filter(|field| !said.contains(field.split(' ').next_back().unwrap()));
    assert_eq!(untold.collect::<Vec<_>>(), [] as [&String; 0], "README.md has nothing of these");
    assert!(all.len() > 300, "{} fields were found", all.len());
}

#[test]
fn what_is_not_there_is_found() {
    assert!(is_there("TrafficPolicy", "spec.ejection.successRate.deviations"));
    assert!(is_there("SidecarConfig", "device.natives.probe.http"));
    assert!(!is_there("TrafficPolicy", "spec.ejection.successRate.nothing"));
    assert!(!is_there("TrafficPolicy", "spec.nothing"));
}

/// Whether a kind has this field: names with dots between, through lists and whatever is chosen from.
fn is_there(kind: &str, path: &str) -> bool {
    let root = schema::of(kind).unwrap_or_else(|| panic!("there is no kind {kind}"));
    path.split('.').try_fold(&root, |at, name| property(&root, at, name)).is_some()
}

fn property<'a>(root: &'a Value, at: &'a Value, name: &str) -> Option<&'a Value> {
    if let Some(found) = at["properties"].get(name) {
        return Some(found);
    }
    let to = at["$ref"].as_str().and_then(|to| root.pointer(to.strip_prefix('#')?));
    let choices = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|of| at[of].as_array()).flatten();
    to.into_iter().chain(at.get("items")).chain(choices).find_map(|at| property(root, at, name))
}

/// The names of all fields below, once for each type.
fn fields_of(root: &Value, at: &Value, seen: &mut BTreeSet<String>, fields: &mut BTreeSet<String>) {
    if let Some(to) = at["$ref"].as_str()
        && seen.insert(to.to_owned())
        && let Some(to) = root.pointer(to.trim_start_matches('#'))
    {
        fields_of(root, to, seen, fields);
    }
    for (name, below) in at["properties"].as_object().into_iter().flatten() {
        fields.insert(name.clone());
        fields_of(root, below, seen, fields);
    }
    let choices = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|of| at[of].as_array()).flatten();
    let rest = ["items", "additionalProperties"].into_iter().filter_map(|of| at.get(of));
    for below in choices.chain(rest) {
        fields_of(root, below, seen, fields);
    }
}
