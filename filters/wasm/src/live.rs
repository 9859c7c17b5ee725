//! An instance of a component that lasts from one call to the next.

use std::collections::VecDeque;
use std::sync::Arc;

use lighter_functions::memory::{BLOCK, PAGE};
use lighter_functions::{Call, Fault, Memory, Meter, Status};
use wasmtime::component::{Func, Instance};
use wasmtime::{Store, UpdateDeadline};

use crate::component::{Compiled, fault};
use crate::host::{Answered, Function, State};
use crate::pages::{Pages, Scan};
use crate::reach;

/// It and its store.
pub(crate) struct Live {
    store: Store<State>,
    function: Function,
    door: Option<Door>,
    pages: Pages,
    /// What was given of its memory: by its version, the one of the keys and values.
    given: VecDeque<(u64, u64)>,
}

/// Where its memory is reached.
#[derive(Clone, Copy)]
struct Door {
    size: Func,
    grow: Func,
    read: Func,
    aim: Func,
    write: Func,
    get: Func,
    set: Func,
    globals: usize,
}

/// How a call ended.
pub(crate) enum Ended {
    /// It may be called again.
    Well(Result<Answered, Fault>),
    /// It is not to be called again.
    Broken(Fault),
}

impl Live {
    /// A new one, whose memory is as its component has it. `globals`: how many there are behind its door, if it has one.
    pub(crate) fn new(
        compiled: &Compiled,
        globals: Option<usize>,
        meter: &Arc<Meter>,
    ) -> Result<Self, Fault> {
        let runtime = &compiled.runtime;
        let state = State::unasked(meter.clone(), compiled.tenant.clone(), runtime.keys.clone());
        let mut store = Store::new(&runtime.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(|context| {
            context.data().meter().check()?;
            Ok(UpdateDeadline::Continue(1))
        });
        store.set_epoch_deadline(1);
        let _running = runtime.ticker.running();
        let instance = compiled.pre.instance_pre().instantiate(&mut store).map_err(fault)?;
        let function = Function::new(&mut store, &instance).map_err(fault)?;
        let door = globals.map(|globals| Door::find(&mut store, &instance, globals)).transpose()?;
        Ok(Live { store, function, door, pages: Pages::default(), given: VecDeque::new() })
    }

    /// Asks it once. Its answer is held until it has ended: nobody who reads slowly, or leaves, breaks it off.
    pub(crate) fn call(&mut self, compiled: &Compiled, call: &Call<'_>) -> Ended {
        if let Err(fault) = self.store.data_mut().ask(call) {
            return Ended::Well(Err(fault));
        }
        let _running = compiled.runtime.ticker.running();
        let asked = self.store.data_mut().begin().and_then(|(request, to)| {
            self.function.wasi_http_incoming_handler().call_handle(&mut self.store, request, to)
        });
        if let Err(error) = asked {
            return Ended::Broken(fault(error));
        }
        let state = self.store.data_mut();
        if !state.holds_nothing() {
            let why = "the function left open what it was given or opened, and its memory alone is kept";
            return Ended::Broken(Fault::new(Status::ErrorInExecution, why));
        }
        Ended::Well(state.end().map(|()| state.answered()))
    }

    /// What is done with it from now on counts as this.
    pub(crate) fn counted_by(&mut self, meter: &Arc<Meter>) -> Result<(), Fault> {
        self.store.data_mut().counted_by(meter)
    }

    /// Its memory was given, as it is at this version, and the keys and values at that one.
    pub(crate) fn gave(&mut self, version: u64, of_keys: u64) {
        self.given.push_back((version, of_keys));
        if self.given.len() > MOST_GIVEN {
            self.given.pop_front();
        }
    }

    /// At which version the keys and values were when its memory was given at this one. None: that is not known.
    pub(crate) fn given(&self, version: u64) -> Option<u64> {
        let given = self.given.iter().find(|(given, _)| *given == version);
        given.map(|(_, of_keys)| *of_keys)
    }

    /// How large its memory is, in pages.
    pub(crate) fn size(&mut self) -> wasmtime::Result<u32> {
        Ok(self.door()?.size.typed::<(), (u32,)>(&self.store)?.call(&mut self.store, ())?.0)
    }

    /// Has its memory be so large, if it is not larger.
    pub(crate) fn grow(&mut self, to: u32) -> wasmtime::Result<()> {
        let more = to.checked_sub(self.size()?);
        let more = more.ok_or_else(|| wasmtime::Error::msg("its memory is larger than that"))?;
        if more > 0 {
            let grow = self.door()?.grow.typed::<(u32,), (u32,)>(&self.store)?;
            if grow.call(&mut self.store, (more,))?.0 == u32::MAX {
                return Err(wasmtime::Error::msg("its memory does not grow so far"));
            }
        }
        Ok(())
    }

    /// How large its memory is, in pages, and what is in its globals.
    pub(crate) fn globals(&mut self) -> wasmtime::Result<(u32, Vec<u64>)> {
        let pages = self.size()?;
        let Door { get, globals, .. } = self.door()?;
        let get = get.typed::<(u32,), (u64,)>(&self.store)?;
        let values = (0..globals as u32).map(|at| Ok(get.call(&mut self.store, (at,))?.0));
        Ok((pages, values.collect::<wasmtime::Result<_>>()?))
    }

    /// What has changed of its memory since a version, or all of it that is not 0; it is of version `now`.
    pub(crate) fn look<T>(
        &mut self,
        since: Option<u64>,
        now: u64,
        told: impl FnOnce(&Scan) -> T,
    ) -> wasmtime::Result<T> {
        let pages = std::mem::take(&mut self.pages);
        self.store.data_mut().scan = Some(Scan::new(pages, since, now));
        let pages = self.size()?;
        let read = self.door()?.read.typed::<(u32, u32), ()>(&self.store)?;
        for page in (0..pages).step_by(PAGES_AT_ONCE as usize) {
            let length = PAGES_AT_ONCE.min(pages - page) * PAGE as u32;
            read.call(&mut self.store, (page * PAGE as u32, length))?;
        }
        let scan = self.store.data_mut().scan.take();
        let scan = scan.ok_or_else(|| wasmtime::Error::msg("nobody looked"))?;
        let told = told(&scan);
        self.pages = scan.end();
        Ok(told)
    }

    /// Puts into it what is said there, and 0 where nothing is, if that is all. It has to be large enough.
    pub(crate) fn fill(&mut self, with: &Memory<'_>) -> wasmtime::Result<()> {
        let mut blocks = with.blocks.clone();
        if !with.are_changes {
            let there =
                self.look(None, 0, |scan| scan.given().iter().map(|(at, _)| *at).collect::<Vec<_>>())?;
            let said = |at: &u32| with.blocks.binary_search_by_key(at, |(number, _)| *number).is_ok();
            blocks.extend(there.into_iter().filter(|at| !said(at)).map(|at| (at, None)));
            blocks.sort_unstable_by_key(|(number, _)| *number);
        }
        let (mut from, mut bytes) = (0, Vec::new());
        for (number, block) in blocks {
            let is_next = u64::from(from) + bytes.len() as u64 == u64::from(number) * BLOCK as u64;
            if !is_next || bytes.len() >= MOST_WRITTEN {
                self.write(from, &bytes)?;
                bytes.clear();
                from = number * BLOCK as u32;
            }
            bytes.extend(block.unwrap_or(&[0; BLOCK]));
        }
        self.write(from, &bytes)?;
        let set = self.door()?.set.typed::<(u32, u64), ()>(&self.store)?;
        for (at, value) in (0..).zip(&with.globals) {
            set.call(&mut self.store, (at, *value))?;
        }
        // What was known of its blocks is of what was there before.
        self.pages = Pages::default();
        self.given.clear();
        Ok(())
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> wasmtime::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Door { aim, write, .. } = self.door()?;
        aim.typed::<(u32,), ()>(&self.store)?.call(&mut self.store, (at,))?;
        write.typed::<(&[u8],), ()>(&self.store)?.call(&mut self.store, (bytes,))
    }

    fn door(&self) -> wasmtime::Result<Door> {
        self.door.ok_or_else(|| wasmtime::Error::msg("its memory cannot be reached"))
    }
}

impl Door {
    fn find(store: &mut Store<State>, instance: &Instance, globals: usize) -> Result<Self, Fault> {
        let mut find = |name: &str| {
            let absent = || Fault::new(Status::FatalError, format!("it has no `{name}`"));
            instance.get_func(&mut *store, name).ok_or_else(absent)
        };
        Ok(Door {
            size: find(reach::SIZE)?,
            grow: find(reach::GROW)?,
            read: find(reach::READ)?,
            aim: find(reach::AIM)?,
            write: find(reach::WRITE)?,
            get: find(reach::GET)?,
            set: find(reach::SET)?,
            globals,
        })
    }
}

/// Of so many versions it is known what has changed since.
const MOST_GIVEN: usize = 64;
/// Read by one call.
const PAGES_AT_ONCE: u32 = 256;
/// Written by one call, about.
const MOST_WRITTEN: usize = 1 << 20;
