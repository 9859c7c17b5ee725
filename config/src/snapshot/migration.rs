//! What a Migration says, with every default filled in.

use std::sync::Arc;
use std::time::Duration;

use super::StateClass;
use crate::name::ServiceName;

/// A Service is to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Which Service.
    pub service: ServiceName,
    /// The instance where it is.
    pub from: Arc<str>,
    /// The instance where it goes.
    pub to: Arc<str>,
    /// What it is taken to keep between requests. None: what it says itself.
    pub class: Option<Keeps>,
    /// How long the new place may take to be registered and healthy.
    pub prepare: Duration,
    /// How long running requests may take to end at the old place of a Service with state.
    pub quiesce: Duration,
    /// In how many rounds the state is copied at most while it serves at the old place, if what has changed can be asked for.
    pub rounds: u32,
    /// How long callers may take to hear of it.
    pub switch: Duration,
    /// How long what runs at the old place is waited for.
    pub drain: Duration,
}

/// What a Service keeps between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing: two instances may serve at once.
    Nothing,
    /// A state of this class: one instance serves at a time.
    State(StateClass),
}

impl Keeps {
    /// Its word in resources: `stateless`, or the class of the state.
    pub const fn label(self) -> &'static str {
        match self {
            Keeps::Nothing => "stateless",
            Keeps::State(class) => class.label(),
        }
    }
}
