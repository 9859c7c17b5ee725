//! The programmable interface of a device.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::contents::{Contents, NotMovable};
use crate::meter::Meter;
use crate::status::{Fault, Status};

/// A node that runs functions near data.
pub trait Device: Send + Sync {
    /// What it is, what it holds, and what it can run.
    fn discover(&self) -> Description;

    /// Makes the function of this name ready to be activated. May take seconds, for one whose code has to be compiled.
    fn load(&self, name: &str) -> Result<FunctionId, Fault>;

    /// Lets a loaded function be run. Once more does no harm.
    fn activate(&self, function: FunctionId) -> Result<(), Fault>;

    /// Runs a function over a dataset, on this thread and until it ends. What it gives goes to `out` as it comes.
    fn run(&self, request: &Request<'_>, out: &mut dyn Out) -> Outcome;

    /// Forgets a loaded function that does not run, and frees what its code takes.
    fn unload(&self, function: FunctionId) -> Result<(), Fault>;

    /// What a function of this name remembers, loaded or not.
    fn contents(&self, function: &str) -> Result<Arc<dyn Contents>, NotMovable>;

    /// The last calls of [`Device::run`], oldest first.
    fn log(&self) -> Vec<Entry>;
}

/// What kind of machine a device is. It changes where and how fast functions run, never what they give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// An ordinary server.
    Host,
    /// Computational storage: a processor in a drive.
    Csd,
    /// Computational memory.
    Cpm,
    /// A network card with processors.
    Dpu,
    /// A graphics processor.
    Gpu,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 5] = [Class::Host, Class::Csd, Class::Cpm, Class::Dpu, Class::Gpu];
}

/// How a dataset, or a result, is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// RFC 4180 with a header. Its cells have no types: one that reads as a number is compared as one.
    Csv,
    /// A JSON object a line.
    Jsonl,
    /// Apache Parquet, flat columns. Datasets only.
    Parquet,
}

/// A file that functions read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// What requests call it.
    pub name: String,
    /// The only version that is here.
    pub version: String,
    /// Where it is.
    pub path: PathBuf,
    /// How it is written.
    pub format: Format,
    /// Whose it is: [programs](crate::Program) of other tenants do not see it.
    pub tenant: String,
}

/// What one run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Most bytes of records, pages, groups and buffers that it holds at once.
    pub memory_bytes: u64,
    /// Most rows of its result.
    pub rows_out: u64,
    /// Most bytes of its result.
    pub bytes_out: u64,
    /// Longest time from its start to its end, however slowly its result is read. One that has to wait for others before it starts
    /// waits no longer either.
    #[serde(skip)]
    pub deadline: Duration,
}

impl Limits {
    /// When a run that starts now has to have ended.
    pub(crate) fn until(&self, now: Instant) -> Instant {
        // A time that cannot be told never comes.
        now.checked_add(self.deadline).unwrap_or(now + Duration::from_secs(u32::MAX.into()))
    }

    /// The lower of both, each by itself.
    pub(crate) fn within(self, other: &Limits) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            rows_out: self.rows_out.min(other.rows_out),
            bytes_out: self.bytes_out.min(other.bytes_out),
            deadline: self.deadline.min(other.deadline),
        }
    }
}

/// How a device is made.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What kind of machine it is.
    pub class: Class,
    /// What it holds. No two have one name.
    pub datasets: Vec<Dataset>,
    /// What one run may take.
    pub limits: Limits,
    /// What all runs together read in a second, in bytes: a slow medium, emulated. None: as fast as the machine can.
    pub media_bytes_per_second: Option<u64>,
    /// What keys and values of one function that is built in may take, in bytes. Those of programs are their runtime's affair.
    pub key_bytes: u64,
}

/// A loaded function. Never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct FunctionId(pub u32);

/// What a device says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// What kind of machine it is.
    pub class: Class,
    /// What can be loaded, and how each stands.
    pub functions: Vec<FunctionInfo>,
    /// What it holds: name, version and format.
    pub datasets: Vec<(String, String, Format)>,
    /// What one run may take.
    pub limits: Limits,
    /// What all runs together read in a second, where a slow medium is emulated.
    pub media_bytes_per_second: Option<u64>,
}

/// One function of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionInfo {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub kind: Kind,
    /// SHA-256 of its program, in hexadecimal, where it is a component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What of its memory lasts from one run to the next, where it is a component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryKind>,
    /// Why what it remembers cannot be moved to another device, where it is a component and that cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_movable: Option<String>,
    /// What it takes while it is active, in bytes: its code, and what one run may take; or all that a process is said to take.
    pub memory_bytes: u64,
    /// What one run of it may take, where that is not what any run of the device may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Its number, while it is loaded.
    pub id: Option<FunctionId>,
    /// How it stands.
    pub state: FunctionState,
}

/// What a function is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is compiled in.
    BuiltIn,
    /// A WebAssembly component.
    Component,
    /// A process of its own.
    Native,
}

/// What of a component's memory lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryKind {
    /// Nothing: each run has an instance of its own.
    Fresh,
    /// All of it: runs are one after the other in one instance.
    Kept,
}

/// How a function stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionState {
    /// It can be loaded.
    Available,
    /// It is loaded and cannot be run.
    Loaded,
    /// It can be run.
    Active,
}

/// What is asked of a device.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The name of the function.
    pub function: &'a str,
    /// `name` or `name@version`. Of a function that reads no dataset: what it is asked for, as it is said.
    pub dataset: &'a str,
    /// `name=value&…`, percent-encoded as in a URL.
    pub parameters: &'a str,
    /// What was sent along. Functions that are built in take it for more parameters.
    pub body: Option<&'a [u8]>,
}

/// Tells whether whoever asked has left.
pub type Watch = Arc<dyn Fn() -> bool + Send + Sync>;

/// Where a result goes.
pub trait Out: Send {
    /// What the result is, as a media type. Said once, before the first bytes.
    fn begin(&mut self, media_type: &'static str);

    /// The same for a program, which says how it answers in terms of HTTP. Nothing of that changes how its run is counted.
    fn answer(&mut self, status: u16, media_type: String);

    /// The next bytes are the last: with them the run has done what it was asked.
    fn ends(&mut self) {}

    /// Takes the next bytes, and waits as long as there is no room for them, but not after `until`.
    fn write(&mut self, bytes: Vec<u8>, until: Instant) -> Result<(), Stop>;

    /// Has the program that listens at `to` answer whatever was asked, as it was asked, and passes its answer on. What that
    /// takes is told to `meter`. Says how far the answer itself tells that it is whole. Not every one who asks can.
    fn relay(&mut self, _to: SocketAddr, _meter: &Meter) -> Result<Relayed, Fault> {
        Err(Fault::new(Status::Unsupported, "what was asked cannot be passed on from here"))
    }

    /// By what a run that gives nothing for a while sees that nobody waits any more.
    fn watch(&self) -> Watch;
}

/// How the end of an answer that was passed on is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// By its framing: all of it is there.
    Whole,
    /// By nothing but the end of the connection, which also comes when the program dies in the middle (RFC 9112 §8).
    UntilClosed,
}

/// Why no more bytes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Whoever asked has left.
    Gone,
    /// They were not taken in time.
    Late,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why it did not end well. None: it did, and the result is whole.
    pub fault: Option<Fault>,
    /// What it took.
    pub usage: Usage,
}

impl Outcome {
    /// In a word.
    pub fn status(&self) -> Status {
        self.fault.as_ref().map_or(Status::Success, |fault| fault.status)
    }
}

/// What a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Bytes that were read of the dataset.
    pub bytes_read: u64,
    /// Bytes of the dataset that were not read because no row that was asked for, or no column, is in them.
    pub bytes_skipped: u64,
    /// Bytes of the result.
    pub bytes_out: u64,
    /// Datasets of other tenants that were asked for.
    pub denied: u64,
    /// Memories that a function kept between its runs, and that ended with this one.
    pub memories_lost: u64,
    /// Rows that were looked at.
    pub rows_in: u64,
    /// Rows of the result.
    pub rows_out: u64,
}

/// A run that ended, in the log.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Runs that ended before it.
    pub number: u64,
    /// What was asked for.
    pub function: String,
    /// Of which dataset.
    pub dataset: String,
    /// How it ended.
    pub status: &'static str,
    /// Why, where it did not end well.
    pub message: String,
    /// What it took.
    pub usage: Usage,
}
