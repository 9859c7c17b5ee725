//! Before a drain: the state that is served here moves elsewhere first, where the control plane has somewhere for it. So does the
//! journal of one that is served elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lighter_migrate::Stand;
use metrics::{counter, describe_counter};
use tokio::sync::Notify;

use super::hosted::Hosted;
use crate::worker::Shared;

/// Whether this instance waits for its state to move, and who sees to that.
#[derive(Default)]
pub(crate) struct Leaving {
    is_leaving: AtomicBool,
    /// A control plane hears this instance.
    is_heard: AtomicBool,
    is_released: AtomicBool,
    released: Notify,
}

/// How the wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// It is served elsewhere.
    Moved,
    /// It is gone.
    Lost,
    /// The control plane has nowhere for it.
    Released,
    /// It took too long.
    Late,
    /// Whoever asks for the drain does not wait.
    Hurried,
}

impl Leaving {
    /// Whether it waits, and the control plane is to know.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// The control plane hears this instance, or does not any more.
    pub(crate) fn is_heard(&self, is_heard: bool) {
        self.is_heard.store(is_heard, Ordering::Release);
    }

    /// The control plane has nowhere for the state.
    pub(crate) fn release(&self) {
        self.is_released.store(true, Ordering::Release);
        self.released.notify_one();
    }
}

/// Begins to wait, if there is something to wait for. Returns whether there is.
pub(crate) fn begin(shared: &Shared) -> bool {
    let Leaving { is_leaving, is_heard, is_released, .. } = &shared.leaving;
    let hosted = shared.hosted.load();
    let holds = hosted.as_deref().is_some_and(|hosted| stand(hosted).holds().is_some());
    let keeps = hosted.as_deref().is_some_and(|hosted| hosted.journal().keeps());
    let begins = is_heard.load(Ordering::Acquire) && (holds || keeps);
    if begins {
        let what = if holds { "the state that is served here" } else { "the journal that is kept here" };
        tracing::info!("{what} is to move before the drain");
        is_released.store(false, Ordering::Release);
        is_leaving.store(true, Ordering::Release);
        shared.tell_stand();
    }
    begins
}

/// Resolves when there is nothing to wait for any more, or `until` has come.
pub(crate) async fn left(shared: &Shared, until: Instant) -> Left {
    let moved = async {
        let mut kept = false;
        loop {
            let changed = shared.mesh.changed();
            let Some(hosted) = shared.hosted.load_full() else { return Left::Moved };
            let mut reports = hosted.reports();
            let mut journal = hosted.journal().stand();
            reports.mark_unchanged();
            journal.mark_unchanged();
            let (stand, keeps) = (stand(&hosted), hosted.journal().keeps());
            if !keeps && (stand.has_left() || kept && stand.holds().is_none()) {
                return Left::Moved;
            }
            if !keeps && stand.holds().is_none() {
                return Left::Lost;
            }
            kept = keeps;
            if shared.leaving.is_released.load(Ordering::Acquire) {
                return Left::Released;
            }
            tokio::select! {
                Ok(()) = reports.changed() => {}
                Ok(()) = journal.changed() => {}
                () = changed => {}
                () = shared.leaving.released.notified() => {}
            }
        }
    };
    tokio::time::timeout_at(until.into(), moved).await.unwrap_or(Left::Late)
}

/// It waits no longer.
pub(crate) fn end(shared: &Shared, left: Left) {
    shared.leaving.is_leaving.store(false, Ordering::Release);
    let outcome = match left {
        Left::Moved => "moved",
        Left::Lost => "lost",
        Left::Released => "released",
        Left::Late => "late",
        Left::Hurried => "hurried",
    };
    describe_counter!(
        "lighter_state_leaves_total",
        "Drains before which the state that was served here was to move, by what became of that."
    );
    counter!("lighter_state_leaves_total", "outcome" => outcome).increment(1);
    match left {
        Left::Moved => tracing::info!("the state is served elsewhere: the drain begins"),
        _ if shared.hosted.load().as_deref().is_some_and(|hosted| hosted.journal().keeps()) => {
            tracing::warn!(outcome, "the drain begins, and nobody else keeps the journal");
        }
        _ => tracing::warn!(outcome, "the drain begins, and the state that is served here is lost"),
    }
}

fn stand(hosted: &Hosted) -> Stand {
    hosted.with(|place, _, _| place.stand())
}

/// How much of the time of a drain may go by like that: what runs is to have the rest.
pub(crate) fn patience(drain_deadline: Duration) -> Duration {
    drain_deadline / 2
}
