//! What a Service keeps between requests: what is wrong with it, and what it comes to.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::{PortDraft, Report, check};
use crate::document::At;
use crate::error::ConfigError;
use crate::resource::state::{
    MoveSpec, MoveWhen as MovedBy, OnDrain as Asked, ParkSpec, StateClass as Written, StateSpec,
    Streams as Running, WhenAlone as Alone,
};
use crate::snapshot::{
    FUNCTIONS, Hooks, MoveWhen, Moves, OnDrain, Park, Protocol, StateAccess, StateClass, Stateful, Streams,
    WhenAlone,
};

/// What is said of a Service with these ports. None: it is faulty.
pub(super) fn read(
    spec: &StateSpec,
    ports: &[PortDraft],
    at: &At<'_>,
    report: &mut Report,
) -> Option<Arc<Stateful>> {
    let class = match spec.class {
        Written::Volatile => StateClass::Volatile,
        Written::Journaled => StateClass::Journaled,
    };
    if let (StateClass::Volatile, Some(_)) = (class, spec.when_alone) {
        let error = at.field("whenAlone").error("a state that is volatile is in no journal");
        report.error(error.hint("leave it out, or say `class: journaled`"));
        return None;
    }
    let access = report.ok(access(spec, at))?;
    let stateful = Stateful {
        class,
        port: spec.port.or(ports.first().map(|port| port.key.port))?,
        access,
        timeout: spec.timeout.map_or(TIMEOUT, |said| said.0),
        max_bytes: spec.max_bytes.unwrap_or(MAX_BYTES),
        park: spec.park.as_ref().map(park).unwrap_or_default(),
        streams: match spec.streams {
            Running::Wait => Streams::Wait,
            Running::Cut => Streams::Cut,
        },
        on_drain: match spec.on_drain {
            Asked::Move => OnDrain::Move,
            Asked::Stay => OnDrain::Stay,
        },
        when_alone: match spec.when_alone {
            Some(Alone::Serve) => WhenAlone::Serve,
            Some(Alone::Refuse) | None => WhenAlone::Refuse,
        },
        moves: spec.moves.as_ref().map(moves).unwrap_or_default(),
    };
    let ports = ports.iter().map(|port| (port.key.port, port.protocol));
    report.ok(valid(&stateful, ports, &NAMES, at))?;
    Some(Arc::new(stateful))
}

/// How the state is given and taken.
fn access(spec: &StateSpec, at: &At<'_>) -> Result<StateAccess, ConfigError> {
    let StateSpec { snapshot, restore, changes, freeze, thaw, function, redis, .. } = spec;
    let paths = [
        ("snapshot", snapshot),
        ("restore", restore),
        ("changes", changes),
        ("freeze", freeze),
        ("thaw", thaw),
    ];
    let mut said = paths.iter().filter_map(|(field, path)| Some((*field, path.as_deref()?)));
    if redis.is_some() {
        return match said.next().map(|(field, _)| field).or(function.as_ref().map(|_| "function")) {
            Some(field) => Err(at.field(field).error("`redis` says how the state is given and taken")),
            None => Ok(StateAccess::Redis),
        };
    }
    if let Some(function) = function {
        if let Some((field, _)) = said.next() {
            let error = at.field(field).error("`function` says already how the state is given and taken");
            return Err(error
                .hint("leave one of them out: a device has paths of its own for what a function remembers"));
        }
        if !check::is_data_name(function) {
            let error = format!("`{}` is no name of a function", function.escape_debug());
            return Err(at.field("function").error(error));
        }
        return Ok(StateAccess::Http(Hooks::of_function(function)));
    }
    if let Some((field, path)) = said.find(|(_, path)| path.starts_with(FUNCTIONS)) {
        let error =
            at.field(field).error(format!("`{}` is a path that only devices have", path.escape_debug()));
        return Err(error.hint("name the function instead: `function: NAME`"));
    }
    let path = |path: &str| -> Arc<str> { path.into() };
    let needed = |field: &str, said: &Option<String>| {
        said.as_deref().map(path).ok_or_else(|| {
            at.error(format!("`{field}` is missing")).hint(
                "name the paths `snapshot` and `restore` of the application, or the `function` whose keys and values are the state, or \
                 say `redis: {}` of Redis",
            )
        })
    };
    Ok(StateAccess::Http(Hooks {
        snapshot: needed("snapshot", snapshot)?,
        restore: needed("restore", restore)?,
        changes: changes.as_deref().map(path),
        freeze: freeze.as_deref().map(path),
        thaw: thaw.as_deref().map(path),
    }))
}

fn park(said: &ParkSpec) -> Park {
    let default = Park::default();
    Park {
        requests: said.requests.unwrap_or(default.requests),
        bytes: said.bytes.unwrap_or(default.bytes),
        wait: said.wait.map_or(default.wait, |wait| wait.0),
    }
}

fn moves(said: &MoveSpec) -> Moves {
    let default = Moves::default();
    Moves {
        when: match said.when {
            MovedBy::Asked => MoveWhen::Asked,
            MovedBy::Gain => MoveWhen::Gain,
        },
        horizon: said.horizon.map_or(default.horizon, |horizon| horizon.0),
        margin_percent: said.margin_percent.unwrap_or(default.margin_percent),
        settle: said.settle.map_or(default.settle, |settle| settle.0),
    }
}

/// What fields are called where they are written.
pub(crate) struct Names {
    pub(crate) timeout: &'static str,
    pub(crate) max_bytes: &'static str,
    pub(crate) wait: &'static str,
}

const NAMES: Names = Names { timeout: "timeout", max_bytes: "maxBytes", wait: "wait" };

/// The first thing that is wrong with it, of a Service with these ports.
pub(crate) fn valid(
    stateful: &Stateful,
    ports: impl Iterator<Item = (u16, Protocol)> + Clone,
    names: &Names,
    at: &At<'_>,
) -> Result<(), ConfigError> {
    let Stateful { class, port: wanted, access, timeout, max_bytes, park, moves, .. } = stateful;
    let Some((_, protocol)) = ports.clone().find(|(port, _)| port == wanted) else {
        let known: Vec<String> = ports.map(|(port, _)| port.to_string()).collect();
        let error = at.field("port").error(format!("the Service has no port {wanted}"));
        return Err(error.hint(format!("its ports are: {}", known.join(", "))));
    };
    match access {
        StateAccess::Http(hooks) => paths(hooks, *wanted, protocol, at)?,
        StateAccess::Redis if protocol != Protocol::Redis => {
            let error = at.field("port").error(format!("Redis is not spoken at port {wanted}"));
            return Err(error.hint("name one whose `appProtocol` is `redis`: state is given and taken there"));
        }
        StateAccess::Redis => {}
    }
    if *class == StateClass::Journaled {
        journaled(access, ports, at)?;
    }
    let bytes = |at: At<'_>, number: u64| match number {
        1..=MOST_BYTES => Ok(()),
        _ => Err(at.error(format!("{number} is not from 1 to {MOST_BYTES}"))),
    };
    let time = |at: At<'_>, time: Duration| match LENGTHS.contains(&time) {
        true => Ok(()),
        false => Err(at.error("this is from 1ms to 24h").hint("write for example `10s`")),
    };
    let at_park = at.field("park");
    time(at.field(names.timeout), *timeout)?;
    bytes(at.field(names.max_bytes), *max_bytes)?;
    if !(1..=MOST_PARKED).contains(&park.requests) {
        let error = format!("{} is not from 1 to {MOST_PARKED}", park.requests);
        return Err(at_park.field("requests").error(error));
    }
    bytes(at_park.field("bytes"), park.bytes)?;
    time(at_park.field(names.wait), park.wait)?;
    let at_move = at.field("move");
    if moves.when == MoveWhen::Gain && *access == StateAccess::Redis {
        let error = at_move.field("when").error("the state of Redis cannot move for gain");
        return Err(error.hint("say `when: asked`: how long commands of Redis take is not measured"));
    }
    if moves.margin_percent > MOST_MARGIN {
        let error = format!("{} is not from 0 to {MOST_MARGIN}", moves.margin_percent);
        return Err(at_move.field("marginPercent").error(error));
    }
    time(at_move.field("horizon"), moves.horizon)?;
    time(at_move.field("settle"), moves.settle)
}

/// Why the state of a Service with these ports cannot be journaled.
fn journaled(
    access: &StateAccess,
    mut ports: impl Iterator<Item = (u16, Protocol)>,
    at: &At<'_>,
) -> Result<(), ConfigError> {
    let hooks = match access {
        StateAccess::Http(hooks) if hooks.function().is_some() => {
            let error = at.field("class").error("what a function remembers cannot be journaled");
            return Err(error.hint("say `class: volatile`: it moves, and is lost where its device dies"));
        }
        StateAccess::Http(hooks) => hooks,
        StateAccess::Redis => {
            let error = at.field("class").error("the state of Redis cannot be journaled");
            return Err(error.hint("say `class: volatile`: Redis gives no changes by themselves"));
        }
    };
    if hooks.changes.is_none() {
        let error = at.field("class").error("`journaled` takes `changes`, which is missing");
        return Err(
            error.hint("name the path of a GET that answers `?since=VERSION` with what has changed since")
        );
    }
    // An answer says when its request is done: of anything else nobody knows what it acknowledges.
    match ports.find(|(_, protocol)| !matches!(protocol, Protocol::Http | Protocol::Http2)) {
        Some((port, _)) => {
            let error = format!("what is answered at port {port} cannot be told from what is only said");
            let error = at.field("class").error(error);
            Err(error.hint("`journaled` takes `appProtocol: http` or `http2` at each port"))
        }
        None => Ok(()),
    }
}

/// The first thing that is wrong with what is asked for at this port.
fn paths(hooks: &Hooks, wanted: u16, protocol: Protocol, at: &At<'_>) -> Result<(), ConfigError> {
    if !matches!(protocol, Protocol::Auto | Protocol::Http) {
        let error = at.field("port").error(format!("no HTTP/1.1 is spoken at port {wanted}"));
        return Err(
            error.hint("name one whose `appProtocol` is `http` or `auto`: state is given and taken there")
        );
    }
    // Of a name, `.` and `..` would be none.
    let snapshot = if hooks.function().is_some() { "function" } else { "snapshot" };
    check::path(&at.field(snapshot), &hooks.snapshot)?;
    check::path(&at.field("restore"), &hooks.restore)?;
    for (field, path) in [("changes", &hooks.changes), ("freeze", &hooks.freeze), ("thaw", &hooks.thaw)] {
        path.as_deref().map(|path| check::path(&at.field(field), path)).transpose()?;
    }
    match (&hooks.freeze, &hooks.thaw) {
        (Some(_), None) => {
            let error = at.field("freeze").error("nothing would end it");
            Err(error.hint("name `thaw` as well: a migration that is aborted leaves the state here"))
        }
        (Some(freeze), Some(thaw)) if freeze == thaw => {
            Err(at.field("thaw").error("`freeze` has this path: one could not be told from the other"))
        }
        _ => Ok(()),
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BYTES: u64 = 256 << 20;
/// Both sidecars keep a copy in memory.
const MOST_BYTES: u64 = 16 << 30;
const MOST_PARKED: u32 = 1_000_000;
/// In percent.
const MOST_MARGIN: u32 = 1000;
const LENGTHS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
