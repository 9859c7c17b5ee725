//! Functions that are not compiled in.

use std::sync::Arc;

use crate::contents::{Contents, NotMovable};
use crate::device::{Kind, Limits, MemoryKind, Out, Request, Setup};
use crate::meter::Meter;
use crate::status::Fault;

/// A function that somebody else wrote, and that the device runs within the same limits as its own.
pub trait Program: Send + Sync {
    /// What requests call it.
    fn name(&self) -> &str;

    /// What it is made of.
    fn kind(&self) -> Kind;

    /// SHA-256 of the program, in hexadecimal: the same on every device that runs the same. None: nobody can tell by that.
    fn digest(&self) -> Option<&str>;

    /// What one run of it may take, as far as that is less than what any run of the device may. None: no less.
    fn limits(&self) -> Option<Limits> {
        None
    }

    /// What of its memory lasts. None: nobody knows.
    fn memory(&self) -> Option<MemoryKind> {
        None
    }

    /// What it remembers from one run to the next, loaded or not.
    fn contents(&self) -> Result<Arc<dyn Contents>, NotMovable> {
        Err(NotMovable::Native(self.name().to_owned()))
    }

    /// What it takes while it is loaded, in bytes, where one run may take `run`.
    fn memory_bytes(&self, run: u64) -> u64;

    /// Gets it ready to run, on this thread, which may take seconds. It takes memory until the last of what this gives is
    /// dropped.
    fn load(&self) -> Result<Arc<dyn Code>, Fault>;
}

/// A program that is loaded.
pub trait Code: Send + Sync {
    /// Runs it on this thread and until it ends.
    fn run(&self, call: Call<'_>, out: &mut dyn Out) -> Result<(), Fault>;
}

/// One run of a program.
pub struct Call<'a> {
    /// What is asked. Nobody has looked yet whether there is such a dataset: that is the program's affair.
    pub request: &'a Request<'a>,
    /// The device, with the datasets of all tenants.
    pub setup: &'a Arc<Setup>,
    /// What the run takes is told to it, and it says when that is too much.
    pub meter: &'a Arc<Meter>,
}
