//! The journal of a state: what answers acknowledge is at another instance's sidecar before they go on.
//!
//! The control plane names who keeps the journal, the *standby*, and says it to both. The sidecar of the instance that serves asks
//! its application for what has changed, in rounds, and sends that to the sidecar of the standby, which keeps it in its memory: what
//! either makes of that is a [`Ledger`]. Where the first one dies, the control plane has the standby serve: from then on its shadow takes nothing more, so
//! that whoever served before, and does not know it, acknowledges nothing any more. Its application is given what the
//! shadow has before a request reaches it.
//!
//! Reads wait for a round as writes do: what they show may be of a write that is not journaled yet, or of an application that has
//! begun again.

mod counts;
mod receive;
mod run;
mod send;
#[cfg(test)]
mod tests;
mod wait;

use std::net::{AddrParseError, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lighter_config::snapshot::{StateClass, Stateful, WhenAlone};
use lighter_config::xds::wire::lighter::registry::v1::{JournalPart, JournalStand};
use lighter_migrate::Epoch;
use lighter_migrate::journal::{Ledger, Measured, Part, Round, Shut, Taken, Told};
use subtle::ConstantTimeEq;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(super) use receive::{PATH, answer};
pub(crate) use run::run;
pub(crate) use wait::Waits;

use super::copies::State;

/// What this instance is to the journal of its Service.
pub(crate) struct Journal {
    /// Whether the state is journaled.
    is_on: AtomicBool,
    inner: Mutex<Inner>,
    /// Answers that wait may go on.
    settled: Notify,
    /// There may be a round to be done, by seats of whom it goes to.
    more: [Notify; 2],
    stand: watch::Sender<Option<JournalStand>>,
}

struct Inner {
    serves_alone: bool,
    /// How long an answer waits.
    patience: Duration,
    /// How long a state may be, in bytes.
    most: u64,
    ledger: Ledger<Keeper, State>,
    /// What whoever serves has to show here.
    token: Vec<u8>,
    /// Since when the application serves.
    begun: Option<Instant>,
    /// Since when the application gives nothing, by seats of whom it is for: all of its state may fail where what has changed does not.
    ungiven: [Option<Instant>; 2],
    /// Since when those who keep the journal are not reached, by seats.
    unreached: [Option<Instant>; 2],
    /// Where the application listened when it began to serve, if that is known.
    life: Option<Vec<u64>>,
    /// It began where that is not known: one that begins again there would not be told from it.
    is_blind: bool,
    /// Something is being gathered that is to be kept.
    is_gathering: bool,
}

/// Where somebody keeps the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Keeper {
    /// Its sidecar accepts links there.
    at: SocketAddr,
    /// What is shown to it.
    token: Vec<u8>,
}

impl Measured for State {
    fn bytes(&self) -> u64 {
        State::bytes(self)
    }
}

/// A round, and where what it gives goes.
#[derive(Clone, Debug)]
struct Task {
    round: Round,
    seat: usize,
    epoch: Epoch,
    at: SocketAddr,
    token: Vec<u8>,
}

/// What comes to whoever keeps the journal.
struct Given<'a> {
    epoch: Epoch,
    view: u64,
    token: &'a [u8],
    number: u64,
    is_whole: bool,
}

/// Why nothing is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// It is not known here that this is kept.
    Unknown,
    /// Who gives it does not show what the control plane has given to both.
    Token,
    /// Whoever gives it does not serve any more.
    Closed,
    /// Something else is just coming.
    Busy,
}

/// Leave to gather what is to be kept, until it is dropped. There is one at a time.
struct Room<'j> {
    journal: &'j Journal,
    /// So many bytes at most.
    most: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.journal.lock().is_gathering = false;
    }
}

impl Journal {
    pub(super) fn new(stateful: &Stateful) -> Self {
        let inner = Inner {
            serves_alone: false,
            patience: Duration::ZERO,
            most: 0,
            ledger: Ledger::default(),
            token: Vec::new(),
            begun: None,
            ungiven: [None; 2],
            unreached: [None; 2],
            life: None,
            is_blind: false,
            is_gathering: false,
        };
        let journal = Journal {
            is_on: AtomicBool::new(false),
            inner: Mutex::new(inner),
            settled: Notify::new(),
            more: [Notify::new(), Notify::new()],
            stand: watch::Sender::new(None),
        };
        journal.set(stateful);
        journal
    }

    /// Goes on by what the Service says of its state now.
    pub(super) fn set(&self, stateful: &Stateful) {
        let is_on = stateful.class == StateClass::Journaled;
        let mut inner = self.lock();
        (inner.patience, inner.most) = (stateful.park.wait, stateful.max_bytes);
        inner.serves_alone = stateful.when_alone == WhenAlone::Serve;
        if !is_on {
            // Nobody waits for what is not promised.
            inner.ledger.rounds.pass();
        }
        if is_on && !self.is_on() {
            // From now on it is to be told.
            inner.begun = inner.begun.map(|_| Instant::now());
        }
        self.is_on.store(is_on, Ordering::Release);
        if is_on {
            // Whoever decides who keeps the journal is to know what this sidecar can.
            self.say(&inner);
        }
        drop(inner);
        self.settled.notify_waiters();
    }

    /// Whether the state is journaled.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// The control plane says what this instance is to the journal. What is older than what it said last is nothing.
    pub(crate) fn told(&self, part: &JournalPart) {
        let told = match said(part) {
            Ok(told) => told,
            Err(error) => return tracing::warn!(%error, "where the journal is kept is no address"),
        };
        let mut inner = self.lock();
        let serves_alone = inner.serves_alone;
        if !inner.ledger.told(Epoch(part.epoch), part.view, told, serves_alone) {
            return;
        }
        inner.token.clone_from(&part.token);
        inner.gets_on();
        let (standby, next) = (&*part.standby, &*part.next);
        tracing::info!(epoch = part.epoch, view = part.view, part = ?inner.ledger.part(), standby, next, "what this instance is to the journal");
        self.say(&inner);
        drop(inner);
        self.settled.notify_waiters();
        self.asks();
    }

    /// The application begins to serve, and listens at these sockets. What was told before was of another epoch.
    pub(super) fn begins(&self, life: Option<Vec<u64>>) {
        let mut inner = self.lock();
        inner.is_blind = life.is_none();
        if inner.is_blind && self.is_on() {
            tracing::warn!("it cannot be told whether the application begins again: nothing is journaled");
        }
        inner.life = life;
        inner.begun = Some(Instant::now());
        inner.ledger.begins();
        inner.gets_on();
        if self.is_on() {
            self.say(&inner);
        }
        drop(inner);
        self.settled.notify_waiters();
    }

    /// What the application had in its memory is gone. What it has answered is not acknowledged any more.
    pub(super) fn lose(&self) {
        let mut inner = self.lock();
        inner.ledger.lose();
        inner.life = None;
        inner.gets_on();
        drop(inner);
        self.settled.notify_waiters();
    }

    /// The Service has no state any more. Whatever still comes for it is for whoever is the next here.
    pub(super) fn retire(&self) {
        let mut inner = self.lock();
        inner.ledger.retire();
        inner.token.clear();
        self.is_on.store(false, Ordering::Release);
        drop(inner);
        self.settled.notify_waiters();
    }

    /// What is to be said to the control plane of it. None: nothing was told.
    pub(crate) fn stand(&self) -> watch::Receiver<Option<JournalStand>> {
        self.stand.subscribe()
    }

    /// Whether it keeps the journal, and has all of it.
    pub(super) fn keeps(&self) -> bool {
        let inner = self.lock();
        inner.ledger.part() == Part::Keeps && inner.ledger.whole().is_some()
    }

    /// Whether a request that comes may run: its answer may be acknowledged.
    pub(crate) fn admits(&self) -> bool {
        let inner = self.lock();
        let admits = match inner.ledger.part() {
            Part::Alone => inner.serves_alone,
            Part::Deposed => false,
            _ if inner.is_blind => false,
            _ if inner.ledger.is_alone() => inner.serves_alone,
            // Its answer waits, and a moment is nothing.
            Part::Unknown | Part::Beside | Part::Keeps => !inner.is_held_up(),
        };
        if !admits {
            counts::refused();
        }
        admits
    }

    /// All that the standby has, as it is to serve: a state, and what has changed since. Nothing more is taken from then on. None:
    /// it does not have all of it.
    pub(super) fn inherit(&self) -> Option<(State, Vec<State>)> {
        let mut inner = self.lock();
        let (base, changes) = inner.ledger.inherit()?;
        Some((base.clone(), changes.to_vec()))
    }

    /// There may be a round to be done.
    fn asks(&self) {
        self.more.iter().for_each(Notify::notify_one);
    }

    /// The next round to whoever has this seat, once there is one.
    async fn task(&self, seat: usize) -> Task {
        loop {
            let more = self.more[seat].notified();
            if let Some(task) = self.begin(seat) {
                return task;
            }
            more.await;
        }
    }

    fn begin(&self, seat: usize) -> Option<Task> {
        let mut inner = self.lock();
        if inner.is_blind {
            return None;
        }
        let (round, Keeper { at, token }) = inner.ledger.begin(seat)?;
        Some(Task { round, seat, epoch: inner.ledger.epoch(), at, token })
    }

    fn is_under_way(&self, round: Round) -> bool {
        self.lock().ledger.rounds.is_under_way(round)
    }

    /// Where the application listened when it began to serve.
    fn life(&self) -> Option<Vec<u64>> {
        self.lock().life.clone()
    }

    /// Whoever it went to has what a round gave.
    fn took(&self, task: &Task, is_whole: bool, bytes: u64) {
        let mut inner = self.lock();
        inner.ledger.rounds.took(task.round, is_whole, bytes);
        (inner.ungiven[task.seat], inner.unreached[task.seat]) = (None, None);
        self.say(&inner);
        drop(inner);
        self.settled.notify_waiters();
    }

    /// Whoever it went to lacks what it builds on.
    fn lacks(&self, task: &Task) {
        let mut inner = self.lock();
        inner.ledger.rounds.lacks(task.round);
        inner.unreached[task.seat] = None;
        self.say(&inner);
    }

    /// The application gave nothing. Nothing is known by that of those who keep the journal.
    fn fail(&self, task: &Task) {
        let mut inner = self.lock();
        inner.ledger.rounds.fail(task.round);
        inner.ungiven[task.seat].get_or_insert_with(Instant::now);
        self.say(&inner);
    }

    /// Whoever it went to was not reached.
    fn fails(&self, task: &Task) {
        let mut inner = self.lock();
        if inner.ledger.rounds.is_under_way(task.round) {
            inner.unreached[task.seat].get_or_insert_with(Instant::now);
            self.say(&inner);
        }
    }

    /// Whoever it went to says that it serves itself, or keeps another's. Returns whether nothing is acknowledged here any more.
    fn shut(&self, round: Round) -> bool {
        let mut inner = self.lock();
        let is_shut = inner.ledger.shut(round);
        if is_shut {
            let view = inner.ledger.view();
            tracing::warn!(view, "another instance serves: nothing is acknowledged here any more");
            drop(inner);
            self.settled.notify_waiters();
        }
        is_shut
    }

    /// What whoever serves may give now.
    fn room(&self, given: &Given<'_>) -> Result<Room<'_>, Refused> {
        let mut inner = self.lock();
        inner.knows(given)?;
        if std::mem::replace(&mut inner.is_gathering, true) {
            return Err(Refused::Busy);
        }
        Ok(Room { journal: self, most: inner.most })
    }

    /// Takes what whoever serves gives.
    fn take(&self, given: &Given<'_>, state: State) -> Result<Taken, Refused> {
        let mut lock = self.lock();
        let inner = &mut *lock;
        match inner.knows(given) {
            Err(Refused::Closed) => return Ok(Taken::Closed),
            known => known?,
        }
        let before = inner.ledger.whole();
        let of = (given.epoch, given.view);
        let taken = inner.ledger.take(of, given.number, given.is_whole, state, inner.most)?;
        if inner.ledger.whole() != before {
            tracing::info!(view = inner.ledger.view(), "has all of what the journal is to have");
            self.say(inner);
        }
        Ok(taken)
    }

    fn say(&self, inner: &Inner) {
        let ledger = &inner.ledger;
        let heir = ledger.rounds.heir();
        let is_long = |since: Option<Instant>| since.is_some_and(|since| since.elapsed() > LONG);
        let is_lost = |seat: usize| is_long(inner.unreached[seat]);
        // Whoever is only to follow the heir is given up where it is not given what it would begin with.
        let is_in_vain = |seat: usize| !ledger.rounds.needs(seat) && is_long(inner.ungiven[seat]);
        let whole = ledger.part() == Part::Keeps && ledger.whole().is_some();
        counts::standby(whole);
        let stand = Some(JournalStand {
            epoch: ledger.epoch().0,
            view: ledger.view(),
            whole,
            lost: is_lost(heir),
            confirmed: ledger.rounds.confirmed().unwrap_or_default(),
            next_lost: is_lost(1 - heir) || is_in_vain(1 - heir),
            hands_over: true,
            whole_view: ledger.whole().unwrap_or_default(),
        });
        self.stand.send_if_modified(|said| std::mem::replace(said, stand) != stand);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether the control plane has named both: whoever gives something, and who is to keep it.
    fn knows(&self, given: &Given<'_>) -> Result<(), Refused> {
        self.ledger.knows(given.epoch, given.view)?;
        let is_shown = !self.token.is_empty() && bool::from(self.token.ct_eq(given.token));
        if is_shown { Ok(()) } else { Err(Refused::Token) }
    }

    fn gets_on(&mut self) {
        (self.ungiven, self.unreached) = ([None; 2], [None; 2]);
    }

    /// Whether an answer would wait for more than a moment.
    fn is_held_up(&self) -> bool {
        let is_long = |since: &Option<Instant>| since.is_some_and(|since| since.elapsed() >= MOMENT);
        // Nobody knows yet who is to keep what it would acknowledge.
        let is_untold =
            self.ledger.part() == Part::Unknown && self.begun.is_some_and(|since| since.elapsed() >= LONG);
        let fails = |seat: usize| is_long(&self.unreached[seat]) || is_long(&self.ungiven[seat]);
        is_untold || [0, 1].into_iter().any(|seat| self.ledger.rounds.needs(seat) && fails(seat))
    }
}

impl From<Shut> for Refused {
    fn from(shut: Shut) -> Self {
        match shut {
            Shut::Unknown => Refused::Unknown,
            Shut::Closed => Refused::Closed,
        }
    }
}

/// What the control plane says.
fn said(part: &JournalPart) -> Result<Told<Keeper>, AddrParseError> {
    let keeper = |at: &str, token: &[u8]| Ok(Keeper { at: at.parse()?, token: token.to_vec() });
    if part.keeps {
        return Ok(Told::Keeps);
    }
    if part.standby.is_empty() && part.next.is_empty() && part.seat == 0 {
        return Ok(Told::Alone);
    }
    let seat = if part.seat == 0 { part.view } else { part.seat };
    let heir = match (part.seat, &*part.standby) {
        (0, "") => None,
        (_, "") => Some((seat, None)),
        (_, at) => Some((seat, Some(keeper(at, &part.token)?))),
    };
    let next = match &*part.next {
        "" => None,
        at => Some((part.next_seat, keeper(at, &part.next_token)?)),
    };
    Ok(Told::Beside { heir, next })
}

/// Where rounds fail for longer, requests are refused before they run.
const MOMENT: Duration = Duration::from_secs(1);

/// Where the standby is not reached for longer, the control plane is told. Where that says nothing for as long, requests are refused.
const LONG: Duration = Duration::from_secs(3);
