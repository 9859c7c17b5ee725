//! One component, and a run of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lighter_functions::keys::digits;
use lighter_functions::{
    Call, Code, Contents, Fault, Kind, Limits, MemoryKind, NotMovable, Out, Program, Status,
};
use sha2::{Digest, Sha256};
use wasmtime::component::Linker;
use wasmtime::{Store, Trap, UpdateDeadline};

use crate::engine::{Error, Runtime};
use crate::host::{FunctionPre, State};
use crate::kept::{Keeping, Kept};
use crate::movable::Hidden;
use crate::reach;

/// A function that is a WebAssembly component.
pub struct Component {
    name: String,
    tenant: Arc<str>,
    path: PathBuf,
    digest: String,
    sum: [u8; 32],
    limits: Option<Limits>,
    code_bytes: u64,
    /// What was compiled to see what it is, until it is loaded.
    first: Mutex<Option<Compiled>>,
    /// It keeps its memory, and is always compiled.
    pub(crate) kept: Option<Arc<Kept>>,
    runtime: Arc<Runtime>,
}

/// A component with its machine code.
pub(crate) struct Compiled {
    pub(crate) pre: FunctionPre<State>,
    pub(crate) tenant: Arc<str>,
    pub(crate) runtime: Arc<Runtime>,
}

impl Component {
    /// Reads and compiles the component at `path`, which requests call `name` and which sees what belongs to `tenant`.
    pub fn load(runtime: &Arc<Runtime>, name: &str, tenant: &str, path: &Path) -> Result<Self, Error> {
        let bytes = read(path)?;
        let (sum, digest) = summed(&bytes);
        let tenant: Arc<str> = tenant.into();
        let (compiled, code_bytes) = compile(runtime, &tenant, path, &digest, || Ok(bytes))?;
        let first = Mutex::new(Some(compiled));
        let (name, path, runtime) = (name.into(), path.to_owned(), runtime.clone());
        Ok(Component {
            name,
            tenant,
            path,
            digest,
            sum,
            limits: None,
            code_bytes,
            first,
            kept: None,
            runtime,
        })
    }

    /// The same of one that keeps its memory: it has one instance, which is asked one thing at a time, and what that leaves in
    /// its memory is there the next time. What ends a run ends the instance with it, and the next one begins anew.
    pub fn load_kept(runtime: &Arc<Runtime>, name: &str, tenant: &str, path: &Path) -> Result<Self, Error> {
        let bytes = read(path)?;
        let (sum, digest) = summed(&bytes);
        let tenant: Arc<str> = tenant.into();
        let opened = reach::with_door(&bytes).and_then(|(bytes, globals)| {
            let key = format!("{digest}-{}", reach::VERSION);
            let compiled = compile_for(runtime, &tenant, path, (&key, &runtime.opened), || Ok(bytes));
            let compiled = compiled.map_err(|error| Hidden::Malformed(error.to_string()))?;
            Ok((compiled, globals))
        });
        let ((compiled, code_bytes), door) = match opened {
            Ok((compiled, globals)) => (compiled, Ok(globals)),
            Err(hidden) => (compile(runtime, &tenant, path, &digest, || Ok(bytes))?, Err(hidden)),
        };
        let kept = Some(Arc::new(Kept::new(compiled, sum, door)));
        let (name, path, runtime) = (name.into(), path.to_owned(), runtime.clone());
        let first = Mutex::default();
        Ok(Component { name, tenant, path, digest, sum, limits: None, code_bytes, first, kept, runtime })
    }

    /// Why what it keeps cannot be moved to another device, if it keeps anything that cannot.
    pub fn not_movable(&self) -> Option<NotMovable> {
        let why = self.kept.as_ref()?.hidden()?.to_string();
        Some(NotMovable::Memory { function: self.name.clone(), why })
    }

    /// The same of which a run may take no more than this, and no more than any run of its device. There are never rows.
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        if let Some(kept) = &self.kept {
            kept.within(limits.memory_bytes);
        }
        Component { limits: Some(limits), ..self }
    }

    /// Frees the machine code of one that was not loaded yet. It is compiled, or found in the cache, when it is.
    #[must_use]
    pub fn at_rest(self) -> Self {
        Component { first: Mutex::default(), ..self }
    }
}

impl Program for Component {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Component
    }

    fn digest(&self) -> Option<&str> {
        Some(&self.digest)
    }

    fn limits(&self) -> Option<Limits> {
        self.limits
    }

    fn memory(&self) -> Option<MemoryKind> {
        Some(if self.kept.is_some() { MemoryKind::Kept } else { MemoryKind::Fresh })
    }

    fn contents(&self) -> Result<Arc<dyn Contents>, NotMovable> {
        if let Some(why) = self.not_movable() {
            return Err(why);
        }
        if let Some(kept) = &self.kept {
            return Ok(Arc::new(Keeping(kept.clone())));
        }
        Ok(self.runtime.keys.contents(self.tenant.clone(), self.sum))
    }

    fn memory_bytes(&self, run: u64) -> u64 {
        self.code_bytes.saturating_add(run)
    }

    fn load(&self) -> Result<Arc<dyn Code>, Fault> {
        if let Some(kept) = &self.kept {
            return Ok(Arc::new(Keeping(kept.clone())));
        }
        if let Some(first) = self.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(Arc::new(first));
        }
        let again = || {
            let bytes = read(&self.path)?;
            if *Sha256::digest(&bytes) != self.sum {
                let why =
                    "it is another one than at the start: put it back, or start the sidecar again".into();
                return Err(Error::Faulty { path: self.path.clone(), why });
            }
            Ok(bytes)
        };
        match compile(&self.runtime, &self.tenant, &self.path, &self.digest, again) {
            Ok((compiled, _)) => Ok(Arc::new(compiled)),
            Err(error) => Err(Fault::new(Status::LoadError, error.to_string())),
        }
    }
}

impl Code for Compiled {
    fn run(&self, call: Call<'_>, out: &mut dyn Out) -> Result<(), Fault> {
        self.handle(&call, out)
    }
}

impl Compiled {
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

/// The component with this digest, and how many bytes its machine code takes. `bytes` gives what to compile where nothing
/// was kept.
fn compile(
    runtime: &Arc<Runtime>,
    tenant: &Arc<str>,
    path: &Path,
    digest: &str,
    bytes: impl FnOnce() -> Result<Vec<u8>, Error>,
) -> Result<(Compiled, u64), Error> {
    compile_for(runtime, tenant, path, (digest, &runtime.linker), bytes)
}

/// The same of what is called so in the cache, and is given this.
fn compile_for(
    runtime: &Arc<Runtime>,
    tenant: &Arc<str>,
    path: &Path,
    (key, linker): (&str, &Linker<State>),
    bytes: impl FnOnce() -> Result<Vec<u8>, Error>,
) -> Result<(Compiled, u64), Error> {
    let faulty = |error: wasmtime::Error| Error::Faulty { path: path.to_owned(), why: format!("{error:#}") };
    let component = match kept(runtime, key) {
        Some(component) => component,
        None => compiled(runtime, key, &bytes()?).map_err(faulty)?,
    };
    let code = component.image_range();
    let code_bytes = (code.end as usize).saturating_sub(code.start as usize) as u64;
    let pre = linker.instantiate_pre(&component).and_then(FunctionPre::new).map_err(faulty)?;
    Ok((Compiled { pre, tenant: tenant.clone(), runtime: runtime.clone() }, code_bytes))
}

/// What was compiled before, if it was kept.
fn kept(runtime: &Runtime, digest: &str) -> Option<wasmtime::component::Component> {
    let code = runtime.cache.as_ref()?.load(&runtime.engine, digest)?;
    // SAFETY: this user alone writes in the folder of the cache, and the sum says that these are the bytes that a
    // sidecar wrote there, which `precompile_component` gave to an engine of the same settings and version.
    unsafe { wasmtime::component::Component::deserialize(&runtime.engine, &code) }.ok()
}

fn compiled(
    runtime: &Runtime,
    digest: &str,
    bytes: &[u8],
) -> wasmtime::Result<wasmtime::component::Component> {
    use wasmtime::component::Component;
    let engine = &runtime.engine;
    let Some(cache) = &runtime.cache else { return Component::from_binary(engine, bytes) };
    let code = engine.precompile_component(bytes)?;
    // Without it the next time takes longer, and that is all.
    let _ = cache.store(engine, digest, &code);
    // SAFETY: these bytes come from the line before the last one.
    unsafe { Component::deserialize(engine, &code) }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::Read { path: path.to_owned(), error })
}

/// The SHA-256 of a component, and that in hexadecimal.
fn summed(bytes: &[u8]) -> ([u8; 32], String) {
    let sum: [u8; 32] = Sha256::digest(bytes).into();
    (sum, digits(&sum))
}

/// Why a component did not get to its end.
pub(crate) fn fault(error: wasmtime::Error) -> Fault {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return fault.clone();
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => Fault::new(Status::NotEnoughMemory, "its stack is full"),
        Some(trap) => Fault::new(Status::ErrorInExecution, format!("the function broke off: {trap}")),
        None => Fault::new(Status::ErrorInExecution, format!("the function broke off: {error:#}")),
    }
}
