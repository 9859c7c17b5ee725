//! The parts of a [`World`](super::world::World).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::*;

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A client asks for the next thing.
    Call(usize),
    /// A request comes to a place, or the news that its caller is gone.
    Up(usize),
    /// A request runs.
    Run(usize, usize),
    /// What a place has asked its service for is done, or fails.
    Hook(usize, bool),
    /// Half of a copy comes.
    Fetch,
    /// An answer comes to the sidecar of callers.
    Down(usize),
    /// It sees that the link is lost.
    Notice(usize),
    Break(usize),
    /// What was sent on comes.
    Forward,
    /// The sidecar of callers learns where the service is.
    Push,
    /// The store does what it is asked for.
    Store(usize),
    StoreAnswer,
    Switched,
    /// A message comes.
    Net(usize),
    ZombieAgain,
    /// A phase takes too long.
    Late,
    /// What was not answered is said again.
    Again,
    PlaceLate(usize),
    SidecarLate,
    /// The sidecar of callers loses the control plane.
    LetGo,
    Abort,
    /// The control plane takes it that the old place is not there any more.
    Gone,
    Vouch(usize),
    Die(Actor),
    /// The control plane dies, and what it was about to write is written.
    DieWritten,
    Restart(usize),
    RestartControl,
    RestartSidecar,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Net {
    ToPlace(Role, Command),
    FromPlace(Role, Report),
    ToHolder(Stamp, HoldOrder),
}

#[derive(Clone, Hash)]
pub(super) struct Store {
    pub(super) cell: Cell,
    pub(super) records: Vec<Record>,
    /// What has yet to be written. Whoever dies before that has not written it.
    pub(super) unwritten: Vec<Record>,
    /// The new place was seen to serve.
    pub(super) was_active: bool,
    pub(super) asks: BTreeSet<Transaction>,
    pub(super) answer: Option<Cell>,
}

/// The sidecar of callers: what waits there, and the requests that are under way, each with its attempts.
#[derive(Clone, Hash)]
pub(super) struct Sidecar {
    pub(super) holder: Holder,
    /// Where the service is, as far as it was told.
    pub(super) route: (PlaceId, Epoch),
    /// At a place, on their way there, or held.
    pub(super) sent: BTreeMap<RequestId, Sent>,
    /// Given back, and until when they wait.
    pub(super) waiting: BTreeMap<RequestId, (Sent, Duration)>,
    pub(super) room: Room,
    /// What each of them takes.
    pub(super) bytes: u64,
}

/// A request of a caller that is under way.
#[derive(Clone, Hash)]
pub(super) struct Sent {
    pub(super) attempts: Attempts,
    pub(super) known: Known,
    pub(super) to: PlaceId,
    /// How many attempts it had before.
    pub(super) tries: u8,
    /// It has one more by itself, if it was not executed.
    pub(super) is_free: bool,
}

/// A place, and the service behind it.
#[derive(Clone, Hash)]
pub(super) struct Body {
    pub(super) place: Place,
    /// What the register holds.
    pub(super) value: u64,
    pub(super) running: Vec<RequestId>,
    /// Of them.
    pub(super) cut: BTreeSet<RequestId>,
    /// What was read by what has run.
    pub(super) reads: BTreeMap<RequestId, Option<u64>>,
    pub(super) origins: BTreeMap<RequestId, Origin>,
    pub(super) hook: Option<PlaceAction>,
    /// What can be fetched.
    pub(super) copy: Option<(Copy, u64)>,
    pub(super) fetching: Option<(Copy, u64)>,
    pub(super) fetched: Vec<u64>,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Origin {
    /// Over this life of the link.
    Link(u64),
    /// From the other place in this life.
    Place(u64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) next: usize,
    pub(super) waits: Option<u64>,
    pub(super) done: u8,
    pub(super) unknown: u8,
    pub(super) failed: u8,
}

/// Between the sidecar of callers and a place.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Link {
    pub(super) life: u64,
    pub(super) up: VecDeque<Up>,
    pub(super) down: VecDeque<Down>,
    /// Not answered yet.
    pub(super) open: BTreeSet<RequestId>,
    pub(super) broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Up {
    /// Whether its sidecar says that it is kept there.
    Request(RequestId, bool),
    Gone(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Down {
    Done(RequestId, Option<u64>),
    Unknown(RequestId),
    Refused(RequestId, Refusal),
}

impl Store {
    pub(super) fn write(&mut self) {
        self.records.append(&mut self.unwritten);
    }

    pub(super) fn write_what_binds(&mut self) {
        if self.unwritten.iter().any(Record::binds) {
            self.write();
        }
    }
}

impl Sent {
    /// Whether it says where it goes that it is kept.
    pub(super) fn says_kept(&self) -> bool {
        self.known.is_kept && self.attempts.may_return()
    }
}

impl Body {
    pub(super) fn new(place: Place) -> Body {
        Body {
            place,
            value: 0,
            running: Vec::new(),
            cut: BTreeSet::new(),
            reads: BTreeMap::new(),
            origins: BTreeMap::new(),
            hook: None,
            copy: None,
            fetching: None,
            fetched: Vec::new(),
        }
    }

    /// Whether what it has asked its service for may fail.
    pub(super) fn fails(&self) -> bool {
        self.hook.is_some_and(|hook| hook != PlaceAction::Freeze)
    }
}

/// The number of the `index`th request of a client.
pub(super) fn number(client: usize, index: usize) -> u64 {
    (client * 16 + index) as u64
}

/// What a request is called at a place when it is tried for the how manieth time.
pub(super) fn key(id: RequestId, tries: u8) -> RequestId {
    RequestId(id.0 * 128 + u64::from(tries))
}

pub(super) fn op_of(scripts: &[&[Op]], id: u64) -> Op {
    scripts[(id / 16) as usize][(id % 16) as usize]
}
