//! Words that a user reads: causes, statuses, reasons.

use lighter_functions::Status;
use lighter_place::{Because, Stays};
use lighter_proxy::error::Cause;

use super::{Table, codes, same};

#[test]
fn every_cause_of_an_error_is_in_the_readme_with_its_status() {
    let mut said = Vec::new();
    for row in &Table::of("Errors", "cause").rows {
        let statuses: Vec<&str> = row[1].split(',').map(str::trim).collect();
        for (at, cause) in codes(row[0]).enumerate() {
            let status = if statuses.len() == 1 { statuses[0] } else { statuses[at] };
            said.push(format!("{cause} {status}"));
        }
    }
    let status = |cause: Cause| match cause {
        Cause::DownstreamAborted => "499 (log only)".to_owned(),
        Cause::FaultInjected => "as its policy says".to_owned(),
        _ => cause.status().to_string(),
    };
    let all: Vec<_> =
        Cause::ALL.iter().map(|cause| format!("{} {}", cause.label(), status(*cause))).collect();
    same("causes", said.iter().map(String::as_str), all.iter().map(String::as_str));
}

#[test]
fn every_status_of_a_run_is_in_the_readme() {
    // Those that no request is answered with.
    let untold = [Status::Success, Status::HandleInUse, Status::InvalidId, Status::LoadError];
    let told = Status::ALL.into_iter().filter(|status| !untold.contains(status));
    same("statuses", Table::of("Functions on a device", "status").names(), told.map(Status::name));
}

#[test]
fn every_reason_of_the_planner_is_in_the_readme() {
    let because = Table::of("Functions where they are wanted", "because").names();
    same("why a function is active", because, Because::ALL.iter().map(|because| because.label()));
    let stays = Table::of("A state that moves by itself", "reason").names();
    same("why a state stays", stays, Stays::ALL.iter().map(|stays| stays.label()));
}
