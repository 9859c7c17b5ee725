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

/// Reads every file and puts what they say in force. A fault anywhere, and what is in force stays as it is.
pub(crate) fn load(shared: &Shared) -> Result<Load, ConfigErrors> {
    let before = shared.mesh.load_full();
    let read = Resources::read(&shared.config.resources).and_then(|read| Snapshot::build(&read));
    let snapshot = match read {
        Ok(snapshot) => snapshot,
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
fn reload(shared: &Shared) {
    if let Err(errors) = load(shared) {
        for error in &errors.errors {
            tracing::error!("{error}");
        }
        tracing::error!(faults = errors.errors.len(), "resources are faulty: what was in force stays");
    }
}
