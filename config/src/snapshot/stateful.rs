//! The state that a Service keeps, as a snapshot has it.

use std::sync::Arc;
use std::time::Duration;

/// What a Service keeps between requests, and how it is moved: one instance of it serves at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stateful {
    /// What becomes of the state when whoever has it dies.
    pub class: StateClass,
    /// The port of the Service at which the application gives its state and takes it.
    pub port: u16,
    /// How it does that.
    pub access: StateAccess,
    /// How long each thing that it is asked for may take.
    pub timeout: Duration,
    /// No state is longer, in bytes.
    pub max_bytes: u64,
    /// How much may wait at the old place while it moves.
    pub park: Park,
    /// What becomes of streams that run on as it is to move.
    pub streams: Streams,
    /// What becomes of it when whoever has it is to drain.
    pub on_drain: OnDrain,
    /// Of a state that is journaled: what becomes of requests while nobody keeps the journal.
    pub when_alone: WhenAlone,
    /// Whether it moves by itself to where it is served better.
    pub moves: Moves,
}

/// When a Service's state moves, beside before a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moves {
    /// Who asks for it.
    pub when: MoveWhen,
    /// What a move saves counts for so long. Of the control plane alone, as what follows.
    pub horizon: Duration,
    /// By how much that has to be more than what the move costs, in percent of the cost.
    pub margin_percent: u32,
    /// So long it stays where it has come, and so long another place has to be the better one.
    pub settle: Duration,
}

impl Default for Moves {
    fn default() -> Self {
        Moves {
            when: MoveWhen::Asked,
            horizon: Duration::from_secs(600),
            margin_percent: 50,
            settle: Duration::from_secs(30),
        }
    }
}

/// Who asks for a Service's state to move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MoveWhen {
    /// People, by a Migration.
    #[default]
    Asked,
    /// The control plane as well, where it would be served better elsewhere.
    Gain,
}

impl MoveWhen {
    /// Each of them.
    pub const ALL: [MoveWhen; 2] = [MoveWhen::Asked, MoveWhen::Gain];

    /// Its word in resources and on the wire.
    pub const fn label(self) -> &'static str {
        match self {
            MoveWhen::Asked => "asked",
            MoveWhen::Gain => "gain",
        }
    }
}

/// What becomes of requests to a Service whose state is journaled while no other instance can keep the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenAlone {
    /// They are not executed.
    #[default]
    Refuse,
    /// They are answered, and what they change is in no journal.
    Serve,
}

impl WhenAlone {
    /// Each of them.
    pub const ALL: [WhenAlone; 2] = [WhenAlone::Refuse, WhenAlone::Serve];

    /// Its word in resources and on the wire.
    pub const fn label(self) -> &'static str {
        match self {
            WhenAlone::Refuse => "refuse",
            WhenAlone::Serve => "serve",
        }
    }
}

/// What becomes of streams that have not ended in time when a Service's state is to move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Streams {
    /// It does not move.
    #[default]
    Wait,
    /// They are cut.
    Cut,
}

impl Streams {
    /// Each of them.
    pub const ALL: [Streams; 2] = [Streams::Wait, Streams::Cut];

    /// Its word in resources and on the wire.
    pub const fn label(self) -> &'static str {
        match self {
            Streams::Wait => "wait",
            Streams::Cut => "cut",
        }
    }
}

/// What becomes of a Service's state when whoever has it is to drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnDrain {
    /// It moves to another instance first, where one can take it.
    #[default]
    Move,
    /// Nobody sees to it.
    Stay,
}

impl OnDrain {
    /// Each of them.
    pub const ALL: [OnDrain; 2] = [OnDrain::Move, OnDrain::Stay];

    /// Its word in resources and on the wire.
    pub const fn label(self) -> &'static str {
        match self {
            OnDrain::Move => "move",
            OnDrain::Stay => "stay",
        }
    }
}

impl Stateful {
    /// The function whose keys and values are the state, where they are.
    pub fn function(&self) -> Option<&str> {
        match &self.access {
            StateAccess::Http(hooks) => hooks.function(),
            StateAccess::Redis => None,
        }
    }
}

/// What becomes of a Service's state when whoever has it dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StateClass {
    /// It is in memory: it is lost, and that is said.
    #[default]
    Volatile,
    /// Another instance's sidecar has what was acknowledged, and that one serves.
    Journaled,
}

impl StateAccess {
    /// Whether what has changed since a copy can be asked for by itself.
    pub const fn gives_changes(&self) -> bool {
        match self {
            StateAccess::Http(hooks) => hooks.changes.is_some(),
            StateAccess::Redis => false,
        }
    }
}

impl StateClass {
    /// Each of them.
    pub const ALL: [StateClass; 2] = [StateClass::Volatile, StateClass::Journaled];

    /// Its word in resources and on the wire.
    pub const fn label(self) -> &'static str {
        match self {
            StateClass::Volatile => "volatile",
            StateClass::Journaled => "journaled",
        }
    }
}

/// How an application gives its state and takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateAccess {
    /// By requests that the Service names, in HTTP/1.1.
    Http(Hooks),
    /// As Redis does between a master and its replicas.
    Redis,
}

/// Requests to an application by which it gives its state and takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// The path of a GET that is answered with all of the state.
    pub snapshot: Arc<str>,
    /// The path of a PUT whose body takes the place of all of the state.
    pub restore: Arc<str>,
    /// The path of a GET that is answered with what has changed since a version, which a PATCH at `restore` takes.
    pub changes: Option<Arc<str>>,
    /// The path of a POST after which nothing changes the state but requests.
    pub freeze: Option<Arc<str>>,
    /// The path of a POST that ends that.
    pub thaw: Option<Arc<str>>,
}

impl Hooks {
    /// Those of a device, by which it gives and takes what a function of this name remembers. No path of a function is like
    /// them, since `~` is in no name.
    pub fn of_function(name: &str) -> Self {
        let all: Arc<str> = format!("{FUNCTIONS}{name}").into();
        let path = |what: &str| Some(format!("{all}/{what}").into());
        Hooks {
            changes: Some(all.clone()),
            freeze: path("freeze"),
            thaw: path("thaw"),
            restore: all.clone(),
            snapshot: all,
        }
    }

    /// The function whose keys and values are the state, where they are.
    pub fn function(&self) -> Option<&str> {
        self.snapshot.strip_prefix(FUNCTIONS)
    }
}

/// What the paths begin with by which a device gives and takes what its functions remember.
pub const FUNCTIONS: &str = "/~state/";

/// How much may wait at a place while it is not known who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Park {
    /// Requests.
    pub requests: u32,
    /// Bytes of memory that they take.
    pub bytes: u64,
    /// How long one waits, whatever its own deadline.
    pub wait: Duration,
}

impl Default for Park {
    fn default() -> Self {
        Park { requests: 1024, bytes: 16 << 20, wait: Duration::from_secs(15) }
    }
}
