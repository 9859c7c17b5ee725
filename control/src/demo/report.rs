//! What the demo found, step by step, with its evidence.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The whole result, and the shape of `--json`.
#[derive(Debug, Deserialize, Serialize)]
pub struct Report {
    /// Whether nothing failed.
    pub ok: bool,
    /// Every step in order.
    pub steps: Vec<Step>,
}

/// One step's result.
#[derive(Debug, Deserialize, Serialize)]
pub struct Step {
    /// Its fixed name.
    pub name: Cow<'static, str>,
    /// How it ended.
    pub status: Status,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    /// What was seen.
    pub evidence: Map<String, Value>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It showed what it is there to show.
    Passed,
    /// It did not.
    Failed,
    /// This machine cannot do it, or a step before it failed.
    Skipped,
}

/// What a step has seen so far. Kept also where it then fails.
#[derive(Debug, Default)]
pub struct Evidence(Map<String, Value>);

impl Report {
    /// From its steps.
    pub fn new(steps: Vec<Step>) -> Self {
        Report { ok: steps.iter().all(|step| step.status != Status::Failed), steps }
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let count = |status| self.steps.iter().filter(|step| step.status == status).count();
        let [passed, failed, skipped] = [Status::Passed, Status::Failed, Status::Skipped].map(count);
        let mut text = format!("{passed} passed, {failed} failed, {skipped} skipped");
        let skipped = self.steps.iter().find(|step| step.status == Status::Skipped);
        if let Some(reason) = skipped.and_then(|step| step.reason.as_ref()) {
            text += &format!(" ({reason})");
        }
        text
    }

    /// Whether a step was skipped.
    pub fn any_skipped(&self) -> bool {
        self.steps.iter().any(|step| step.status == Status::Skipped)
    }
}

impl Step {
    /// A step that was done.
    pub fn done(name: &'static str, evidence: Evidence, result: Result<(), String>) -> Self {
        let status = if result.is_ok() { Status::Passed } else { Status::Failed };
        Step { name: name.into(), status, reason: result.err(), evidence: evidence.0 }
    }

    /// A step that was not done.
    pub fn skipped(name: &'static str, reason: &str) -> Self {
        Step {
            name: name.into(),
            status: Status::Skipped,
            reason: Some(reason.to_owned()),
            evidence: Map::new(),
        }
    }
}

impl Evidence {
    /// Keeps `value` under `key`.
    pub fn keep(&mut self, key: &str, value: impl Serialize) {
        // What is kept are maps with text keys, numbers and text, which always become JSON.
        self.0.insert(key.to_owned(), serde_json::to_value(value).unwrap_or(Value::Null));
    }
}

impl std::fmt::Display for Step {
    /// One line for the step, one for each piece of evidence.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = match self.status {
            Status::Passed => "passed",
            Status::Failed => "FAILED",
            Status::Skipped => "skipped",
        };
        write!(f, "{status:8}{}", self.name)?;
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        for (key, value) in &self.evidence {
            match value {
                Value::Array(items) if items.iter().any(Value::is_object) => {
                    write!(f, "\n        {key}")?;
                    items.iter().try_for_each(|item| write!(f, "\n          {}", plain(item)))?;
                }
                value => write!(f, "\n        {key}: {}", plain(value))?,
            }
        }
        Ok(())
    }
}

/// JSON as a person reads it on one line: `name web, pid 12, rules [a, b]`. Empty lists are left out.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields
                .iter()
                .filter(|(_, value)| value.as_array().is_none_or(|items| !items.is_empty()))
                .collect();
            // What it is about comes first; the sort keeps the order of the rest.
            fields.sort_by_key(|(key, _)| !SUBJECTS.contains(&key.as_str()));
            let told = fields.into_iter().map(|(key, value)| match value {
                Value::Object(_) => format!("{key} ({})", plain(value)),
                value => format!("{key} {}", plain(value)),
            });
            told.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Keys that say what the other keys are about.
const SUBJECTS: [&str; 4] = ["name", "phase", "rule", "service"];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn step(result: Result<(), String>) -> Step {
        let mut evidence = Evidence::default();
        evidence.keep("pids", [1, 2]);
        Step::done("heal", evidence, result)
    }

    #[test]
    fn the_json_has_the_documented_shape() {
        let report = Report::new(vec![step(Ok(())), Step::skipped("intercept", "no namespaces")]);
        assert!(report.any_skipped());
        let expected = json!({
            "ok": true,
            "steps": [
                {"name": "heal", "status": "passed", "reason": null, "evidence": {"pids": [1, 2]}},
                {"name": "intercept", "status": "skipped", "reason": "no namespaces", "evidence": {}},
            ],
        });
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    }

    #[test]
    fn a_failed_step_keeps_its_evidence_and_says_why() {
        let report = Report::new(vec![step(Err("3 requests failed".into()))]);
        assert!(!report.ok);
        let text = report.steps[0].to_string();
        assert!(text.contains("FAILED  heal: 3 requests failed") && text.contains("pids: [1, 2]"), "{text}");
    }

    #[test]
    fn evidence_reads_as_text() {
        let value =
            json!({"name": "web", "at": [], "rules": [{"rule": "tcp", "packets": 3}], "share": {"v1": 0.5}});
        assert_eq!(plain(&value), "name web, rules [rule tcp, packets 3], share (v1 0.5)");
    }
}
