//! Functions that run beside data. A [`Device`] holds datasets at one version each and runs functions over them; what
//! it gives back is a stream of bytes, which are the same on every class of device.
//!
//! The interface is shaped after the SNIA Computational Storage API and NVMe's computational programs: discover, load,
//! activate, run, unload, log. Every run is within limits of memory, output and time, and ends with a [`Status`].
//! [`Builtins`] is a device whose functions are compiled in. No sockets here and no async: a run is a call that returns.

mod builtin;
mod condition;
pub mod conformance;
mod contents;
mod device;
mod encode;
pub mod keys;
mod line;
mod media;
pub mod memory;
mod meter;
mod program;
mod query;
mod range;
mod source;
mod status;
mod value;

pub use builtin::{Builtins, FUNCTIONS};
pub use contents::{At, Contents, Entries, NotGiven, NotMovable, NotReplaced};
pub use device::{
    Class, Dataset, Description, Device, Entry, Format, FunctionId, FunctionInfo, FunctionState, Kind,
    Limits, MemoryKind, Out, Outcome, Relayed, Request, Setup, Stop, Usage, Watch,
};
pub use memory::Memory;
pub use meter::Meter;
pub use program::{Call, Code, Program};
pub use query::Query;
pub use status::{Fault, Status};
