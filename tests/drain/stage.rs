//! A move of a service with state that is held in one of its phases.
//!
//! | phase | by what it is held |
//! |---|---|
//! | prepare | the new place's sidecar is stopped, and does not say that it has room |
//! | warm | the new application's probe fails |
//! | precopy | the old application does not say yet what has changed since the first round; or, where that is asked for all the time as the state is journaled, the new one does not take it |
//! | quiesce | the old application does not give its state yet |
//! | finalcopy | the new application does not take it yet; or its sidecar is stopped before it fetches |
//! | activate | the new application, which had the state before, does not thaw yet |
//! | switch | a caller's sidecar is stopped, and does not say that it knows |
//! | forward | the old place's sidecar is stopped once its copy is fetched, and does not say that it sends on |
//! | drain_old | the new application does not answer a request that the old place's sidecar has sent on |
//! | done | it is over |
//!
//! Three cannot be held from outside: plan lasts no longer than one look, fence no longer than one transaction, and hold is left in the
//! moment in which it is entered, so that both are written down at once. Of deaths there these tests see to:
//! * `a_death_costs_what_is_said_of_it_in_every_phase` of the model: of everybody, in plan and in fence;
//! * `whoever_dies_one_serves_and_nothing_is_lost_unsaid` of the model: of everybody, between any two steps, also where callers hold;
//! * `whenever_a_control_plane_dies_one_place_serves_what_there_is` of the control plane: of that, before and after each of its writes;
//! * `callers_are_told_to_hold_with_the_old_place_and_nobody_is_waited_for` of the coordinator: there is nothing between hold and quiesce.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use lighter_migrate::Phase;
use rustix::process::Signal;

use crate::callers::Callers;
use crate::migrate::{is_done, is_in, story};
use crate::places::{Place, begin, begin_with, shop};
use crate::registers::App;
use crate::support::raw::{Body, Peer};
use crate::support::{at_rest, wait_until};
use crate::world::{Sidecar, World};

/// A move from `old` to `new`, called `move`.
pub struct Stage {
    /// The phase in which it is held.
    pub at: Phase,
    /// In finalcopy the new place's sidecar is not to fetch anything.
    pub is_unfetched: bool,
    pub world: World,
    pub old: Place,
    pub new: Place,
    /// Where the state is journaled: who keeps the journal.
    pub third: Option<Place>,
    /// A caller beside the one with the load, where one is needed.
    pub other: Option<(Sidecar, SocketAddr)>,
    /// A request that the old place sends on.
    pub stays: Option<JoinHandle<Answer>>,
}

/// So many seconds something may take in a migration.
#[derive(Clone, Copy)]
pub struct Times {
    pub prepare: u64,
    pub quiesce: u64,
    /// How long requests may wait. Less twice `quiesce` it is what the copy may take.
    pub wait: u64,
    pub switch: u64,
    pub drain: u64,
}

/// A status, and the cause that a sidecar names. None: the connection ended.
pub type Answer = Option<(u16, Option<String>)>;

impl Stage {
    /// Begins it, and waits until it is held.
    pub fn set(&mut self, times: Times, callers: &Callers) {
        if self.at == Phase::Activate {
            // One that has been frozen before is thawed before it serves.
            self.move_before(callers);
        }
        self.hold();
        let rounds = if self.copies_ahead() { "" } else { ", precopyRounds: 0" };
        begin_with(&self.world, "move", &self.old, &self.new, &format!("{times}{rounds}"));
        self.arrive();
    }

    /// Moves it, so that the new place is one that has been frozen, and not the one that keeps the journal.
    fn move_before(&mut self, callers: &Callers) {
        for name in ["before", "once more before"].map(|name| name.replace(' ', "-")) {
            begin(&self.world, &name, &self.old, &self.new);
            is_done(&self.world, &name);
            // As soon as something is acknowledged it is decided who keeps the journal of that.
            callers.more_of(&self.new.app.name, 20);
            std::mem::swap(&mut self.old, &mut self.new);
            let Some(third) = &mut self.third else { return };
            if story(&self.world, &name)["standby"] == third.instance {
                return;
            }
            std::mem::swap(&mut self.new, third);
        }
    }

    /// Whether the state is copied in rounds while it is used.
    fn copies_ahead(&self) -> bool {
        matches!(self.at, Phase::Precopy(_))
    }

    /// Sees to it that the phase lasts.
    fn hold(&self) {
        match self.at {
            Phase::Prepare => self.new.sidecar.program.signal(Signal::STOP),
            Phase::Warm => {
                self.new.app.tell("fail/well");
                let is_ready = || self.new.sidecar.metrics().sum("lighter_registry_ready", &[]);
                wait_until("it is not well", || is_ready() == 0.0);
            }
            Phase::Precopy(_) if self.third.is_some() => self.new.app.tell("hold/patch"),
            Phase::Precopy(_) => self.old.app.tell("hold/changes"),
            Phase::Quiesce => self.old.app.tell("hold/snapshot"),
            Phase::Finalcopy if self.is_unfetched => self.old.app.tell("hold/snapshot"),
            Phase::Finalcopy | Phase::Forward => self.new.app.tell("hold/restore"),
            Phase::Activate => self.new.app.tell("hold/thaw"),
            Phase::Switch => self.other().program.signal(Signal::STOP),
            Phase::DrainOld => {
                self.new.app.tell("hold/restore");
                self.new.app.tell("hold/stay");
            }
            _ => {}
        }
    }

    /// Waits until it is there.
    fn arrive(&mut self) {
        let (old, new) = (&self.old, &self.new);
        let waits = |app: &App, what: &str| {
            wait_until(what, || app.count(&format!("{what}.waits")) > 0);
        };
        match self.at {
            Phase::Precopy(_) if self.third.is_some() => waits(&new.app, "patch"),
            Phase::Precopy(_) => waits(&old.app, "changes"),
            Phase::Quiesce => waits(&old.app, "snapshot"),
            Phase::Finalcopy if self.is_unfetched => {
                waits(&old.app, "snapshot");
                new.sidecar.program.signal(Signal::STOP);
                old.app.tell("go/snapshot");
            }
            Phase::Finalcopy => waits(&new.app, "restore"),
            Phase::Activate => waits(&new.app, "thaw"),
            Phase::Forward => {
                waits(&new.app, "restore");
                old.sidecar.program.signal(Signal::STOP);
                new.app.tell("go/restore");
            }
            Phase::DrainOld => {
                waits(&new.app, "restore");
                let parked = || old.sidecar.metrics().sum("lighter_state_parked_total", &[]);
                let before = at_rest(Duration::from_millis(200), parked);
                let door = old.door();
                self.stays = Some(std::thread::spawn(move || {
                    ask(door, "GET /stay HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
                }));
                wait_until("it waits at the old place", || parked() > before);
                new.app.tell("go/restore");
                waits(&new.app, "stay");
            }
            _ => {}
        }
        match self.at {
            Phase::Done => is_done(&self.world, "move"),
            at => is_in(&self.world, at.label()),
        }
    }

    /// Nothing is held any more. Who is dead is not told.
    pub fn release(&self, are_live: [bool; 2]) {
        for (place, is_live) in [&self.old, &self.new].into_iter().zip(are_live) {
            if is_live {
                place.sidecar.program.signal(Signal::CONT);
            }
            for what in ["snapshot", "changes", "restore", "patch", "thaw", "stay"] {
                place.app.tell(&format!("go/{what}"));
            }
            place.app.tell("mend/well");
        }
        if let Some((other, _)) = &self.other {
            other.program.signal(Signal::CONT);
        }
    }

    /// What the applications have done.
    pub fn numbers(&self) -> Vec<u64> {
        self.places().flat_map(|place| place.app.numbers()).collect()
    }

    /// Every instance.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        [&self.old, &self.new].into_iter().chain(&self.third)
    }

    fn other(&self) -> &Sidecar {
        &self.other.as_ref().expect("another caller").0
    }
}

impl Times {
    /// Nothing is to end by its time.
    pub const LONG: Times = Times { prepare: 60, quiesce: 60, wait: 180, switch: 60, drain: 60 };
    /// Who does not answer any more is not waited for for long.
    pub const SHORT: Times = Times { prepare: 60, quiesce: 4, wait: 14, switch: 3, drain: 3 };

    /// The Service with these, as a move of it is to be held in this phase.
    pub fn shop(self, at: Phase) -> String {
        let changes = if matches!(at, Phase::Precopy(_)) { ", changes: /changes" } else { "" };
        shop(&format!("{changes}{}", self.waits()))
    }

    /// The same, with a state that is journaled.
    pub fn journaled(self) -> String {
        crate::journaled::shop(&self.waits())
    }

    fn waits(self) -> String {
        format!(", timeout: 60s, park: {{wait: {}s}}", self.wait)
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Times { prepare, quiesce, switch, drain, .. } = self;
        write!(
            f,
            "prepareTimeout: {prepare}s, quiesceTimeout: {quiesce}s, switchTimeout: {switch}s, drainTimeout: {drain}s"
        )
    }
}

/// Asks once, by a connection of its own.
pub fn ask(door: SocketAddr, request: &str) -> Answer {
    let mut peer = Peer::connect_where_taken(door)?;
    if !peer.try_send(request) {
        return None;
    }
    let head = peer.head()?;
    let Body::Whole(_) = peer.body(&head) else { return None };
    assert!(peer.rest().is_empty(), "one answer");
    Some((head.status(), head.cause().map(str::to_owned)))
}

/// Those that can be held.
pub const PHASES: [Phase; 10] = [
    Phase::Prepare,
    Phase::Warm,
    PRECOPY,
    Phase::Quiesce,
    Phase::Finalcopy,
    Phase::Activate,
    Phase::Switch,
    Phase::Forward,
    Phase::DrainOld,
    Phase::Done,
];

/// Its second round: the new place has a copy.
pub const PRECOPY: Phase = Phase::Precopy(2);
