//! One Service's place in this sidecar, shared by workers, who ask it about each request, and the control thread, which has it
//! follow what the control plane says.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lighter_config::snapshot::{Park, StateClass, Stateful};
use lighter_migrate::{
    Arrival, Bounds, Class, Command, End, Epoch, Incarnation, Kind, Order, Place, PlaceAction, Refusal,
    RefusalCause, Report, RequestId, SourceId, Stamp, Verdict,
};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::count::{Count, What};
use super::entry::{self, Came, Counted, Entry, Inside, Parked};
use super::journal::Journal;
use super::wire::Told;
use crate::telemetry::StateMetrics;

/// One Service's place in this sidecar.
pub struct Hosted {
    /// What runs while it serves, and nobody has the lock.
    count: Count,
    inner: Mutex<Inner>,
    /// How often what runs was to be cut, and that it is.
    cuts: AtomicU64,
    cut: Notify,
    /// There is something to do for the executor.
    more: Notify,
    /// What is due may be due earlier.
    due: Notify,
    reports: watch::Sender<Option<(Report, u64)>>,
    /// Moments of the place are counted from here.
    began: Instant,
    metrics: StateMetrics,
    journal: Arc<Journal>,
}

struct Inner {
    place: Place,
    stateful: Arc<Stateful>,
    /// Those that wait, by the numbers that the place has them by.
    waiting: HashMap<RequestId, Waiting>,
    /// The last number that was given.
    last: u64,
    /// For the executor.
    queue: VecDeque<PlaceAction>,
    /// Where the service is, by its ports, and its epoch there, as was said last.
    moved: (BTreeMap<u16, SocketAddr>, Epoch),
    token: Vec<u8>,
    from: Option<SocketAddr>,
}

/// One that waits.
struct Waiting {
    tell: oneshot::Sender<entry::Told>,
    what: What,
    is_kept: bool,
}

/// One step of the place.
struct Step<'a> {
    inner: &'a mut Inner,
    now: Duration,
    out: &'a mut Vec<PlaceAction>,
}

impl Hosted {
    /// A place that has just begun, and refuses until the control plane grants it an epoch. `incarnation` is greater than any
    /// before.
    pub fn new(stateful: &Stateful, incarnation: Incarnation) -> Arc<Self> {
        let class = match stateful.class {
            // What is journaled is seen to where answers pass: to the place it is in memory.
            StateClass::Volatile | StateClass::Journaled => Class::Volatile,
        };
        let inner = Inner {
            place: Place::new(class, incarnation, bounds(&stateful.park)),
            stateful: Arc::new(stateful.clone()),
            waiting: HashMap::new(),
            last: 0,
            queue: VecDeque::new(),
            moved: (BTreeMap::new(), Epoch::default()),
            token: Vec::new(),
            from: None,
        };
        let hosted = Arc::new(Hosted {
            count: Count::default(),
            inner: Mutex::new(inner),
            cuts: AtomicU64::new(0),
            cut: Notify::new(),
            more: Notify::new(),
            due: Notify::new(),
            reports: watch::Sender::new(None),
            began: Instant::now(),
            metrics: StateMetrics::new(),
            journal: Arc::new(Journal::new(stateful)),
        });
        // What it is can be told from the beginning.
        let ask = Command { stamp: Stamp::default(), incarnation: None, order: Order::Ask };
        hosted.with(|place, now, out| place.command(ask, now, out));
        hosted
    }

    /// How the Service keeps its state, as is in force.
    pub fn stateful(&self) -> Arc<Stateful> {
        self.lock().stateful.clone()
    }

    /// What it is to the journal of the Service.
    #[inline]
    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Goes on by what is in force now.
    pub(super) fn set(&self, stateful: &Arc<Stateful>) {
        self.journal.set(stateful);
        self.step(|step| {
            step.inner.stateful = stateful.clone();
            step.inner.place.bound(bounds(&stateful.park));
        });
    }

    /// What the application had in memory is gone: the place begins anew. What is parked is refused, and what the executor was to
    /// do is not done any more.
    pub fn renew(&self, incarnation: Incarnation) {
        self.journal.lose();
        self.step(|step| {
            step.inner.queue.clear();
            step.inner.place.renew(incarnation, step.out);
        });
    }

    /// A request comes.
    #[inline]
    pub(crate) fn arrive(self: &Arc<Self>, came: Came) -> Entry {
        let what = if came.is_stream { What::Stream } else { What::Unary };
        // Before it is counted: whatever cuts from then on means this one too.
        let since = self.cuts();
        if self.count.enter(what) {
            return Entry::Run(Inside::new(self.clone(), Counted::Here(what), since));
        }
        self.ask(came, what)
    }

    #[cold]
    #[inline(never)]
    fn ask(self: &Arc<Self>, came: Came, what: What) -> Entry {
        let entry = self.step(|Step { inner, now, out }| {
            if !came.waits && inner.place.stand().serves().is_none() {
                return Entry::Refuse(Refusal { cause: RefusalCause::NotHere, hint: None });
            }
            inner.last += 1;
            let id = RequestId(inner.last);
            let arrival = Arrival {
                id,
                source: SourceId(came.source),
                bytes: came.bytes,
                deadline: came.deadline.map(|deadline| deadline.saturating_duration_since(self.began)),
                kind: kind(what),
                is_inside: false,
                is_kept: came.is_kept,
                is_forwarded: came.is_forwarded,
            };
            let inside = |counted| Inside::new(self.clone(), counted, self.cuts());
            match inner.place.arrive(arrival, *now, out) {
                Verdict::Run => Entry::Run(inside(Counted::Here(what))),
                Verdict::Park => {
                    let (tell, told) = oneshot::channel();
                    inner.waiting.insert(id, Waiting { tell, what, is_kept: came.is_kept });
                    Entry::Park(Parked::new(self.clone(), id, what, told))
                }
                Verdict::Forward(_) => Entry::Forward(inside(Counted::Forwarded)),
                Verdict::Refuse(refusal) if returns(&refusal, came.is_kept) => Entry::Return,
                Verdict::Refuse(refusal) => Entry::Refuse(refusal),
            }
        });
        match &entry {
            // It counts as sent on once it is known where to.
            Entry::Run(_) | Entry::Forward(_) => {}
            Entry::Park(_) => self.metrics.parked(),
            Entry::Return => self.metrics.returned(),
            Entry::Refuse(refusal) => self.metrics.refused(refusal.cause),
        }
        entry
    }

    /// How often what runs was to be cut: connections that were upgraded, and opaque ones. Requests end by themselves, within
    /// the time that they have, and are answered as of an unknown outcome then.
    #[inline]
    pub(super) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Acquire)
    }

    /// Resolves once there were more cuts than these.
    pub(super) async fn cut(&self, since: u64) {
        loop {
            let cut = self.cut.notified();
            if self.cuts() != since {
                return;
            }
            cut.await;
        }
    }

    /// What was counted so has ended.
    #[inline]
    pub(super) fn ended(&self, counted: Counted) {
        match counted {
            Counted::Here(what) if self.count.leave(what) => {}
            counted => self.ended_amid(counted),
        }
    }

    #[cold]
    #[inline(never)]
    fn ended_amid(&self, counted: Counted) {
        self.with(|place, now, out| match counted {
            // By which number does not matter, nor how: what is said to its caller was said by then.
            Counted::Here(what) => place.finished(RequestId(0), kind(what), End::Done, now, out),
            Counted::Forwarded => place.forwarded(out),
        });
    }

    /// Nobody waits for it any more.
    #[cold]
    pub(super) fn withdrawn(&self, id: RequestId) {
        self.step(|Step { inner, out, .. }| {
            inner.waiting.remove(&id);
            inner.place.withdrawn(id, out);
        });
    }

    /// Where the service is now that has left, by the port of the Service.
    pub(crate) fn address(&self, port: u16) -> Option<SocketAddr> {
        self.lock().moved.0.get(&port).copied()
    }

    /// A request goes there.
    pub(super) fn sent_on(&self) {
        self.metrics.forwarded();
    }

    /// The epoch that it has there.
    pub(crate) fn moved_epoch(&self) -> Epoch {
        self.lock().moved.1
    }

    /// What whoever fetches a copy from here, or has it fetched, shows. Empty: nobody may.
    pub fn token(&self) -> Vec<u8> {
        self.lock().token.clone()
    }

    /// Where the sidecar of the other place accepts links, which has the copy to be fetched or is to have it.
    pub fn from(&self) -> Option<SocketAddr> {
        self.lock().from
    }

    /// The control plane commands.
    pub fn command(&self, told: &Told) {
        self.step(|Step { inner, now, out }| {
            inner.place.command(told.command, *now, out);
            // Every command is reported on. One that was not taken says nothing.
            let heard = out.iter().rev().find_map(|action| match action {
                PlaceAction::Report(report) => Some(report.heard),
                _ => None,
            });
            if told.command.order == Order::Ask || heard != Some(told.command.stamp) {
                return;
            }
            inner.token.clone_from(&told.token);
            if told.from.is_some() {
                inner.from = told.from;
            }
            if let Order::Move { epoch, .. } | Order::Drain { epoch, .. } = told.command.order {
                inner.moved = (told.to.clone(), epoch);
            }
        });
    }

    /// Does something with the place, now, and sees to what follows from it.
    pub fn with<T>(&self, what: impl FnOnce(&mut Place, Duration, &mut Vec<PlaceAction>) -> T) -> T {
        self.step(|step| what(&mut step.inner.place, step.now, step.out))
    }

    /// What the executor is to do next. Of requests and reports it is none, nor of what is to be cut.
    pub async fn action(&self) -> PlaceAction {
        loop {
            let more = self.more.notified();
            if let Some(action) = self.lock().queue.pop_front() {
                return action;
            }
            more.await;
        }
    }

    /// What the place says of itself, and how many requests wait. Only what it says is news.
    pub fn reports(&self) -> watch::Receiver<Option<(Report, u64)>> {
        self.reports.subscribe()
    }

    /// When [`on_timeout`](Self::on_timeout) is to be called.
    pub fn timeout(&self) -> Option<Instant> {
        self.lock().place.timeout().map(|after| self.began + after)
    }

    /// Does what is due.
    pub fn on_timeout(&self) {
        self.with(|place, now, out| place.on_timeout(now, out));
    }

    /// Does what is due whenever something is, for as long as this is polled.
    pub async fn keep_time(&self) {
        loop {
            let earlier = self.due.notified();
            match self.timeout() {
                Some(at) => tokio::select! {
                    () = sleep_until(at) => self.on_timeout(),
                    () = earlier => {}
                },
                None => earlier.await,
            }
        }
    }

    /// Does something with the place, which has all counts meanwhile; then tells whom it concerns.
    fn step<T>(&self, what: impl FnOnce(&mut Step<'_>) -> T) -> T {
        let mut out = Vec::new();
        let mut lock = self.lock();
        let inner = &mut *lock;
        let (unary, streams) = self.count.close();
        inner.place.take_running(unary, streams);
        let due = inner.place.timeout();
        let now = self.began.elapsed();
        let done = what(&mut Step { inner, now, out: &mut out });
        let mut told = Vec::new();
        let mut is_more = false;
        for action in out {
            match action {
                PlaceAction::Report(report) => {
                    self.metrics.stands(report.stand);
                    self.reports.send_replace(Some((report, inner.place.parked().len() as u64)));
                }
                PlaceAction::Run(id) => inner.tell(id, entry::Told::Run(self.cuts()), &mut told),
                PlaceAction::Forward(id, _) => {
                    inner.tell(id, entry::Told::Forward(self.cuts()), &mut told);
                }
                PlaceAction::Refuse(id, refusal) => {
                    let is_kept = inner.waiting.get(&id).is_some_and(|waiting| waiting.is_kept);
                    let verdict = if returns(&refusal, is_kept) {
                        self.metrics.returned();
                        entry::Told::Return
                    } else {
                        self.metrics.refused(refusal.cause);
                        entry::Told::Refuse(refusal)
                    };
                    inner.tell(id, verdict, &mut told);
                }
                // Answers go as they come, unless what they answer [was to be cut](Inside::is_cut).
                PlaceAction::Answer(_) | PlaceAction::AnswerUnknown(_) => {}
                PlaceAction::CutStreams | PlaceAction::CutAll => {
                    if action == PlaceAction::CutStreams {
                        self.metrics.cut(inner.place.running().streams);
                    }
                    self.cuts.fetch_add(1, Ordering::Release);
                    self.cut.notify_waiters();
                }
                action => {
                    inner.queue.push_back(action);
                    is_more = true;
                }
            }
        }
        let parked = inner.place.parked().len() as u64;
        self.reports.send_if_modified(|said| {
            if let Some((_, count)) = said {
                *count = parked;
            }
            false
        });
        self.metrics.waiting(inner.place.parked());
        let is_earlier = inner.place.timeout() != due;
        if let Some(running) = inner.place.give_running() {
            self.count.open(running);
        }
        drop(lock);
        if is_more {
            self.more.notify_one();
        }
        if is_earlier {
            self.due.notify_one();
        }
        for (Waiting { tell, what, .. }, verdict) in told {
            match tell.send(verdict) {
                // Whoever waited is gone, and never began.
                Err(entry::Told::Run(_)) => self.ended(Counted::Here(what)),
                Err(entry::Told::Forward(_)) => self.ended(Counted::Forwarded),
                Ok(()) | Err(entry::Told::Return | entry::Told::Refuse(_)) => {}
            }
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Notes what is to be said to one that waits, if it still does.
    fn tell(&mut self, id: RequestId, verdict: entry::Told, told: &mut Vec<(Waiting, entry::Told)>) {
        if let Some(waiting) = self.waiting.remove(&id) {
            told.push((waiting, verdict));
        }
    }
}

/// Whether a request goes back to its caller's sidecar, which can take it to where the service is.
fn returns(refusal: &Refusal, is_kept: bool) -> bool {
    is_kept && refusal.cause == RefusalCause::Moved
}

fn bounds(park: &Park) -> Bounds {
    let count = usize::try_from(park.requests).unwrap_or(usize::MAX);
    Bounds { count, bytes: usize::try_from(park.bytes).unwrap_or(usize::MAX), time: park.wait }
}

const fn kind(what: What) -> Kind {
    match what {
        What::Unary => Kind::Unary,
        What::Stream => Kind::Stream,
    }
}

#[cfg(test)]
mod tests;
