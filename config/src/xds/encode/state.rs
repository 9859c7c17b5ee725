//! What a Service keeps between requests, for its sidecars.

use std::sync::Arc;

use super::millis;
use crate::snapshot::{MoveWhen, StateAccess, Stateful, Streams};
use crate::xds::wire::lighter::config::v1 as lighter;

pub(super) fn state(said: &Stateful) -> lighter::State {
    let Stateful { class, port, access, timeout, max_bytes, park, streams, on_drain, when_alone, moves } =
        said;
    let hooks = match access {
        StateAccess::Http(hooks) => Some(hooks),
        StateAccess::Redis => None,
    };
    let path = |path: Option<&Arc<str>>| path.map(|path| path.to_string()).unwrap_or_default();
    lighter::State {
        class: class.label().to_string(),
        port: (*port).into(),
        snapshot: path(hooks.map(|hooks| &hooks.snapshot)),
        restore: path(hooks.map(|hooks| &hooks.restore)),
        freeze: path(hooks.and_then(|hooks| hooks.freeze.as_ref())),
        thaw: path(hooks.and_then(|hooks| hooks.thaw.as_ref())),
        changes: path(hooks.and_then(|hooks| hooks.changes.as_ref())),
        redis: *access == StateAccess::Redis,
        timeout_ms: millis(*timeout),
        max_bytes: *max_bytes,
        park: Some(lighter::Park { requests: park.requests, bytes: park.bytes, wait_ms: millis(park.wait) }),
        streams: match streams {
            Streams::Wait => String::new(),
            Streams::Cut => streams.label().to_string(),
        },
        on_drain: on_drain.label().to_string(),
        when_alone: when_alone.label().to_string(),
        moves: match moves.when {
            MoveWhen::Asked => String::new(),
            MoveWhen::Gain => moves.when.label().to_string(),
        },
    }
}
