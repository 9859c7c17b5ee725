//! `lighter get migrations`: what moved, and how that went.

use std::time::SystemTime;

use http::Method;
use miette::miette;

use super::access::{Access, Answered};
use super::get::Form;
use super::{explain, table};
use crate::api::message::{Files, MigrationList};
use crate::exit::{self, Exit};
use crate::migrate::{Foreseen, Made, Shown};
use crate::output;

/// Runs the command. `namespace`: of this one alone; `names`: these alone, if there are any.
pub fn execute(access: &Access, form: Form, namespace: Option<&str>, names: &[&str]) -> miette::Result<Exit> {
    let Some(mut migrations) = ask(access, namespace)? else { return Ok(Exit::Fault) };
    migrations.retain(|shown| names.is_empty() || names.contains(&&*shown.name));
    match form {
        Form::Json | Form::Yaml => output::json(&MigrationList { migrations: migrations.clone() })?,
        Form::Table | Form::Wide if migrations.is_empty() => {
            if names.is_empty() {
                eprintln!("there are no migrations");
            }
        }
        Form::Table | Form::Wide => {
            let (wide, spaces) = (form == Form::Wide, namespace.is_none());
            let now =
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
            let rows: Vec<_> = migrations.iter().map(|shown| row(shown, wide, spaces, now)).collect();
            output::line(table::write(&titles(wide, spaces), &rows))?;
        }
    }
    let is_missing = |name: &&&str| !migrations.iter().any(|shown| *shown.name == ***name);
    let missing: Vec<_> = names.iter().filter(is_missing).collect();
    for name in &missing {
        exit::explain(&miette!("there is no Migration {name}"));
    }
    Ok(if missing.is_empty() { Exit::Ok } else { Exit::Fault })
}

/// What the control plane says of migrations. None: it refused, and it was said why.
pub(super) fn ask(access: &Access, namespace: Option<&str>) -> miette::Result<Option<Vec<Shown>>> {
    let query = namespace.map(|namespace| format!("?namespace={namespace}")).unwrap_or_default();
    match access.ask::<MigrationList>(Method::GET, &format!("/v1/migrations{query}"), None::<&()>)? {
        Answered::Done(list) => Ok(Some(list.migrations)),
        Answered::Refused(_, refused) => {
            explain(&refused, &Files::default());
            Ok(None)
        }
    }
}

fn titles(wide: bool, spaces: bool) -> Vec<&'static str> {
    let mut titles = vec!["NAME", "SERVICE", "FROM", "TO", "PHASE", "OUTCOME", "TOOK", "AGE"];
    if spaces {
        titles.insert(0, "NAMESPACE");
    }
    if wide {
        titles.extend(["REASON", "PHASES", "COPIES", "LEFT", "CLASS", "OWNER", "STANDBY", "EPOCH", "LOSSES"]);
    }
    titles.push("BECAUSE");
    titles
}

fn row(shown: &Shown, wide: bool, spaces: bool, now: u128) -> Vec<String> {
    let dash = || "-".to_owned();
    let age = shown.began.map(|began| now.saturating_sub(began.into()) / 1000);
    let mut row = vec![
        shown.name.clone(),
        shown.service.clone(),
        shown.from.clone(),
        shown.to.clone(),
        shown.phase.clone(),
        shown.outcome.map_or_else(dash, |outcome| outcome.label().to_owned()),
        shown.took.map_or_else(dash, |took| table::time(took as f64 / 1e3)),
        age.map_or_else(dash, |age| table::age(u64::try_from(age).unwrap_or(u64::MAX))),
    ];
    if spaces {
        row.insert(0, shown.namespace.clone());
    }
    if wide {
        row.push(reason(shown).unwrap_or_else(dash));
        let phases: Vec<String> =
            shown.phases.iter().map(|entered| format!("{}+{}ms", entered.phase, entered.after)).collect();
        row.push(if phases.is_empty() { dash() } else { phases.join(",") });
        let copies: Vec<String> = shown.copies.iter().map(copy).collect();
        row.push(if copies.is_empty() { dash() } else { copies.join(",") });
        let number = |number: Option<u64>| number.map_or_else(dash, |number| number.to_string());
        row.push(number(shown.left));
        row.push(shown.class.clone().unwrap_or_else(dash));
        row.push(shown.owner.clone().unwrap_or_else(dash));
        row.push(shown.standby.clone().unwrap_or_else(dash));
        row.extend([number(shown.epoch), number(shown.losses)]);
    }
    row.push(shown.because.clone().unwrap_or_else(dash));
    row
}

/// Why it was asked for; for gain: how many seconds callers were to wait less behind it, and how many more meanwhile.
fn reason(shown: &Shown) -> Option<String> {
    let reason = shown.reason.clone()?;
    let foreseen = shown.foreseen.map(|Foreseen { gain_seconds, cost_seconds }| {
        format!(":{}/{}", table::time(gain_seconds), table::time(cost_seconds))
    });
    Some(reason + &foreseen.unwrap_or_default())
}

/// How long a copy of the state was, with `+` before it where it was of what had changed since the one before.
fn copy(made: &Made) -> String {
    format!("{}{}", if made.changes { "+" } else { "" }, table::size(made.bytes as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::{Entered, Outcome};

    #[test]
    fn the_story_is_told_in_a_line() {
        let phase = |phase: &str, after| Entered { phase: phase.to_owned(), after };
        let made = |bytes, changes| Made { bytes, changes, frozen: changes };
        let shown = Shown {
            namespace: "default".into(),
            name: "shop-1".into(),
            service: "default/shop".into(),
            from: "a".into(),
            to: "b".into(),
            reason: Some("gain".into()),
            foreseen: Some(Foreseen { gain_seconds: 12.0, cost_seconds: 0.5 }),
            class: Some("volatile".into()),
            owner: Some("a".into()),
            standby: Some("c".into()),
            epoch: Some(7),
            losses: Some(0),
            phase: "aborted".into(),
            phases: vec![phase("plan", 0), phase("aborted", 1500)],
            copies: vec![made(5000, false), made(20, true)],
            outcome: Some(Outcome::Aborted),
            because: Some("somebody asked for it".into()),
            left: None,
            began: Some(10_000),
            took: Some(1500),
            gone: false,
        };
        let wide = row(&shown, true, true, 72_000);
        assert_eq!(wide.len(), titles(true, true).len());
        let told = ["default", "shop-1", "default/shop", "a", "b", "aborted", "aborted", "1.50s", "62s"];
        assert_eq!(wide[..9], told);
        assert_eq!(
            wide[9..],
            [
                "gain:12.00s/500.0ms",
                "plan+0ms,aborted+1500ms",
                "4.9KiB,+20B",
                "-",
                "volatile",
                "a",
                "c",
                "7",
                "0",
                "somebody asked for it"
            ]
        );
        let waits = Shown { began: None, took: None, outcome: None, because: None, ..shown };
        assert_eq!(row(&waits, false, false, 0)[5..], ["-", "-", "-", "-"]);
    }
}
