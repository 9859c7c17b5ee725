//! Programs that do as they should, and such that do not. The program is this test itself, started once more as [`program`].

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

use lighter_config::sidecar::SidecarConfig;
use lighter_functions::{
    Builtins, Class, Device, Limits, Meter, Out, Outcome, Relayed, Request, Setup, Stop, Watch, conformance,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test, but the program that functions run here; without `DOES` nobody wants it.
#[test]
#[expect(clippy::zombie_processes, reason = "that nobody waits for its child is what is tried out")]
fn program() {
    let Ok(does) = std::env::var("DOES") else { return };
    let folder = std::env::current_dir().unwrap();
    let note = |name: &str, pid: u32| std::fs::write(folder.join(name), pid.to_string()).unwrap();
    note("pid", std::process::id());
    match &*does {
        "exits" => std::process::exit(3),
        "sleeps" => loop {
            std::thread::sleep(PATIENCE);
        },
        // SAFETY: nothing is called but what the system does with a signal.
        "is-deaf" => drop(unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) }),
        "has-children" => {
            let child = Command::new("sleep").arg("600").spawn().unwrap();
            note("child", child.id());
        }
        _ => {}
    }
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    loop {
        let (stream, _) = listener.accept().unwrap();
        answer(stream);
    }
}

/// Gives the target back, and does what it says.
fn answer(mut stream: TcpStream) {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    reader.read_line(&mut line).unwrap();
    let Some(target) = line.split(' ').nth(1) else { return };
    if target.contains("die") {
        std::process::abort();
    }
    if target.contains("allocate") {
        let mut much: Vec<u8> = Vec::new();
        let got = much.try_reserve_exact(512 << 20).is_ok();
        let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{got}");
        return;
    }
    let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{target}");
}

/// A function of this file that does so, in a folder.
fn native(folder: &Path, does: &str, more: &str) -> Natives {
    let this = std::env::current_exe().unwrap();
    let file = format!(
        "service: a\ninbound: [{{listen: '127.0.0.1:1', app: '127.0.0.1:2'}}]\ndevice:\n  class: host\n  listen: '127.0.0.1:2'\n  \
         datasets: []\n  activation: planned\n  natives: [{{name: own, exec: ['{}', --exact, 'native::tests::program', \
         --nocapture], env: {{DOES: {does}}}, folder: '{}', memoryBytes: 67108864{more}}}]\n",
        this.display(),
        folder.display()
    );
    let config = SidecarConfig::parse("sidecar.yaml", &file).unwrap();
    Natives::new(&config.device.unwrap())
}

/// A device of which nothing is loaded.
fn device(natives: &Natives) -> Builtins {
    let limits = Limits {
        memory_bytes: 16 << 20,
        rows_out: 1000,
        bytes_out: 1 << 20,
        deadline: Duration::from_secs(60),
    };
    let setup = Setup {
        class: Class::Csd,
        datasets: Vec::new(),
        limits,
        media_bytes_per_second: None,
        key_bytes: 1 << 20,
    };
    Builtins::with(setup, natives.programs().collect())
}

/// Has the function active, or says why it is not.
fn active(device: &Builtins) -> Result<(), String> {
    let id = device.load("own").map_err(|fault| fault.to_string())?;
    device.activate(id).map_err(|fault| fault.to_string())
}

fn unload(device: &Builtins) {
    let found = device.discover().functions.into_iter().find(|found| found.name == "own").unwrap();
    device.unload(found.id.unwrap()).unwrap();
}

/// Whether a process that noted its number is there, and has not ended.
fn is_there(folder: &Path, note: &str) -> bool {
    let pid = std::fs::read_to_string(folder.join(note)).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

fn is_gone_soon(folder: &Path, note: &str) -> bool {
    let until = Instant::now() + PATIENCE;
    while is_there(folder, note) {
        if !process::nap(until) {
            return false;
        }
    }
    true
}

/// Passes requests on as bare as can be.
struct Asking {
    target: String,
    bytes: Vec<u8>,
}

impl Out for Asking {
    fn begin(&mut self, _: &'static str) {}

    fn answer(&mut self, _: u16, _: String) {}

    fn write(&mut self, bytes: Vec<u8>, _: Instant) -> Result<(), Stop> {
        self.bytes.extend(bytes);
        Ok(())
    }

    fn relay(&mut self, to: SocketAddr, meter: &Meter) -> Result<Relayed, Fault> {
        let lost = |error: io::Error| Fault::new(Status::ErrorInExecution, error.to_string());
        let mut stream = TcpStream::connect(to).map_err(lost)?;
        write!(stream, "GET {} HTTP/1.0\r\n\r\n", self.target).map_err(lost)?;
        stream.read_to_end(&mut self.bytes).map_err(lost)?;
        if self.bytes.is_empty() {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        meter.bytes_out(self.bytes.len() as u64)?;
        Ok(Relayed::UntilClosed)
    }

    fn watch(&self) -> Watch {
        Arc::new(|| false)
    }
}

fn ask(device: &Builtins, what: &str) -> (Outcome, String) {
    let mut asking = Asking { target: format!("/own/{what}"), bytes: Vec::new() };
    let request = Request { function: "own", dataset: what, parameters: "", body: None };
    let outcome = device.run(&request, &mut asking);
    (outcome, String::from_utf8(asking.bytes).unwrap())
}

#[test]
fn a_program_does_what_every_function_has_to_on_every_class() {
    let folder = tempfile::tempdir().unwrap();
    let natives = native(folder.path(), "answers", "");
    let more = [("own/orders@7?a=b%20c", "/own/orders@7?a=b%20c"), ("own/any?", "/own/any?")];
    for class in Class::ALL {
        let make = |setup| Box::new(Builtins::with(setup, natives.programs().collect())) as Box<dyn Device>;
        let answers = conformance::check(class, folder.path(), &more, &make);
        assert!(answers.is_ok(), "{class:?}: {answers:?}");
        assert!(!is_there(folder.path(), "pid"), "it went with the last device");
    }
    let found = device(&natives).discover().functions;
    let own = found.iter().find(|found| found.name == "own").unwrap();
    assert_eq!((own.kind, own.memory_bytes, own.digest.as_ref()), (Kind::Native, 64 << 20, None));
}

#[test]
fn a_program_that_does_not_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let why = |does: &str, more: &str| active(&device(&native(folder.path(), does, more))).unwrap_err();
    let exits = why("exits", "");
    assert!(exits.starts_with("CS_LOAD_ERROR: ") && exits.contains("it ended with status 3"), "{exits}");
    let silent = why("sleeps", ", startTimeout: 1s");
    assert!(silent.contains("it was not ready on port") && silent.contains("within 1s"), "{silent}");
    assert!(!is_there(folder.path(), "pid"), "it does not stay");
    let unwell = why("answers", ", startTimeout: 1s, probe: {http: /die}");
    assert!(unwell.contains("before it was ready") && unwell.contains("signal 6"), "{unwell}");
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    let taken = why("answers", &format!(", port: {port}"));
    assert!(taken.contains(&format!("somebody else listens on port {port}")), "{taken}");

    let mut natives = native(folder.path(), "answers", "");
    let config = NativeConfig {
        exec: vec!["/nonexistent/program".into()],
        env: BTreeMap::new(),
        ..natives.all[0].config.clone()
    };
    natives.all = vec![Arc::new(Native {
        config,
        shared: natives.shared.clone(),
        runs: Mutex::default(),
        known: AtomicU64::default(),
    })];
    let missing = active(&device(&natives)).unwrap_err();
    assert!(missing.contains("`/nonexistent/program`: No such file"), "{missing}");
}

#[test]
fn a_program_that_ends_by_itself_is_told_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let natives = native(folder.path(), "answers", ", probe: {http: /well}");
    let (says, hears) = mpsc::channel();
    natives.when_lost(Box::new(move |name| says.send(name.to_owned()).unwrap()));
    let device = device(&natives);
    for _ in 0..2 {
        active(&device).unwrap();
        assert!(ask(&device, "well").1.ends_with("/own/well"));
        let (outcome, _) = ask(&device, "die");
        let fault = outcome.fault.unwrap();
        assert_eq!(fault.status, Status::ErrorInExecution);
        assert!(fault.message.contains("it was ended by signal 6"), "{fault}");
        assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), "own");
        unload(&device);
    }
    // What is ended on purpose is not.
    active(&device).unwrap();
    unload(&device);
    assert!(!is_there(folder.path(), "pid"));
    assert!(hears.try_recv().is_err());
}

#[test]
fn a_program_that_does_not_want_to_end_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let natives = native(folder.path(), "is-deaf", ", stopTimeout: 100ms");
    let deaf = device(&natives);
    active(&deaf).unwrap();
    assert!(is_there(folder.path(), "pid"));
    unload(&deaf);
    assert!(!is_there(folder.path(), "pid"));

    let device = device(&native(folder.path(), "has-children", ""));
    active(&device).unwrap();
    assert!(is_there(folder.path(), "child"));
    assert!(ask(&device, "die").0.fault.is_some());
    assert!(is_gone_soon(folder.path(), "child"), "what it leaves behind ends too");
    unload(&device);
}

#[test]
fn a_program_gets_no_more_memory_than_it_is_said_to_take() {
    let folder = tempfile::tempdir().unwrap();
    let device = device(&native(folder.path(), "answers", ""));
    active(&device).unwrap();
    assert!(ask(&device, "allocate").1.ends_with("\r\n\r\nfalse"));
    assert!(ask(&device, "well").1.ends_with("/own/well"), "and goes on");
}

#[test]
fn programs_end_with_the_sidecar_and_do_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let natives = native(folder.path(), "answers", "");
    let device = device(&natives);
    active(&device).unwrap();
    let until = Instant::now() + PATIENCE;
    while natives.took() == Duration::ZERO && process::nap(until) {
        assert!(ask(&device, "well").0.fault.is_none());
    }
    assert!(natives.took() > Duration::ZERO, "what it computes is counted");
    natives.end();
    assert!(!is_there(folder.path(), "pid"));
    unload(&device);
    assert!(natives.took() > Duration::ZERO);
    assert!(active(&device).unwrap_err().contains("the sidecar ends"));
}
