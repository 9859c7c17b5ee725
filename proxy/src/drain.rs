//! Drain: one state machine, Serving → Lame → Draining → Closed, one deadline.
//!
//! [`Machine`] decides, without a clock or a socket of its own, and [`Course`] in what order the two sides of a sidecar
//! go through it. [`Connections`] is what a worker knows of it: the phases, and the tasks to wake when they change.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::identity::Hold;

mod course;
mod kind;

pub use course::{Course, Stand};
pub use kind::{Kind, Kinds};

/// Where this process stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// As usual.
    #[default]
    Serving,
    /// Still accepts, but tells everyone to leave.
    Lame,
    /// Accepts nothing, finishes what runs.
    Draining,
    /// The deadline passed: what runs is cut.
    Closed,
}

impl Phase {
    /// The phase of this number.
    pub fn of(number: u8) -> Self {
        match number {
            0 => Phase::Serving,
            1 => Phase::Lame,
            2 => Phase::Draining,
            _ => Phase::Closed,
        }
    }
}

/// Decides when a phase ends. Takes events and the time, and says when it wants to be asked again.
#[derive(Clone, Debug)]
pub struct Machine {
    phase: Phase,
    lame_for: Duration,
    deadline: Duration,
    /// When the drain began, once it has.
    began: Option<Instant>,
}

impl Machine {
    /// A process that serves, and will drain within `deadline`.
    ///
    /// A tenth of it, at most a second, is Lame, so that callers leave by themselves before the door closes.
    pub fn new(deadline: Duration) -> Self {
        let lame_for = (deadline / 10).min(Duration::from_secs(1));
        Machine { phase: Phase::Serving, lame_for, deadline, began: None }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// So much of the deadline has gone by before the drain begins.
    pub fn waited(&mut self, time: Duration) {
        self.deadline = self.deadline.saturating_sub(time);
    }

    /// It is to drain. Asked a second time, it stops accepting at once. Asking never cuts anything: a hook that asks
    /// before the SIGTERM comes is usual.
    pub fn stop(&mut self, now: Instant) -> Phase {
        match self.phase {
            Phase::Serving => {
                self.began = Some(now);
                self.phase = Phase::Lame;
            }
            Phase::Lame => self.phase = Phase::Draining,
            Phase::Draining | Phase::Closed => {}
        }
        self.phase
    }

    /// It is to drain, and nobody waits: nobody is let in any more, and what runs has [`NOW`] at most.
    pub fn stop_now(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        self.phase = self.phase.max(Phase::Draining);
        self.deadline = self.deadline.min(now.saturating_duration_since(began) + NOW);
    }

    /// Moves on if it is time to, or if nothing runs any more. `open`: how many connections there are.
    pub fn advance(&mut self, now: Instant, open: usize) -> Phase {
        let Some(began) = self.began else { return self.phase };
        let since = now.saturating_duration_since(began);
        if self.phase == Phase::Lame && since >= self.lame_for {
            self.phase = Phase::Draining;
        }
        if self.phase == Phase::Draining && (open == 0 || since >= self.deadline) {
            self.phase = Phase::Closed;
        }
        self.phase
    }

    /// When `advance` has something to do even if no connection ends. `None`: never by itself.
    pub fn wakes_at(&self) -> Option<Instant> {
        let began = self.began?;
        match self.phase {
            Phase::Serving | Phase::Closed => None,
            Phase::Lame => Some(began + self.lame_for),
            Phase::Draining => Some(began + self.deadline),
        }
    }
}

/// A worker's connections, and where it stands. One per worker thread, not shared.
#[derive(Clone, Default)]
pub struct Connections {
    state: Rc<State>,
}

/// A connection that is counted, and woken when the phase changes. Dropping it ends the count.
pub struct Ticket {
    state: Rc<State>,
    seat: usize,
    inbound: bool,
    /// What ends the connection before a drain does, if something was proved on it.
    hold: Option<Arc<Hold>>,
}

#[derive(Default)]
struct State {
    stand: Cell<Stand>,
    /// A seat for every connection.
    seats: RefCell<Slab<Seat>>,
    /// How many of them callers made to this workload.
    inbound: Cell<usize>,
    /// Memory or descriptors run short: nobody is to stay longer than needed.
    pressed: Cell<bool>,
    /// So many that rest are to leave now.
    let_go: Cell<usize>,
    /// Those who wait for a phase or for the last connection's end: accept loops and the worker itself.
    waiting: RefCell<Slab<Waker>>,
}

/// What is known of one connection.
struct Seat {
    /// The task to wake.
    waker: Option<Waker>,
    kind: Kind,
    inbound: bool,
}

impl Connections {
    /// A worker without connections that serves.
    pub fn new() -> Self {
        Connections::default()
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        self.state.seats.borrow().len()
    }

    /// Counts a connection whose task is woken at every change of phase.
    pub fn enter(&self) -> Ticket {
        self.seat(false)
    }

    /// The same for one that a caller made to this workload, which a drain waits for first.
    pub fn enter_inbound(&self) -> Ticket {
        self.seat(true)
    }

    fn seat(&self, inbound: bool) -> Ticket {
        let seat = Seat { waker: None, kind: Kind::default(), inbound };
        let seat = self.state.seats.borrow_mut().insert(seat);
        self.state.inbound.set(self.state.inbound.get() + usize::from(inbound));
        Ticket { state: self.state.clone(), seat, inbound, hold: None }
    }

    /// What they carry.
    pub fn kinds(&self) -> Kinds {
        self.state.seats.borrow().iter().map(|(_, seat)| seat.kind).collect()
    }

    /// What those carry that callers made to this workload.
    pub fn callers_kinds(&self) -> Kinds {
        let seats = self.state.seats.borrow();
        seats.iter().filter(|(_, seat)| seat.inbound).map(|(_, seat)| seat.kind).collect()
    }

    /// How many of them callers made to this workload.
    pub fn callers(&self) -> usize {
        self.state.inbound.get()
    }

    /// Moves on to where both sides stand and wakes every connection. Phases never go back.
    pub fn advance(&self, to: impl Into<Stand>) {
        let (to, from) = (to.into(), self.state.stand.get());
        let stand = Stand {
            callers: to.callers.max(from.callers),
            workload: to.workload.max(from.workload),
            handed_over: to.handed_over || from.handed_over,
        };
        if stand == from {
            return;
        }
        self.state.stand.set(stand);
        self.state.wake_seats();
        self.state.wake_waiting();
    }

    /// Whether memory or descriptors run short.
    pub(crate) fn press(&self, pressed: bool) {
        self.state.pressed.set(pressed);
    }

    /// So many of those that rest are to leave now.
    pub(crate) fn let_go(&self, count: usize) {
        self.state.let_go.set(count);
        if count > 0 {
            self.state.wake_seats();
        }
    }

    /// Resolves when the workload's own side has reached `phase`.
    pub async fn workload_reached(&self, phase: Phase) {
        self.until(|| self.state.stand.get().workload >= phase).await;
    }

    /// Whether another process accepts in this one's place.
    pub fn is_handed_over(&self) -> bool {
        self.state.stand.get().handed_over
    }

    /// Resolves when nothing more is accepted of callers.
    pub async fn callers_shut_out(&self) {
        self.until(|| self.is_handed_over() || self.state.stand.get().callers >= Phase::Draining).await;
    }

    /// Resolves when there is no connection.
    pub async fn idle(&self) {
        self.until(|| self.open() == 0).await;
    }

    /// Resolves when no caller has a connection to this workload.
    pub async fn callers_gone(&self) {
        self.until(|| self.callers() == 0).await;
    }

    async fn until(&self, done: impl Fn() -> bool) {
        let mut seat = Waiting { state: &self.state, seat: None };
        poll_fn(|cx| {
            if done() {
                return Poll::Ready(());
            }
            seat.watch(cx.waker());
            Poll::Pending
        })
        .await;
    }
}

/// A place among those who wait: one each, however often they are polled and by whatever waker. Whether two wakers
/// wake the same task cannot be relied on.
struct Waiting<'a> {
    state: &'a State,
    seat: Option<usize>,
}

impl Waiting<'_> {
    fn watch(&mut self, waker: &Waker) {
        let mut waiting = self.state.waiting.borrow_mut();
        match self.seat.and_then(|seat| waiting.get_mut(seat)) {
            Some(known) => known.clone_from(waker),
            None => self.seat = Some(waiting.insert(waker.clone())),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let gone = self.seat.and_then(|seat| self.state.waiting.borrow_mut().try_remove(seat));
        drop(gone);
    }
}

impl Ticket {
    /// Where its connection stands: with its side of this process, unless it is to leave before that.
    #[inline]
    pub fn phase(&self) -> Phase {
        let stand = self.state.stand.get();
        let side = if self.inbound { stand.callers } else { stand.workload };
        self.hold.as_ref().map_or(side, |hold| side.max(hold.phase()))
    }

    /// Whether another process accepts in this one's place.
    pub fn is_handed_over(&self) -> bool {
        self.state.stand.get().handed_over
    }

    /// Whether a caller who proved who it is is to be told that nobody will be here any more. Who goes because of what was
    /// proved on this connection, or to another process, comes back to the same place.
    pub fn tells_of_drain(&self) -> bool {
        let stand = self.state.stand.get();
        self.inbound && self.hold.is_some() && stand.callers >= Phase::Lame && !stand.handed_over
    }

    /// Whether the connection is to end with what is under way on it, as the other side may be told.
    #[inline]
    pub(crate) fn is_to_end(&self) -> bool {
        self.state.pressed.get() || self.phase() >= Phase::Lame
    }

    /// Whether the connection is one of those that are to leave now. Whether it `rests`, which may take a look at its socket,
    /// is asked only while some are.
    #[inline]
    pub(crate) fn is_let_go(&self, rests: impl FnOnce() -> bool) -> bool {
        let left = self.state.let_go.get();
        if left == 0 || !rests() {
            return false;
        }
        self.state.let_go.set(left - 1);
        metrics::counter!("lighter_guard_clients_closed_total").increment(1);
        true
    }

    /// From now on the connection goes by what was proved on it, too.
    pub(crate) fn bind(&mut self, hold: Arc<Hold>) {
        self.hold = Some(hold);
    }

    /// Says what the connection carries, now that it is known.
    pub fn carries(&self, kind: Kind) {
        if let Some(seat) = self.state.seats.borrow_mut().get_mut(self.seat) {
            seat.kind = kind;
        }
    }

    /// Which task to wake. Cheap when it is the same as before.
    pub fn watch(&self, waker: &Waker) {
        self.hold.iter().for_each(|hold| hold.watch(waker));
        let mut seats = self.state.seats.borrow_mut();
        let Some(seat) = seats.get_mut(self.seat) else { return };
        match &mut seat.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Resolves when `phase` is reached; for a task that waits for nothing else through this ticket.
    pub async fn reached(&self, phase: Phase) {
        poll_fn(|cx| {
            if self.phase() >= phase {
                return Poll::Ready(());
            }
            self.watch(cx.waker());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let gone = self.state.seats.borrow_mut().try_remove(self.seat);
        let inbound = self.state.inbound.get() - usize::from(self.inbound);
        self.state.inbound.set(inbound);
        // Only a drain waits for the last one's end; a serving worker has nobody to tell.
        let last = self.state.seats.borrow().is_empty() || (self.inbound && inbound == 0);
        if self.state.stand.get().callers >= Phase::Draining && last {
            self.state.wake_waiting();
        }
        drop(gone);
    }
}

impl State {
    fn wake_seats(&self) {
        // Cloned out first: what a wake does must not find the seats borrowed.
        let wakers: Vec<Waker> =
            self.seats.borrow().iter().filter_map(|(_, seat)| seat.waker.clone()).collect();
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    fn wake_waiting(&self) {
        // Cloned out first: what a wake does must not find them borrowed.
        let waiting: Vec<Waker> = self.waiting.borrow().iter().map(|(_, waker)| waker.clone()).collect();
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// How long what runs may take when nobody waits for it.
pub const NOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whether_one_rests_is_asked_only_while_some_are_to_leave() {
        let connections = Connections::new();
        let ticket = connections.enter();
        assert!(!ticket.is_let_go(|| unreachable!("nobody is to leave")));
        connections.let_go(1);
        assert!(!ticket.is_let_go(|| false));
        assert!(ticket.is_let_go(|| true));
        assert!(!ticket.is_let_go(|| unreachable!("who was to leave has left")));
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn seen(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_drain_without_connections_ends_when_callers_had_time_to_leave() {
        let start = Instant::now();
        let mut machine = Machine::new(Duration::from_secs(30));
        assert_eq!(machine.wakes_at(), None);
        assert_eq!(machine.stop(start), Phase::Lame);
        assert_eq!(machine.advance(start, 0), Phase::Lame);
        let next = machine.wakes_at().unwrap();
        assert_eq!(next, start + Duration::from_secs(1));
        assert_eq!(machine.advance(next, 0), Phase::Closed);
    }

    #[test]
    fn a_drain_cuts_at_the_deadline_and_not_before() {
        let start = Instant::now();
        let mut machine = Machine::new(Duration::from_secs(2));
        machine.stop(start);
        assert_eq!(machine.advance(start + Duration::from_millis(200), 3), Phase::Draining);
        assert_eq!(machine.wakes_at(), Some(start + Duration::from_secs(2)));
        assert_eq!(machine.advance(start + Duration::from_millis(1999), 3), Phase::Draining);
        assert_eq!(machine.advance(start + Duration::from_secs(2), 3), Phase::Closed);
        assert_eq!(machine.wakes_at(), None);
    }

    #[test]
    fn asking_twice_closes_the_door_and_cuts_nothing() {
        let now = Instant::now();
        let mut machine = Machine::new(Duration::from_secs(30));
        assert_eq!([machine.stop(now), machine.stop(now)], [Phase::Lame, Phase::Draining]);
        assert_eq!(machine.stop(now), Phase::Draining);
        assert_eq!(machine.advance(now, 1), Phase::Draining);
    }

    #[test]
    fn who_does_not_wait_closes_the_door_and_cuts_after_a_second() {
        let start = Instant::now();
        let mut machine = Machine::new(Duration::from_secs(30));
        machine.stop_now(start);
        assert_eq!((machine.phase(), machine.wakes_at()), (Phase::Draining, Some(start + NOW)));
        assert_eq!(machine.advance(start + NOW, 1), Phase::Closed);
        // In the middle of a drain, and never later than that would have ended.
        let mut machine = Machine::new(Duration::from_secs(30));
        machine.stop(start);
        let later = start + Duration::from_secs(10);
        machine.advance(later, 1);
        machine.stop_now(later);
        assert_eq!(machine.wakes_at(), Some(later + NOW));
        machine.stop_now(later + NOW / 2);
        assert_eq!(machine.wakes_at(), Some(later + NOW));
    }

    proptest! {
        /// Whatever happens when: phases never go back, nothing is cut before the deadline, and
        /// a drain always ends if it is asked when it says.
        #[test]
        fn a_drain_moves_forward_and_ends(
            deadline in 0u64..5_000,
            steps in prop::collection::vec((0u64..700, 0usize..3, prop::bool::weighted(0.1)), 0..40),
        ) {
            let start = Instant::now();
            let deadline = Duration::from_millis(deadline);
            let mut machine = Machine::new(deadline);
            let (mut now, mut began) = (start, None);
            let mut before = machine.phase();
            for (pause, open, stop) in steps {
                now += Duration::from_millis(pause);
                if stop {
                    began.get_or_insert(now);
                    machine.stop(now);
                }
                let phase = machine.advance(now, open);
                prop_assert!(phase >= before);
                prop_assert_eq!(phase == Phase::Serving, began.is_none());
                if phase == Phase::Closed && before < Phase::Closed && open > 0 {
                    prop_assert!(now >= began.unwrap() + deadline);
                }
                before = phase;
            }
            machine.stop(now);
            for _ in 0..2 {
                if let Some(at) = machine.wakes_at() {
                    machine.advance(at.max(now), 1);
                }
            }
            prop_assert_eq!(machine.phase(), Phase::Closed);
        }
    }

    #[test]
    fn every_connection_is_woken_when_the_phase_changes() {
        let connections = Connections::new();
        let (first, second) = (connections.enter(), connections.enter());
        let (one, two) = (Arc::new(Count::default()), Arc::new(Count::default()));
        first.watch(&one.clone().into());
        second.watch(&two.clone().into());
        second.watch(&two.clone().into());
        connections.advance(Phase::Lame);
        assert_eq!((one.seen(), two.seen()), (1, 1));
        drop(first);
        connections.advance(Phase::Draining);
        connections.advance(Phase::Lame);
        assert_eq!((one.seen(), two.seen()), (1, 2));
        assert_eq!(second.phase(), Phase::Draining);
    }

    #[test]
    fn each_side_has_its_phase() {
        let connections = Connections::new();
        let (caller, own) = (connections.enter_inbound(), connections.enter());
        connections.advance(Stand { callers: Phase::Closed, ..Stand::default() });
        assert_eq!((caller.phase(), own.phase()), (Phase::Closed, Phase::Serving));
        connections.advance(Phase::Draining);
        assert_eq!((caller.phase(), own.phase()), (Phase::Closed, Phase::Draining));
    }

    #[test]
    fn the_worker_hears_of_the_last_connections_end() {
        let connections = Connections::new();
        let woken = Arc::new(Count::default());
        let waker = woken.clone().into();
        let mut cx = Context::from_waker(&waker);
        let (first, second) = (connections.enter(), connections.enter());
        connections.advance(Phase::Draining);
        let mut idle = std::pin::pin!(connections.idle());
        assert!(idle.as_mut().poll(&mut cx).is_pending());
        drop(first);
        assert_eq!(woken.seen(), 0);
        drop(second);
        assert_eq!(woken.seen(), 1);
        assert!(idle.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn one_who_waits_has_one_place_whoever_polls_it() {
        struct Nobody;
        impl Wake for Nobody {
            fn wake(self: Arc<Self>) {}
        }
        let connections = Connections::new();
        let mut waits = Box::pin(connections.callers_shut_out());
        for _ in 0..100 {
            let waker = Waker::from(Arc::new(Nobody));
            assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(connections.state.waiting.borrow().len(), 1);
        drop(waits);
        assert!(connections.state.waiting.borrow().is_empty());
    }
}
