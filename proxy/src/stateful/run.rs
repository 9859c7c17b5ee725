//! Does what this workload's place asks for: asks the application for its state, fetches copies, and notices when the
//! application is gone. Of the control thread.
//!
//! The application is asked for one thing at a time, in order: a thaw that overtook its freeze would be undone. What only waits
//! or reads ends when something else is to be done; what changes the application is let end, as nobody can tell what a cut would
//! leave.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lighter_config::snapshot::StateAccess;
use lighter_migrate::{Copy, Digest, PlaceAction, Stand};
use tokio::time::{Instant, timeout};

use super::copies::{Gathering, State, followed_by};
use super::hooks::{Application, Given, Hook, HookError};
use super::host::{Host, Known, Last, Leash};
use super::transfer::{self, FetchError, From, Line};
use crate::worker::Shared;

/// Does what the place of the moment asks for, until it is dropped.
pub(crate) async fn run(shared: Arc<Shared>, known: Known) {
    loop {
        let changed = shared.mesh.changed();
        let Some(hosted) = shared.hosted.load_full() else {
            changed.await;
            continue;
        };
        let host = Host { shared: shared.clone(), hosted, known: known.clone() };
        let mut executor = Executor::new(host);
        executor.work().await;
        executor.leave().await;
    }
}

struct Executor {
    host: Host,
    /// What the application is to be asked for after `asked`.
    queue: VecDeque<Job>,
    asked: Option<Asked>,
    fetching: Option<Fetching>,
    /// By which the next copy is fetched, if it leads there.
    line: Rc<Cell<Option<Line>>>,
    /// What the application gave and took last.
    given: Option<Last>,
    taken: Option<Last>,
    /// Says whether the application is, or becomes, ready to be called.
    warming: Option<Work<bool>>,
    /// The application was asked to freeze, and not thawed since.
    is_frozen: bool,
    /// The application was there when it was last looked.
    was_there: bool,
    /// Where it listened then, if that is known.
    listeners: Option<Vec<u64>>,
}

/// Something that the application is asked for.
#[derive(Debug)]
enum Job {
    Freeze(Ticket),
    /// To give its state, or what has changed. None: the last copy, of what is frozen; otherwise that of a round.
    Take(Ticket, Option<u32>),
    Thaw,
    /// To take a copy. The digest is that of the state that comes of it.
    Restore(Copy, State, Digest),
    /// To begin as what serves.
    Open,
    /// The same with what is in the journal.
    Recover,
}

/// For which migration something is asked, and what whoever fetches it is to show.
#[derive(Clone, Debug)]
struct Ticket {
    migration: u64,
    token: Vec<u8>,
}

/// What came of a [`Job`].
enum Done {
    Frozen(Result<(), HookError>),
    /// And on what it builds.
    Taken(Result<(Given, Option<Last>), HookError>),
    Thawed(bool),
    Restored(bool),
    Opened(bool),
}

struct Asked {
    job: Job,
    leash: Rc<Leash>,
    began: Instant,
    work: Work<Done>,
}

struct Fetching {
    copy: Copy,
    began: Instant,
    work: Work<Result<State, FetchError>>,
}

type Work<T> = Pin<Box<dyn Future<Output = T>>>;

impl Executor {
    fn new(host: Host) -> Self {
        let (was_there, listeners) = (host.is_there(), host.listeners());
        Executor {
            host,
            queue: VecDeque::new(),
            asked: None,
            fetching: None,
            line: Rc::default(),
            given: None,
            taken: None,
            warming: None,
            is_frozen: false,
            was_there,
            listeners,
        }
    }

    /// Works until this is not the place of the moment any more.
    async fn work(&mut self) {
        let (hosted, host) = (self.host.hosted.clone(), self.host.clone());
        let mut time = pin!(hosted.keep_time());
        let mut watching = pin!(host.watch());
        let mut reports = hosted.reports();
        let mut said = None;
        loop {
            let changed = host.shared.mesh.changed();
            if !host.is_of_the_moment() {
                return;
            }
            self.next();
            tokio::select! {
                action = hosted.action() => self.act(action),
                done = ended(self.asked.as_mut().map(|asked| &mut asked.work)) => self.done(done),
                state = ended(self.fetching.as_mut().map(|fetching| &mut fetching.work)) => self.fetched(state),
                is_healthy = ended(self.warming.as_mut()) => {
                    self.warming = None;
                    tracing::info!(migration = host.migration(), is_healthy, "this place of the service was warmed");
                    hosted.with(|place, _, out| place.warmed(is_healthy, out));
                }
                () = &mut time => {}
                is_there = watching.as_mut() => {
                    self.look(is_there);
                    watching.set(host.watch());
                }
                _ = reports.changed() => {
                    let Some((report, parked)) = *reports.borrow_and_update() else { continue };
                    // Every command is reported on: what is new is what it is.
                    let is = Some((report.incarnation, report.stand));
                    if std::mem::replace(&mut said, is) != is {
                        let (migration, (phase, epoch)) = (report.heard.migration, phase(report.stand));
                        tracing::info!(migration, phase, epoch, parked, "what this place is to its Service");
                    }
                }
                () = changed => {}
            }
        }
    }

    /// The Service has no state any more: its application goes on as before.
    async fn leave(&mut self) {
        self.host.shared.copies.copies().clear();
        self.interrupt(|_| true);
        if let Some(asked) = self.asked.take() {
            asked.work.await;
        }
        if self.is_frozen {
            self.host.thaw(THAW_TRIES, &Leash::default()).await;
        }
    }

    fn act(&mut self, action: PlaceAction) {
        tracing::debug!(?action, "the place asks for something");
        let hosted = self.host.hosted.clone();
        let ticket = || Ticket { migration: self.host.migration(), token: hosted.token() };
        match action {
            // What is parked and kept is bounded, and nothing else is needed.
            PlaceAction::Reserve => hosted.with(|place, _, out| place.reserved(true, out)),
            PlaceAction::Warm => {
                let (host, line) = (self.host.clone(), self.line.clone());
                self.warming = Some(Box::pin(async move {
                    let (is_healthy, ahead) = tokio::join!(host.becomes_healthy(), ahead(&host));
                    line.set(ahead);
                    is_healthy
                }));
            }
            PlaceAction::Freeze => {
                let ticket = ticket();
                self.interrupt(|job| matches!(job, Job::Freeze(_) | Job::Take(..) | Job::Thaw));
                self.queue.push_back(Job::Freeze(ticket));
            }
            PlaceAction::Snapshot { round } => {
                let ticket = ticket();
                // Commands come again until they are seen to be followed.
                let is_it = |job: &Job| matches!(job, Job::Take(its, Some(of)) if its.migration == ticket.migration && *of == round);
                let is_given = self
                    .given
                    .as_ref()
                    .is_some_and(|last| last.migration == ticket.migration && last.round >= round);
                if !is_given && !self.jobs().any(is_it) {
                    self.queue.push_back(Job::Take(ticket, Some(round)));
                }
            }
            PlaceAction::Thaw => {
                self.give_up_freezing();
                match self.is_frozen {
                    true => self.queue.push_back(Job::Thaw),
                    false => hosted.with(|place, _, out| place.thawed(out)),
                }
            }
            PlaceAction::DropFrozen => self.give_up_freezing(),
            PlaceAction::Fetch(copy, have) => self.fetch(copy, have),
            PlaceAction::Activate(_) | PlaceAction::Begin(_) => {
                self.give_up_taking();
                self.line.set(None);
                self.interrupt(|job| matches!(job, Job::Thaw | Job::Open));
                self.queue.push_back(Job::Open);
            }
            PlaceAction::Recover(_) => {
                self.give_up_taking();
                self.line.set(None);
                // Commands come again until they are followed.
                if !self.jobs().any(|job| matches!(job, Job::Recover)) {
                    self.interrupt(|job| matches!(job, Job::Thaw | Job::Open));
                    self.queue.push_back(Job::Recover);
                }
            }
            PlaceAction::Discard => {
                self.give_up_taking();
                self.line.set(None);
            }
            // What is cut hears of it where it runs.
            PlaceAction::CutStreams | PlaceAction::CutAll => {}
            // Of requests and reports the place's owner takes care.
            PlaceAction::Report(_)
            | PlaceAction::Run(_)
            | PlaceAction::Refuse(..)
            | PlaceAction::Forward(..)
            | PlaceAction::Answer(_)
            | PlaceAction::AnswerUnknown(_) => {}
        }
    }

    /// What the application is asked for, or is to be.
    fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.queue.iter().chain(self.asked.as_ref().map(|asked| &asked.job))
    }

    /// What is frozen, or was to be, is not to be given away.
    fn give_up_freezing(&mut self) {
        self.host.shared.copies.copies().clear();
        self.interrupt(|job| matches!(job, Job::Freeze(_) | Job::Take(..)));
    }

    /// Nothing is to be taken over any more.
    fn give_up_taking(&mut self) {
        self.warming = None;
        self.fetching = None;
        self.interrupt(|job| matches!(job, Job::Restore(..)));
    }

    /// The application is not to be asked for these any more, as far as it was not.
    fn interrupt(&mut self, which: impl Fn(&Job) -> bool) {
        self.queue.retain(|job| !which(job));
        if let Some(asked) = self.asked.take_if(|asked| which(&asked.job))
            && !asked.leash.rests.get()
        {
            asked.leash.is_unwanted.set(true);
            self.asked = Some(asked);
        }
    }

    fn fetch(&mut self, copy: Copy, have: u64) {
        let is_at_it = self.fetching.as_ref().is_some_and(|fetching| fetching.copy == copy)
            || self.jobs().any(|job| matches!(job, Job::Restore(restoring, ..) if *restoring == copy));
        // Commands come again until they are seen to be followed: it may be here by now.
        let is_wanted = self.host.hosted.with(|place, _, _| place.progress().is_some());
        if is_at_it || !is_wanted {
            return;
        }
        self.give_up_taking();
        let host = self.host.clone();
        let (migration, most) = (host.migration(), host.hosted.stateful().max_bytes);
        if copy.bytes > most {
            tracing::error!(
                migration,
                bytes = copy.bytes,
                most,
                "the state is larger than its Service allows"
            );
            host.hosted.with(|place, _, out| place.too_large(copy, out));
            return;
        }
        let Some(at) = host.hosted.from() else {
            tracing::error!(migration, "nobody said where the state is to be fetched");
            return;
        };
        tracing::info!(migration, round = copy.round, bytes = copy.bytes, have, from = %at, "fetches the state");
        let from = From { at, migration, copy, token: host.hosted.token() };
        let kept = self.line.clone();
        let work = Box::pin(async move {
            let mut line = kept.take();
            let mut into = Gathering::new(copy.bytes);
            let took = |offset, bytes| {
                host.hosted.with(|place, _, _| {
                    let takes = matches!(place.stand(), Stand::Warm | Stand::Copied { .. });
                    takes && place.fetched(copy, offset, bytes)
                })
            };
            let fetched = transfer::fetch(&host.shared, &from, &mut line, &mut into, took).await;
            kept.set(line);
            fetched.map(|()| into.finish())
        });
        self.fetching = Some(Fetching { copy, began: Instant::now(), work });
    }

    fn fetched(&mut self, state: Result<State, FetchError>) {
        let Some(Fetching { copy, began, .. }) = self.fetching.take() else { return };
        let (migration, took) = (self.host.migration(), began.elapsed());
        let came_of = |state: &State| match (copy.base, &self.taken) {
            (0, _) => state.digest(),
            (base, Some(last)) if (last.migration, last.round) == (migration, base) => {
                followed_by(last.digest, state.digest())
            }
            // It builds on what is not here.
            _ => Digest([0; 32]),
        };
        match state.map(|state| (came_of(&state), state)) {
            Ok((digest, state)) if digest == copy.digest => {
                tracing::info!(
                    migration,
                    round = copy.round,
                    bytes = copy.bytes,
                    ?took,
                    "has fetched the state"
                );
                self.queue.push_back(Job::Restore(copy, state, digest));
            }
            Ok((digest, _)) => {
                tracing::error!(
                    migration,
                    round = copy.round,
                    "what was fetched is not the state that was given"
                );
                self.host.hosted.with(|place, _, out| place.restored(copy, digest, out));
            }
            Err(fault) => tracing::info!(migration, round = copy.round, %fault, "the state is not fetched"),
        }
    }

    /// Asks the application for what is next, unless it is being asked for something.
    fn next(&mut self) {
        if self.asked.is_some() || self.queue.is_empty() {
            return;
        }
        // Whatever it was before: what it does from here on it does as it is now.
        if self.has_begun_again() {
            self.lose();
        }
        let Some(job) = self.queue.pop_front() else { return };
        let (host, leash) = (self.host.clone(), Rc::<Leash>::default());
        let its = leash.clone();
        let work: Work<Done> = match &job {
            Job::Freeze(_) => {
                self.is_frozen = true;
                Box::pin(
                    async move { Done::Frozen(host.ask(Hook::Freeze, async |app| app.freeze().await).await) },
                )
            }
            Job::Take(ticket, round) => {
                leash.rests.set(true);
                let since = self.given.clone().filter(|last| last.migration == ticket.migration);
                let is_last = round.is_none();
                Box::pin(async move { Done::Taken(host.take(since, is_last).await) })
            }
            Job::Thaw => {
                // Whoever waits here is not to wait for ever.
                let is_waited_for =
                    host.hosted.with(|place, _, _| matches!(place.stand(), Stand::Opening { .. }));
                let tries = if is_waited_for { THAW_TRIES } else { u32::MAX };
                Box::pin(async move { Done::Thawed(host.thaw(tries, &its).await) })
            }
            // What has changed is taken once: who knows what came of it where that fails.
            Job::Restore(copy, changes, _) if copy.base > 0 => {
                let changes = changes.clone();
                Box::pin(async move { Done::Restored(host.patch(&changes).await) })
            }
            Job::Restore(_, state, _) => {
                let state = state.clone();
                let restore = async move |app: &Application<'_>| app.restore(&state).await;
                Box::pin(async move {
                    Done::Restored(host.try_often(Hook::Restore, RESTORE_TRIES, &its, restore).await)
                })
            }
            Job::Open => {
                let is_frozen = self.is_frozen || host.hosted.stateful().access == StateAccess::Redis;
                Box::pin(async move { Done::Opened(!is_frozen || host.thaw(THAW_TRIES, &its).await) })
            }
            Job::Recover => {
                let is_frozen = self.is_frozen;
                Box::pin(async move {
                    let is_there = host.recover(RESTORE_TRIES, &its).await;
                    Done::Opened(is_there && (!is_frozen || host.thaw(THAW_TRIES, &its).await))
                })
            }
        };
        self.asked = Some(Asked { job, leash, began: Instant::now(), work });
    }

    fn done(&mut self, done: Done) {
        let Some(Asked { job, leash, began, .. }) = self.asked.take() else { return };
        // To look takes milliseconds where there are many sockets. What comes behind these two is looked at before anybody goes by it.
        let is_amid = matches!(job, Job::Freeze(_) | Job::Take(_, Some(_)));
        if !is_amid && self.has_begun_again() {
            // What it did, it did not do for long, or has nothing of what was before.
            self.lose();
            if let Job::Restore(copy, ..) = job {
                self.host.hosted.with(|place, _, out| place.not_restored(copy, out));
            }
            return;
        }
        let (hosted, took) = (self.host.hosted.clone(), began.elapsed());
        match (job, done) {
            (Job::Freeze(ticket), Done::Frozen(Ok(()))) => {
                tracing::info!(migration = ticket.migration, ?took, "the application is frozen");
                if !leash.is_unwanted.get() {
                    self.queue.push_front(Job::Take(ticket, None));
                }
            }
            (job @ (Job::Freeze(_) | Job::Take(..)), Done::Frozen(Err(fault)) | Done::Taken(Err(fault))) => {
                let (migration, side) = (self.host.migration(), fault.fault.side());
                tracing::warn!(migration, ?took, %fault, ?side, "the state is not given");
                // Who waits here waits no longer.
                let is_round = matches!(job, Job::Take(_, Some(_)));
                if !leash.is_unwanted.get() {
                    hosted.with(|place, _, out| match is_round {
                        true => place.not_copied(out),
                        false => place.not_frozen(out),
                    });
                }
            }
            (Job::Take(ticket, round), Done::Taken(Ok((given, builds_on)))) => {
                self.gave(ticket, round, given, builds_on, took);
            }
            (Job::Thaw, Done::Thawed(true)) => {
                self.is_frozen = false;
                tracing::info!(migration = self.host.migration(), ?took, "the application goes on as before");
                hosted.with(|place, _, out| place.thawed(out));
            }
            (Job::Thaw, Done::Thawed(false)) if !leash.is_unwanted.get() => {
                tracing::error!(
                    migration = self.host.migration(),
                    ?took,
                    "the application is not thawed: it serves as it is, and is asked again"
                );
                hosted.with(|place, _, out| place.thawed(out));
                self.queue.push_back(Job::Thaw);
            }
            (Job::Restore(copy, _, digest), Done::Restored(true)) => {
                let (migration, bytes) = (self.host.migration(), copy.bytes);
                tracing::info!(
                    migration,
                    round = copy.round,
                    bytes,
                    ?took,
                    "the application has taken the state"
                );
                self.taken = Some(Last { migration, round: copy.round, digest, version: None });
                hosted.with(|place, _, out| place.restored(copy, digest, out));
            }
            // Who is parked elsewhere waits for an answer.
            (Job::Restore(copy, ..), Done::Restored(false)) if !leash.is_unwanted.get() => {
                tracing::error!(
                    migration = self.host.migration(),
                    round = copy.round,
                    ?took,
                    "the application does not take the state"
                );
                hosted.with(|place, _, out| place.not_restored(copy, out));
            }
            (Job::Open | Job::Recover, Done::Opened(is_open)) if !leash.is_unwanted.get() => {
                self.is_frozen &= !is_open;
                tracing::info!(
                    migration = self.host.migration(),
                    is_open,
                    ?took,
                    "the state is served from here"
                );
                hosted.journal().begins(self.listeners.clone());
                hosted.with(|place, _, out| place.opened(is_open, out));
            }
            _ => {}
        }
    }

    /// The application has given its state, or what has changed since what it `builds_on`: others may fetch it.
    fn gave(
        &mut self,
        Ticket { migration, token }: Ticket,
        round: Option<u32>,
        Given { state, version }: Given,
        builds_on: Option<Last>,
        took: Duration,
    ) {
        let bytes = state.bytes();
        let base = builds_on.as_ref().map_or(0, |last| last.round);
        let digest = match builds_on {
            Some(last) => followed_by(last.digest, state.digest()),
            None => state.digest(),
        };
        let copies = self.host.shared.copies.copies();
        let kept = self.host.hosted.with(|place, _, out| {
            match round {
                Some(round) => place.copied(Copy { round, base, bytes, digest, last: false }, out),
                None => place.frozen(digest, bytes, base > 0, out),
            }
            let copy = place.copy().filter(|copy| copy.digest == digest && copy.last == round.is_none())?;
            // Before anybody hears of it.
            copies.keep(migration, copy.round, token, state);
            Some(copy.round)
        });
        match kept {
            Some(round) => {
                self.given = Some(Last { migration, round, digest, version });
                tracing::info!(migration, round, base, bytes, ?took, "the application has given its state")
            }
            None => tracing::info!(migration, bytes, ?took, "the application has given its state too late"),
        }
    }

    /// Whether the application is there was looked at.
    fn look(&mut self, is_there: bool) {
        let was_there = std::mem::replace(&mut self.was_there, is_there);
        if was_there && !is_there {
            // Who listens next is not another one than this.
            self.listeners = None;
            self.lose();
        } else if self.has_begun_again() {
            self.lose();
        }
    }

    /// Whether the application listens at other sockets than before, so that it is another process, with nothing in memory.
    fn has_begun_again(&mut self) -> bool {
        let Some(now) = self.host.listeners() else { return false };
        let stays = self.listeners.iter().flatten().any(|before| now.contains(before));
        let before = self.listeners.replace(now);
        before.is_some() && !stays
    }

    /// What the application had in memory is gone.
    fn lose(&mut self) {
        let hosted = self.host.hosted.clone();
        let (stand, before) = hosted.with(|place, _, _| (place.stand(), place.incarnation()));
        // What was to be of use is in the application's memory.
        let is_lost = matches!(
            stand,
            Stand::Copied { .. }
                | Stand::Ready { .. }
                | Stand::Opening { .. }
                | Stand::Serving { .. }
                | Stand::Parking { .. }
                | Stand::Frozen { .. }
        );
        // Whatever it was asked for, one that is gone has not done it, nor has one that begins anew.
        self.is_frozen = false;
        if !is_lost {
            return;
        }
        tracing::warn!(?stand, "the application is gone, and with it the state that it had here");
        self.give_up_taking();
        self.host.shared.copies.copies().clear();
        self.queue.clear();
        self.asked = None;
        (self.given, self.taken) = (None, None);
        hosted.renew(super::incarnation(Some(before)));
    }
}

/// What a place is, and of which epoch, for people.
const fn phase(stand: Stand) -> (&'static str, Option<u64>) {
    match stand {
        Stand::Empty => ("empty", None),
        Stand::Reserved => ("reserved", None),
        Stand::Warm => ("warm", None),
        Stand::Copied { .. } => ("copied", None),
        Stand::Ready { .. } => ("ready", None),
        Stand::Opening { epoch } => ("opening", Some(epoch.0)),
        Stand::Serving { epoch } => ("serving", Some(epoch.0)),
        Stand::Parking { epoch } => ("parking", Some(epoch.0)),
        Stand::Frozen { epoch } => ("frozen", Some(epoch.0)),
        Stand::Moved => ("moved", None),
        Stand::Drained { .. } => ("drained", None),
        Stand::Void { .. } => ("void", None),
    }
}

/// A connection to where the state will be fetched, if that is known and gets on.
async fn ahead(host: &Host) -> Option<Line> {
    let at = host.hosted.from()?;
    let opened = timeout(AHEAD, Line::open(&host.shared, at)).await;
    opened.ok()?.inspect_err(|fault| tracing::debug!(%fault, "no connection ahead")).ok()
}

async fn ended<T>(work: Option<&mut Work<T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// How often an application is asked to take a state, within some two seconds.
const RESTORE_TRIES: u32 = 5;

/// How often an application that is about to serve is asked to go on as before.
const THAW_TRIES: u32 = 3;

/// How long a place that is warmed waits for the connection by which it will fetch the state.
const AHEAD: Duration = Duration::from_secs(1);
