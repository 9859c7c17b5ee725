//! Keeps this process from slow clients, and from the end of its memory and its descriptors.
//!
//! The control thread looks at both now and then, and accepting looks at the number of each new descriptor. Where one runs
//! short, workers close what rests; where there is next to nothing left, what is new is refused.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use lighter_config::name::ServicePort;
use lighter_config::sidecar::GuardConfig;
use lighter_config::snapshot::{Priority, RequestParts};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::buf;
use crate::error::Cause;
use crate::link::records;
use crate::resident;
use crate::telemetry::PoolClosed;
use crate::worker::{Shared, Worker};

pub(crate) mod client;
mod memory;

/// How short something runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    /// There is enough.
    Enough,
    /// Connections that rest are closed, and none is kept.
    Shrink,
    /// What is new is refused, unless it goes first.
    Refuse,
    /// The limit is reached: whatever is new is refused.
    Full,
}

/// What is known of both.
pub(crate) struct Guard {
    config: GuardConfig,
    /// In bytes. None: there is no limit.
    memory_limit: Option<u64>,
    descriptor_limit: u64,
    memory: AtomicU8,
    descriptors: AtomicU8,
    /// Told whenever workers are to close what rests, and when they need not any more.
    workers: watch::Sender<()>,
}

impl Guard {
    /// For a process that may have so many descriptors.
    pub(crate) fn new(config: GuardConfig, descriptors: u64) -> Self {
        Guard {
            memory_limit: match config.max_memory {
                None => memory::group_limit(),
                Some(0) => None,
                said => said,
            },
            config,
            descriptor_limit: descriptors,
            memory: AtomicU8::new(Level::Enough as u8),
            descriptors: AtomicU8::new(Level::Enough as u8),
            workers: watch::channel(()).0,
        }
    }

    /// Whether memory is so short that requests are refused. Every request asks.
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        self.memory.load(Relaxed) >= Level::Refuse as u8
    }

    /// Whether a request to `port` is let in all the same: as its route says, as long as there is any memory left.
    #[cold]
    pub(crate) fn spares<R: RequestParts + ?Sized>(
        &self,
        shared: &Shared,
        port: &ServicePort,
        request: &R,
    ) -> bool {
        if self.memory.load(Relaxed) >= Level::Full as u8 {
            return false;
        }
        let mesh = shared.mesh.load();
        let route = mesh.config.port(port).and_then(|port| port.routes.select(request));
        route.is_some_and(|route| route.priority == Priority::High)
    }

    /// Lets a request to `port` in, or refuses it for want of memory.
    #[inline]
    pub(crate) fn admit<R: RequestParts + ?Sized>(
        &self,
        shared: &Shared,
        port: &ServicePort,
        request: &R,
    ) -> Result<(), Cause> {
        match self.is_short() && !self.spares(shared, port, request) {
            true => Err(Cause::MemoryLimit),
            false => Ok(()),
        }
    }

    /// Whether a connection of this descriptor, which is the lowest that was free, can be served. Where it comes close to the
    /// limit, workers make room.
    #[inline]
    pub(crate) fn has_room_behind(&self, descriptor: BorrowedFd<'_>) -> Result<(), Shed> {
        let used = descriptor.as_raw_fd() as u64 + 1;
        let level = self.level(used, self.descriptor_limit);
        if level >= Level::Shrink {
            self.descriptors_are(level);
        }
        match level >= Level::Refuse {
            true => Err(Shed::Descriptors),
            false => self.has_memory(),
        }
    }

    /// Whether one that needs no descriptor can be.
    pub(crate) fn has_memory(&self) -> Result<(), Shed> {
        if self.memory.load(Relaxed) >= Level::Full as u8 { Err(Shed::Memory) } else { Ok(()) }
    }

    /// No descriptor is left.
    pub(crate) fn no_descriptor(&self) {
        self.descriptors_are(Level::Full);
    }

    fn descriptors_are(&self, level: Level) {
        self.descriptors.store(level as u8, Relaxed);
        tell("descriptors", level);
        self.workers.send_replace(());
    }

    /// Whether anything runs short.
    fn is_pressed(&self) -> bool {
        self.memory.load(Relaxed).max(self.descriptors.load(Relaxed)) >= Level::Shrink as u8
    }

    fn level(&self, used: u64, limit: u64) -> Level {
        // In percent of it, without a number that could overflow.
        let reached = |percent: u8| u128::from(used) * 100 >= u128::from(limit) * u128::from(percent);
        match () {
            () if reached(100) => Level::Full,
            () if reached(self.config.refuse_percent) => Level::Refuse,
            () if reached(self.config.shrink_percent) => Level::Shrink,
            () => Level::Enough,
        }
    }
}

/// Why a connection was refused as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// There are as many as may be.
    Connections,
    /// Few descriptors are left, or none.
    Descriptors,
    /// No memory is left.
    Memory,
}

impl Shed {
    /// All of them, in the order of their counters.
    pub const ALL: [Shed; 3] = [Shed::Connections, Shed::Descriptors, Shed::Memory];

    /// As metrics name it.
    pub const fn label(self) -> &'static str {
        match self {
            Shed::Connections => "connections",
            Shed::Descriptors => "descriptors",
            Shed::Memory => "memory",
        }
    }
}

/// Looks at memory and descriptors for as long as the process lives. For the control thread.
pub(crate) async fn watch(shared: Arc<Shared>) {
    describe(&shared.guard);
    let guard = &shared.guard;
    let mut trimmed: Option<Instant> = None;
    loop {
        let before = guard.is_pressed();
        if let Some(limit) = guard.memory_limit {
            let used = memory::used();
            let level = guard.level(used, limit);
            guard.memory.store(level as u8, Relaxed);
            tell("memory", level);
            metrics::gauge!("lighter_guard_memory_bytes").set(used as f64);
            if level >= Level::Shrink && trimmed.is_none_or(|at| at.elapsed() >= TRIM_EVERY) {
                trimmed = Some(Instant::now());
                resident::give_back();
            }
        }
        let used = memory::lowest_free_descriptor().unwrap_or(guard.descriptor_limit);
        let level = guard.level(used, guard.descriptor_limit);
        guard.descriptors.store(level as u8, Relaxed);
        tell("descriptors", level);
        if guard.is_pressed() || before {
            guard.workers.send_replace(());
        }
        sleep(if guard.memory_limit.is_some() { LOOK } else { LOOK_SELDOM }).await;
    }
}

/// Closes what rests on one worker whenever that is asked for.
pub(crate) async fn make_room(worker: Rc<Worker>) {
    let guard = &worker.shared.guard;
    let mut asked = guard.workers.subscribe();
    while asked.changed().await.is_ok() {
        let pressed = guard.is_pressed();
        worker.connections.press(pressed);
        worker.http1.borrow_mut().press(pressed);
        if !pressed {
            continue;
        }
        worker.http1.borrow_mut().clear(PoolClosed::Pressed);
        buf::let_go();
        records::let_go();
        worker.connections.let_go((worker.connections.open() / LET_GO_PART).max(LET_GO));
        sleep(PAUSE).await;
        // Who began to rest only now may stay.
        worker.connections.let_go(0);
    }
}

fn tell(of: &'static str, level: Level) {
    metrics::gauge!("lighter_guard_level", "of" => of).set(f64::from(level as u8));
}

fn describe(guard: &Guard) {
    metrics::describe_gauge!(
        "lighter_guard_level",
        "How short memory and descriptors run: 0 enough, 1 what rests is closed, 2 what is new is refused unless it goes first, 3 all of it."
    );
    metrics::describe_gauge!("lighter_guard_memory_bytes", "Memory that counts against the limit.");
    metrics::describe_gauge!(
        "lighter_guard_memory_limit_bytes",
        "What it may be. Absent if there is no limit."
    );
    metrics::describe_counter!(
        "lighter_guard_clients_closed_total",
        "Connections of clients that were closed as they rested while memory or descriptors ran short."
    );
    metrics::describe_counter!(
        "lighter_slow_clients_total",
        "Clients that were given up as they were too slow to send a head or a body, or to take an answer."
    );
    if let Some(limit) = guard.memory_limit {
        metrics::gauge!("lighter_guard_memory_limit_bytes").set(limit as f64);
    }
}

/// How often memory and descriptors are looked at, and how often the latter alone.
const LOOK: Duration = Duration::from_millis(250);
const LOOK_SELDOM: Duration = Duration::from_secs(1);

/// How often memory is given back that the allocator holds.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// So many connections that rest are closed at once, or this part of all, and the pause behind them.
const LET_GO: usize = 16;
const LET_GO_PART: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_reached_at_their_parts_of_the_limit() {
        let guard = Guard::new(GuardConfig { max_memory: Some(1000), ..GuardConfig::default() }, 64);
        let level = |used| guard.level(used, 1000);
        assert_eq!([level(0), level(849)], [Level::Enough; 2]);
        assert_eq!([level(850), level(949)], [Level::Shrink; 2]);
        assert_eq!([level(950), level(999)], [Level::Refuse; 2]);
        assert_eq!([level(1000), level(u64::MAX)], [Level::Full; 2]);
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        let none = Guard::new(GuardConfig { max_memory: Some(0), ..GuardConfig::default() }, 64);
        assert_eq!(none.memory_limit, None);
        let said = Guard::new(GuardConfig { max_memory: Some(5), ..GuardConfig::default() }, 64);
        assert_eq!(said.memory_limit, Some(5));
    }
}
