//! A Migration that the control plane asks for by itself, as an operator would, and why.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lighter_config::manifest::{Key as ResourceKey, Manifest};
use lighter_config::name::ServiceName;
use lighter_config::resource::{LIGHTER, Spec, migration::MigrationSpec};
use serde_json::json;

use super::story::Reason;
use super::{All, FACTS, REASON, fact};
use crate::state::State;
use crate::store::{Author, Push};

impl All {
    /// Asks for one, in place of those that were asked for like that before and are over. Returns its name, unless it cannot be asked
    /// for.
    pub(super) fn ask(
        &mut self,
        service: &ServiceName,
        reason: Reason,
        (from, to): (&Arc<str>, &Arc<str>),
        state: &State,
    ) -> Option<Arc<str>> {
        let (store, namespace) = (&state.store, &service.namespace);
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let prefix = prefix(&service.name, reason.label());
        let name = format!("{prefix}{}", since.as_millis());
        let before: Vec<ResourceKey> = self
            .wanted
            .iter()
            .filter(|(key, asked)| asked.service == *service && key.name.starts_with(&prefix))
            .map(|(key, _)| key.clone())
            .collect();
        let document = json!({
            "apiVersion": LIGHTER,
            "kind": MigrationSpec::KIND,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "service": service.name,
                "from": {"instance": from},
                "to": {"instance": to},
                "quiesceTimeout": format!("{}ms", waits(service, state).as_millis()),
            },
        });
        let full: Arc<str> = format!("{namespace}/{name}").into();
        let note = |note| store.set_facts(FACTS, &[(fact(REASON, &full), note)]);
        let parsed =
            Manifest::parse(AUTHOR, &document.to_string(), namespace).map_err(|errors| errors.to_string());
        let pushed = parsed.and_then(|manifests| {
            let why = serde_json::to_vec(&reason).map_err(|error| error.to_string())?;
            // First: whoever begins again after a crash is to know why.
            note(Some(why)).map_err(|error| error.to_string())?;
            let push = Push { manifests, ..Push::default() };
            store.apply(push, Author { name: AUTHOR, now }, false).map_err(|error| {
                if let Err(error) = note(None) {
                    tracing::warn!(%error, %service, "why a Migration was asked for stays kept, and there is none");
                }
                error.to_string()
            })
        });
        let because = reason.label();
        match pushed {
            Ok(_) => {
                tracing::info!(%service, migration = name, %from, %to, because, "a migration is asked for");
                self.reasons.insert(full.clone(), reason);
                if let Err(error) = store.delete(&before, true, false) {
                    tracing::warn!(%error, %service, "Migrations that were asked for before stay listed");
                }
                Some(full)
            }
            Err(error) => {
                tracing::error!(error, %service, %from, because, "a migration cannot be asked for");
                None
            }
        }
    }
}

/// What names of Migrations begin with that are asked for of this Service for this reason. With a number after it, it is a name
/// however long that of the Service is; of two that have long names it may be the same.
fn prefix(service: &str, because: &str) -> String {
    let room = LONGEST_NAME.saturating_sub(because.len() + MILLIS_DIGITS + 2);
    let part = &service[..service.floor_char_boundary(room)];
    format!("{part}-{because}-")
}

/// How long what runs may take to end, and the application to give its state: a third of what requests may wait, so that as much
/// is left for the copy. Nobody is there to ask for more.
fn waits(service: &ServiceName, state: &State) -> Duration {
    let snapshot = state.store.snapshot();
    let state = snapshot.services.get(service).and_then(|service| service.state.as_ref());
    let wait = state.map_or(Duration::ZERO, |state| state.park.wait / 3);
    wait.clamp(SHORTEST, LONGEST)
}

/// A name is a label of DNS.
const LONGEST_NAME: usize = 63;
/// The time as a number, until the year 2286.
const MILLIS_DIGITS: usize = 13;

/// Who asks, in the history of the resources.
const AUTHOR: &str = "control-plane";

/// What a Migration takes as `quiesceTimeout`.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(86_400);
