//! What a Service keeps between requests, for its sidecars.

use std::sync::Arc;

use super::millis;
use crate::snapshot::{StateAccess, Stateful};
use crate::xds::wire::lighter::config::v1 as lighter;

pub(super) fn state(said: &Stateful) -> lighter::State {
    let Stateful { class, port, access, timeout, max_bytes, park, on_drain } = said;
    let StateAccess::Http(hooks) = access;
    let path = |path: &Option<Arc<str>>| path.as_deref().unwrap_or_default().to_string();
    lighter::State {
        class: class.label().to_string(),
        port: (*port).into(),
        snapshot: hooks.snapshot.to_string(),
        restore: hooks.restore.to_string(),
        freeze: path(&hooks.freeze),
        thaw: path(&hooks.thaw),
        changes: path(&hooks.changes),
        timeout_ms: millis(*timeout),
        max_bytes: *max_bytes,
        park: Some(lighter::Park { requests: park.requests, bytes: park.bytes, wait_ms: millis(park.wait) }),
        on_drain: on_drain.label().to_string(),
    }
}
