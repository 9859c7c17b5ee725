//! Does the rounds of the journal: asks the application, and sends what it gives to the standby. Of the control thread.

use std::sync::Arc;
use std::time::Duration;

use lighter_migrate::journal::{Round, Taken};
use lighter_migrate::{Epoch, Stand};
use tokio::time::sleep;

use super::counts::{self, Ended};
use super::send::{Line, send};
use super::{Journal, Task};
use crate::stateful::copies::State;
use crate::stateful::hooks::{Application, Given, Hook, HookError, HookFault, Version};
use crate::stateful::host::{Host, Known};
use crate::worker::Shared;

/// Does what the journal of the place of the moment needs, until it is dropped.
pub(crate) async fn run(shared: Arc<Shared>, known: Known) {
    loop {
        let changed = shared.mesh.changed();
        let Some(hosted) = shared.hosted.load_full() else {
            changed.await;
            continue;
        };
        let host = Host { shared: shared.clone(), hosted, known: known.clone() };
        tokio::select! {
            () = rounds(&host, 0) => {}
            () = rounds(&host, 1) => {}
            () = leaves(&host) => {}
        }
    }
}

/// Resolves once it is not the place of the moment any more.
async fn leaves(host: &Host) {
    loop {
        let changed = host.shared.mesh.changed();
        if !host.is_of_the_moment() {
            return;
        }
        changed.await;
    }
}

/// Does those of whoever has this seat.
async fn rounds(host: &Host, seat: usize) {
    let journal = host.hosted.journal();
    let (mut line, mut since, mut is_said) = (None, None, false);
    loop {
        let task = journal.task(seat).await;
        match gather(host, &task, since.as_ref()).await {
            Ok(gathered) => {
                is_said = false;
                since = give(host, &mut line, &task, gathered).await;
            }
            Err(fault) => {
                // Said once, not at every try.
                if !std::mem::replace(&mut is_said, true) {
                    tracing::warn!(%fault, view = task.round.view, "what has changed is not given to the journal");
                }
                counts::round(Ended::Ungiven, 0);
                journal.fail(&task);
                sleep(PAUSE.1).await;
            }
        }
    }
}

/// From what the next round follows, in which view.
struct Since {
    view: u64,
    version: Version,
}

/// What the application gave.
struct Gathered {
    state: State,
    is_whole: bool,
    version: Version,
}

/// Why nothing can be given to the standby.
#[derive(Debug, thiserror::Error)]
enum GatherError {
    /// The application does not give it.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// It has begun again, and has nothing of what was before.
    #[error("the application is not the one any more that began to serve")]
    BegunAgain,
    /// The place has no such epoch, or not yet.
    #[error("this place does not serve the epoch of which it is")]
    NotServing,
}

/// Asks the application for what has changed, or for all of it.
async fn gather(host: &Host, task: &Task, since: Option<&Since>) -> Result<Gathered, GatherError> {
    if !serves(host, task.epoch) {
        return Err(GatherError::NotServing);
    }
    let since = since.filter(|since| since.view == task.round.view && !task.round.is_whole);
    let gathered = ask(host, since).await?;
    // Whoever has answered: one that has begun again meanwhile knows nothing of what was acknowledged.
    match () {
        () if !lives(host.hosted.journal(), host.listeners()) => Err(GatherError::BegunAgain),
        () if !serves(host, task.epoch) => Err(GatherError::NotServing),
        () => Ok(gathered),
    }
}

async fn ask(host: &Host, since: Option<&Since>) -> Result<Gathered, HookError> {
    let named = |hook: Hook, given: Given| match given.version {
        Some(version) => Ok(Gathered { state: given.state, is_whole: hook == Hook::Snapshot, version }),
        None => Err(HookError { hook, fault: HookFault::Unnamed }),
    };
    if let Some(since) = since {
        match host.ask(Hook::Changes, async |app: &Application<'_>| app.changes(&since.version).await).await {
            Err(HookError { fault: HookFault::Gone, .. }) => {
                // One that has begun again behind the same socket says that too.
                tracing::warn!(
                    view = since.view,
                    "the application does not know what has changed: all of its state is journaled"
                );
                counts::round(Ended::Forgotten, 0);
            }
            given => return named(Hook::Changes, given?),
        }
    }
    let given = host.ask(Hook::Snapshot, async |app: &Application<'_>| app.snapshot().await).await?;
    named(Hook::Snapshot, given)
}

/// Whether the application is the one that began to serve, by where it listens.
fn lives(journal: &Journal, now: Option<Vec<u64>>) -> bool {
    let (before, now) = (journal.life().unwrap_or_default(), now.unwrap_or_default());
    before.iter().any(|socket| now.contains(socket))
}

/// Whether this place has the state of this epoch, and gives it away to nobody yet.
fn serves(host: &Host, epoch: Epoch) -> bool {
    let stand = host.hosted.reports().borrow().map(|(report, _)| report.stand);
    let serves = matches!(stand, Some(Stand::Serving { .. } | Stand::Parking { .. } | Stand::Frozen { .. }));
    serves && stand.and_then(Stand::holds) == Some(epoch)
}

/// Sends it until it is known what the standby made of it, or nobody wants to know. Returns from what the next round follows.
async fn give(host: &Host, line: &mut Option<Line>, task: &Task, gathered: Gathered) -> Option<Since> {
    let (journal, Gathered { state, is_whole, version }) = (host.hosted.journal(), gathered);
    let Round { view, .. } = task.round;
    let (mut pause, mut is_said) = (PAUSE.0, false);
    while journal.is_under_way(task.round) {
        match send(&host.shared, line, task, (&state, is_whole)).await {
            Ok(Taken::All) => {
                counts::round(Ended::Taken, state.bytes());
                journal.took(task, is_whole, state.bytes());
                return Some(Since { view, version });
            }
            Ok(Taken::Lacks) => {
                counts::round(Ended::Lacks, 0);
                journal.lacks(task);
            }
            Ok(Taken::Closed) if journal.shut(task.round) => counts::round(Ended::Deposed, 0),
            // Whoever is to follow the standby does not know it yet, or not any more.
            given => {
                counts::round(Ended::Lost, 0);
                journal.fails(task);
                // Said once, not at every try.
                if !std::mem::replace(&mut is_said, true) {
                    let fault = given.err();
                    tracing::info!(at = %task.at, view, ?fault, "whoever keeps the journal is asked again");
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
    None
}

/// How long is waited before another try, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
