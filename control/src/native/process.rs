//! A process that is started, watched and ended. It leads a group of its own, and what is left of that ends with it.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::absolute;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use lighter_config::sidecar::{NativeConfig, PORT_ARGUMENT};
use rustix::param::clock_ticks_per_second;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, getppid, kill_process_group,
    set_parent_process_death_signal, setrlimit, waitid, waitpgid,
};
use rustix::thread::set_no_new_privs;

/// What a program sees of this one's environment.
const PASSED_ON: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];
/// How long the kernel may take to end what was killed.
const KILL: Duration = Duration::from_secs(10);

/// A process, until it has ended and after.
pub(super) struct Process {
    state: Mutex<State>,
    changed: Condvar,
}

/// Hears how a process ended.
type Tells = Box<dyn FnOnce(&str) + Send>;

struct State {
    pid: Option<Pid>,
    /// How it ended.
    ended: Option<String>,
    /// Who wants to know.
    tells: Option<Tells>,
    /// What it and those of its children that it has waited for had of processors when it ended.
    took: Duration,
}

impl State {
    fn took(&self) -> Duration {
        match self.pid {
            Some(pid) if self.ended.is_none() => processor_time(pid).unwrap_or(self.took),
            _ => self.took,
        }
    }
}

impl Process {
    /// Starts the program, which is to listen on `port`. It is killed if this process ends before it.
    pub(super) fn start(config: &NativeConfig, port: u16) -> io::Result<Arc<Self>> {
        let mut command = command(config, port)?;
        let state = State { pid: None, ended: None, tells: None, took: Duration::ZERO };
        let process = Arc::new(Process { state: Mutex::new(state), changed: Condvar::new() });
        let (says, hears) = mpsc::channel();
        let watched = process.clone();
        // The kernel ends a process with the thread that started it: that one waits for it.
        let watch = move || match command.spawn() {
            Ok(child) => {
                watched.lock().pid = pid(&child);
                let _ = says.send(Ok(()));
                watched.watch(child);
            }
            Err(error) => drop(says.send(Err(error))),
        };
        std::thread::Builder::new().name("native".into()).spawn(watch)?;
        hears.recv().unwrap_or_else(|_| Err(io::Error::other("it could not be started")))?;
        Ok(process)
    }

    /// Has `tells` hear how it ends by itself. Otherwise says how it has ended already.
    pub(super) fn when_ended(&self, tells: impl FnOnce(&str) + Send + 'static) -> Result<(), String> {
        let mut state = self.lock();
        match &state.ended {
            Some(how) => Err(how.clone()),
            None => {
                state.tells = Some(Box::new(tells));
                Ok(())
            }
        }
    }

    /// How it ended, if it has within this time.
    pub(super) fn ended_within(&self, time: Duration) -> Option<String> {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, time, |state| state.ended.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.ended.clone()
    }

    /// Whether it has ended or is about to: the kernel closes what a process has open once it says of it that it exits.
    pub(super) fn is_ending(&self) -> bool {
        let state = self.lock();
        match state.pid {
            Some(pid) if state.ended.is_none() => is_exiting(pid),
            _ => true,
        }
    }

    /// Asks it to end, and kills it if it does not within `patience`. Nobody is told of that end.
    pub(super) fn stop(&self, patience: Duration) -> io::Result<()> {
        self.lock().tells = None;
        for (signal, time) in [(Signal::TERM, patience), (Signal::KILL, KILL)] {
            self.signal(signal);
            if self.ended_within(time).is_some() {
                return Ok(());
            }
        }
        Err(io::Error::other("it was killed, and does not end"))
    }

    /// What it and those of its children that it has waited for had of processors so far.
    pub(super) fn took(&self) -> Duration {
        self.lock().took()
    }

    /// The same, unless somebody waits for it right now.
    pub(super) fn took_now(&self) -> Option<Duration> {
        self.state.try_lock().ok().map(|state| state.took())
    }

    /// To it and all that it has started which did not leave its group.
    fn signal(&self, signal: Signal) {
        // As long as this is held, nobody else has its number.
        let state = self.lock();
        if let Some(pid) = state.pid.filter(|_| state.ended.is_none()) {
            let _ = kill_process_group(pid, signal);
        }
    }

    fn watch(&self, mut child: Child) {
        let Some(pid) = pid(&child) else { return };
        // It keeps its number until it is waited for once more.
        let left = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(pid), left).is_err_and(|error| error == rustix::io::Errno::INTR) {}
        let mut state = self.lock();
        state.took = processor_time(pid).unwrap_or_default();
        let _ = kill_process_group(pid, Signal::KILL);
        let how = child.wait().map_or_else(|error| error.to_string(), how);
        // Where this process is whom orphans are given to.
        while matches!(waitpgid(pid, WaitOptions::empty()), Ok(Some(_))) {}
        state.ended = Some(how.clone());
        let tells = state.tells.take();
        drop(state);
        self.changed.notify_all();
        if let Some(tells) = tells {
            tells(&how);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn command(config: &NativeConfig, port: u16) -> io::Result<Command> {
    let (program, arguments) = config.exec.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let text = port.to_string();
    // Relative to where it is started it is another one.
    let program = if program.contains('/') { absolute(program)? } else { program.into() };
    let mut command = Command::new(program);
    command.args(arguments.iter().map(|argument| argument.replace(PORT_ARGUMENT, &text)));
    command.env_clear();
    command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.envs(&config.env).env("PORT", text);
    if !config.folder.as_os_str().is_empty() {
        command.current_dir(&config.folder);
    }
    // What it says goes where this program says what it does.
    command.stdin(Stdio::null()).stdout(io::stderr()).process_group(0);
    let memory = Rlimit { current: Some(config.memory_bytes), maximum: Some(config.memory_bytes) };
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(parent) {
            // It ended before that was said.
            return Err(io::ErrorKind::NotFound.into());
        }
        set_no_new_privs(true)?;
        setrlimit(Resource::Core, none)?;
        setrlimit(Resource::Data, memory)?;
        Ok(())
    };
    // SAFETY: between fork and exec it makes five system calls, and touches no memory but what it owns.
    unsafe { command.pre_exec(prepare) };
    Ok(command)
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with status {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".into(),
    }
}

/// By proc_pid_stat(5): field 3, and of field 9 what linux/sched.h calls PF_EXITING.
fn is_exiting(pid: Pid) -> bool {
    const EXITING: u64 = 4;
    let Some(fields) = stat(pid) else { return true };
    let mut fields = fields.split(' ');
    matches!(fields.next(), Some("Z" | "X"))
        || fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).is_none_or(|flags| flags & EXITING != 0)
}

/// As proc_pid_stat(5) has it: fields 14 to 17.
fn processor_time(pid: Pid) -> Option<Duration> {
    let fields = stat(pid)?;
    let fields = fields.split(' ').skip(11).take(4);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second().max(1) as f64))
}

/// The fields of `/proc/PID/stat` from the third on.
fn stat(pid: Pid) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    // The second field is its name, which may have anything in it.
    Some(stat.rsplit_once(") ")?.1.to_owned())
}

/// Waits a little between two looks at something, as long as `until` is not over.
pub(super) fn nap(until: Instant) -> bool {
    const NAP: Duration = Duration::from_millis(20);
    let left = until.saturating_duration_since(Instant::now());
    std::thread::sleep(left.min(NAP));
    !left.is_zero()
}
