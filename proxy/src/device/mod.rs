//! Functions that this sidecar runs near data, as an application of its own.
//!
//! They are asked over HTTP on a loopback port, to which `inbound` leads callers as it does to any application: who may
//! call, mTLS, drain, taps and metrics are those of every service. What functions there are and how they run is the affair
//! of a [`FunctionHost`], which whoever starts the sidecar plugs in.
//!
//! | path | says or does |
//! |---|---|
//! | `GET /` | what the device is, holds and can run, as JSON |
//! | `GET /log` | the last runs, a JSON object a line |
//! | `GET`, `POST /FUNCTION/DATASET[@VERSION]?…` | runs a function; of a POST the body has more parameters, as a form has them, or what else a component reads |
//! | any method, `/FUNCTION…` | of one that is a program of its own: passes the request on to it as it is |
//! | `/~state/FUNCTION…` | for this sidecar's own hooks: gives and takes what a function remembers, where that is the state of its Service |

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lighter_config::sidecar::DeviceConfig;

mod activation;
mod active;
mod body;
mod bucket;
mod busy;
mod counts;
mod hold;
mod limits;
mod main_task;
mod planned;
mod power;
mod priority;
mod relay;
mod reserve;
mod run;
mod serve;
pub(crate) mod state;
mod waits;

pub(crate) use main_task::MainTask;
pub(crate) use planned::{Planned, Standing};
pub(crate) use serve::{Accepting, Running, start};
pub use state::{Contents, NotReplaced};

/// Runs functions over datasets.
pub trait FunctionHost: Send + Sync {
    /// What the device is, holds and can run, as JSON.
    fn describe(&self) -> String;

    /// The last runs, a JSON object a line.
    fn log(&self) -> String;

    /// The functions that can be active here, each once. Where the device's file says that they are planned, none is yet;
    /// otherwise all of them are.
    fn functions(&self) -> Vec<Held>;

    /// Makes one of them active that is not. On this thread, which may take seconds; others can be run meanwhile. Otherwise
    /// says why it cannot be.
    fn activate(&self, function: &str) -> Result<(), String>;

    /// Lets one go that is active and does not run, and frees what it takes. Otherwise says why not.
    fn deactivate(&self, function: &str) -> Result<(), String>;

    /// Runs a function on this thread until it ends.
    fn run(&self, asked: &Asked<'_>, result: &mut dyn Results) -> Ended;

    /// What a function of this name remembers, active or not. Otherwise says why that cannot be moved to another device.
    fn contents(&self, function: &str) -> Result<Arc<dyn Contents>, String> {
        Err(format!("the device has no function `{function}`"))
    }

    /// Has `lost` told of each function that is active and cannot be run any more, through no doing of this trait: it has to be
    /// deactivated before it can be active again. Said at most once, before any is active.
    fn when_lost(&self, _lost: Box<dyn Fn(&str) + Send + Sync>) {}

    /// Processor time so far of what functions run elsewhere than on threads that [`FunctionHost::run`] was called on.
    fn processor_time(&self) -> Duration {
        Duration::ZERO
    }

    /// The sidecar ends: what it started for functions ends too, before this returns.
    fn end(&self) {}
}

/// Makes the host of a device, or says why it cannot be made.
pub type MakeHost = fn(&DeviceConfig) -> Result<Arc<dyn FunctionHost>, String>;

/// A function that can be active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What requests call it.
    pub name: String,
    /// What it takes while it is active, in bytes: its code, and one run.
    pub memory_bytes: u64,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The function's name.
    pub function: &'a str,
    /// The dataset, with `@` and a version if one is meant.
    pub dataset: &'a str,
    /// The parameters of the target, percent-encoded.
    pub parameters: &'a str,
    /// The body of a POST.
    pub body: Option<&'a [u8]>,
}

/// Where the result of a run goes.
pub trait Results: Send {
    /// What the result is, as a media type. Said once, before the first bytes.
    fn begin(&mut self, media_type: &'static str);

    /// The same for a function that says by itself how it answers.
    fn answer(&mut self, status: u16, media_type: String);

    /// Has the program that listens at `to` answer the request as it came, and passes its answer on, but not after `until`. `takes`
    /// is told of each piece of the answer how many bytes it has, before it goes out, and says whether it may.
    fn relay(
        &mut self,
        to: SocketAddr,
        until: Instant,
        takes: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Relayed, NotRelayed>;

    /// The next bytes are the last, after which the run ends at once.
    fn ends(&mut self) {}

    /// Takes the next bytes, and waits as long as the caller takes none, but not after `until`.
    fn write(&mut self, bytes: Bytes, until: Instant) -> Result<(), NotTaken>;

    /// Tells whether the caller has left. It is to be asked every few thousand rows, or steps of whatever a function does, on
    /// the thread that runs it: there the run also rests for a moment where the device's limits have it.
    fn watch(&self) -> Arc<dyn Fn() -> bool + Send + Sync>;
}

/// Why no more bytes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The caller has left.
    Gone,
    /// The caller did not take them in time.
    Late,
}

/// How the end of a program's answer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// By its framing: all of it is there.
    Whole,
    /// By nothing but the end of the connection, which also comes when the program dies in the middle (RFC 9112 §8).
    UntilClosed,
}

/// Why a program's answer did not come, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRelayed {
    /// The caller has left.
    Gone,
    /// It did not come in time.
    Late,
    /// A piece of it may not go out.
    Refused,
    /// The program did not give it: why.
    Lost(String),
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// In a word, which is a metric's label. One of few.
    pub status: &'static str,
    /// The HTTP status that says so, where nothing of the result has gone out yet. 200: the result is whole.
    pub http: u16,
    /// Why it did not end well, for people.
    pub message: String,
    /// What it took.
    pub took: Took,
}

/// What a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// Bytes read of the dataset.
    pub bytes_read: u64,
    /// Bytes of the dataset that did not have to be read.
    pub bytes_skipped: u64,
    /// Bytes of the result.
    pub bytes_out: u64,
    /// Datasets of other tenants that were asked for.
    pub denied: u64,
    /// Memories that a function kept between its runs, and that ended with this one.
    pub memories_lost: u64,
    /// Rows looked at.
    pub rows_in: u64,
    /// Rows of the result.
    pub rows_out: u64,
    /// Processor time.
    pub busy: Duration,
}
