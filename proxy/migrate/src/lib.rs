//! Moves a service from one place to another so that no request notices.
//!
//! Machines without a socket and without a clock of their own: the [`Coordinator`] of the control plane, the [`Place`] on the
//! inbound side of a sidecar, which gives a service away or takes it over, and on the outbound side of callers' sidecars the
//! [`Holder`], and of each request its [`Attempts`]. They take what has happened and when, and say what is to be done. Messages between them
//! may come late, twice, in another order, or never; each of them may die at any moment.
//!
//! What holds, and is held against these types by a model check:
//! * Of an epoch one place serves, in one of its lives; of two places one serves, except of a stateless service. Nobody serves
//!   only from the moment at which the old place quiesces to the decision and what follows from it.
//! * Who decides is the store: [Fence and Abort](Decision) compete for one [transaction](Cell::apply).
//! * Every request has one answer while its caller's sidecar lives, perhaps an error that says that it
//!   [may have run](Attempts::may_have_run). Nothing runs twice unless it was declared repeatable.
//! * What was acknowledged is there, or its loss is [reported](Cell::losses) where the [class](Class) of the state allows it to
//!   be lost at all; [`Toll`] says what costs what.
//! * What is held and parked is [bounded](Bounds).
//!
//! Moments are durations since one that the caller chooses.

mod attempts;
mod cell;
mod class;
mod coordinator;
mod history;
mod hold;
mod id;
pub mod journal;
mod message;
#[cfg(test)]
mod model;
mod phase;
mod place;
mod planted;
mod queue;
mod room;
mod rules;

pub use attempts::{Attempts, Ended, Known, Next, To};
pub use cell::{Cell, Decision, Digest, Owner, Source, Transaction};
pub use class::{Actor, Class, Ending, InFlight, State, Toll};
pub use coordinator::{Action, Cause, Coordinator, Plan, Record};
pub use history::{History, Op, Violation};
pub use hold::{Call, HoldAction, HoldOrder, Holder};
pub use id::{Epoch, HolderId, Incarnation, PlaceId, RequestId, Role, SourceId, Stamp};
pub use message::{Command, Copy, Declined, Order, Report, Stand, Unfrozen, Why};
pub use phase::Phase;
pub use place::{Action as PlaceAction, Arrival, End, Kind, Place, Refusal, RefusalCause, Running, Verdict};
pub use queue::{Counts, Queue, Waiting};
pub use room::Room;
pub use rules::{Bounds, Rules, Streams};
