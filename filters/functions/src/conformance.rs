//! What every device has to do, whatever it is made of: drives any [`Device`] through its interface and says what of that
//! is not as it has to be. Two devices that pass with the same dataset gave the same bytes to the same requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::device::{
    Class, Dataset, Device, Format, FunctionState, Limits, Out, Outcome, Relayed, Request, Setup, Stop, Watch,
};
use crate::meter::Meter;
use crate::status::{Fault, Status};

/// The dataset that is asked for. Its file need only be there while the device is driven.
const TEXT: &str = "id,country,amount\n1,DE,10\n2,FR,2.5\n3,DE,\n4,,7\n";

/// The answers of a device that passed: each request with its bytes. Equal for every device that passes.
pub type Answers = Vec<(String, Vec<u8>)>;

/// Drives a device that `make` makes; `folder` is for the file of its dataset. `more` are requests to functions that not
/// every device has, and what they give.
pub fn check(
    class: Class,
    folder: &Path,
    more: &[(&str, &str)],
    make: &dyn Fn(Setup) -> Box<dyn Device>,
) -> Result<Answers, String> {
    let path = folder.join("conformance.csv");
    std::fs::write(&path, TEXT).map_err(|error| format!("{}: {error}", path.display()))?;
    let missing = Dataset {
        name: "missing".into(),
        version: "1".into(),
        path: folder.join("nothing.csv"),
        format: Format::Csv,
        tenant: "default".into(),
    };
    let orders = Dataset {
        name: "orders".into(),
        version: "7".into(),
        path,
        format: Format::Csv,
        tenant: "default".into(),
    };
    let setup = Setup {
        class,
        datasets: vec![orders, missing],
        limits: Limits {
            memory_bytes: 16 << 20,
            rows_out: 1000,
            bytes_out: 1 << 20,
            deadline: Duration::from_secs(60),
        },
        media_bytes_per_second: None,
        key_bytes: 1 << 20,
    };
    let device = make(setup.clone());
    is_found(&*device, class)?;
    is_loaded_and_unloaded(&*device)?;
    for function in &device.discover().functions {
        let id = device.load(&function.name).map_err(|fault| fault.to_string())?;
        device.activate(id).map_err(|fault| fault.to_string())?;
    }
    refuses_what_is_faulty(&*device)?;
    let answers = answers(&*device, more)?;
    is_loaded_again(&*device, &answers)?;
    is_logged(&*device)?;
    keeps_to_its_limits(make, &setup)?;
    Ok(answers)
}

fn is_found(device: &dyn Device, class: Class) -> Result<(), String> {
    let found = device.discover();
    same("class", found.class, class)?;
    let of_orders = found.datasets.iter().find(|(name, ..)| name == "orders");
    same(
        "dataset",
        of_orders.map(|(_, version, format)| (version.as_str(), *format)),
        Some(("7", Format::Csv)),
    )?;
    same("log of a new device", device.log().len(), 0)?;
    match found.functions.iter().all(|function| function.state == FunctionState::Available) {
        true => Ok(()),
        false => Err(format!("a new device has functions loaded: {:?}", found.functions)),
    }
}

fn is_loaded_and_unloaded(device: &dyn Device) -> Result<(), String> {
    let state = || {
        let found = device.discover().functions;
        found.into_iter().find(|function| function.name == "scan").map(|function| function.state)
    };
    same("load of what there is none of", status(device.load("nothing")), Status::InvalidFunctionName)?;
    same("run of what is not loaded", ask(device, "scan", "orders", "").0.status(), Status::InvalidFunction)?;
    let id = device.load("scan").map_err(|fault| fault.to_string())?;
    same("state after load", state(), Some(FunctionState::Loaded))?;
    same("load again", status(device.load("scan")), Status::HandleInUse)?;
    same("run of what is not active", ask(device, "scan", "orders", "").0.status(), Status::InvalidFunction)?;
    same("activate", status(device.activate(id)), Status::Success)?;
    same("activate again", status(device.activate(id)), Status::Success)?;
    same("state after activate", state(), Some(FunctionState::Active))?;
    same("run", ask(device, "scan", "orders", "").0.status(), Status::Success)?;
    // A function that runs stays.
    let mut meanwhile = Asking { then: Some(Box::new(|| status(device.unload(id)))), ..Asking::default() };
    let request = Request { function: "scan", dataset: "orders", parameters: "", body: None };
    same("run beside an unload", device.run(&request, &mut meanwhile).status(), Status::Success)?;
    same("unload of what runs", meanwhile.said, Some(Status::HandleInUse))?;
    same("unload", status(device.unload(id)), Status::Success)?;
    same("unload again", status(device.unload(id)), Status::InvalidId)?;
    same("activate of what is gone", status(device.activate(id)), Status::InvalidId)?;
    same("run of what is gone", ask(device, "scan", "orders", "").0.status(), Status::InvalidFunction)?;
    same("state after unload", state(), Some(FunctionState::Available))
}

/// What was unloaded and is loaded again gives the same bytes. Until then it is not run, and while it runs it stays.
fn is_loaded_again(device: &dyn Device, answers: &Answers) -> Result<(), String> {
    for function in device.discover().functions {
        let name = &*function.name;
        let id = function.id.ok_or_else(|| format!("`{name}` is active, and has no number"))?;
        let own = |(asked, _): &&(String, Vec<u8>)| asked.split('/').next() == Some(name);
        let Some((asked, bytes)) = answers.iter().find(own) else {
            return Err(format!("nothing was asked of `{name}`"));
        };
        let (dataset, parameters) = asked[name.len() + 1..].split_once('?').unwrap_or_default();
        let request = Request { function: name, dataset, parameters, body: None };
        let mut meanwhile =
            Asking { then: Some(Box::new(|| status(device.unload(id)))), ..Asking::to(&request) };
        same(
            &format!("{asked} beside an unload"),
            device.run(&request, &mut meanwhile).status(),
            Status::Success,
        )?;
        same(&format!("unload while {asked} runs"), meanwhile.said, Some(Status::HandleInUse))?;
        same(&format!("unload of {name}"), status(device.unload(id)), Status::Success)?;
        let (outcome, _) = ask(device, name, dataset, parameters);
        same(&format!("{asked} of what is unloaded"), outcome.status(), Status::InvalidFunction)?;
        let again = device.load(name).map_err(|fault| fault.to_string())?;
        same(&format!("number of {name} once it is loaded again"), again == id, false)?;
        device.activate(again).map_err(|fault| fault.to_string())?;
        same(&format!("{asked} once it is loaded again"), &ask(device, name, dataset, parameters).1, bytes)?;
        let takes = device.discover().functions.into_iter().find(|found| found.name == name);
        same(
            &format!("memory of {name}"),
            takes.map(|found| found.memory_bytes),
            Some(function.memory_bytes),
        )?;
    }
    Ok(())
}

fn refuses_what_is_faulty(device: &dyn Device) -> Result<(), String> {
    for (function, dataset, parameters, expected) in [
        ("nothing", "orders", "", Status::InvalidFunctionName),
        ("scan", "order", "", Status::NoSuchEntityExists),
        ("scan", "orders@8", "", Status::EntityNotOnDevice),
        ("scan", "orders@", "", Status::EntityNotOnDevice),
        ("scan", "missing", "", Status::ErrorInExecution),
        ("scan", "orders", "colour=blue", Status::InvalidArg),
        ("scan", "orders", "select=colour", Status::InvalidArg),
        ("scan", "orders", "where=colour%3D1", Status::InvalidArg),
        ("scan", "orders", "where=id%3C", Status::InvalidArg),
        ("filter", "orders", "", Status::InvalidArg),
        ("project", "orders", "", Status::InvalidArg),
        ("aggregate", "orders", "", Status::InvalidArg),
        ("aggregate", "orders", "compute=sum(country)", Status::ErrorInExecution),
        ("checksum", "orders", "algorithm=md5", Status::InvalidArg),
        ("compress", "orders", "codec=lzma", Status::InvalidArg),
        ("counters", "hits", "add=1", Status::InvalidArg),
        ("counters", "hits", "add=much", Status::InvalidArg),
    ] {
        let (outcome, bytes) = ask(device, function, dataset, parameters);
        let what = format!("{function}/{dataset}?{parameters}");
        same(&what, outcome.status(), expected)?;
        same(&format!("bytes of {what}"), bytes.len(), 0)?;
    }
    Ok(())
}

fn answers(device: &dyn Device, more: &[(&str, &str)]) -> Result<Answers, String> {
    let mut answers = Answers::new();
    let own = [
        ("scan/orders?", Some(TEXT)),
        ("scan/orders@7?where=amount%3E5&select=id", Some("id\n1\n4\n")),
        (
            "filter/orders?where=country+is+null&format=jsonl",
            Some("{\"id\":\"4\",\"country\":null,\"amount\":\"7\"}\n"),
        ),
        ("project/orders?select=country,id&limit=1", Some("country,id\nDE,1\n")),
        (
            "aggregate/orders?compute=count,count(amount),sum(amount),avg(amount),min(amount),max(id)&format=jsonl",
            Some(
                "{\"count\":4,\"count(amount)\":3,\"sum(amount)\":19.5,\"avg(amount)\":6.5,\"min(amount)\":\"2.5\",\
                 \"max(id)\":\"4\"}\n",
            ),
        ),
        ("aggregate/orders?compute=count&by=country", Some("country,count\nDE,2\nFR,1\n,1\n")),
        ("checksum/orders?algorithm=crc32c&format=csv", Some("algorithm,bytes,digest\ncrc32c,46,d4ceb720\n")),
        (
            "checksum/orders?",
            Some(
                "{\"algorithm\":\"sha256\",\"bytes\":46,\"digest\":\"8bae1bd4a4fd9eafd69d166682748f241e5847cdea0ab6a17902d38dffba0b91\"}\n",
            ),
        ),
        ("compress/orders?", None),
        ("counters/hits?", Some("{\"counter\":\"hits\",\"value\":0}\n")),
    ];
    let more = more.iter().map(|(request, expected)| (*request, Some(*expected)));
    for (request, expected) in own.into_iter().chain(more) {
        let fault = || format!("{request} is no request");
        let (function, rest) = request.split_once('/').ok_or_else(fault)?;
        let (dataset, parameters) = rest.split_once('?').ok_or_else(fault)?;
        let (outcome, bytes) = ask(device, function, dataset, parameters);
        same(request, outcome.status(), Status::Success)?;
        same(&format!("bytes counted of {request}"), outcome.usage.bytes_out, bytes.len() as u64)?;
        if let Some(expected) = expected {
            same(request, String::from_utf8_lossy(&bytes).as_ref(), expected)?;
        }
        let (_, again) = ask(device, function, dataset, parameters);
        same(&format!("{request} again"), &again, &bytes)?;
        answers.push((request.to_owned(), bytes));
    }
    Ok(answers)
}

fn is_logged(device: &dyn Device) -> Result<(), String> {
    let before = device.log();
    let (outcome, _) = ask(device, "scan", "orders", "limit=2");
    let after = device.log();
    let last = after.last().ok_or("the log is empty after runs")?;
    same("function in the log", (last.function.as_str(), last.dataset.as_str()), ("scan", "orders"))?;
    same("status in the log", last.status, Status::Success.name())?;
    same("usage in the log", last.usage, outcome.usage)?;
    same("rows in the log", last.usage.rows_out, 2)?;
    same("number in the log", Some(last.number), before.last().map(|entry| entry.number + 1))
}

fn keeps_to_its_limits(make: &dyn Fn(Setup) -> Box<dyn Device>, usual: &Setup) -> Result<(), String> {
    let limits = usual.limits;
    for (limits, expected) in [
        (Limits { memory_bytes: 1000, ..limits }, Status::NotEnoughMemory),
        (Limits { rows_out: 3, ..limits }, Status::OutOfResources),
        (Limits { bytes_out: 10, ..limits }, Status::OutOfResources),
        (Limits { deadline: Duration::ZERO, ..limits }, Status::IoTimeout),
    ] {
        let device = active(make, Setup { limits, ..usual.clone() })?;
        let (outcome, bytes) = ask(&*device, "scan", "orders", "");
        same(&format!("run within {limits:?}"), outcome.status(), expected)?;
        same("a result above its limit, in bytes", bytes.len() as u64 <= limits.bytes_out, true)?;
    }
    // Nobody waits for the answer any more.
    let device = active(make, usual.clone())?;
    let mut gone = Asking::default();
    gone.gone.store(true, Relaxed);
    let request = Request { function: "scan", dataset: "orders", parameters: "", body: None };
    same("run for nobody", device.run(&request, &mut gone).status(), Status::NotDone)?;
    let mut late = Asking { stop: Some(Stop::Late), ..Asking::default() };
    same("run for one who does not read", device.run(&request, &mut late).status(), Status::IoTimeout)?;
    // A medium of a hundred bytes a second has not given this file after half a second.
    let slow = Setup {
        limits: Limits { deadline: Duration::from_millis(100), ..usual.limits },
        media_bytes_per_second: Some(100),
        ..usual.clone()
    };
    let device = active(make, slow)?;
    same("run on a slow medium", ask(&*device, "scan", "orders", "").0.status(), Status::IoTimeout)
}

/// A device on which `scan` is active.
fn active(make: &dyn Fn(Setup) -> Box<dyn Device>, setup: Setup) -> Result<Box<dyn Device>, String> {
    let device = make(setup);
    let id = device.load("scan").map_err(|fault| fault.to_string())?;
    device.activate(id).map_err(|fault| fault.to_string())?;
    Ok(device)
}

fn ask(device: &dyn Device, function: &str, dataset: &str, parameters: &str) -> (Outcome, Vec<u8>) {
    let request = Request { function, dataset, parameters, body: None };
    let mut asking = Asking::to(&request);
    let outcome = device.run(&request, &mut asking);
    (outcome, asking.bytes)
}

fn status<T>(ended: Result<T, crate::status::Fault>) -> Status {
    ended.map_or_else(|fault| fault.status, |_| Status::Success)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {found:?}")) }
}

/// Takes a result into memory.
#[derive(Default)]
struct Asking<'a> {
    /// What is asked, as HTTP has it.
    target: String,
    bytes: Vec<u8>,
    gone: Arc<AtomicBool>,
    stop: Option<Stop>,
    /// What is done while the result comes, and what came of it.
    then: Option<Box<dyn FnOnce() -> Status + Send + 'a>>,
    said: Option<Status>,
}

impl Asking<'_> {
    fn to(request: &Request<'_>) -> Self {
        let Request { function, dataset, parameters, .. } = request;
        Asking { target: format!("/{function}/{dataset}?{parameters}"), ..Asking::default() }
    }

    /// The body of what the program there answers.
    fn fetch(&self, to: SocketAddr) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(stream, "GET {} HTTP/1.0\r\nHost: conformance\r\n\r\n", self.target)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let is_well = answer.starts_with(b"HTTP/1.") && answer.get(8..13) == Some(b" 200 ");
        match head.filter(|_| is_well) {
            Some(head) => Ok(answer.split_off(head + 4)),
            None => Err(std::io::Error::other(String::from_utf8_lossy(&answer))),
        }
    }
}

impl Out for Asking<'_> {
    fn begin(&mut self, _: &'static str) {}

    fn answer(&mut self, _: u16, _: String) {}

    fn write(&mut self, bytes: Vec<u8>, _: Instant) -> Result<(), Stop> {
        self.said = self.then.take().map(|then| then()).or(self.said);
        self.bytes.extend(bytes);
        self.stop.map_or(Ok(()), Err)
    }

    fn relay(&mut self, to: SocketAddr, meter: &Meter) -> Result<Relayed, Fault> {
        let fetched = self.fetch(to);
        let body = fetched.map_err(|error| Fault::new(Status::ErrorInExecution, error.to_string()))?;
        meter.bytes_out(body.len() as u64)?;
        let _ = self.write(body, meter.until());
        Ok(Relayed::Whole)
    }

    fn watch(&self) -> Watch {
        let gone = self.gone.clone();
        Arc::new(move || gone.load(Relaxed))
    }
}
