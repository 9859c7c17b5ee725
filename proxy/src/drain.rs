//! Drain: one state machine, Serving → Lame → Draining → Closed, one deadline.

use std::task::Waker;

/// Where this process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// As usual.
    Serving,
    /// Still accepts, but tells everyone to leave.
    Lame,
    /// Accepts nothing, finishes what runs.
    Draining,
    /// The deadline passed: what runs is cut.
    Closed,
}

/// A worker's connections, and where it stands. One per worker thread, not shared.
pub struct Connections {}

/// A connection that is counted, and woken when the phase changes. Dropping it ends the count.
pub struct Ticket {}

impl Connections {
    /// Where this process stands: one read of a cell.
    pub fn phase(&self) -> Phase {
        unimplemented!()
    }

    /// Counts a connection whose task is woken at every change of phase.
    pub fn enter(&self) -> Ticket {
        unimplemented!()
    }
}

impl Ticket {
    /// Which task to wake. Cheap when it is the same as before.
    pub fn watch(&self, _waker: &Waker) {
        unimplemented!()
    }
}
