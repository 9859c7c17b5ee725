//! What is read of a dataset and what is not, and what a run may take.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use lighter_functions::{Format, Limits, Status};

mod common;

use common::parquet;
use common::{LIMITS, ask, device};

/// Ten row groups.
fn wide(path: &Path) -> u64 {
    parquet::write_wide(path, 10_000, 8)
}

#[test]
fn columns_that_nobody_asks_for_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.parquet");
    let size = wide(&path);
    let device = device(&path, Format::Parquet, LIMITS);
    let (all, _) = ask(&device, "scan", &[]);
    assert_eq!((all.fault, all.usage.bytes_skipped), (None, 0));
    assert!(all.usage.bytes_read >= size * 99 / 100, "{:?} of {size}", all.usage);
    let (few, result) = ask(&device, "project", &[("select", "id")]);
    assert_eq!((few.usage.rows_in, few.usage.rows_out), (10_000, 10_000));
    assert_eq!(result.lines().count(), 10_000);
    assert!(few.usage.bytes_read < size / 10, "{:?} of {size}", few.usage);
    assert!(few.usage.bytes_skipped > size * 9 / 10, "{:?} of {size}", few.usage);
}

#[test]
fn row_groups_in_which_no_row_can_be_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.parquet");
    let size = wide(&path);
    let device = device(&path, Format::Parquet, LIMITS);
    for (condition, groups, rows) in [
        ("id < 1500", 2, 1500),
        ("id = 4321", 1, 1),
        ("not id <= 8999", 1, 1000),
        ("id >= 2000 and id < 2001", 1, 1),
        ("id < 10 or id >= 9990", 2, 20),
        ("id is null", 0, 0),
        ("id > 10000", 0, 0),
    ] {
        let (outcome, result) = ask(&device, "filter", &[("where", condition)]);
        assert_eq!(outcome.fault, None, "{condition}");
        assert_eq!(outcome.usage.rows_in, groups * 1000, "{condition}");
        assert_eq!((outcome.usage.rows_out, result.lines().count() as u64), (rows, rows), "{condition}");
        // What is read and what is not are the whole file, but for its footer and what a page's head is read beyond.
        let known = outcome.usage.bytes_read + outcome.usage.bytes_skipped;
        assert!(
            known > size * 9 / 10 && known < size + size / 5,
            "{condition}: {:?} of {size}",
            outcome.usage
        );
        assert!(
            outcome.usage.bytes_read < size * (groups + 1) / 10 + size / 20,
            "{condition}: {:?}",
            outcome.usage
        );
    }
}

#[test]
fn a_large_dataset_takes_no_more_memory_than_a_small_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.jsonl");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    for number in 0..100_000 {
        writeln!(file, "{{\"id\":{number},\"text\":\"{}\"}}", "x".repeat(60)).unwrap();
    }
    file.into_inner().unwrap();
    // Eight megabytes are read and written in a quarter of a megabyte.
    let small = Limits { memory_bytes: 256 << 10, ..LIMITS };
    let (outcome, result) = ask(&device(&path, Format::Jsonl, small), "scan", &[("where", "id >= 0")]);
    assert_eq!((outcome.fault, outcome.usage.rows_out), (None, 100_000));
    assert_eq!(result.len() as u64, std::fs::metadata(&path).unwrap().len());
}

#[test]
fn what_needs_more_than_a_run_may_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let small = Limits { memory_bytes: 256 << 10, ..LIMITS };
    // A line, and a cell that is never closed, that are longer than that.
    std::fs::write(&path, format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20))).unwrap();
    assert_eq!(ask(&device(&path, Format::Jsonl, small), "scan", &[]).0.status(), Status::NotEnoughMemory);
    std::fs::write(&path, format!("a\n\"{}", "x".repeat(1 << 20))).unwrap();
    assert_eq!(ask(&device(&path, Format::Csv, small), "scan", &[]).0.status(), Status::NotEnoughMemory);
    // More groups than there is room for.
    let rows: String = (0..20_000).map(|row| format!("{row}\n")).collect();
    std::fs::write(&path, format!("a\n{rows}")).unwrap();
    let device_of = |limits| device(&path, Format::Csv, limits);
    let by = [("compute", "count"), ("by", "a")];
    assert_eq!(ask(&device_of(small), "aggregate", &by).0.status(), Status::NotEnoughMemory);
    assert_eq!(ask(&device_of(LIMITS), "aggregate", &by).0.usage.rows_out, 20_000);
    // Pages of Parquet.
    wide(&path);
    let tiny = Limits { memory_bytes: 100 << 10, ..LIMITS };
    assert_eq!(ask(&device(&path, Format::Parquet, tiny), "scan", &[]).0.status(), Status::NotEnoughMemory);
}

#[test]
fn what_a_dataset_has_wrong_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    for (format, bytes, part) in [
        (Format::Csv, &b"a,b\n1,2\n3\n"[..], "record 3 has 1 cells, and the header 2"),
        (Format::Csv, b"a\n\xff\n", "record 2: cell 1 is not UTF-8"),
        (Format::Jsonl, b"{\"a\":1}\n[1]\n", "line 2: invalid type"),
        (Format::Jsonl, b"{\"a\":1}\n\n{\"a\":1} 2\n", "line 3: trailing characters"),
        (Format::Jsonl, b"{\"a\":\"\xff\"}\n", "line 1: it is not UTF-8"),
        (Format::Parquet, b"PAR1 and nothing else", "Parquet"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let (outcome, _) = ask(&device(&path, format, LIMITS), "scan", &[]);
        let fault = outcome.fault.unwrap();
        assert_eq!(fault.status, Status::ErrorInExecution, "{fault}");
        assert!(fault.message.contains(part), "{fault}");
    }
    std::fs::write(&path, "a\n1\nx\n").unwrap();
    let (outcome, _) = ask(&device(&path, Format::Csv, LIMITS), "aggregate", &[("compute", "sum(a)")]);
    assert!(outcome.fault.unwrap().message.contains("`x` is not a number"));
}

#[test]
fn groups_come_in_the_order_of_the_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    let lines = [
        r#"{"c":"b","n":1}"#,
        r#"{"c":"a","n":0.5}"#,
        r#"{"n":9007199254740993}"#,
        r#"{"c":"b","n":9007199254740993}"#,
        r#"{"c":null,"n":null}"#,
        r#"{"c":"a","n":2}"#,
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();
    let asked = [("by", "c"), ("compute", "count,sum(n),max(n),avg(n)"), ("format", "csv")];
    let (outcome, result) = ask(&device(&path, Format::Jsonl, LIMITS), "aggregate", &asked);
    assert_eq!(outcome.fault, None);
    let expected = "c,count,sum(n),max(n),avg(n)\n\
                    b,2,9007199254740994,9007199254740993,4503599627370497.0\n\
                    a,2,2.5,2,1.25\n\
                    ,2,9007199254740993,9007199254740993,9007199254740992.0\n";
    assert_eq!(result, expected);
}

#[test]
fn a_run_ends_when_its_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    std::fs::write(&path, "x\n".repeat(2 << 20)).unwrap();
    let short = Limits { deadline: Duration::from_millis(5), ..LIMITS };
    let (outcome, _) = ask(&device(&path, Format::Csv, short), "filter", &[("where", "x = 1")]);
    assert_eq!(outcome.status(), Status::IoTimeout);
    // How far it came is the machine's affair.
    assert_eq!(outcome.usage.rows_out, 0, "{:?}", outcome.usage);
}
