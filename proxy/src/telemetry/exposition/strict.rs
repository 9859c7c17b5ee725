//! A reader of both text formats that accepts nothing that a scraper could stumble over.

use std::collections::{BTreeMap, BTreeSet};

/// A family as it was read.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) unit: Option<String>,
    /// Name, labels and value of each sample.
    pub(crate) samples: Vec<(String, BTreeMap<String, String>, String)>,
}

/// Reads a whole exposition. Panics with the line that is wrong.
pub(crate) fn parse(text: &str, open_metrics: bool) -> BTreeMap<String, Parsed> {
    let mut families = BTreeMap::<String, Parsed>::new();
    let mut seen = BTreeSet::new();
    let mut current = String::new();
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut lines: Vec<&str> = text.lines().collect();
    if open_metrics {
        assert_eq!(lines.pop(), Some("# EOF"));
    }
    for line in lines {
        if let Some(rest) = line.strip_prefix("# ") {
            let (what, rest) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            let (name, value) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(name), "{line}");
            if name != current {
                assert!(!families.contains_key(name), "a family in two places: {line}");
                current = name.to_owned();
            }
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.samples.is_empty(), "said after the samples: {line}");
            match what {
                "HELP" => family.help = unescape(value, open_metrics),
                "TYPE" => {
                    let known = ["counter", "gauge", "histogram"].contains(&value);
                    assert!(known || open_metrics && value == "info", "{line}");
                    family.kind = value.to_owned();
                }
                "UNIT" => {
                    assert!(open_metrics && name.ends_with(&format!("_{value}")), "{line}");
                    family.unit = Some(value.to_owned());
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (line, exemplar) = line.split_once(" # ").map_or((line, None), |(line, rest)| (line, Some(rest)));
        let (name, labels, value) = sample(line);
        if let Some(exemplar) = exemplar {
            assert!(open_metrics && name.ends_with("_bucket"), "no place for an exemplar: {line}");
            let (_, of, value_and_time) = sample(&format!("exemplar{exemplar}"));
            assert!(of.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= 128, "{line}");
            let (value, time) = value_and_time.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            let (value, _): (f64, f64) = (value.parse().unwrap(), time.parse().unwrap());
            assert!(labels["le"] == "+Inf" || value <= labels["le"].parse().unwrap(), "{line}");
        }
        let family = families.get_mut(&current).unwrap_or_else(|| panic!("no TYPE before {line}"));
        let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("not of {current}: {line}"));
        let suffixes: &[&str] = match (&*family.kind, open_metrics) {
            ("counter", true) => &["_total"],
            ("info", true) => &["_info"],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(suffixes.contains(&suffix), "{line}");
        assert_eq!(labels.contains_key("le"), suffix == "_bucket", "{line}");
        assert!(seen.insert((name.clone(), labels.clone())), "twice: {line}");
        let number: f64 = match &*value {
            "+Inf" | "-Inf" | "NaN" => 0.0,
            value => {
                assert!(value.bytes().all(|b| b.is_ascii_digit() || b"+-.e".contains(&b)), "{line}");
                value.parse().unwrap_or_else(|_| panic!("{line}"))
            }
        };
        assert!(family.kind == "gauge" || number >= 0.0, "{line}");
        family.samples.push((name, labels, value));
    }
    for (name, family) in &families {
        assert!(!family.samples.is_empty(), "{name} has no sample");
        assert!(!family.kind.is_empty(), "{name} has no type");
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
    }
    families
}

/// For each set of labels: rising bounds, counts that do not fall, `+Inf` last and equal to `_count`, and a `_sum`.
fn check_histogram(name: &str, family: &Parsed) {
    let mut series = BTreeMap::<_, (f64, u64, BTreeSet<&str>)>::new();
    for (sample, labels, value) in &family.samples {
        let mut labels = labels.clone();
        let bound = labels.remove("le");
        let (last, count, parts) = series.entry(labels).or_insert((f64::NEG_INFINITY, 0, BTreeSet::new()));
        match &sample[name.len()..] {
            "_bucket" => {
                let bound = bound.unwrap();
                assert!(bound == "+Inf" || bound.contains('.'), "not a canonical bound: {bound}");
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
                let value: u64 = value.parse().unwrap();
                assert!(bound > *last && value >= *count, "{name} at {bound}");
                (*last, *count) = (bound, value);
            }
            "_count" => {
                assert_eq!((value.parse::<u64>().unwrap(), *last), (*count, f64::INFINITY), "{name}");
                parts.insert("count");
            }
            _ => {
                parts.insert("sum");
            }
        }
    }
    assert!(series.values().all(|(_, _, parts)| parts.len() == 2), "{name} lacks a sum or a count");
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, String) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(label) && !label.contains(':'), "{line}");
            let mut end = 0;
            while !after[end..].starts_with('"') {
                end += if after[end..].starts_with('\\') { 2 } else { 1 };
                assert!(end < after.len(), "{line}");
            }
            let value = unescape(&after[..end], true);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap_or_else(|| panic!("{line}"));
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, value.to_owned())
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
}

fn unescape(text: &str, quotes: bool) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\\') => plain.push('\\'),
                Some('n') => plain.push('\n'),
                Some('"') if quotes => plain.push('"'),
                other => panic!("escaped {other:?} in {text}"),
            },
            '"' if quotes => panic!("a bare quote in {text}"),
            c => plain.push(c),
        }
    }
    plain
}
