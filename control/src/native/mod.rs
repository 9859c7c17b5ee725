//! Functions that are programs of their own: each is started when its function is loaded, and ended when that is unloaded.
//!
//! What may be started is said by the device's own file, and by nothing else: requests and the control plane name functions.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use lighter_config::probe::{How, Probe};
use lighter_config::sidecar::{DeviceConfig, NativeConfig};
use lighter_functions::{Call, Code, Fault, Kind, Out, Program, Relayed, Status};

use process::Process;

mod process;
#[cfg(test)]
mod tests;

/// How long a program that is on its way out may take to be seen to have ended.
const TO_END: Duration = Duration::from_secs(1);

/// Who is told of programs that end while their function is active.
type Lost = Box<dyn Fn(&str) + Send + Sync>;

/// The programs of a device.
#[derive(Default)]
pub struct Natives {
    shared: Arc<Shared>,
    all: Vec<Arc<Native>>,
}

#[derive(Default)]
struct Shared {
    lost: OnceLock<Lost>,
    /// Nothing is started any more.
    is_over: AtomicBool,
}

/// A function that is a program of its own.
struct Native {
    config: NativeConfig,
    shared: Arc<Shared>,
    runs: Mutex<Runs>,
    /// Nanoseconds of processors, as last seen.
    known: AtomicU64,
}

#[derive(Default)]
struct Runs {
    now: Weak<Process>,
    /// Processor time of those that have ended.
    took: Duration,
}

/// One that runs.
struct Started {
    native: Arc<Native>,
    process: Arc<Process>,
    at: SocketAddr,
}

impl Natives {
    /// Those of the file. None runs yet.
    pub fn new(config: &DeviceConfig) -> Self {
        let shared = Arc::<Shared>::default();
        let native = |config: &NativeConfig| {
            let (config, shared) = (config.clone(), shared.clone());
            Arc::new(Native { config, shared, runs: Mutex::default(), known: AtomicU64::default() })
        };
        Natives { all: config.natives.iter().map(native).collect(), shared }
    }

    /// The same as functions of a device.
    pub fn programs(&self) -> impl Iterator<Item = Arc<dyn Program>> {
        self.all.iter().map(|native| Arc::new(Handle(native.clone())) as Arc<dyn Program>)
    }

    /// Has `lost` told of each that ends while its function is active.
    pub fn when_lost(&self, lost: Lost) {
        let _ = self.shared.lost.set(lost);
    }

    /// Processor time of all, so far.
    pub fn took(&self) -> Duration {
        self.all.iter().map(|native| native.took()).sum()
    }

    /// Ends all, and starts none any more.
    pub fn end(&self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        let end = |native: &Arc<Native>| {
            let process = native.runs().now.upgrade()?;
            let patience = native.config.stop_timeout;
            Some(std::thread::spawn(move || process.stop(patience)))
        };
        let ending: Vec<_> = self.all.iter().filter_map(end).collect();
        ending.into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// A program is started by what has hold of it.
struct Handle(Arc<Native>);

impl Program for Handle {
    fn name(&self) -> &str {
        &self.0.config.name
    }

    fn kind(&self) -> Kind {
        Kind::Native
    }

    fn digest(&self) -> Option<&str> {
        None
    }

    fn memory_bytes(&self, _run: u64) -> u64 {
        self.0.config.memory_bytes
    }

    fn load(&self) -> Result<Arc<dyn Code>, Fault> {
        let started = start(&self.0).map_err(|why| Fault::new(Status::LoadError, why))?;
        Ok(Arc::new(started))
    }
}

impl Native {
    /// What it took so far, as of the last time when nobody started or ended it: whoever asks may not wait.
    fn took(&self) -> Duration {
        if let Ok(runs) = self.runs.try_lock() {
            let now = runs.now.upgrade().map_or(Some(Duration::ZERO), |process| process.took_now());
            if let Some(now) = now {
                self.known.store((runs.took + now).as_nanos() as u64, Ordering::Relaxed);
            }
        }
        Duration::from_nanos(self.known.load(Ordering::Relaxed))
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a program, and waits until it is ready.
fn start(native: &Arc<Native>) -> Result<Started, String> {
    let config = &native.config;
    let port = config.port.map_or_else(free_port, |port| not_taken(port).map(|()| port));
    let port = port.map_err(|error| error.to_string())?;
    let process = {
        let mut runs = native.runs();
        if native.shared.is_over.load(Ordering::SeqCst) {
            return Err("the sidecar ends".into());
        }
        let program = &config.exec[0];
        let process = Process::start(config, port).map_err(|error| format!("`{program}`: {error}"))?;
        runs.now = Arc::downgrade(&process);
        process
    };
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // From here on it is ended by what becomes of this.
    let started = Started { native: native.clone(), process, at };
    started.is_ready()?;
    let (name, shared) = (config.name.clone(), native.shared.clone());
    started.process.when_ended(move |how| {
        tracing::warn!(function = name, how, "the program ended while its function was active");
        if let Some(lost) = shared.lost.get() {
            lost(&name);
        }
    })?;
    tracing::debug!(function = config.name, port, "the program is ready");
    Ok(started)
}

impl Started {
    fn is_ready(&self) -> Result<(), String> {
        let config = &self.native.config;
        let until = Instant::now() + config.start_timeout;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let how = config.probe.clone().map_or(How::Tcp, How::Http);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let probe = Probe { how: how.clone(), timeout: left.min(PROBE), ..Probe::default() };
            let asked = lighter_probe::ask(&probe, self.at, tokio::net::TcpStream::connect);
            let answered = runtime.block_on(asked);
            // Somebody else may have answered in its place.
            if let Some(how) = self.process.ended_within(Duration::ZERO) {
                return Err(format!("{how} before it was ready"));
            }
            match answered {
                Ok(()) => return Ok(()),
                Err(why) if !process::nap(until) => {
                    let (time, port) = (config.start_timeout, self.at.port());
                    return Err(format!("it was not ready on port {port} within {time:?}: {why}"));
                }
                Err(_) => {}
            }
        }
    }
}

impl Code for Started {
    fn run(&self, call: Call<'_>, out: &mut dyn Out) -> Result<(), Fault> {
        call.meter.check()?;
        let relayed = out.relay(self.at, call.meter);
        let may_be_its_end = match &relayed {
            Ok(Relayed::Whole) => false,
            Ok(Relayed::UntilClosed) => true,
            Err(fault) => fault.status == Status::ErrorInExecution,
        };
        // Its connections end with a program, and a little before it has ended.
        if may_be_its_end
            && self.process.is_ending()
            && let Some(how) = self.process.ended_within(TO_END)
        {
            let why = format!("{how} before its answer was whole");
            return Err(Fault::new(Status::ErrorInExecution, why));
        }
        relayed.map(drop)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let config = &self.native.config;
        if let Err(error) = self.process.stop(config.stop_timeout) {
            tracing::warn!(function = config.name, %error, "the program does not end");
        }
        let mut runs = self.native.runs();
        runs.took += self.process.took();
        runs.now = Weak::new();
    }
}

/// Longest wait for one answer to whether it is ready.
const PROBE: Duration = Duration::from_secs(1);

/// One that nobody listens on now. Should somebody else come first, the program ends, and is tried again.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn not_taken(port: u16) -> io::Result<()> {
    match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Err(io::Error::other(format!("somebody else listens on port {port}"))),
        Err(_) => Ok(()),
    }
}
