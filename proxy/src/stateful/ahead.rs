//! Links that are opened before they are needed. Of a worker.

use std::rc::Rc;
use std::time::Duration;

use lighter_config::snapshot::Secure;
use lighter_migrate::{Report, Stand};

use super::Hosted;
use crate::worker::Worker;

/// Whenever this place is about to give its state away, opens a link to where that goes, until it is dropped. What waits here
/// is sent on there, and is not to wait for a handshake as well.
pub(crate) async fn run(worker: Rc<Worker>) {
    loop {
        let changed = worker.shared.mesh.changed();
        let Some(hosted) = worker.shared.hosted.load_full() else {
            changed.await;
            continue;
        };
        tokio::select! {
            () = open(&worker, &hosted) => {}
            () = changed => {}
        }
    }
}

async fn open(worker: &Rc<Worker>, hosted: &Hosted) {
    let gives = |said: &Option<(Report, u64)>| {
        let stand = said.map(|(report, _)| report.stand);
        matches!(stand, Some(Stand::Parking { .. } | Stand::Frozen { .. }))
    };
    let mut reports = hosted.reports();
    while reports.wait_for(gives).await.is_ok() {
        if let (Some(at), Some(identity)) = (hosted.from(), worker.shared.identity.get()) {
            // The same workload.
            let secure = Secure { identity: identity.current().id().as_str().into(), link: None };
            // Whoever needs it is told what is wrong with it.
            let _ = worker.links.link(worker, &secure, at, TIMEOUT).await;
        }
        if reports.wait_for(|said| !gives(said)).await.is_err() {
            return;
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(5);
