//! What a Service keeps between requests, as its sidecars are told.

use std::sync::Arc;

use super::service::millis;
use super::{missing, port};
use crate::build::state::{self, Names};
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::{
    Hooks, MoveWhen, Moves, OnDrain, Park, Port, StateAccess, StateClass, Stateful, Streams, WhenAlone,
};
use crate::xds::wire::lighter::config::v1 as wire;

/// Of a Service with these ports.
pub(super) fn state(said: &wire::State, ports: &[Arc<Port>], at: &At<'_>) -> Result<Stateful, ConfigError> {
    let class = StateClass::ALL
        .into_iter()
        .find(|class| class.label() == said.class)
        .ok_or_else(|| at.field("class").error(format!("`{}` is not known", said.class.escape_debug())))?;
    // A control plane that is older says nothing.
    let on_drain = match &*said.on_drain {
        "" => OnDrain::default(),
        word => OnDrain::ALL
            .into_iter()
            .find(|on_drain| on_drain.label() == word)
            .ok_or_else(|| at.field("on_drain").error(format!("`{}` is not known", word.escape_debug())))?,
    };
    let streams = match &*said.streams {
        "" => Streams::default(),
        word => Streams::ALL
            .into_iter()
            .find(|streams| streams.label() == word)
            .ok_or_else(|| at.field("streams").error(format!("`{}` is not known", word.escape_debug())))?,
    };
    let when_alone = match &*said.when_alone {
        "" => WhenAlone::default(),
        word => WhenAlone::ALL
            .into_iter()
            .find(|when_alone| when_alone.label() == word)
            .ok_or_else(|| at.field("when_alone").error(format!("`{}` is not known", word.escape_debug())))?,
    };
    let when = match &*said.moves {
        "" => MoveWhen::default(),
        word => MoveWhen::ALL
            .into_iter()
            .find(|when| when.label() == word)
            .ok_or_else(|| at.field("moves").error(format!("`{}` is not known", word.escape_debug())))?,
    };
    let path = |path: &str| Some(Arc::from(path)).filter(|path: &Arc<str>| !path.is_empty());
    let at_park = at.field("park");
    let park = said.park.as_ref().ok_or_else(|| missing(&at_park))?;
    let read = Stateful {
        class,
        port: port(said.port, &at.field("port"))?,
        access: match said.redis {
            true => StateAccess::Redis,
            false => StateAccess::Http(Hooks {
                snapshot: said.snapshot.as_str().into(),
                restore: said.restore.as_str().into(),
                changes: path(&said.changes),
                freeze: path(&said.freeze),
                thaw: path(&said.thaw),
            }),
        },
        timeout: millis(said.timeout_ms, &at.field("timeout_ms"))?,
        max_bytes: said.max_bytes,
        park: Park {
            requests: park.requests,
            bytes: park.bytes,
            wait: millis(park.wait_ms, &at_park.field("wait_ms"))?,
        },
        streams,
        on_drain,
        when_alone,
        moves: Moves { when, ..Moves::default() },
    };
    let ports = ports.iter().map(|port| (port.key.port, port.protocol));
    state::valid(&read, ports, &NAMES, at)?;
    Ok(read)
}

const NAMES: Names = Names { timeout: "timeout_ms", max_bytes: "max_bytes", wait: "wait_ms" };
