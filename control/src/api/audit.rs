//! The audit log: one line of JSON for each change of the store, and for all else that operators have done.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

use lighter_config::control::AuditLog;
use serde_json::{Value, json};

use crate::store::{Changes, Effect, rfc3339};

/// Where the lines go.
pub struct Audit(Mutex<To>);

enum To {
    File(File),
    Stdout,
    Log,
}

/// What was done, and by whom.
pub struct Entry<'a> {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Who.
    pub who: &'a str,
    /// From where.
    pub peer: SocketAddr,
    /// What was asked for: `apply`, `put`, `delete`, `restore`, `drain`, `abort`, `token`, `revoke`.
    pub action: &'static str,
    /// To what.
    pub about: &'a About<'a>,
}

/// What something was done to.
pub enum About<'a> {
    /// The store.
    Store(&'a Changes),
    /// A sidecar.
    Sidecar(&'a str),
    /// A migration.
    Migration(&'a str),
    /// A join token, for this service.
    Token(&'a str),
}

impl Audit {
    /// Opens the file, if there is to be one, readable by its owner alone. None: lines go to the log.
    pub fn open(to: Option<&AuditLog>) -> io::Result<Audit> {
        let to = match to {
            Some(AuditLog::File(path)) => {
                let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
                To::File(opened.map_err(|error| {
                    io::Error::new(error.kind(), format!("the audit log {}: {error}", path.display()))
                })?)
            }
            Some(AuditLog::Stdout) => To::Stdout,
            None => To::Log,
        };
        Ok(Audit(Mutex::new(to)))
    }

    /// Writes one line. What has not changed is left out.
    pub fn write(&self, entry: &Entry<'_>) -> io::Result<()> {
        let mut line = entry.to_json().to_string();
        line.push('\n');
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            To::File(file) => file.write_all(line.as_bytes()),
            To::Stdout => io::stdout().lock().write_all(line.as_bytes()),
            To::Log => {
                tracing::info!(audit = line.trim_end(), "an operator changed something");
                Ok(())
            }
        }
    }
}

impl Entry<'_> {
    fn to_json(&self) -> Value {
        let mut line = json!({
            "time": rfc3339(self.at),
            "who": self.who,
            "peer": self.peer.to_string(),
            "action": self.action,
        });
        match self.about {
            About::Store(changes) => {
                line["generationBefore"] = changes.before.into();
                line["generation"] = changes.after.into();
                line["resources"] = resources(changes).into();
            }
            About::Sidecar(name) => line["sidecar"] = (*name).into(),
            About::Migration(name) => line["migration"] = (*name).into(),
            About::Token(service) => line["service"] = (*service).into(),
        }
        line
    }
}

/// A line for each resource that changed.
fn resources(changes: &Changes) -> Vec<Value> {
    let changed = changes.changes.iter().filter(|change| change.before != change.after);
    let line = changed.map(|change| {
        let mut line = json!({
            "resource": change.key.to_string(),
            "change": change.effect.word(),
            "before": change.before.as_ref().map(|stored| stored.generation),
            "after": change.after.as_ref().map(|stored| stored.generation),
        });
        // It says what it said, and belongs to another set: that decides what a later push prunes.
        if change.effect == Effect::Unchanged {
            line["change"] = "moved".into();
            line["setBefore"] = json!(change.before.as_ref().and_then(|stored| stored.set.as_ref()));
            line["set"] = json!(change.after.as_ref().and_then(|stored| stored.set.as_ref()));
        }
        line
    });
    line.collect()
}
