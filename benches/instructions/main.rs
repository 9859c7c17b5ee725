//! User instructions of each path, counted by callgrind: a number that neither load nor weather changes.
//!
//! `cargo bench --bench instructions` counts and compares with `recorded.json`: growth above 5 % fails, and so does
//! more than a path's limit once a path was within it, or than another path by more than is said. `-- --record` writes what it counted; a commit that does so says
//! why it grew.
//!
//! Each case runs twice, the second time with twice the work. The difference is what the work costs; starting and
//! stopping cancel out.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod functions;
mod load;
#[path = "../../tests/support/ports.rs"]
#[allow(dead_code)] // It has more than is needed here.
mod ports;
#[path = "../../tests/support/root.rs"]
#[allow(dead_code)] // It has more than is needed here.
mod root;
mod sidecar;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Growth that fails, as a factor.
const GROWTH: f64 = 1.05;

/// What is counted.
struct Case {
    name: &'static str,
    /// What one piece of work is.
    unit: &'static str,
    /// How many pieces the first of the two runs does.
    count: u64,
    /// Whether the count is the same every time. Where bytes stream it depends on how many come at once: only shown.
    steady: bool,
    /// Never more than this.
    limit: Option<f64>,
    /// Never more than this factor of what another case, which comes before it, was counted at in the same run.
    beside: Option<(&'static str, f64)>,
    /// Does so many pieces under callgrind, which writes to this file.
    run: Run,
}

type Run = Box<dyn Fn(&Path, u64)>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [work, name, count] = args.iter().map(String::as_str).collect::<Vec<_>>()[..]
        && work == "--work"
    {
        functions::work(name, count.parse().expect("a count"));
        return ExitCode::SUCCESS;
    }
    let (record, only) = match args.first().map(String::as_str) {
        Some("--record") => (true, args.get(1)),
        _ => (false, args.first()),
    };
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("valgrind is not installed");
        return ExitCode::FAILURE;
    }

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/instructions/recorded.json");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|_| "{}".into());
    let mut recorded: BTreeMap<String, f64> =
        serde_json::from_str(&text).expect("recorded.json is a map of numbers");
    let mut failed = false;
    let mut now = BTreeMap::new();
    println!("| path | instructions | recorded | limit |\n|---|--:|--:|--:|");
    let cases = sidecar::cases().into_iter().chain(functions::cases());
    for case in cases.filter(|case| only.is_none_or(|only| case.name == only)) {
        let counted = case.measure();
        let before = recorded.get(case.name).copied();
        now.insert(case.name, counted);
        let beside = case.beside.and_then(|(name, factor)| Some(now.get(name)? * factor));
        let over_beside = beside.is_some_and(|limit| counted > limit);
        let over_limit = case.limit.is_some_and(|limit| counted > limit);
        let grown = !record && case.steady && before.is_some_and(|before| counted > before * GROWTH);
        // A path that never was within its limit is a debt that is shown, not one that this change made.
        let within_before = before.is_none_or(|before| case.limit.is_none_or(|limit| before <= limit));
        failed |= (over_limit && within_before) || grown || over_beside;
        let number =
            |number: Option<f64>| number.map_or_else(|| "–".to_owned(), |number| format!("{number:.0}"));
        let verdict = if over_limit || over_beside {
            " (over its limit)"
        } else if grown {
            " (grown)"
        } else {
            ""
        };
        println!(
            "| {} per {} | {counted:.0}{verdict} | {} | {} |",
            case.name,
            case.unit,
            number(before),
            number(case.limit.or(beside))
        );
        recorded.insert(case.name.to_owned(), counted.round());
    }
    if record {
        std::fs::write(file, format!("{}\n", serde_json::to_string_pretty(&recorded).unwrap())).unwrap();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

impl Case {
    fn measure(&self) -> f64 {
        let folder = tempfile::tempdir().unwrap();
        let once = |count| {
            let file = folder.path().join(format!("callgrind-{count}"));
            (self.run)(&file, count);
            total(&file)
        };
        (once(2 * self.count) - once(self.count)) / self.count as f64
    }
}

/// `valgrind` before a program; it writes its count to `file` when the program ends.
fn callgrind(file: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", file.display())).arg(program);
    command
}

/// All instructions of a run. A process of several threads may write several parts.
fn total(file: &Path) -> f64 {
    let text = std::fs::read_to_string(file).expect("callgrind writes its file at the end");
    let totals = text.lines().filter_map(|line| line.strip_prefix("totals: "));
    let sum: f64 = totals.map(|total| total.trim().parse::<f64>().expect("a total")).sum();
    assert!(sum > 0.0, "callgrind counted nothing");
    sum
}
