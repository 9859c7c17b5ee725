//! One component, and a run of it.

use std::path::Path;
use std::sync::Arc;

use lighter_functions::{Call, Fault, Out, Program, Status};
use sha2::{Digest, Sha256};
use wasmtime::{Store, Trap, UpdateDeadline};

use crate::engine::{Error, Runtime};
use crate::host::{FunctionPre, State};

/// A function that is a WebAssembly component.
pub struct Component {
    name: String,
    tenant: Arc<str>,
    digest: String,
    pre: FunctionPre<State>,
    runtime: Arc<Runtime>,
}

impl Component {
    /// Reads and compiles the component at `path`, which requests call `name` and which sees what belongs to `tenant`.
    pub fn load(runtime: &Arc<Runtime>, name: &str, tenant: &str, path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|error| Error::Read { path: path.to_owned(), error })?;
        let faulty =
            |error: wasmtime::Error| Error::Faulty { path: path.to_owned(), why: format!("{error:#}") };
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let component = compiled(runtime, &digest, &bytes).map_err(faulty)?;
        let pre = runtime.linker.instantiate_pre(&component).and_then(FunctionPre::new).map_err(faulty)?;
        Ok(Component { name: name.into(), tenant: tenant.into(), digest, pre, runtime: runtime.clone() })
    }

    fn handle(&self, call: &Call<'_>, out: &mut (dyn Out + '_)) -> Result<(), Fault> {
        call.meter.check()?;
        // SAFETY: a store wants data that lives as long as may be. This one is dropped before this function returns, and
        // what is in it can be reached from nowhere else: `out` is used only while it is lent.
        let out =
            unsafe { std::mem::transmute::<&mut (dyn Out + '_), &'static mut (dyn Out + 'static)>(out) };
        let state = State::new(call, self.tenant.clone(), self.runtime.keys.clone(), out);
        let mut store = Store::new(&self.runtime.engine, state);
        store.limiter(|state| &mut state.limiter);
        let meter = call.meter.clone();
        store.epoch_deadline_callback(move |_| {
            meter.check()?;
            Ok(UpdateDeadline::Continue(1))
        });
        store.set_epoch_deadline(1);
        let _running = self.runtime.ticker.running();
        let function = self.pre.instantiate(&mut store).map_err(fault)?;
        let (request, to) = store.data_mut().begin().map_err(fault)?;
        function.wasi_http_incoming_handler().call_handle(&mut store, request, to).map_err(fault)?;
        store.data_mut().end()
    }
}

impl Program for Component {
    fn name(&self) -> &str {
        &self.name
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn run(&self, call: Call<'_>, out: &mut dyn Out) -> Result<(), Fault> {
        self.handle(&call, out)
    }
}

fn compiled(
    runtime: &Runtime,
    digest: &str,
    bytes: &[u8],
) -> wasmtime::Result<wasmtime::component::Component> {
    use wasmtime::component::Component;
    let engine = &runtime.engine;
    let Some(cache) = &runtime.cache else { return Component::from_binary(engine, bytes) };
    if let Some(code) = cache.load(engine, digest) {
        // SAFETY: this user alone writes in the folder of the cache, and the sum says that these are the bytes that a
        // sidecar wrote there, which `precompile_component` gave to an engine of the same settings and version.
        if let Ok(component) = unsafe { Component::deserialize(engine, &code) } {
            return Ok(component);
        }
    }
    let code = engine.precompile_component(bytes)?;
    // Without it the next start takes longer, and that is all.
    let _ = cache.store(engine, digest, &code);
    // SAFETY: these bytes come from the line before the last one.
    unsafe { Component::deserialize(engine, &code) }
}

/// Why a component did not get to its end.
fn fault(error: wasmtime::Error) -> Fault {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return fault.clone();
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => Fault::new(Status::NotEnoughMemory, "its stack is full"),
        Some(trap) => Fault::new(Status::ErrorInExecution, format!("the function broke off: {trap}")),
        None => Fault::new(Status::ErrorInExecution, format!("the function broke off: {error:#}")),
    }
}
