//! What is asked of a dataset does not depend on what it is written in: the answers are those of a plain evaluation in
//! memory, which knows nothing of columns, pages or pieces.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use lighter_functions::{Format, Status};
use proptest::prelude::*;

mod common;

use common::parquet::{self, Column};
use common::{LIMITS, ask, device};

#[derive(Clone, Debug)]
struct Record {
    id: i64,
    amount: Option<f64>,
    country: Option<String>,
    paid: Option<bool>,
}

/// A condition, and what it means.
#[derive(Clone, Debug)]
enum Wanted {
    IdBelow(i64),
    AmountFrom(f64),
    CountryIs(String),
    CountryNot(String),
    IsPaid,
    NoAmount,
    Both(Box<Wanted>, Box<Wanted>),
    Either(Box<Wanted>, Box<Wanted>),
    Not(Box<Wanted>),
}

impl Wanted {
    fn text(&self) -> String {
        match self {
            Wanted::IdBelow(most) => format!("id < {most}"),
            Wanted::AmountFrom(least) => format!("amount >= {least}"),
            Wanted::CountryIs(name) => format!("country = '{}'", name.replace('\'', "''")),
            Wanted::CountryNot(name) => format!("country != '{}'", name.replace('\'', "''")),
            Wanted::IsPaid => "paid = true".into(),
            Wanted::NoAmount => "amount is null".into(),
            Wanted::Both(one, other) => format!("({}) and ({})", one.text(), other.text()),
            Wanted::Either(one, other) => format!("({}) or ({})", one.text(), other.text()),
            Wanted::Not(one) => format!("not ({})", one.text()),
        }
    }

    fn of(&self, record: &Record) -> Option<bool> {
        match self {
            Wanted::IdBelow(most) => Some(record.id < *most),
            Wanted::AmountFrom(least) => record.amount.map(|amount| amount >= *least),
            Wanted::CountryIs(name) => record.country.as_ref().map(|country| country == name),
            Wanted::CountryNot(name) => record.country.as_ref().map(|country| country != name),
            Wanted::IsPaid => record.paid,
            Wanted::NoAmount => Some(record.amount.is_none()),
            Wanted::Both(one, other) => match (one.of(record), other.of(record)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Wanted::Either(one, other) => match (one.of(record), other.of(record)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Wanted::Not(one) => one.of(record).map(|holds| !holds),
        }
    }
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![Just("DE".to_owned()), Just("a,\"b\"".to_owned()), Just("it's\nü".to_owned()), "[a-c]{1,3}"]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    // Halves and quarters are written alike by everybody.
    let amount = proptest::option::weighted(0.8, (-40i32..40).prop_map(|quarters| f64::from(quarters) / 4.0));
    let country = proptest::option::weighted(0.8, names());
    let record = (-50i64..50, amount, country, proptest::option::weighted(0.8, any::<bool>()));
    let record = record.prop_map(|(id, amount, country, paid)| Record { id, amount, country, paid });
    proptest::collection::vec(record, 0..40)
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let leaf = prop_oneof![
        (-60i64..60).prop_map(Wanted::IdBelow),
        (-12i32..12).prop_map(|least| Wanted::AmountFrom(f64::from(least))),
        names().prop_map(Wanted::CountryIs),
        names().prop_map(Wanted::CountryNot),
        Just(Wanted::IsPaid),
        Just(Wanted::NoAmount),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            two.clone().prop_map(|(one, other)| Wanted::Both(one.into(), other.into())),
            two.prop_map(|(one, other)| Wanted::Either(one.into(), other.into())),
            inner.prop_map(|one| Wanted::Not(one.into())),
        ]
    })
}

fn as_csv(records: &[Record]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut csv = String::from("id,amount,country,paid\n");
    for Record { id, amount, country, paid } in records {
        let amount = amount.map(|amount| amount.to_string()).unwrap_or_default();
        let country = country.as_deref().map(quoted).unwrap_or_default();
        let paid = paid.map(|paid| paid.to_string()).unwrap_or_default();
        csv += &format!("{id},{amount},{country},{paid}\n");
    }
    csv
}

fn as_json_lines(records: &[Record]) -> String {
    let line = |Record { id, amount, country, paid }: &Record| {
        let value = serde_json::json!({"id": id, "amount": amount, "country": country, "paid": paid});
        format!("{value}\n")
    };
    records.iter().map(line).collect()
}

fn as_parquet(records: &[Record], path: &std::path::Path) {
    let columns = [
        ("id", Column::Int(records.iter().map(|record| Some(record.id)).collect())),
        ("amount", Column::Float(records.iter().map(|record| record.amount).collect())),
        ("country", Column::Text(records.iter().map(|record| record.country.clone()).collect())),
        ("paid", Column::Bool(records.iter().map(|record| record.paid).collect())),
    ];
    parquet::write(path, &columns, 7);
}

/// What a result in JSON lines says of `country` and `id`, however those are written.
fn read(result: &str) -> Vec<(Option<String>, i64)> {
    let line = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = value["id"].as_i64().or_else(|| value["id"].as_str()?.parse().ok()).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 2, "{line}");
        (value["country"].as_str().map(str::to_owned), id)
    };
    result.lines().map(line).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn filtered_and_projected_is_what_a_plain_evaluation_gives(records in records(), wanted in wanted()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let expected: Vec<(Option<String>, i64)> = records
            .iter()
            .filter(|record| wanted.of(record) == Some(true))
            .map(|record| (record.country.clone(), record.id))
            .collect();
        let condition = wanted.text();
        let asked = [("where", condition.as_str()), ("select", "country,id"), ("format", "jsonl")];
        let counted = [("where", condition.as_str()), ("compute", "count,sum(id)"), ("format", "jsonl")];
        let sum = expected.iter().map(|(_, id)| id).sum::<i64>();
        let sum = if expected.is_empty() { "null".into() } else { sum.to_string() };
        let in_sum = format!("{{\"count\":{},\"sum(id)\":{sum}}}\n", expected.len());
        for format in [Format::Csv, Format::Jsonl, Format::Parquet] {
            match format {
                Format::Csv => std::fs::write(&path, as_csv(&records)).unwrap(),
                Format::Jsonl => std::fs::write(&path, as_json_lines(&records)).unwrap(),
                Format::Parquet => as_parquet(&records, &path),
            }
            let device = device(&path, format, LIMITS);
            let (outcome, result) = ask(&device, "scan", &asked);
            prop_assert_eq!(outcome.fault, None, "{:?} {}", format, &condition);
            prop_assert_eq!(read(&result), expected.clone(), "{:?} {}", format, &condition);
            let (outcome, result) = ask(&device, "aggregate", &counted);
            prop_assert_eq!(outcome.fault, None);
            prop_assert_eq!(&result, &in_sum, "{:?} {}", format, &condition);
        }
    }

    #[test]
    fn what_is_read_is_what_was_written(records in records()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        as_parquet(&records, &path);
        let (outcome, csv) = ask(&device(&path, Format::Parquet, LIMITS), "scan", &[("format", "csv")]);
        prop_assert_eq!(outcome.fault, None);
        let copy = folder.path().join("copy");
        std::fs::write(&copy, &csv).unwrap();
        let of_copy = device(&copy, Format::Csv, LIMITS);
        // Once it is CSV, it stays what it is.
        prop_assert_eq!(ask(&of_copy, "scan", &[]).1, csv);
        let (_, lines) = ask(&of_copy, "scan", &[("select", "country,id"), ("format", "jsonl")]);
        let expected: Vec<_> = records.iter().map(|record| (record.country.clone(), record.id)).collect();
        prop_assert_eq!(read(&lines), expected);
    }

    #[test]
    fn no_file_and_no_condition_ends_a_device(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,40}") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, &bytes).unwrap();
        for format in [Format::Csv, Format::Jsonl, Format::Parquet] {
            let device = device(&path, format, LIMITS);
            for asked in [vec![], vec![("where", text.as_str())], vec![("select", "a"), ("where", "a=1")]] {
                let (outcome, _) = ask(&device, "scan", &asked);
                prop_assert_ne!(outcome.status(), Status::FatalError);
            }
        }
    }
}
