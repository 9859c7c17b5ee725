//! The journal of a state: what answers acknowledge is at another instance's sidecar before they go on.
//!
//! The control plane names who keeps the journal, the *standby*, and says it to both. The sidecar of the instance that serves asks
//! its application for what has changed, in [rounds], and sends that to the sidecar of the standby, which keeps it in its memory, as a
//! [shadow]. Where the first one dies, the control plane has the standby serve: from then on its shadow takes nothing more, so
//! that whoever served before, and does not know it, acknowledges nothing any more. Its application is given what the
//! shadow has before a request reaches it.
//!
//! Reads wait for a round as writes do: what they show may be of a write that is not journaled yet, or of an application that has
//! begun again.

mod counts;
mod receive;
mod rounds;
mod run;
mod send;
mod shadow;
#[cfg(test)]
mod tests;
mod wait;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lighter_config::snapshot::{StateClass, Stateful, WhenAlone};
use lighter_config::xds::wire::lighter::registry::v1::{JournalPart, JournalStand};
use lighter_migrate::Epoch;
use subtle::ConstantTimeEq;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(super) use receive::{PATH, answer};
use rounds::{Round, Rounds};
pub(crate) use run::run;
use shadow::{Shadow, Taken};
pub(crate) use wait::Waits;

use super::copies::State;

/// What this instance is to the journal of its Service.
pub(crate) struct Journal {
    /// Whether the state is journaled.
    is_on: AtomicBool,
    inner: Mutex<Inner>,
    /// Answers that wait may go on.
    settled: Notify,
    /// There may be a round to be done.
    more: Notify,
    stand: watch::Sender<Option<JournalStand>>,
}

struct Inner {
    serves_alone: bool,
    /// How long an answer waits.
    patience: Duration,
    /// How long a state may be, in bytes.
    most: u64,
    epoch: Epoch,
    /// What was told last.
    view: u64,
    token: Vec<u8>,
    part: Part,
    rounds: Rounds,
    shadow: Shadow,
    /// Since when rounds fail.
    failing: Option<Instant>,
    /// Since when the standby is not reached.
    unreached: Option<Instant>,
    /// Where the application listened when it began to serve, if that is known.
    life: Option<Vec<u64>>,
    /// It began where that is not known: one that begins again there would not be told from it.
    is_blind: bool,
    /// Something is being gathered that is to be kept.
    is_gathering: bool,
}

/// What was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Nothing since the application began.
    Unknown,
    /// It serves, and nobody keeps the journal.
    Alone,
    /// It serves, and the sidecar of whoever keeps the journal accepts links there.
    Beside(SocketAddr),
    /// It keeps the journal.
    Keeps,
    /// It served, and whoever kept the journal does now.
    Deposed,
}

/// A round, and where what it gives goes.
#[derive(Clone, Debug)]
struct Task {
    round: Round,
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
            epoch: Epoch::default(),
            view: 0,
            token: Vec::new(),
            part: Part::Unknown,
            rounds: Rounds::default(),
            shadow: Shadow::default(),
            failing: None,
            unreached: None,
            life: None,
            is_blind: false,
            is_gathering: false,
        };
        let journal = Journal {
            is_on: AtomicBool::new(false),
            inner: Mutex::new(inner),
            settled: Notify::new(),
            more: Notify::new(),
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
            inner.rounds.pass();
        }
        self.is_on.store(is_on, Ordering::Release);
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
        let said = match (part.keeps, part.standby.as_str()) {
            (true, _) => Part::Keeps,
            (false, "") => Part::Alone,
            (false, standby) => match standby.parse() {
                Ok(at) => Part::Beside(at),
                Err(_) => return tracing::warn!(standby, "where the journal is kept is no address"),
            },
        };
        let mut inner = self.lock();
        if part.view <= inner.view {
            return;
        }
        (inner.epoch, inner.view, inner.part) = (Epoch(part.epoch), part.view, said);
        inner.token.clone_from(&part.token);
        // What was kept was another's, or is served from here.
        inner.shadow = Shadow::default();
        inner.gets_on();
        match said {
            Part::Beside(_) => inner.rounds.name(part.view),
            Part::Alone if inner.serves_alone => {
                inner.rounds.part();
                inner.rounds.pass();
            }
            _ => {
                inner.rounds.part();
                inner.rounds.lose();
            }
        }
        tracing::info!(epoch = part.epoch, view = part.view, part = ?said, "what this instance is to the journal");
        self.say(&inner);
        drop(inner);
        self.settled.notify_waiters();
        self.more.notify_one();
    }

    /// The application begins to serve, and listens at these sockets. What was told before was of another epoch.
    pub(super) fn begins(&self, life: Option<Vec<u64>>) {
        let mut inner = self.lock();
        inner.is_blind = life.is_none();
        if inner.is_blind && self.is_on() {
            tracing::warn!("it cannot be told whether the application begins again: nothing is journaled");
        }
        (inner.life, inner.part) = (life, Part::Unknown);
        inner.gets_on();
        inner.rounds.part();
        inner.rounds.lose();
        if self.is_on() {
            counts::standby(false);
        }
        drop(inner);
        self.settled.notify_waiters();
    }

    /// What the application had in its memory is gone. What it has answered is not acknowledged any more.
    pub(super) fn lose(&self) {
        let mut inner = self.lock();
        if inner.part != Part::Keeps {
            inner.part = Part::Unknown;
        }
        inner.rounds.part();
        inner.rounds.lose();
        inner.life = None;
        inner.gets_on();
        drop(inner);
        self.settled.notify_waiters();
    }

    /// The Service has no state any more. Whatever still comes for it is for whoever is the next here.
    pub(super) fn retire(&self) {
        let mut inner = self.lock();
        (inner.part, inner.view, inner.shadow) = (Part::Unknown, 0, Shadow::default());
        inner.token.clear();
        inner.rounds.part();
        inner.rounds.lose();
        self.is_on.store(false, Ordering::Release);
        drop(inner);
        self.settled.notify_waiters();
    }

    /// What is to be said to the control plane of it. None: nothing was told.
    pub(crate) fn stand(&self) -> watch::Receiver<Option<JournalStand>> {
        self.stand.subscribe()
    }

    /// Whether a request that comes may run: its answer may be acknowledged.
    pub(crate) fn admits(&self) -> bool {
        let inner = self.lock();
        let admits = match inner.part {
            Part::Alone => inner.serves_alone,
            Part::Deposed => false,
            _ if inner.is_blind => false,
            // Its answer waits, and a moment is nothing.
            Part::Unknown | Part::Beside(_) | Part::Keeps => {
                inner.failing.is_none_or(|since| since.elapsed() < MOMENT)
            }
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
        inner.shadow.close();
        let (base, changes) = inner.shadow.parts()?;
        Some((base.clone(), changes.to_vec()))
    }

    /// The next round, once there is one.
    async fn task(&self) -> Task {
        loop {
            let more = self.more.notified();
            if let Some(task) = self.begin() {
                return task;
            }
            more.await;
        }
    }

    fn begin(&self) -> Option<Task> {
        let mut inner = self.lock();
        let Part::Beside(at) = inner.part else { return None };
        if inner.is_blind {
            return None;
        }
        let round = inner.rounds.begin()?;
        Some(Task { round, epoch: inner.epoch, at, token: inner.token.clone() })
    }

    fn is_under_way(&self, round: Round) -> bool {
        self.lock().rounds.is_under_way(round)
    }

    /// Where the application listened when it began to serve.
    fn life(&self) -> Option<Vec<u64>> {
        self.lock().life.clone()
    }

    /// The standby has what a round gave.
    fn took(&self, round: Round, is_whole: bool, bytes: u64) {
        let mut inner = self.lock();
        inner.rounds.took(round, is_whole, bytes);
        inner.gets_on();
        self.say(&inner);
        drop(inner);
        self.settled.notify_waiters();
    }

    /// The standby lacks what it builds on.
    fn lacks(&self, round: Round) {
        let mut inner = self.lock();
        inner.rounds.lacks(round);
        inner.unreached = None;
    }

    /// The application gave nothing. Nothing is known of the standby by that.
    fn fail(&self, round: Round) {
        let mut inner = self.lock();
        inner.rounds.fail(round);
        inner.failing.get_or_insert_with(Instant::now);
    }

    /// The standby was not reached.
    fn fails(&self) {
        let mut inner = self.lock();
        inner.failing.get_or_insert_with(Instant::now);
        inner.unreached.get_or_insert_with(Instant::now);
        self.say(&inner);
    }

    /// The standby says that it serves itself, or keeps another's.
    fn deposed(&self, round: Round) {
        let mut inner = self.lock();
        if !inner.rounds.is_under_way(round) {
            return;
        }
        tracing::warn!(view = inner.view, "another instance serves: nothing is acknowledged here any more");
        inner.part = Part::Deposed;
        inner.rounds.part();
        inner.rounds.lose();
        drop(inner);
        self.settled.notify_waiters();
    }

    /// What whoever serves may give now.
    fn room(&self, given: &Given<'_>) -> Result<Room<'_>, Refused> {
        let mut inner = self.lock();
        inner.knows(given)?;
        if inner.is_closed_to(given) {
            return Err(Refused::Closed);
        }
        if std::mem::replace(&mut inner.is_gathering, true) {
            return Err(Refused::Busy);
        }
        Ok(Room { journal: self, most: inner.most })
    }

    /// Takes what whoever serves gives.
    fn take(&self, given: &Given<'_>, state: State) -> Result<Taken, Refused> {
        let mut lock = self.lock();
        let inner = &mut *lock;
        inner.knows(given)?;
        if inner.is_closed_to(given) {
            return Ok(Taken::Closed);
        }
        let was_whole = inner.shadow.is_whole();
        let taken = inner.shadow.take(given.number, given.is_whole, state, inner.most);
        if inner.shadow.is_whole() != was_whole {
            tracing::info!(view = inner.view, "has all of what the journal is to have");
            self.say(inner);
        }
        Ok(taken)
    }

    fn say(&self, inner: &Inner) {
        let lost = inner.unreached.is_some_and(|since| since.elapsed() > LONG);
        let whole = inner.part == Part::Keeps && inner.shadow.is_whole();
        counts::standby(whole);
        let stand = Some(JournalStand { epoch: inner.epoch.0, view: inner.view, whole, lost });
        self.stand.send_if_modified(|said| std::mem::replace(said, stand) != stand);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether the control plane has named both: whoever gives something, and who is to keep it.
    fn knows(&self, given: &Given<'_>) -> Result<(), Refused> {
        match () {
            () if given.view > self.view => Err(Refused::Unknown),
            () if given.view < self.view => Ok(()),
            () if given.epoch != self.epoch => Err(Refused::Unknown),
            () if self.token.is_empty() || !bool::from(self.token.ct_eq(given.token)) => Err(Refused::Token),
            () => Ok(()),
        }
    }

    /// Who was told of another view by now, or serves itself, has whoever served before acknowledge nothing.
    fn is_closed_to(&self, given: &Given<'_>) -> bool {
        given.view < self.view || self.part != Part::Keeps
    }

    fn gets_on(&mut self) {
        (self.failing, self.unreached) = (None, None);
    }
}

/// Where rounds fail for longer, requests are refused before they run.
const MOMENT: Duration = Duration::from_secs(1);

/// Where the standby is not reached for longer, the control plane is told.
const LONG: Duration = Duration::from_secs(3);
