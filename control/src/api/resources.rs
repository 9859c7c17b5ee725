//! Resources: listed, taken, removed, copied.

use std::time::{Instant, SystemTime};

use http::StatusCode;
use lighter_config::error::{ConfigError, ConfigErrors};
use lighter_config::manifest::{Key, Manifest};
use lighter_config::name::DEFAULT_NAMESPACE;
use serde::de::DeserializeOwned;

use super::answer::{self, Answer, refused, store_error};
use super::audit::{About, Entry};
use super::conditions::status;
use super::counters::Counters;
use super::message::{Changed, Done, Draining, Files, Item, Keys, List};
use super::query::Query;
use super::{Api, Caller, DEFAULT_SET};
use crate::store::{Author, Backup, Change, Changes, Push, StoreError, Stored, seconds};

impl Api {
    pub(super) fn list(&self, query: &Query) -> Answer {
        let view = self.state.store.view();
        let wanted = |stored: &&std::sync::Arc<Stored>| {
            query.kind.as_deref().is_none_or(|kind| kind == &*stored.key.kind)
                && query.namespace.as_deref().is_none_or(|namespace| namespace == &*stored.key.namespace)
        };
        let warnings = &view.snapshot.warnings;
        let items = view.resources.values().filter(wanted).map(|stored| item(stored, warnings)).collect();
        answer::json(StatusCode::OK, &List { generation: view.generation, items })
    }

    pub(super) fn get(&self, key: &Key) -> Answer {
        let view = self.state.store.view();
        match view.resources.get(key) {
            Some(stored) => answer::json(StatusCode::OK, &item(stored, &view.snapshot.warnings)),
            None => store_error(StoreError::NotFound(vec![key.clone()])),
        }
    }

    pub(super) fn put(&self, key: &Key, body: &[u8], query: &Query, caller: &Caller) -> Answer {
        let manifests = match utf8(body).map(|text| Manifest::parse("the body", text, &key.namespace)) {
            Ok(Ok(manifests)) => manifests,
            Ok(Err(errors)) => return self.finish("put", query, caller, Err(errors.into())),
            Err(answer) => return *answer,
        };
        match manifests.as_slice() {
            [one] if one.key() == key => {}
            [one] => {
                let message = format!("the body is {}, and the path names {key}", one.key());
                return refused(StatusCode::BAD_REQUEST, message);
            }
            _ => return refused(StatusCode::BAD_REQUEST, "the body is not one document"),
        }
        self.push(Push { manifests, set: None, prune: false }, "put", query, caller)
    }

    pub(super) fn apply(&self, body: &[u8], query: &Query, caller: &Caller) -> Answer {
        let files: Files = match read(body) {
            Ok(files) => files,
            Err(answer) => return *answer,
        };
        let namespace = query.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let manifests = match manifests(&files, namespace) {
            Ok(manifests) if manifests.is_empty() => {
                return refused(StatusCode::BAD_REQUEST, "there is no resource in what was sent");
            }
            Ok(manifests) => manifests,
            Err(errors) => return self.finish("apply", query, caller, Err(errors.into())),
        };
        let set = query.set.clone().unwrap_or_else(|| DEFAULT_SET.into());
        self.push(Push { manifests, set: Some(set), prune: query.prune }, "apply", query, caller)
    }

    pub(super) fn delete_many(&self, body: &[u8], query: &Query, caller: &Caller) -> Answer {
        match read::<Keys>(body) {
            Ok(keys) => self.delete(&keys.keys, query, caller),
            Err(answer) => *answer,
        }
    }

    pub(super) fn delete(&self, keys: &[Key], query: &Query, caller: &Caller) -> Answer {
        let done = self.state.store.delete(keys, query.ignore_missing, query.dry_run);
        self.finish("delete", query, caller, done)
    }

    pub(super) fn sidecars(&self) -> Answer {
        let sidecars = self.state.streams.sidecars(&self.state.registry.sidecars, Instant::now());
        answer::json(StatusCode::OK, &serde_json::json!({ "sidecars": sidecars }))
    }

    /// Has a sidecar drain.
    pub(super) fn drain(&self, name: &str, query: &Query, caller: &Caller) -> Answer {
        if !self.state.registry.sidecars.drain(name, "an operator asked for it", query.now) {
            let message = format!("no sidecar `{name}` reports here");
            return refused(StatusCode::NOT_FOUND, message);
        }
        self.note("drain", caller, &About::Sidecar(name));
        answer::json(StatusCode::OK, &Draining { sidecar: name.to_owned() })
    }

    pub(super) fn backup(&self) -> Answer {
        answer::json(StatusCode::OK, &self.state.store.backup())
    }

    pub(super) fn restore(&self, body: &[u8], query: &Query, caller: &Caller) -> Answer {
        let done = Backup::read(body).and_then(|backup| self.state.store.restore(backup, query.dry_run));
        self.finish("restore", query, caller, done)
    }

    fn push(&self, push: Push, action: &'static str, query: &Query, caller: &Caller) -> Answer {
        let author = Author { name: &caller.name, now: SystemTime::now() };
        self.finish(action, query, caller, self.state.store.apply(push, author, query.dry_run))
    }

    /// Counts a change, writes it down, and says it.
    fn finish(
        &self,
        action: &'static str,
        query: &Query,
        caller: &Caller,
        done: Result<Changes, StoreError>,
    ) -> Answer {
        let changes = match done {
            Ok(changes) => changes,
            Err(error) => {
                match error {
                    StoreError::Invalid(_) => Counters::count(&self.counters.invalid),
                    StoreError::Conflict(_) => Counters::count(&self.counters.conflict),
                    _ => {}
                }
                return store_error(error);
            }
        };
        if !query.dry_run && changes.before != changes.after {
            Counters::count(&self.counters.changes);
            self.note(action, caller, &About::Store(&changes));
        }
        let dry_run = query.dry_run;
        let (generation_before, generation) = (changes.before, changes.after);
        let warnings = changes.warnings;
        let changes = changes.changes.into_iter().map(changed).collect();
        answer::json(StatusCode::OK, &Done { dry_run, generation_before, generation, changes, warnings })
    }
}

impl Api {
    /// Writes down what was done.
    pub(super) fn note(&self, action: &'static str, caller: &Caller, about: &About<'_>) {
        let at = seconds(SystemTime::now());
        let entry = Entry { at, who: &caller.name, peer: caller.peer, action, about };
        if let Err(error) = self.audit.write(&entry) {
            Counters::count(&self.counters.audit_lost);
            tracing::error!(%error, action, "the audit log did not take a change");
        }
    }
}

/// A stored resource as it is shown: with its generation and its status.
fn item(stored: &Stored, warnings: &[ConfigError]) -> Item {
    let mut document = stored.document.clone();
    document["metadata"]["resourceVersion"] = stored.generation.to_string().into();
    document["status"] = status(stored, warnings);
    Item {
        key: stored.key.clone(),
        document,
        generation: stored.generation,
        set: stored.set.clone(),
        written_by: stored.written_by.clone(),
        at: stored.at,
    }
}

fn changed(change: Change) -> Changed {
    let document = |stored: Option<std::sync::Arc<Stored>>| stored.map(|stored| stored.document.clone());
    let change_word = change.effect.word().to_string();
    Changed {
        key: change.key,
        change: change_word,
        before: document(change.before),
        after: document(change.after),
    }
}

/// The documents of all files; the faults of all of them, if there are any.
fn manifests(files: &Files, namespace: &str) -> Result<Vec<Manifest>, ConfigErrors> {
    let (mut manifests, mut errors) = (Vec::new(), Vec::new());
    for file in &files.files {
        match Manifest::parse(&file.name, &file.text, namespace) {
            Ok(found) => manifests.extend(found),
            Err(found) => errors.extend(found.errors),
        }
    }
    if errors.is_empty() { Ok(manifests) } else { Err(ConfigErrors { errors }) }
}

/// A body in JSON.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Box<Answer>> {
    serde_json::from_slice(body).map_err(|error| {
        Box::new(refused(StatusCode::BAD_REQUEST, format!("the body is not as expected: {error}")))
    })
}

fn utf8(body: &[u8]) -> Result<&str, Box<Answer>> {
    std::str::from_utf8(body).map_err(|_| Box::new(refused(StatusCode::BAD_REQUEST, "the body is not UTF-8")))
}
