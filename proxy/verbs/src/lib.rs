//! RDMA devices: what there is, and queue pairs, regions and completions to use them with.
//!
//! The `ibverbs` crate finds devices and reads their addresses. Its queue pairs can only send, so everything else is a thin
//! layer over libibverbs of our own: [`Context`], [`Domain`], [`Region`], [`CompletionQueue`], [`QueuePair`]. What is
//! made of something keeps it alive, so things end in the order that the library asks for. Only Ethernet with RoCE v2 is
//! supported, on a device's first port.
//!
//! libibverbs is looked for when the first function is called; a machine without it is no special case for a build, and
//! [`Error::NoLibrary`] for a program.

mod completion;
mod context;
mod error;
mod pair;
mod region;
mod trial;

pub use completion::{Completion, CompletionQueue, Status};
pub use context::{Context, Event, Gid, devices};
pub use error::Error;
pub use pair::{Endpoint, Path, QueuePair, Remote, Requests, Write};
pub use region::{Access, Domain, Region};
