//! The resource files of a sidecar: read, put in force, watched, and read again, without touching a connection.

mod stamp;
mod watch;

use std::sync::Arc;

use lighter_config::error::ConfigErrors;
use lighter_config::load::Resources;
use lighter_config::snapshot::Snapshot;

use crate::mesh::Mesh;
use crate::telemetry::{self, Load};
use crate::worker::Shared;

pub(crate) use stamp::Stamp;
pub(crate) use watch::watch;

/// Why files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Somebody wants it: the sidecar starts, or was asked to reload.
    Asked,
    /// They changed.
    Changed,
}

/// Reads every file and puts what they say in force. A fault anywhere, and what is in force stays as it is. So does it
/// when a change leaves nothing at all: that is a file that was emptied to be written again, or a folder that is gone.
pub(crate) fn load(shared: &Shared, why: Why) -> Result<Load, ConfigErrors> {
    let before = shared.mesh.load_full();
    let read = Resources::read(&shared.config.resources)
        .and_then(|read| Ok((read.is_empty(), Snapshot::build(&read)?)));
    let snapshot = match read {
        Ok((true, empty)) if why == Why::Changed && empty.version != before.config.version => {
            tracing::error!(
                "there are no resources any more: what was in force stays; if this is meant, ask by SIGHUP or POST /reload"
            );
            telemetry::config().loaded(Load::Rejected, 0);
            return Ok(Load::Rejected);
        }
        Ok((_, snapshot)) => snapshot,
        Err(errors) => {
            telemetry::config().loaded(Load::Rejected, 0);
            return Err(errors);
        }
    };
    for warning in &snapshot.warnings {
        tracing::warn!("{warning}");
    }
    let services = snapshot.services.len();
    if snapshot.version == before.config.version {
        telemetry::config().loaded(Load::Unchanged, services);
        return Ok(Load::Unchanged);
    }
    let version = snapshot.version.clone();
    shared.mesh.store(Arc::new(Mesh::build(Arc::new(snapshot), &before)));
    telemetry::config().loaded(Load::Applied, services);
    tracing::info!(services, %version, "resources in force");
    Ok(Load::Applied)
}

/// Loads again while the sidecar runs; what is wrong is said in the log, fault by fault.
fn reload(shared: &Shared, why: Why) {
    if let Err(errors) = load(shared, why) {
        for error in &errors.errors {
            tracing::error!("{error}");
        }
        tracing::error!(faults = errors.errors.len(), "resources are faulty: what was in force stays");
    }
}
