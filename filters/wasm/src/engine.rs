//! What all components of a device share.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use lighter_functions::keys::{Keys, first_version};
use wasmtime::component::{HasSelf, Linker, WasmList};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, StoreContextMut};

use crate::cache::Cache;
use crate::host::{Function, State};
use crate::reach::GIVE;
use crate::ticker::Ticker;

/// What a component may be made of. A plain one has a handful of core instances, one memory and two tables.
const CORE_INSTANCES: u32 = 16;
const MEMORIES: u32 = 2;
const TABLES: u32 = 16;
/// The unit of a component's memory, in bytes.
const PAGE: u64 = 65536;

/// How components are run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most memory of one run, in bytes.
    pub memory_bytes: u64,
    /// Most runs at once. One more has no place, and is told so.
    pub runs: usize,
    /// How many components keep their memory.
    pub kept: usize,
    /// What the keys and values of one tenant may take, in bytes.
    pub key_bytes: u64,
    /// A folder for machine code, so that a component is compiled once. None: it is compiled each time that it is loaded.
    pub cache: Option<PathBuf>,
}

/// Why components cannot be run, or one of them cannot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no room for so many runs of so much memory.
    #[error("components cannot be run here: {0}")]
    Engine(String),
    /// No thread for the clock.
    #[error("no thread to watch components from: {0}")]
    Thread(io::Error),
    /// The folder for machine code.
    #[error("{}: {error}", .path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The file of a component cannot be read.
    #[error("{}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// What is in the file is no component, or one that asks for something that is not given here.
    #[error("{}: {why}", .path.display())]
    Faulty {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Runs the components of one device.
pub struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    /// For components that have a door.
    pub(crate) opened: Linker<State>,
    /// Most memory of one run, in bytes.
    pub(crate) memory_bytes: u64,
    /// Greater than any version in an earlier life.
    pub(crate) first: u64,
    pub(crate) keys: Arc<Keys>,
    pub(crate) ticker: Ticker,
    pub(crate) cache: Option<Cache>,
}

impl Runtime {
    /// Makes room for as many runs as may be under way at once.
    pub fn new(settings: &Settings) -> Result<Arc<Self>, Error> {
        let failed = |error: wasmtime::Error| Error::Engine(format!("{error:#}"));
        let engine = Engine::new(&config(settings)).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        Function::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state).map_err(failed)?;
        let mut opened = linker.clone();
        opened.root().func_wrap(GIVE, give).map_err(failed)?;
        let ticks = engine.clone();
        let ticker = Ticker::start(move || ticks.increment_epoch()).map_err(Error::Thread)?;
        let cache = settings
            .cache
            .as_ref()
            .map(|path| Cache::open(path).map_err(|error| Error::Cache { path: path.clone(), error }));
        let first = first_version();
        let keys = Arc::new(Keys::new(settings.key_bytes, first));
        let (memory_bytes, cache) = (settings.memory_bytes, cache.transpose()?);
        Ok(Arc::new(Runtime { engine, linker, opened, memory_bytes, first, keys, ticker, cache }))
    }
}

/// What a component gives of its memory when it is asked to.
fn give(mut context: StoreContextMut<'_, State>, (bytes,): (WasmList<u8>,)) -> wasmtime::Result<()> {
    // A component that calls this by itself is not heard.
    if let Some(mut scan) = context.data_mut().scan.take() {
        scan.see(bytes.as_le_slice(&context));
        context.data_mut().scan = Some(scan);
    }
    Ok(())
}

fn config(settings: &Settings) -> Config {
    // One that keeps its memory has an instance beside those of its runs, and while it is replaced another one.
    let runs = settings.runs.saturating_add(settings.kept.saturating_mul(2));
    let runs = u32::try_from(runs).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(runs)
        .total_core_instances(runs.saturating_mul(CORE_INSTANCES))
        .total_memories(runs.saturating_mul(MEMORIES))
        .total_tables(runs.saturating_mul(TABLES))
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        // What is above the limit is told by the meter, which counts all that a run holds.
        .max_memory_size(usize::try_from(settings.memory_bytes.next_multiple_of(PAGE)).unwrap_or(usize::MAX))
        .max_unused_warm_slots(runs);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        // What WebAssembly leaves to the machine is said here, so that every machine gives the same bits.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_backtrace_max_frames(None);
    config
}
