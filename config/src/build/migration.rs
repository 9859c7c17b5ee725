//! Migrations.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::kind::{Kinds, Refers};
use super::offload::part;
use super::{Drafts, Report};
use crate::document::At;
use crate::error::ConfigError;
use crate::load::Loaded;
use crate::manifest::Key;
use crate::name::ServiceName;
use crate::resource::migration::{MigrationClass, MigrationPlace, MigrationSpec};
use crate::resource::{Duration as Written, Spec};
use crate::snapshot::{Keeps, Migration, StateClass};

impl Refers for MigrationSpec {
    /// None: it is faulty.
    type Said = Option<Migration>;

    fn about(migration: &Loaded<Self>) -> Vec<ServiceName> {
        vec![part::<Self>(migration.namespace(), migration.name())]
    }

    fn names(migration: &Loaded<Self>) -> Vec<ServiceName> {
        vec![ServiceName::new(migration.namespace(), &migration.resource.spec.service)]
    }

    fn follow(migration: &Loaded<Self>, _: &Drafts, report: &mut Report) -> Option<Migration> {
        let (spec, at) = (&migration.resource.spec, migration.spec());
        // It need not be there: what was asked for once stays when the service has gone.
        let service = ServiceName::new(migration.namespace(), &spec.service);
        let from = report.ok(place(&spec.from, &at.field("from")));
        let to = report.ok(place(&spec.to, &at.field("to")));
        if let (Some(from), Some(to)) = (&from, &to)
            && from == to
        {
            let error = at.field("to").error("this is where it is already");
            report.error(error.hint("name another instance"));
        }
        let class = spec.class.map(|class| match class {
            MigrationClass::Stateless => Keeps::Nothing,
            MigrationClass::Volatile => Keeps::State(StateClass::Volatile),
            MigrationClass::Journaled => Keeps::State(StateClass::Journaled),
        });
        let mut within = |name: &str, said: Option<Written>, default: Duration| {
            let found = said.map_or(default, |said| said.0);
            if !LENGTHS.contains(&found) {
                let error = at.field(name).error("this is from 1ms to 24h");
                report.error(error.hint("write for example `10s`"));
            }
            found
        };
        let prepare = within("prepareTimeout", spec.prepare_timeout, PREPARE);
        let quiesce = within("quiesceTimeout", spec.quiesce_timeout, QUIESCE);
        let switch = within("switchTimeout", spec.switch_timeout, SWITCH);
        let drain = within("drainTimeout", spec.drain_timeout, DRAIN);
        let rounds = spec.precopy_rounds.unwrap_or(ROUNDS);
        if rounds > MOST_ROUNDS {
            report.error(at.field("precopyRounds").error(format!("{rounds} is not from 0 to {MOST_ROUNDS}")));
        }
        Some(Migration { service, from: from?, to: to?, class, prepare, quiesce, rounds, switch, drain })
    }
}

impl Kinds {
    /// All that are asked for, by namespace and name.
    pub(super) fn all_migrations(&self) -> Vec<(Key, Migration)> {
        let said = self.migrations.names().filter_map(|name| {
            let key = Key::new(MigrationSpec::KIND, &name.namespace, &name.name);
            Some((key, self.migrations.get(name)?.1.clone()?))
        });
        said.collect()
    }
}

fn place(written: &MigrationPlace, at: &At<'_>) -> Result<Arc<str>, ConfigError> {
    let name = &written.instance;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.is_empty() || name.len() > LONGEST || !name.bytes().all(is_plain) {
        let error = at
            .field("instance")
            .error(format!("`{}` is not what an instance is called", name.escape_debug()));
        return Err(error.hint("the last part of a name in `lighter get sidecars`"));
    }
    Ok(name.as_str().into())
}

const PREPARE: Duration = Duration::from_secs(10);
const QUIESCE: Duration = Duration::from_secs(2);
const ROUNDS: u32 = 4;
const MOST_ROUNDS: u32 = 64;
const SWITCH: Duration = Duration::from_secs(5);
const DRAIN: Duration = Duration::from_secs(30);
const LENGTHS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
const LONGEST: usize = 256;
