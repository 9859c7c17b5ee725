//! A place's application: where it is, whether it is there, and how it is asked for something.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lighter_migrate::Digest;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::copies::State;
use super::hooks::{Application, Given, Hook, HookError, HookFault, Version};
use super::hosted::Hosted;
use crate::dial;
use crate::error::Cause;
use crate::registry;
use crate::worker::Shared;

/// What is known of where this workload's application is, and how it is.
#[derive(Clone)]
pub(crate) struct Known {
    /// What its probe says.
    pub(crate) is_well: watch::Receiver<bool>,
    /// Where others reach this host, once that is known.
    pub(crate) local: Rc<Cell<Option<IpAddr>>>,
}

/// A place, and where its application is.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) shared: Arc<Shared>,
    pub(super) hosted: Arc<Hosted>,
    pub(super) known: Known,
}

/// How far what the application is asked for may be given up.
#[derive(Debug, Default)]
pub(super) struct Leash {
    /// It only waits or reads at the moment, and may be dropped.
    pub(super) rests: Cell<bool>,
    /// It is not to be tried again, and nothing is to follow from it.
    pub(super) is_unwanted: Cell<bool>,
}

/// The last copy that the application has given in a migration, or taken.
#[derive(Clone, Debug)]
pub(super) struct Last {
    pub(super) migration: u64,
    pub(super) round: u32,
    /// Of the state that comes of it.
    pub(super) digest: Digest,
    /// From what its changes are to be followed, where it was given.
    pub(super) version: Option<Version>,
}

impl Host {
    pub(super) fn is_of_the_moment(&self) -> bool {
        self.shared.hosted.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, &self.hosted))
    }

    /// The migration of which the place has heard last.
    pub(super) fn migration(&self) -> u64 {
        self.hosted.reports().borrow().map_or(0, |(report, _)| report.heard.migration)
    }

    /// Where the application takes hooks.
    pub(super) fn application(&self) -> Option<SocketAddr> {
        let local = self.known.local.get().unwrap_or(Ipv4Addr::LOCALHOST.into());
        registry::application(&self.shared, local, self.hosted.stateful().port)
    }

    /// Whether the application is there, as far as that can be told without asking it. One that is not well is there.
    pub(super) fn is_there(&self) -> bool {
        self.application().is_some_and(|at| self.shared.inside.listens(at))
    }

    /// The sockets at which it listens, where they are known. One that has begun again has others.
    pub(super) fn listeners(&self) -> Option<Vec<u64>> {
        let listeners = self.shared.inside.listeners(self.application()?)?;
        (!listeners.is_empty()).then_some(listeners)
    }

    /// Whether nothing listens where the application is. One that is only slow is there.
    pub(super) async fn is_refused(&self) -> bool {
        let Some(at) = self.application() else { return false };
        let connected = dial::connect(&*self.shared.inside, at, LOOK).await;
        connected.is_err_and(|error| error.cause == Cause::ConnectRefused)
    }

    /// After a while, or when its probe says something else: whether the application is there.
    pub(super) async fn watch(&self) -> bool {
        let mut is_well = self.known.is_well.clone();
        is_well.mark_unchanged();
        let opinion = async {
            // Nobody asks: nothing changes.
            if is_well.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = opinion => {}
            () = sleep(LOOK) => {}
        }
        self.is_there() && !self.is_refused().await
    }

    /// Whether the application is there, or comes to be before a hook would have timed out.
    pub(super) async fn becomes_healthy(&self) -> bool {
        let until = Instant::now() + self.hosted.stateful().timeout;
        loop {
            if *self.known.is_well.borrow() && self.is_there() && !self.is_refused().await {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            sleep(PAUSE.0).await;
        }
    }

    pub(super) async fn ask<T>(
        &self,
        hook: Hook,
        ask: impl AsyncFnOnce(&Application<'_>) -> Result<T, HookError>,
    ) -> Result<T, HookError> {
        let stateful = self.hosted.stateful();
        let at = self.application().ok_or(HookError { hook, fault: HookFault::Nowhere(stateful.port) })?;
        let door = self.shared.device.get().and_then(|device| device.door.as_ref());
        let key = door.and_then(|door| door.key_at(at));
        ask(&Application { sockets: &*self.shared.inside, at, stateful: &stateful, key }).await
    }

    /// What the application gives, and on what that builds: what has changed since `last`, if it can be asked for that and knows it
    /// still, and all of its state otherwise. `is_end`: nothing will follow from it.
    pub(super) async fn take(
        &self,
        last: Option<Last>,
        is_end: bool,
    ) -> Result<(Given, Option<Last>), HookError> {
        let gives_changes = self.hosted.stateful().access.gives_changes();
        let named = |hook: Hook, given: Given| match given.version {
            None if gives_changes && !is_end => Err(HookError { hook, fault: HookFault::Unnamed }),
            _ => Ok(given),
        };
        if let Some(last) = last.filter(|_| gives_changes)
            && let Some(since) = &last.version
        {
            match self.ask(Hook::Changes, async |app: &Application<'_>| app.changes(since).await).await {
                Err(HookError { fault: HookFault::Gone, .. }) => {
                    tracing::info!(migration = self.migration(), "all of the state is copied once more");
                }
                given => return Ok((named(Hook::Changes, given?)?, Some(last))),
            }
        }
        let given = self.ask(Hook::Snapshot, async |app: &Application<'_>| app.snapshot().await).await?;
        Ok((named(Hook::Snapshot, given)?, None))
    }

    /// Has the application take what has changed. Returns whether it has.
    pub(super) async fn patch(&self, changes: &State) -> bool {
        let asked = self.ask(Hook::Patch, async |app: &Application<'_>| app.patch(changes).await).await;
        asked
            .inspect_err(|fault| {
                let (migration, side) = (self.migration(), fault.fault.side());
                tracing::warn!(migration, %fault, ?side, "the application did not take what has changed");
            })
            .is_ok()
    }

    /// Has the application take all that this sidecar has of the journal. Returns whether it has. Once it has begun, whoever
    /// served before gets nothing journaled any more.
    pub(super) async fn recover(&self, tries: u32, leash: &Leash) -> bool {
        let Some((state, changes)) = self.hosted.journal().inherit() else {
            tracing::error!("this sidecar does not have all of the journal, and is to serve by it");
            return false;
        };
        let (bytes, rounds) = (state.bytes(), changes.len());
        tracing::info!(bytes, rounds, "the application takes what the journal has");
        let restore = async |app: &Application<'_>| app.restore(&state).await;
        if !self.try_often(Hook::Restore, tries, leash, restore).await {
            return false;
        }
        for changes in &changes {
            if !self.patch(changes).await {
                return false;
            }
        }
        true
    }

    /// Has the application go on as before. Returns whether it does.
    pub(super) async fn thaw(&self, tries: u32, leash: &Leash) -> bool {
        self.try_often(Hook::Thaw, tries, leash, async |app: &Application<'_>| app.thaw().await).await
    }

    /// Asks so often, until it is done or not wanted any more. Returns whether it was done.
    pub(super) async fn try_often(
        &self,
        hook: Hook,
        tries: u32,
        leash: &Leash,
        ask: impl AsyncFn(&Application<'_>) -> Result<(), HookError>,
    ) -> bool {
        let mut pause = PAUSE.0;
        for left in (0..tries).rev() {
            let Err(fault) = self.ask(hook, &ask).await else { return true };
            let (migration, side) = (self.migration(), fault.fault.side());
            tracing::warn!(migration, %fault, ?side, "the application did not do as it was asked");
            // One that takes too long does so again, and somebody waits.
            let is_slow = matches!(fault.fault, HookFault::Late(_)) && tries < u32::MAX;
            if left == 0 || is_slow || leash.is_unwanted.get() {
                break;
            }
            leash.rests.set(true);
            sleep(pause).await;
            leash.rests.set(false);
            pause = (pause * 2).min(PAUSE.1);
        }
        false
    }
}

/// How often it is looked whether the application is there.
const LOOK: Duration = Duration::from_secs(1);

/// How long is waited before the application is asked again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
