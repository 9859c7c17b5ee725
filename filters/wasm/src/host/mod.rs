//! What a component gets from its host.

use std::sync::Arc;

use lighter_functions::keys::Keys;
use lighter_functions::{Call, Fault, Meter, Out, Setup, Status, Stop};
use wasmtime::ResourceLimiter;
use wasmtime::component::{Resource, ResourceTable};

use crate::pages::Scan;

#[allow(unreachable_pub, reason = "what is generated passes these on")]
mod data;
#[allow(unreachable_pub, reason = "what is generated passes these on")]
mod http;
#[allow(unreachable_pub, reason = "what is generated passes these on")]
mod streams;

wasmtime::component::bindgen!({
    path: "wit",
    world: "function",
    imports: { default: trappable },
    with: {
        "wasi:io/error.error": streams::Failure,
        "wasi:io/poll.pollable": streams::Ready,
        "wasi:io/streams.input-stream": streams::Input,
        "wasi:io/streams.output-stream": streams::Output,
        "wasi:http/types.fields": http::Fields,
        "wasi:http/types.incoming-request": http::Asked,
        "wasi:http/types.incoming-body": http::AskedBody,
        "wasi:http/types.future-trailers": http::NoTrailers,
        "wasi:http/types.response-outparam": http::To,
        "wasi:http/types.outgoing-response": http::Answer,
        "wasi:http/types.outgoing-body": http::AnswerBody,
        "lighter:device/datasets.dataset": data::Opened,
    },
});

/// What an entry of the table of resources takes, about.
const ENTRY: u64 = 256;
/// What a component may write of a body before it says what answer that belongs to.
const MOST_PENDING: usize = 64 << 10;
/// An element of a table of a component, in bytes.
const TABLE_ELEMENT: u64 = 16;

/// One run of a component, or those of one that keeps its memory, one after the other.
pub(crate) struct State {
    table: ResourceTable,
    meter: Arc<Meter>,
    pub(crate) limiter: Limiter,
    /// None: nothing was asked of it yet.
    setup: Option<Arc<Setup>>,
    tenant: Arc<str>,
    keys: Arc<Keys>,
    out: Sink,
    /// Who looks at the memory, while somebody does.
    pub(crate) scan: Option<Scan>,
    /// What is asked, until the component has it.
    asked: Option<http::Asked>,
    answer: Stage,
    body: Body,
    /// What was written before the answer was said.
    pending: Vec<u8>,
}

/// Where an answer goes.
enum Sink {
    /// To whoever asked, as it comes.
    Lent(&'static mut dyn Out),
    /// Here, until the run is over.
    Held(Answered),
}

/// An answer that was given and is still to be passed on.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// Its status and what it is, if it has been said.
    pub(crate) head: Option<(u16, String)>,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// How far the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was said yet.
    Open,
    /// Its status was said, and it may have a body.
    Said,
    /// The component said that it cannot answer.
    Failed,
}

/// How far its body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// Nobody asked for it.
    None,
    /// More may come.
    Open,
    /// Its end was said.
    Whole,
}

impl State {
    pub(crate) fn new(call: &Call<'_>, tenant: Arc<str>, keys: Arc<Keys>, out: &'static mut dyn Out) -> Self {
        State {
            setup: Some(call.setup.clone()),
            out: Sink::Lent(out),
            asked: Some(http::Asked::of(call.request)),
            ..State::unasked(call.meter.clone(), tenant, keys)
        }
    }

    /// Of a component that keeps its memory. Nothing is asked of it yet.
    pub(crate) fn unasked(meter: Arc<Meter>, tenant: Arc<str>, keys: Arc<Keys>) -> Self {
        State {
            table: ResourceTable::new(),
            limiter: Limiter { meter: meter.clone(), held: 0 },
            meter,
            setup: None,
            tenant,
            keys,
            out: Sink::Held(Answered::default()),
            scan: None,
            asked: None,
            answer: Stage::Open,
            body: Body::None,
            pending: Vec::new(),
        }
    }

    /// The next call of a component that keeps its memory, which counts as the call's from now on.
    pub(crate) fn ask(&mut self, call: &Call<'_>) -> Result<(), Fault> {
        self.counted_by(call.meter)?;
        self.setup = Some(call.setup.clone());
        self.out = Sink::Held(Answered::default());
        self.asked = Some(http::Asked::of(call.request));
        (self.answer, self.body) = (Stage::Open, Body::None);
        self.pending.clear();
        Ok(())
    }

    /// From now on what the instance takes is told to this meter.
    pub(crate) fn counted_by(&mut self, meter: &Arc<Meter>) -> Result<(), Fault> {
        meter.hold(self.limiter.held)?;
        self.meter = meter.clone();
        self.limiter.meter = meter.clone();
        Ok(())
    }

    /// By what its time is counted.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// What it answered, where that was to be held here.
    pub(crate) fn answered(&mut self) -> Answered {
        match &mut self.out {
            Sink::Held(answered) => std::mem::take(answered),
            Sink::Lent(_) => Answered::default(),
        }
    }

    /// Whether it has let go of all that it was given and that it opened.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.table.is_empty()
    }

    /// What the component is called with.
    pub(crate) fn begin(&mut self) -> wasmtime::Result<(Resource<http::Asked>, Resource<http::To>)> {
        let asked = self.asked.take().unwrap_or_default();
        Ok((self.push(asked)?, self.push(http::To)?))
    }

    /// The component has returned: whether it gave a whole answer.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        let failed = |why: &str| Fault::new(Status::ErrorInExecution, why);
        match self.answer {
            Stage::Open => Err(failed("the function gave no answer")),
            Stage::Failed => Err(failed("the function said that it cannot answer")),
            Stage::Said if self.body == Body::Open => Err(failed("the function did not finish its answer")),
            Stage::Said => Ok(()),
        }
    }

    /// Puts something into the table, as a part of the run's memory until it is taken away.
    fn push<T: Send + 'static>(&mut self, entry: T) -> wasmtime::Result<Resource<T>> {
        self.meter.hold(ENTRY)?;
        Ok(self.table.push(entry)?)
    }

    fn take<T: 'static>(&mut self, entry: Resource<T>) -> wasmtime::Result<T> {
        let taken = self.table.delete(entry)?;
        self.meter.release(ENTRY);
        Ok(taken)
    }

    /// Bytes that this side holds until the run ends.
    fn hold(&self, bytes: usize) -> wasmtime::Result<()> {
        Ok(self.meter.hold(bytes as u64)?)
    }

    /// Says what answer it is, and what was written before.
    fn say(&mut self, status: u16, media_type: String) -> wasmtime::Result<()> {
        match &mut self.out {
            Sink::Lent(out) => out.answer(status, media_type),
            Sink::Held(answered) => answered.head = Some((status, media_type)),
        }
        self.answer = Stage::Said;
        let pending = std::mem::take(&mut self.pending);
        self.meter.release(pending.len() as u64);
        self.give(pending)
    }

    /// More of the answer's body.
    fn give(&mut self, bytes: Vec<u8>) -> wasmtime::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.answer == Stage::Open {
            if self.pending.len() + bytes.len() > MOST_PENDING {
                let why =
                    format!("the function wrote {MOST_PENDING} bytes before it said what answer that is");
                return Err(Fault::new(Status::ErrorInExecution, why).into());
            }
            self.hold(bytes.len())?;
            self.pending.extend(bytes);
            return Ok(());
        }
        self.meter.check()?;
        self.meter.bytes_out(bytes.len() as u64)?;
        let out = match &mut self.out {
            Sink::Lent(out) => out,
            Sink::Held(answered) => {
                self.meter.hold(bytes.len() as u64)?;
                answered.bytes.extend(bytes);
                return Ok(());
            }
        };
        Ok(out.write(bytes, self.meter.until()).map_err(|stop| stopped(stop, &self.meter))?)
    }
}

/// Why an answer was not taken.
pub(crate) fn stopped(stop: Stop, meter: &Meter) -> Fault {
    match stop {
        Stop::Gone => Fault::new(Status::NotDone, "whoever asked has left"),
        Stop::Late => meter.late(),
    }
}

/// Counts what an instance takes.
pub(crate) struct Limiter {
    meter: Arc<Meter>,
    /// All of it, in bytes.
    held: u64,
}

impl Limiter {
    fn grow(&mut self, bytes: u64) -> wasmtime::Result<bool> {
        self.meter.hold(bytes)?;
        self.held += bytes;
        Ok(true)
    }
}

/// Memory beyond the limit ends the run with a status that says so, rather than with whatever a component makes of it.
impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        most: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if is_above(desired, most) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current) as u64)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Fault::new(Status::NotEnoughMemory, format!("its memory does not grow: {error:#}")).into())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        most: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if is_above(desired, most) {
            return Ok(false);
        }
        self.grow((desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT))
    }
}

/// Whether that is more than a component says itself that there is ever: then it is told that it has failed, and nothing is held.
fn is_above(desired: usize, most: Option<usize>) -> bool {
    most.is_some_and(|most| desired > most)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_does_not_grow_is_not_held() {
        let meter = Meter::unasked(1000, Duration::from_secs(60));
        let mut limiter = Limiter { meter, held: 0 };
        for _ in 0..10 {
            assert!(!limiter.memory_growing(0, 200, Some(199)).unwrap());
            assert!(!limiter.table_growing(0, 20, Some(19)).unwrap());
        }
        assert_eq!(limiter.held, 0);
        assert!(limiter.table_growing(0, 20, Some(20)).unwrap());
        assert!(limiter.memory_growing(0, 680, Some(680)).unwrap());
        assert_eq!(limiter.held, 1000);
        // What the machine does not give ends the run, which is never asked again: nothing is held for it in vain.
        let failed = limiter.memory_grow_failed(wasmtime::Error::msg("no room")).unwrap_err();
        assert_eq!(failed.downcast_ref::<Fault>().unwrap().status, Status::NotEnoughMemory);
    }
}
