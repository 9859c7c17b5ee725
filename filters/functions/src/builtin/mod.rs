//! A device with functions that are compiled in, and with those that are not.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::contents::{Contents, NotMovable};
use crate::device::{
    Dataset, Description, Device, Entry, FunctionId, FunctionInfo, FunctionState, Kind, Limits, Out, Outcome,
    Request, Setup,
};
use crate::keys::{Keys, first_version};
use crate::media::Media;
use crate::meter::Meter;
use crate::program::{Call, Code, Program};
use crate::query::Query;
use crate::status::{Fault, Status};

mod aggregate;
mod checksum;
mod compress;
mod counters;
mod crc32c;
mod scan;

/// The names of the functions, in the order of [`Device::discover`].
pub const FUNCTIONS: [&str; TABLE.len()] = {
    let mut names = [""; TABLE.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = TABLE[at].name;
        at += 1;
    }
    names
};

/// Runs that the log remembers.
const LOGGED: usize = 256;

struct Function {
    name: &'static str,
    /// The parameters that it knows.
    knows: &'static [&'static str],
    run: Run,
}

/// Runs a function, and gives the result.
enum Run {
    /// It reads a dataset, and remembers nothing.
    Reads(Reads),
    /// It reads no dataset, and remembers something among these, as the tenant of its own name.
    Remembers(Remembers),
}

type Reads = fn(&Dataset, Query, &Arc<Meter>, &mut dyn Out) -> Result<(), Fault>;
type Remembers = fn(&Keys, &Request<'_>, &Query, &Arc<Meter>, &mut dyn Out) -> Result<(), Fault>;

/// A device with the built-in functions, and perhaps with programs beside them.
pub struct Builtins {
    setup: Arc<Setup>,
    programs: Vec<Arc<dyn Program>>,
    media: Option<Arc<Media>>,
    /// What functions that are built in remember: of each by its name.
    keys: Arc<Keys>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    loaded: HashMap<FunctionId, Loaded>,
    last: u32,
    ended: u64,
    log: VecDeque<Entry>,
}

struct Loaded {
    name: String,
    code: Runnable,
    is_active: bool,
    /// Runs under way.
    runs: usize,
}

/// What a loaded function runs.
#[derive(Clone)]
enum Runnable {
    BuiltIn(&'static Function),
    Program(Arc<dyn Code>),
}

/// A function that can be loaded.
enum Known<'a> {
    BuiltIn(&'static Function),
    Program(&'a dyn Program),
}

impl Builtins {
    /// A device on which nothing is loaded yet.
    pub fn new(setup: Setup) -> Self {
        Builtins::with(setup, Vec::new())
    }

    /// The same with these programs, of which none is called like another one or like what is built in.
    pub fn with(setup: Setup, programs: Vec<Arc<dyn Program>>) -> Self {
        let media = setup.media_bytes_per_second.map(|rate| Arc::new(Media::new(rate)));
        let keys = Arc::new(Keys::new(setup.key_bytes, first_version()));
        Builtins { setup: Arc::new(setup), programs, media, keys, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The dataset of this name, if it is here at the version that is asked for.
    fn dataset(&self, asked: &str) -> Result<&Dataset, Fault> {
        let (name, version) = asked.split_once('@').map_or((asked, None), |(name, at)| (name, Some(at)));
        let found = self.setup.datasets.iter().find(|dataset| dataset.name == name);
        let Some(found) = found else {
            let name = name.escape_debug();
            return Err(Fault::new(Status::NoSuchEntityExists, format!("there is no dataset `{name}`")));
        };
        match version {
            Some(version) if version != found.version => Err(Fault::new(
                Status::EntityNotOnDevice,
                format!("`{name}` is here at version `{}`, not `{}`", found.version, version.escape_debug()),
            )),
            _ => Ok(found),
        }
    }

    /// Counts a run in, if the function is active.
    fn enter(&self, name: &str) -> Result<(FunctionId, Runnable), Fault> {
        let mut state = self.state();
        let found = state.loaded.iter_mut().find(|(_, loaded)| loaded.name == name);
        match found {
            Some((id, loaded)) if loaded.is_active => {
                loaded.runs += 1;
                Ok((*id, loaded.code.clone()))
            }
            Some(_) => Err(Fault::new(Status::InvalidFunction, format!("`{name}` is not active"))),
            None if self.known(name).is_ok() => {
                Err(Fault::new(Status::InvalidFunction, format!("`{name}` is not active on this device")))
            }
            None => Err(no_function(name)),
        }
    }

    fn known(&self, name: &str) -> Result<Known<'_>, Fault> {
        let built_in = TABLE.iter().find(|function| function.name == name).map(Known::BuiltIn);
        let program = || self.programs.iter().find(|program| program.name() == name);
        built_in
            .or_else(|| program().map(|program| Known::Program(&**program)))
            .ok_or_else(|| no_function(name))
    }

    /// Refuses one that is loaded.
    fn not_loaded(&self, name: &str) -> Result<MutexGuard<'_, State>, Fault> {
        let state = self.state();
        if state.loaded.values().any(|loaded| loaded.name == name) {
            return Err(Fault::new(Status::HandleInUse, format!("`{name}` is loaded already")));
        }
        Ok(state)
    }

    /// What one run of the function of this name may take.
    fn limits(&self, name: &str) -> Limits {
        let program = self.programs.iter().find(|program| program.name() == name);
        self.limits_of(program.and_then(|program| program.limits()))
    }

    fn limits_of(&self, own: Option<Limits>) -> Limits {
        own.map_or(self.setup.limits, |own| own.within(&self.setup.limits))
    }

    fn leave(&self, id: FunctionId) {
        if let Some(loaded) = self.state().loaded.get_mut(&id) {
            loaded.runs -= 1;
        }
    }

    fn run_counted(&self, request: &Request<'_>, meter: &Arc<Meter>, out: &mut dyn Out) -> Result<(), Fault> {
        let (id, code) = self.enter(request.function)?;
        // A fault of ours ends this run, and no other one.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let function = match code {
                Runnable::BuiltIn(function) => function,
                Runnable::Program(program) => {
                    return program.run(Call { request, setup: &self.setup, meter }, out);
                }
            };
            match function.run {
                Run::Reads(run) => {
                    let dataset = self.dataset(request.dataset)?;
                    run(dataset, Query::parse(&parameters(request)?, function.knows)?, meter, out)
                }
                Run::Remembers(run) => {
                    let query = Query::parse(&parameters(request)?, function.knows)?;
                    run(&self.keys, request, &query, meter, out)
                }
            }
        }));
        self.leave(id);
        ended.unwrap_or_else(|_| Err(Fault::new(Status::FatalError, "a fault of the function itself")))
    }
}

impl Device for Builtins {
    fn discover(&self) -> Description {
        let state = self.state();
        let info = |name: &str, program: Option<&dyn Program>| {
            let found = state.loaded.iter().find(|(_, loaded)| loaded.name == name);
            let own = program.and_then(Program::limits);
            let run = self.limits_of(own).memory_bytes;
            FunctionInfo {
                name: name.to_owned(),
                kind: program.map_or(Kind::BuiltIn, Program::kind),
                digest: program.and_then(Program::digest).map(str::to_owned),
                memory: program.and_then(Program::memory),
                not_movable: program
                    .filter(|program| program.kind() == Kind::Component)
                    .and_then(|program| program.contents().err())
                    .map(|why| why.to_string()),
                memory_bytes: program.map_or(run, |program| program.memory_bytes(run)),
                limits: own.map(|own| self.limits_of(Some(own))),
                id: found.map(|(id, _)| *id),
                state: match found {
                    None => FunctionState::Available,
                    Some((_, loaded)) if loaded.is_active => FunctionState::Active,
                    Some(_) => FunctionState::Loaded,
                },
            }
        };
        let built_in = TABLE.iter().map(|function| info(function.name, None));
        let programs = self.programs.iter().map(|program| info(program.name(), Some(&**program)));
        let dataset = |dataset: &Dataset| (dataset.name.clone(), dataset.version.clone(), dataset.format);
        Description {
            class: self.setup.class,
            functions: built_in.chain(programs).collect(),
            datasets: self.setup.datasets.iter().map(dataset).collect(),
            limits: self.setup.limits,
            media_bytes_per_second: self.setup.media_bytes_per_second,
        }
    }

    fn load(&self, name: &str) -> Result<FunctionId, Fault> {
        let known = self.known(name)?;
        drop(self.not_loaded(name)?);
        // Others load, run and end meanwhile.
        let code = match known {
            Known::BuiltIn(function) => Runnable::BuiltIn(function),
            Known::Program(program) => Runnable::Program(program.load()?),
        };
        let mut state = self.not_loaded(name)?;
        let Some(next) = state.last.checked_add(1) else {
            return Err(Fault::new(Status::LoadError, "too many functions were loaded"));
        };
        state.last = next;
        let loaded = Loaded { name: name.to_owned(), code, is_active: false, runs: 0 };
        state.loaded.insert(FunctionId(next), loaded);
        Ok(FunctionId(next))
    }

    fn activate(&self, function: FunctionId) -> Result<(), Fault> {
        let mut state = self.state();
        let loaded = state.loaded.get_mut(&function).ok_or_else(|| unknown(function))?;
        loaded.is_active = true;
        Ok(())
    }

    fn run(&self, request: &Request<'_>, out: &mut dyn Out) -> Outcome {
        let limits = self.limits(request.function);
        let meter = Meter::new(limits, self.media.clone(), out.watch(), Instant::now());
        let ended = self.run_counted(request, &meter, out);
        let outcome = Outcome { fault: ended.err(), usage: meter.usage() };
        let mut state = self.state();
        if state.log.len() == LOGGED {
            state.log.pop_front();
        }
        let entry = Entry {
            number: state.ended,
            function: cut(request.function),
            dataset: cut(request.dataset),
            status: outcome.status().name(),
            message: outcome.fault.as_ref().map(|fault| fault.message.clone()).unwrap_or_default(),
            usage: outcome.usage,
        };
        state.log.push_back(entry);
        state.ended += 1;
        outcome
    }

    fn unload(&self, function: FunctionId) -> Result<(), Fault> {
        let mut state = self.state();
        let gone = match state.loaded.get(&function) {
            None => return Err(unknown(function)),
            Some(loaded) if loaded.runs > 0 => {
                return Err(Fault::new(Status::HandleInUse, format!("`{}` runs", loaded.name)));
            }
            Some(_) => state.loaded.remove(&function),
        };
        // To give its memory back may take a while.
        drop(state);
        drop(gone);
        Ok(())
    }

    fn contents(&self, function: &str) -> Result<Arc<dyn Contents>, NotMovable> {
        match self.known(function) {
            Ok(Known::BuiltIn(Function { name, run: Run::Remembers(_), .. })) => {
                Ok(self.keys.contents((*name).into(), program_of(name)))
            }
            Ok(Known::BuiltIn(_)) => Err(NotMovable::BuiltIn(function.to_owned())),
            Ok(Known::Program(program)) => program.contents(),
            Err(_) => Err(NotMovable::Unknown(function.to_owned())),
        }
    }

    fn log(&self) -> Vec<Entry> {
        self.state().log.iter().cloned().collect()
    }
}

/// What a function that is built in has for the SHA-256 of its program: every device has the same one by this name, until what it
/// remembers gets another form, and with it another number.
fn program_of(name: &str) -> [u8; 32] {
    Sha256::digest(format!("built in: {name} 1")).into()
}

fn no_function(name: &str) -> Fault {
    let name = name.escape_debug();
    Fault::new(Status::InvalidFunctionName, format!("there is no function `{name}`"))
}

fn unknown(function: FunctionId) -> Fault {
    Fault::new(Status::InvalidId, format!("no function is loaded under {}", function.0))
}

/// What is said in the target and in the body, as one.
fn parameters<'a>(request: &Request<'a>) -> Result<Cow<'a, str>, Fault> {
    let body = std::str::from_utf8(request.body.unwrap_or_default());
    match body.map_err(|_| Fault::argument("the parameters are not UTF-8"))? {
        "" => Ok(request.parameters.into()),
        body if request.parameters.is_empty() => Ok(body.into()),
        body => Ok(format!("{}&{body}", request.parameters).into()),
    }
}

/// What a request says, as far as it is worth remembering.
fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}

static TABLE: [Function; 7] = [
    Function { name: "scan", knows: &["where", "select", "format", "limit"], run: Run::Reads(scan::scan) },
    Function { name: "filter", knows: &["where", "format", "limit"], run: Run::Reads(scan::filter) },
    Function { name: "project", knows: &["select", "format", "limit"], run: Run::Reads(scan::project) },
    Function {
        name: "aggregate",
        knows: &["where", "compute", "by", "format"],
        run: Run::Reads(aggregate::aggregate),
    },
    Function { name: "checksum", knows: &["algorithm", "format"], run: Run::Reads(checksum::checksum) },
    Function { name: "compress", knows: &["codec"], run: Run::Reads(compress::compress) },
    Function { name: counters::NAME, knows: &["add", "format"], run: Run::Remembers(counters::counters) },
];
